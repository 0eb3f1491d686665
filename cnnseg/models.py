"""Making, loading and saving the networks: encoder, kind of decoder, and the classes they know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cnnseg.baselines import create_fcn, create_unet, load_encoder
from cnnseg.settings import BEST, LAST, NETWORKS, NetworkConfig
from cnnseg.unroll import UnrolledNetwork, unroll
from wsss.errors import InputError, did_you_mean
from wsss.store import atomic
from wsss.weights import fitting, read_weights, strides_first

FORMAT = "relseg-network"
FIRST_VERSION = "_v1"
_UNROLLED = {
    "unrolled": {},
    "ws_ae": {"tied_relu": False},
    "free_convolutions": {"tied_convolutions": False},
    "nearest_upsampling": {"tied_upsampling": False},
}
_HEADS = ("fc.", "classifier.", "head.")


@dataclass(frozen=True)
class Network:
    """A network with all that is needed to use it.

    ``module(images, decode=None)`` gives (logits, maps), see `cnnseg.unroll.UnrolledNetwork`; either may be None where
    ``module.classifies`` or ``module.segments`` is False. Output 0 is the background, output c is
    ``class_names[c - 1]``. ``mean`` and ``std`` normalise RGB in [0, 1].
    """

    module: nn.Module
    kind: str
    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The image at (height, width) `size`, as the network wants it: (3, height, width) float32 (PIL, bicubic)."""
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return self.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], (..., 3, H, W), to the network's input."""
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        return (images - mean) / std


class PlainClassifier(nn.Module):
    """A classifier alone, with the interface of the other networks."""

    classifies, segments = True, False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, None]:
        """Class scores (B, C), and no maps."""
        return self.model(images), None


def create_network(config: NetworkConfig, class_names: tuple[str, ...]) -> Network:
    """A network for these classes and the background, its encoder at ImageNet weights or at a trained classifier's.

    Raises:
        InputError: unknown architecture, weights of another model, a layer without a rule. `config.classifier` is a
            path here; the command line finds it (`find_network`).
    """
    outputs = len(class_names) + 1
    if config.classifier is None:
        network = _build(config, outputs, class_names, pretrained=config.weights == "pretrained")
        if config.weights not in ("pretrained", "none"):
            _load_encoder(network, _file_weights(Path(config.weights), config.architecture), keep_head=False)
        return network
    network = _build(config, outputs, class_names, pretrained=False)
    trained = load_network(Path(config.classifier))
    if trained.architecture != config.architecture:
        raise InputError(f"--classifier {config.classifier}: is a {trained.architecture}, not a {config.architecture}")
    if trained.class_names != class_names:
        raise InputError(f"--classifier {config.classifier}: knows other classes: {', '.join(trained.class_names)}")
    if not isinstance(trained.module, (PlainClassifier, UnrolledNetwork)):
        raise InputError(f"--classifier {config.classifier}: is a {trained.kind}; train-classifier makes a classifier")
    _load_encoder(network, trained.module.model.state_dict(), keep_head=True)
    return network


