"""Making, loading and saving the classifiers whose relevance becomes seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vitseg.hybrid import embedding, load_trunk, split_name, trunk_of
from vitseg.relevance.parts import check_supported
from wsss.errors import InputError, near_name
from wsss.fetching import fetching
from wsss.preparing import Prepares
from wsss.weights import fitting, read_checkpoint, read_weights, stored_state, write_checkpoint

KIND = "relseg-classifier"
HEAD = ("head.", "head_dist.")  # the second of a distilled DeiT
_EMBEDDING = "patch_embed."


@dataclass(frozen=True)
class Classifier(Prepares):
    """A multi-label classifier with all that is needed to use it.

    ``class_names[c]`` belongs to output c; outputs are logits, read through a sigmoid. ``mean`` and ``std`` normalise
    RGB in [0, 1].
    """

    model: nn.Module
    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def create_classifier(
    architecture: str, class_names: tuple[str, ...], weights: str, trunk_weights: str | None = None
) -> Classifier:
    """A ViT or Hybrid-ViT with a new head of one output a class.

    Args:
        architecture: timm's model name, or TRUNK+VIT (see `vitseg.hybrid`); made with ``dynamic_img_size`` so that any
            input size works.
        weights: "pretrained" (timm downloads or finds them), "none", or a file of weights of that architecture
            (.safetensors, .pth), of a TRUNK+VIT those of the VIT; the file's own head is dropped, and its patch
            embedding where the trunk replaces it.
        trunk_weights: likewise, of the trunk of a TRUNK+VIT; "pretrained" unless given.

    Raises:
        InputError: unknown architecture, no such file, a file of another model, or `trunk_weights` for a model that is
            no TRUNK+VIT.
    """
    parts = split_name(architecture)
    if parts is None and trunk_weights is not None:
        raise InputError(f"`trunk_weights`: {architecture} is no TRUNK+VIT; `weights` holds all of its weights")
    model = _create(architecture, len(class_names), pretrained=parts is None and weights == "pretrained")
    check_supported(model)  # before hours of training, not after
    if parts is not None:
        trunk, vit = parts
        load_trunk(trunk_of(model), trunk, trunk_weights or "pretrained")
        if weights == "pretrained":
            state = _create(vit, None, pretrained=True).state_dict()
            _load_state(model, state, f"`weights` {weights}", vit, without=(*HEAD, _EMBEDDING))
        elif weights != "none":
            _load_backbone(model, Path(weights), vit, without=(*HEAD, _EMBEDDING))
    elif weights not in ("pretrained", "none"):
        _load_backbone(model, Path(weights), architecture, without=HEAD)
    lowest: Any = model if parts is None else trunk_of(model)
    settings = lowest.pretrained_cfg  # what the lowest layers are used to
    return Classifier(model, architecture, class_names, tuple(settings["mean"]), tuple(settings["std"]))


def load_imagenet_vit(architecture: str, weights: str) -> Classifier:
    """A timm ViT or hybrid with its own ImageNet head; classes are named by their index."""
    if split_name(architecture) is not None:
        raise InputError(
            f"architecture {architecture!r}: has no ImageNet head; `vitseg train-classifier` trains it one"
        )
    model = _create(architecture, None, pretrained=weights == "pretrained")
    if weights != "pretrained":
        _load_backbone(model, Path(weights), architecture)
    settings = model.pretrained_cfg
    names = tuple(str(index) for index in range(model.num_classes))
    return Classifier(model.eval(), architecture, names, tuple(settings["mean"]), tuple(settings["std"]))


def save_classifier(classifier: Classifier, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (in `dtype`; a trunk's statistics as they are) and description into one file, atomically."""
    description: dict[str, object] = {
        "kind": KIND,
        "architecture": classifier.architecture,
        "class_names": classifier.class_names,
        "mean": classifier.mean,
        "std": classifier.std,
    }
    if (parts := split_name(classifier.architecture)) is not None:  # for those who want the trunk alone
        description["trunk"] = {"backbone": parts[0].backbone, "stride_in_conv1": parts[0].stride_in_conv1}
    write_checkpoint(path, stored_state(classifier.model, dtype), description)


def load_classifier(path: Path) -> Classifier:
    """Read what `save_classifier` wrote; the model is in float32 and evaluation mode.

    Raises:
        InputError: missing, damaged, or not a classifier of this toolkit.
    """
    description, state = read_checkpoint(path, "classifier", "vitseg train-classifier")
    if description is None or description.get("kind") != KIND:
        found = "plain weights" if description is None else description.get("format", "another model")
        raise InputError(f"classifier {path}: expected one of `vitseg train-classifier`, got {found}")
    try:
        names, mean, std = (tuple(description[key]) for key in ("class_names", "mean", "std"))
        model = _create(description["architecture"], len(names), pretrained=False)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"classifier {path}: does not fit its own description ({reason})") from None
    return Classifier(model.eval(), description["architecture"], names, mean, std)


def _create(architecture: str, num_classes: int | None, *, pretrained: bool) -> VisionTransformer:
    parts = split_name(architecture)
    vit = architecture if parts is None else parts[1]
    if not timm.is_model(vit):
        family = timm.list_models("vit_*") + timm.list_models("deit*")
        raise InputError(f"architecture {vit!r} is unknown to timm: {_nearest(vit, family)}")
    keywords: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    other = f"architecture {vit!r} is no plain ViT: relevance propagation needs timm's vit_* or deit_*"
    try:
        if parts is not None:
            with torch.device("meta"):
                patches = getattr(timm.create_model(vit), "patch_embed", None)
            if not isinstance(patches, PatchEmbed):
                raise InputError(f"architecture {vit!r} has no patches that trunk {parts[0].name} could replace")
            keywords |= embedding(parts[0], patches.patch_size[0])
        with fetching(pretrained):
            model = timm.create_model(vit, pretrained=pretrained, dynamic_img_size=True, **keywords)
    except TypeError:
        raise InputError(other) from None
    except (OSError, RuntimeError) as error:  # the hub cannot be reached
        reason = str(error).split("\n")[0]
        raise InputError(f"`weights` pretrained: {vit} could not be fetched ({reason}); give a file instead") from None
    if not isinstance(model, VisionTransformer):
        raise InputError(other)
    return model


def _nearest(name: str, family: list[str]) -> str:
    return near_name(name, family) or "try vit_tiny_patch16_224"


def _load_backbone(model: VisionTransformer, path: Path, vit: str, *, without: tuple[str, ...] = ()) -> None:
    state = read_weights(path, "weights")
    if _EMBEDDING in without:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_EMBEDDING)}
    try:
        state = checkpoint_filter_fn(state, model)
    except (KeyError, RuntimeError, ValueError, AttributeError):
        raise InputError(f"`weights` {path}: not the weights of a {vit}") from None
    _load_state(model, state, f"`weights` {path}", vit, without)


def _load_state(
    model: VisionTransformer, state: dict[str, Tensor], source: str, vit: str, without: tuple[str, ...]
) -> None:
    wanted = fitting(state, model.state_dict(), source=source, of=vit, without=without)
    model.load_state_dict(wanted, strict=False)
