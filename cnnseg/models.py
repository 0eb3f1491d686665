"""Making, loading and saving the networks: encoder, kind of decoder, and the classes they know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnseg.classifiers import create_classifier, file_weights, normalisation, without_head
from cnnseg.reading import Reading, check_options, find_reading, read_reading
from cnnseg.segmentation.settings import SEGMENTATION, SegmentationConfig
from cnnseg.settings import BEST, LAST, NETWORKS, STAGE, NetworkConfig
from cnnseg.unroll import UnrolledNetwork, unroll
from cnnseg.unroll.composites import find_composite
from wsss.errors import InputError, did_you_mean
from wsss.extras import MissingExtraError
from wsss.preparing import Prepares
from wsss.weights import read_checkpoint, stored_state, widened, write_checkpoint

FORMAT = "relseg-network"
UNROLLED = {
    "unrolled": {},
    "unrolled_pixels": {},
    "ws_ae": {"tied_relu": False},
    "free_convolutions": {"tied_convolutions": False},
    "nearest_upsampling": {"tied_upsampling": False},
}
"""Kinds of unrolled networks: what is switched off in each."""

OF_SEGMENTATION = ("decoder", "width", "learnt_from")
"""What only files of segmentation networks say."""


@dataclass(frozen=True)
class Network(Prepares):
    """A network with all that is needed to use it.

    ``module(images, decode=None)`` gives (logits, maps), see `cnnseg.unroll.UnrolledNetwork`; either may be None where
    ``module.classifies`` or ``module.segments`` is False. Output 0 is the background, output c is
    ``class_names[c - 1]``. ``mean`` and ``std`` normalise RGB in [0, 1]. ``crop`` and ``masks``: side of the crops and
    number of masks that it was trained with; None where nobody knows. ``new_head``: the layer of the class scores is
    at random, and did not come with a trained classifier. ``baseline``: of an unrolled network's heat-maps, see
    `NetworkConfig`; ``reading``: where they are read. ``decoder``, ``width``: of a segmentation network, see
    `SegmentationConfig`; ``learnt_from``: whose masks it has learnt.
    """

    module: nn.Module
    kind: str
    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: int | None = None
    masks: int | None = None
    new_head: bool = True
    baseline: str | None = None
    reading: Reading | None = None
    decoder: str | None = None
    width: int | None = None
    learnt_from: str | None = None

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return " ".join(filter(None, (self.kind, self.decoder, self.architecture)))

    def strength(self, size: tuple[int, int]) -> float:
        """What maps of (height, width) `size` are to be multiplied by before a softmax, to be as strong as in training.

        Heat-maps sum to about the class score whatever the size, so that a pixel has 1 / (height x width) of it: those
        of a network trained on crops of 96 x 96 are 22 times as weak at 448 x 448. 1 for networks that are not
        unrolled, where relevance is multiplied by the number of cells, and where the crop is not known.
        """
        if self.crop is None or not isinstance(self.module, UnrolledNetwork) or self.module.readout.name != "sum":
            return 1.0
        return size[0] * size[1] / self.crop**2


class PlainClassifier(nn.Module):
    """A classifier alone, with the interface of the other networks."""

    classifies, segments = True, False

    def __init__(self, model: nn.Module, classes_at_once: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.classes_at_once = classes_at_once  # for who unrolls it

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
            _load_encoder(network, file_weights(Path(config.weights), config.architecture), keep_head=False)
        return network
    network = _build(config, outputs, class_names, pretrained=False)
    trained, source = load_network(Path(config.classifier)), f"`classifier` {config.classifier}"
    if trained.architecture != config.architecture:
        raise InputError(f"{source}: expected a {config.architecture}, got a {trained.architecture}")
    if trained.class_names != class_names:
        theirs, ours = ", ".join(trained.class_names), ", ".join(class_names)
        raise InputError(f"{source}: expected the classes {ours}, got {theirs}")
    if not isinstance(trained.module, (PlainClassifier, UnrolledNetwork)):
        raise InputError(f"{source}: expected one of `cnnseg train-classifier`, got a {trained.kind}")
    return replace(network, new_head=not _load_encoder(network, trained.module.model.state_dict(), keep_head=True))


def create_segmentation(
    config: SegmentationConfig, class_names: tuple[str, ...], learnt_from: str | None = None
) -> Network:
    """A segmentation network for these classes and the background. InputError as of `create_module`."""
    from cnnseg.segmentation.network import encoder_colours

    network = _build_segmentation(config, class_names, load_weights=True, colours=encoder_colours(config.encoder))
    return replace(network, learnt_from=learnt_from)


def save_network(network: Network, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (in `dtype`; statistics as they are) and description into one safetensors file, atomically."""
    description = {
        "format": FORMAT,
        "kind": network.kind,
        "architecture": network.architecture,
        "class_names": network.class_names,
        "mean": network.mean,
        "std": network.std,
        "crop": network.crop,
        "masks": network.masks,
        "baseline": network.baseline,
        **({} if network.reading is None else network.reading.described()),
        **{key: getattr(network, key) for key in OF_SEGMENTATION if getattr(network, key) is not None},
    }
    write_checkpoint(path, stored_state(network.module, dtype), description)


