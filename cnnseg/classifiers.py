"""The convolutional classifiers that all networks are made of: timm's and torchvision's, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from wsss.backbones import strides_first
from wsss.errors import InputError, near_name
from wsss.fetching import fetching
from wsss.weights import fitting, read_weights

FIRST_VERSION = "_v1"
"""Ending of a ResNet's name: version 1, its strides in the first 1x1 convolutions."""

_HEADS = ("fc.", "classifier.", "head.")


@dataclass(frozen=True)
class ImagenetCNN:
    """A CNN with its own head: output c is class ``class_names[c]``; ``mean`` and ``std`` normalise RGB in [0, 1]."""

    model: nn.Module
    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_imagenet_cnn(architecture: str, weights: str) -> ImagenetCNN:
    """A CNN of timm or torchvision with its own ImageNet head, in evaluation mode; classes are named by their index.

    Args:
        architecture: as `create_classifier` takes it.
        weights: "pretrained" or a file of weights of that architecture, head included.

    Raises:
        InputError: unknown architecture, weights that cannot be fetched or are of another model.
    """
    model = create_classifier(architecture, None, pretrained=weights == "pretrained")
    if weights != "pretrained":
        source = f"`weights` {weights}"
        state = read_weights(Path(weights), "weights")
        model.load_state_dict(fitting(state, model.state_dict(), source=source, of=architecture), strict=False)
    with torch.inference_mode():
        outputs = model.eval()(torch.zeros(1, 3, *input_size(model))).shape[1]
    return ImagenetCNN(model, architecture, tuple(map(str, range(outputs))), *normalisation(architecture))


def input_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) of the images that timm says a CNN is for; 224 x 224 of others."""
    _, height, width = (getattr(model, "pretrained_cfg", None) or {}).get("input_size") or (3, 224, 224)
    return int(height), int(width)


def create_classifier(architecture: str, outputs: int | None, *, pretrained: bool = False) -> nn.Module:
    """A CNN of timm, or of torchvision (``torchvision.NAME``), with a new head; resnet50_v1 has the strides first.

    Args:
        outputs: None: as many as it has by itself, and pre-trained with its own head.

    Raises InputError if there is none of that name, or its weights cannot be fetched.
    """
    first = architecture.endswith(FIRST_VERSION) and not timm.is_model(architecture)
    name = architecture.removesuffix(FIRST_VERSION) if first else architecture
    if first and pretrained:
        raise InputError(f"`weights` pretrained: there are none of {architecture}; give a file, or take {name}")
    library, dot, own = name.partition(".")
    make = _torchvision if library == "torchvision" and dot else _timm
    model = make(own if make is _torchvision else name, outputs, pretrained=pretrained)
    if first and not strides_first(model):
        raise InputError(f"`architecture` {architecture}: {name} is no ResNet of bottlenecks and has no version 1")
    return model


def file_weights(path: Path, architecture: str) -> dict[str, Tensor]:
    """The weights of a file for a CNN, all but its head. InputError if they are of another one."""
    with torch.device("meta"):
        own = without_head(create_classifier(architecture, 2).state_dict())
    return fitting(read_weights(path, "weights"), own, source=f"`weights` {path}", of=architecture)


def normalisation(architecture: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of RGB in [0, 1] that a CNN was pre-trained with."""
    settings = timm.get_pretrained_cfg(architecture.removesuffix(FIRST_VERSION), allow_unregistered=True)
    if settings is None:  # torchvision's are all ImageNet's
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(settings.mean), tuple(settings.std)


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the last fully connected layer: of VGG's three, the first two are the encoder's."""
    heads = {name.rsplit(".", 1)[0] for name in state if name.startswith(_HEADS)}
    last = sorted(heads)[-1:]  # fc; head.fc; classifier.6
    return {name: tensor for name, tensor in state.items() if name.rsplit(".", 1)[0] not in last}


def _timm(name: str, outputs: int | None, *, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = near_name(name, timm.list_models(["resnet*", "vgg*"])) or "try resnet50"
        raise InputError(f"`architecture` {name}: unknown to timm: {near}")
    head = {} if outputs is None else {"num_classes": outputs}
    try:
        with fetching(pretrained):
            return timm.create_model(name, pretrained=pretrained, **head)
    except (OSError, RuntimeError) as error:  # the hub cannot be reached
        reason = str(error).split("\n")[0]
        raise InputError(f"`weights` pretrained: {name} could not be fetched ({reason}); give a file instead") from None


def _torchvision(name: str, outputs: int | None, *, pretrained: bool) -> nn.Module:
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        near = near_name(name, known) or "try torchvision.resnet50"
        raise InputError(f"`architecture` torchvision.{name}: unknown to torchvision: {near}")
    head = {} if outputs is None else {"num_classes": outputs}
    model = torchvision.models.get_model(name, weights=None, **head)
    if pretrained:
        try:
            state = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
        except OSError as error:
            raise InputError(
                f"`weights` pretrained: torchvision.{name} could not be fetched ({error}); give a file instead"
            ) from None
        model.load_state_dict(state if outputs is None else without_head(state), strict=False)
    return model
