"""Hybrid ViTs: the tokens are a convolutional network's feature map instead of patches.

Athanasiadis et al. 2021, section 3.1.

Dosovitskiy et al., ICLR 2021, section 3.1. timm has such models of its own (``vit_base_r50_s16_224``). Here any
convolutional network of timm is joined to any of its ViTs by a name, ``TRUNK+VIT``, such as
``resnet50_v1+vit_tiny_patch16_224``: the trunk up to the level whose stride is the ViT's patch size (16), a new 1x1
convolution to the ViT's width, and the ViT without its patch embedding. So the grid of tokens, the position embedding
and the blocks are the ViT's own, and both parts can start from weights of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Format, HybridEmbed
from torch import nn

from wsss.backbones import strides_first
from wsss.errors import InputError, did_you_mean
from wsss.fetching import fetching
from wsss.training import freeze_below
from wsss.weights import fitting, read_weights

SEPARATOR = "+"
FIRST_VERSION = "_v1"
_LOWEST_STRIDE = 4


@dataclass(frozen=True)
class Trunk:
    """The convolutional half of a ``TRUNK+VIT``.

    ``stride_in_conv1``: a ResNet of bottlenecks in its first version (He et al., CVPR 2016), named with the ending
    ``_v1``. Its blocks have their stride in the first 1x1 convolution, timm's and torchvision's in the 3x3; weights of
    the one fit the other in every name and shape and lose accuracy.
    """

    name: str
    backbone: str  # timm's name
    stride_in_conv1: bool


def split_name(architecture: str) -> tuple[Trunk, str] | None:
    """Trunk and timm's name of the ViT of a ``TRUNK+VIT``, None for any other name.

    Raises InputError if timm has no such trunk.
    """
    if SEPARATOR not in architecture:
        return None
    name, vit = architecture.split(SEPARATOR, 1)
    first = name.endswith(FIRST_VERSION) and not timm.is_model(name)
    backbone = name.removesuffix(FIRST_VERSION) if first else name
    if not timm.is_model(backbone):
        raise InputError(
            f"architecture {architecture!r}: trunk {name!r} is unknown to timm: "
            f"{did_you_mean(backbone, timm.list_models('*net*')).split('known:')[0] or 'try resnet50'}"
        )
    return Trunk(name, backbone, first), vit


def embedding(trunk: Trunk, stride: int) -> dict[str, Any]:
    """Options of ``timm.create_model`` that give a ViT the trunk, at random, in place of patches of `stride` pixels.

    The trunk yields its levels of stride 4, 8, ... `stride` as a list; the tokens are made of the last.

    Raises InputError if it has no level of that stride.
    """
    with torch.device("meta"):
        strides = _features(trunk).feature_info.reduction()
    levels = [index for index, reduction in enumerate(strides) if _LOWEST_STRIDE <= reduction <= stride]
    if stride not in strides or strides != sorted(set(strides)):
        raise InputError(
            f"trunk {trunk.name}: has levels of stride {', '.join(map(str, strides))}; "
            f"expected a CNN with one of {stride}, the ViT's patch size"
        )
    module = _features(trunk, out_indices=levels)
    if getattr(module, "output_fmt", Format.NCHW) != Format.NCHW:
        raise InputError(f"trunk {trunk.name}: expected a CNN, got one with channels last")
    if trunk.stride_in_conv1 and not strides_first(module):
        raise InputError(f"trunk {trunk.name}: {trunk.backbone} is no ResNet of bottlenecks and has no version 1")
    return {"embed_layer": partial(HybridEmbed, backbone=module), "patch_size": 1}


def load_trunk(module: nn.Module, trunk: Trunk, weights: str) -> None:
    """Fill the trunk of a model with "pretrained" weights (timm's) or those of a file; "none" leaves it at random.

    Raises InputError if they cannot be had or are another model's. A head in the file is ignored.
    """
    if weights == "none":
        return
    if weights == "pretrained" and trunk.stride_in_conv1:
        raise InputError(
            f"`trunk_weights` pretrained: timm has none of {trunk.name}; give a file, or take {trunk.backbone}"
        )
    levels = module.feature_info.out_indices
    if weights == "pretrained":
        try:
            with fetching():
                loaded = _features(trunk, out_indices=levels, pretrained=True)
        except (OSError, RuntimeError) as error:  # the hub cannot be reached
            reason = str(error).split("\n")[0]
            raise InputError(
                f"`trunk_weights` pretrained: {trunk.backbone} could not be fetched ({reason}); give a file instead"
            ) from None
    else:
        state = read_weights(Path(weights), "trunk_weights")
        whole = timm.create_model(trunk.backbone, num_classes=0)
        whole.load_state_dict(
            fitting(state, whole.state_dict(), source=f"`trunk_weights` {weights}", of=trunk.backbone), strict=False
        )
        # timm itself puts the state in: its features_only cuts and renames.
        overlay = {"state_dict": whole.state_dict()}
        loaded = _features(trunk, out_indices=levels, pretrained=True, pretrained_cfg_overlay=overlay)
    module.load_state_dict(loaded.state_dict())


def trunk_of(model: nn.Module) -> nn.Module | None:
    """The convolutional trunk of a hybrid, timm's own or a ``TRUNK+VIT``; None for a plain ViT."""
    embed = getattr(model, "patch_embed", None)
    return embed.backbone if isinstance(embed, HybridEmbed) else None


def freeze_levels(model: nn.Module, count: int) -> None:
    """Take what the lowest `count` levels of a ``TRUNK+VIT``'s trunk are made of out of training.

    Raises InputError if the trunk has fewer levels.
    """
    trunk: Any = trunk_of(model)
    strides = trunk.feature_info.reduction()
    if count > len(strides):
        raise InputError(
            f"`frozen_levels` {count}: expected at most {len(strides)}, of stride {', '.join(map(str, strides))}"
        )
    if not count:
        return
    parameters = list(trunk.parameters())
    mode = trunk.training
    trunk.eval()  # the statistics of batch norm are not to see the zeros
    lowest = trunk(parameters[0].new_zeros(1, 3, *model.patch_embed.img_size))[:count]
    trunk.train(mode)
    freeze_below(lowest, parameters)


def _features(trunk: Trunk, **options: Any) -> nn.Module:
    """timm's ``features_only`` model without the blocks above its last level."""
    try:
        module = timm.create_model(trunk.backbone, features_only=True, **options)
    except (RuntimeError, AssertionError, AttributeError, IndexError, TypeError) as error:
        if options.get("pretrained"):
            raise
        reason = str(error).split("\n")[0]
        raise InputError(f"trunk {trunk.name}: timm has no levels of {trunk.backbone} ({reason})") from None
    last = module.feature_info.module_name()[-1]
    if isinstance(getattr(module, "blocks", None), nn.Sequential) and last.startswith("blocks."):
        del module.blocks[int(last.split(".")[1]) + 1 :]  # EfficientNet-like models keep and run all of them
    return module
