"""Making, loading and saving the classifiers whose relevance becomes seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vitseg.relevance.capture import check_supported
from wsss.errors import InputError, did_you_mean
from wsss.store import atomic

KIND = "relseg-classifier"


@dataclass(frozen=True)
class Classifier:
    """A multi-label classifier with all that is needed to use it.

    ``class_names[c]`` belongs to output c; outputs are logits, read through a sigmoid. ``mean`` and ``std`` normalise
    RGB in [0, 1].
    """

    model: nn.Module
    architecture: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The image at (height, width) `size`, as the model wants it: (3, height, width) float32 (PIL, bicubic)."""
        resized = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return self.normalise(torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], (..., 3, H, W), to the model's input."""
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        return (images - mean) / std


def create_classifier(architecture: str, class_names: tuple[str, ...], weights: str) -> Classifier:
    """A timm ViT with a new head of one output a class.

    Args:
        architecture: timm's model name; made with ``dynamic_img_size`` so that any input size works.
        weights: "pretrained" (timm downloads or finds them), "none", or a file of weights of that architecture
            (.safetensors, .pth, .npz); the file's own head is dropped.

    Raises:
        InputError: unknown architecture, no such file, or a file of another model.
    """
    model = _create(architecture, len(class_names), pretrained=weights == "pretrained")
    check_supported(model)  # before hours of training, not after
    if weights not in ("pretrained", "none"):
        _load_backbone(model, Path(weights), architecture)
    settings = model.pretrained_cfg
    return Classifier(model, architecture, class_names, tuple(settings["mean"]), tuple(settings["std"]))


def load_imagenet_vit(architecture: str, weights: str) -> Classifier:
    """A timm ViT with its own ImageNet head; classes are named by their index."""
    model = _create(architecture, None, pretrained=weights == "pretrained")
    if weights != "pretrained":
        _load_backbone(model, Path(weights), architecture, keep_head=True)
    settings = model.pretrained_cfg
    names = tuple(str(index) for index in range(model.num_classes))
    return Classifier(model.eval(), architecture, names, tuple(settings["mean"]), tuple(settings["std"]))


def save_classifier(classifier: Classifier, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (in `dtype`) and description into one safetensors file, atomically."""
    description = {
        "kind": KIND,
        "architecture": classifier.architecture,
        "class_names": classifier.class_names,
        "mean": classifier.mean,
        "std": classifier.std,
    }
    state = {
        name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in classifier.model.state_dict().items()
    }
    # One entry: the library writes several in random order, and equal classifiers shall be equal files.
    with atomic(path) as temporary:
        temporary.write_bytes(save(state, metadata={"relseg": json.dumps(description)}))


def load_classifier(path: Path) -> Classifier:
    """Read what `save_classifier` wrote; the model is in float32 and evaluation mode.

    Raises:
        InputError: missing, damaged, or not a classifier of this toolkit.
    """
    if not path.is_file():
        raise InputError(f"classifier {path}: no such file; `vitseg train-classifier` makes one")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            description = json.loads(metadata.get("relseg", "{}"))
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"classifier {path}: not a readable safetensors file ({error})") from None
    if description.get("kind") != KIND:
        found = description.get("format", "another model") if "relseg" in metadata else "plain weights"
        raise InputError(f"classifier {path}: holds {found}; `vitseg train-classifier` makes one")
    try:
        names, mean, std = (tuple(description[key]) for key in ("class_names", "mean", "std"))
        model = _create(description["architecture"], len(names), pretrained=False)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"classifier {path}: does not fit its own description ({reason})") from None
    return Classifier(model.eval(), description["architecture"], names, mean, std)


def _create(architecture: str, num_classes: int | None, *, pretrained: bool) -> VisionTransformer:
    if not timm.is_model(architecture):
        family = timm.list_models("vit_*") + timm.list_models("deit*")
        raise InputError(f"architecture {architecture!r} is unknown to timm: {_nearest(architecture, family)}")
    keywords = {} if num_classes is None else {"num_classes": num_classes}
    other = f"architecture {architecture!r} is no plain ViT: the relevance walk needs timm's vit_* or deit_*"
    try:
        model = timm.create_model(architecture, pretrained=pretrained, dynamic_img_size=True, **keywords)
    except TypeError:
        raise InputError(other) from None
    except (OSError, RuntimeError) as error:  # the hub cannot be reached
        reason = str(error).split("\n")[0]
        raise InputError(
            f"--weights pretrained: {architecture} could not be fetched ({reason}); give a file instead"
        ) from None
    if not isinstance(model, VisionTransformer):
        raise InputError(other)
    return model


def _nearest(name: str, family: list[str]) -> str:
    return did_you_mean(name, family).split("known:")[0] or "try vit_tiny_patch16_224"


def _load_backbone(model: VisionTransformer, path: Path, architecture: str, *, keep_head: bool = False) -> None:
    """Load a file of weights: position embeddings of another size are resampled, another head is left out."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file (or the word 'pretrained')")
    try:
        state = load_state_dict(str(path), use_ema=False)
    except Exception as error:  # torch, pickle and safetensors each raise their own
        raise InputError(f"--weights {path}: not a readable file of weights ({type(error).__name__})") from None
    try:
        state = checkpoint_filter_fn(state, model)
    except (KeyError, RuntimeError, ValueError, AttributeError):
        raise InputError(f"--weights {path}: not the weights of a {architecture}") from None
    own = model.state_dict()
    head = {"head.weight", "head.bias"}
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong = [name for name in wrong if keep_head or name not in head]
    if wrong:
        raise InputError(
            f"--weights {path}: not the weights of a {architecture}: "
            f"{len(wrong)} of {len(own)} tensors differ, first {wrong[0]}"
        )
    wanted = {name: state[name].float() for name in own if keep_head or name not in head}
    model.load_state_dict(wanted, strict=False)