def save_network(network: Network, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (in `dtype`; statistics as they are) and description into one safetensors file, atomically."""
    description = {
        "format": FORMAT,
        "kind": network.kind,
        "architecture": network.architecture,
        "class_names": network.class_names,
        "mean": network.mean,
        "std": network.std,
    }
    parameters = {name for name, _ in network.module.named_parameters()}
    state = {
        name: tensor.detach().cpu().to(dtype if name in parameters else tensor.dtype).contiguous()
        for name, tensor in network.module.state_dict().items()
    }
    with atomic(path) as temporary:
        temporary.write_bytes(save(state, metadata={"relseg": json.dumps(description)}))


def load_network(path: Path, *, classes_at_once: int | None = None) -> Network:
    """Read what `save_network` wrote; the module is in float32 and evaluation mode.

    Raises:
        InputError: missing, damaged, or not a network of this package.
    """
    if not path.is_file():
        raise InputError(f"network {path}: no such file; `cnnseg train-unrolled` makes one")
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {}).get("relseg", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"network {path}: not a readable safetensors file ({error})") from None
    if description.get("format") != FORMAT:
        raise InputError(f"network {path}: holds no network of cnnseg; `cnnseg train-unrolled` makes one")
    try:
        names, mean, std = (tuple(description[key]) for key in ("class_names", "mean", "std"))
        config = NetworkConfig(
            network=description["kind"], architecture=description["architecture"], classes_at_once=classes_at_once
        )
        network = _build(config, len(names) + 1, names, pretrained=False)
        network.module.load_state_dict({name: _wide(tensor) for name, tensor in state.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"network {path}: does not fit its own description ({str(error).splitlines()[0]})") from None
    network.module.eval()
    return Network(network.module, network.kind, network.architecture, names, mean, std)


def find_network(name: str, runs: Path, which: str = LAST, *, option: str = "--network") -> Path:
    """The checkpoint of that path, or the `which` one (LAST or BEST) of the run of that name.

    Raises InputError if there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    of_run = runs / name / "network" / which
    if of_run.is_file():
        return of_run
    other = runs / name / "network" / (BEST if which == LAST else LAST)
    hint = f"; {other} is there" if other.is_file() else "; `cnnseg train-classifier` or `train-unrolled` makes one"
    raise InputError(f"{option} {name}: no such file, and no {of_run}{hint}")


def create_classifier(architecture: str, outputs: int, *, pretrained: bool = False) -> nn.Module:
    """A CNN of timm, or of torchvision (``torchvision.NAME``), with a new head; resnet50_v1 has the strides first.

    Raises InputError if there is none of that name, or its weights cannot be fetched.
    """
    first = architecture.endswith(FIRST_VERSION) and not timm.is_model(architecture)
    name = architecture.removesuffix(FIRST_VERSION) if first else architecture
    if first and pretrained:
        raise InputError(f"--weights pretrained: timm has none of {architecture}; give a file, or take {name}")
    library, dot, own = name.partition(".")
    if library == "torchvision" and dot:
        return _torchvision(own, outputs, pretrained=pretrained)
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models(["resnet*", "vgg*"])).split("known:")[0] or "try resnet50"
        raise InputError(f"--architecture {name}: unknown to timm: {near}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=outputs)
    except (OSError, RuntimeError) as error:  # the hub cannot be reached
        reason = str(error).split("\n")[0]
        raise InputError(f"--weights pretrained: {name} could not be fetched ({reason}); give a file instead") from None
    if first and not strides_first(model):
        raise InputError(f"--architecture {architecture}: {name} is no ResNet of bottlenecks and has no version 1")
    return model


def _build(config: NetworkConfig, outputs: int, class_names: tuple[str, ...], *, pretrained: bool) -> Network:
    kind = config.network
    if kind not in NETWORKS:
        raise InputError(f"--network {kind}: no such network; {did_you_mean(kind, NETWORKS)}")
    if kind in _UNROLLED or kind == "classifier":
        model = create_classifier(config.architecture, outputs, pretrained=pretrained)
        module: nn.Module = (
            PlainClassifier(model)
            if kind == "classifier"
            else unroll(model, classes_at_once=config.classes_at_once, **_UNROLLED[kind])
        )
    else:
        make = create_fcn if kind == "fcn" else create_unet
        options = {} if kind == "fcn" else {"classifier": kind == "multitask_unet"}
        module = make(config.architecture, outputs, **options)
        if pretrained:
            model = create_classifier(config.architecture, outputs, pretrained=True)
            load_encoder(module, model.state_dict(), head=False)
    mean, std = _normalisation(config.architecture)
    return Network(module, kind, config.architecture, class_names, mean, std)


def _load_encoder(network: Network, state: dict[str, Tensor], *, keep_head: bool) -> None:
    module = network.module
    if not isinstance(module, (PlainClassifier, UnrolledNetwork)):
        load_encoder(module, state, head=keep_head)
        return
    module.model.load_state_dict(state if keep_head else _without_head(state), strict=False)
    if isinstance(module, UnrolledNetwork):
        module.reset_decoder()


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the last fully connected layer: of VGG's three, the first two are the encoder's."""
    heads = {name.rsplit(".", 1)[0] for name in state if name.startswith(_HEADS)}
    last = sorted(heads)[-1:]  # fc; head.fc; classifier.6
    return {name: tensor for name, tensor in state.items() if name.rsplit(".", 1)[0] not in last}


def _file_weights(path: Path, architecture: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        own = _without_head(create_classifier(architecture, 2).state_dict())
    return fitting(read_weights(path, "--weights"), own, source=f"--weights {path}", of=architecture)


def _torchvision(name: str, outputs: int, *, pretrained: bool) -> nn.Module:
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        near = did_you_mean(name, known).split("known:")[0] or "try torchvision.resnet50"
        raise InputError(f"--architecture torchvision.{name}: unknown to torchvision: {near}")
    model = torchvision.models.get_model(name, weights=None, num_classes=outputs)
    if pretrained:
        try:
            state = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
        except OSError as error:
            raise InputError(
                f"--weights pretrained: torchvision.{name} could not be fetched ({error}); give a file instead"
            ) from None
        model.load_state_dict(_without_head(state), strict=False)
    return model


def _normalisation(architecture: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    settings = timm.get_pretrained_cfg(architecture.removesuffix(FIRST_VERSION), allow_unregistered=True)
    if settings is None:  # torchvision's are all ImageNet's
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(settings.mean), tuple(settings.std)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