def load_network(path: Path, *, classes_at_once: int | None = None) -> Network:
    """Read what `save_network` wrote; the module is in float32 and evaluation mode.

    Args:
        classes_at_once: branches of an unrolled network that are held in memory at once; changes no result.

    Raises:
        InputError: missing, damaged, or not a network of this package.
    """
    description, state = read_checkpoint(path, "network", "cnnseg train-unrolled")
    if description is None or description.get("format") != FORMAT:
        raise InputError(f"network {path}: expected a network of cnnseg; `cnnseg train-unrolled` makes one")
    try:
        names, mean, std = (tuple(description[key]) for key in ("class_names", "mean", "std"))
        crop, masks = (description.get(key) for key in ("crop", "masks"))  # older files do not say
        if not all(isinstance(value, int | None) for value in (crop, masks)) or crop == 0:
            raise ValueError("crop and masks: expected whole numbers")
        if description["kind"] == SEGMENTATION:
            what = SegmentationConfig(
                decoder=description["decoder"], encoder=description["architecture"], width=description.get("width")
            )
            network = _build_segmentation(what, names, load_weights=False, colours=(mean, std))
        else:
            config = NetworkConfig(
                kind=description["kind"],
                architecture=description["architecture"],
                baseline=description.get("baseline") or "mean",  # older files do not say
                classes_at_once=classes_at_once,
            )
            reading = read_reading(description) if config.kind in UNROLLED else None
            network = _build(config, len(names) + 1, names, pretrained=False, colours=(mean, std), reading=reading)
        network.module.load_state_dict(widened(state))
    except MissingExtraError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"network {path}: does not fit its own description ({str(error).splitlines()[0]})") from None
    network.module.eval()
    return replace(network, crop=crop, masks=masks, new_head=False, learnt_from=description.get("learnt_from"))


def find_network(name: str, runs: Path, which: str = LAST, *, argument: str = "network") -> Path:
    """The checkpoint of that path, or the `which` one (LAST or BEST) of the run of that name or path.

    Raises InputError if there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    of_run = runs / name / STAGE / which
    for found in (of_run, path / STAGE / which):
        if found.is_file():
            return found
    other = runs / name / STAGE / (BEST if which == LAST else LAST)
    makers = "`cnnseg train-segmentation`, `train-classifier` or `train-unrolled` makes one"
    hint = f"; {other} is there" if other.is_file() else f"; {makers}"
    raise InputError(f"`{argument}` {name}: no such file, and no {of_run}{hint}")


def _build(
    config: NetworkConfig,
    outputs: int,
    class_names: tuple[str, ...],
    *,
    pretrained: bool,
    colours: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
    reading: Reading | None = None,
) -> Network:
    kind = config.kind
    mean, std = colours or normalisation(config.architecture)
    if kind not in NETWORKS:
        raise InputError(f"`kind` {kind}: no such network; {did_you_mean(kind, NETWORKS)}")
    module: nn.Module
    if kind not in UNROLLED:
        check_options(config)
    if kind == "classifier":
        model = create_classifier(config.architecture, outputs, pretrained=pretrained)
        module = PlainClassifier(model, config.classes_at_once)
    elif kind in UNROLLED:
        model = create_classifier(config.architecture, outputs, pretrained=pretrained)
        reading = reading or find_reading(config)
        black = [-middle / spread for middle, spread in zip(mean, std, strict=True)]
        baseline = black if config.baseline == "black" and reading.has_pixels else None
        if baseline is not None and reading.rules is not None and not find_composite(reading.rules).is_plain:
            raise InputError(
                f"`rules` {reading.rules}: relevance of the image by these has no black; give `baseline` mean"
            )
        options = reading.options(model) | UNROLLED[kind]
        module = unroll(model, classes_at_once=config.classes_at_once, baseline=baseline, **options)
    else:
        from cnnseg.baselines import create_fcn, create_unet, load_encoder

        if kind == "fcn":
            module = create_fcn(config.architecture, outputs)
        else:
            module = create_unet(config.architecture, outputs, classifier=kind == "multitask_unet")
        if pretrained:
            model = create_classifier(config.architecture, outputs, pretrained=True)
            load_encoder(module, model.state_dict(), head=False)
    colour = config.baseline if kind in UNROLLED else None
    return Network(module, kind, config.architecture, class_names, mean, std, baseline=colour, reading=reading)


def _build_segmentation(
    config: SegmentationConfig,
    class_names: tuple[str, ...],
    *,
    load_weights: bool,
    colours: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> Network:
    from cnnseg.segmentation.network import create_module

    module = create_module(config, len(class_names) + 1, load_weights=load_weights)
    mean, std = colours
    return Network(
        module, SEGMENTATION, config.encoder, class_names, mean, std, decoder=config.decoder, width=config.width
    )


def _load_encoder(network: Network, state: dict[str, Tensor], *, keep_head: bool) -> bool:
    """Whether the layer of the class scores was taken with it."""
    module = network.module
    if not isinstance(module, (PlainClassifier, UnrolledNetwork)):
        from cnnseg.baselines import load_encoder

        return load_encoder(module, state, head=keep_head)
    module.model.load_state_dict(state if keep_head else without_head(state), strict=False)
    if isinstance(module, UnrolledNetwork):
        module.reset_decoder()
    return keep_head
