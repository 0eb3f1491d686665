"""The public way to an explanation: a model, images and targets in, maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitseg.methods import METHODS, Method, find_method, find_rules
from vitseg.relevance import capture
from vitseg.relevance.attention_walk import walk_maps, walked_blocks
from vitseg.relevance.parts import check_supported, headless
from wsss.errors import InputError
from wsss.explanation import (
    Explanation,
    Targets,
    Unwrapped,
    check_images,
    check_integer,
    class_targets,
    fitting_channels,
    undisturbed,
    unwrap,
)
from wsss.private import private_copy


@torch.inference_mode(False)  # the gradients are needed under a caller's inference_mode or no_grad as well
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    method: str = "transformer_attribution",
    *,
    first_block: int | None = None,
    rules: str = "robust",
    attention_walk: int = 0,
    attention_blocks: Sequence[int] | None = None,
) -> Explanation:
    """Explain class scores of a timm ViT: one pass at the images' size, no mirror image, the method's own blocks.

    `vitseg.explain_photograph` takes a photograph instead and has the presets of the command: "plain" is this map,
    scaled; "seed" averages sizes and mirror images as `vitseg seeds` does.

    Args:
        model: timm VisionTransformer whose head reads the class token (and the distillation token) or the mean of the
            patch tokens, on any device, of any float dtype, in any mode; `vitseg.to_timm` makes one of torchvision's
            and Hugging Face's. It may be wrapped by DataParallel, DistributedDataParallel, torch.compile or a
            Sequential with what prepares the images in front. A subclass may add to timm's class but not override what
            the pass consists of. The head is a Linear, or a Sequential with Linear, activation, drop-out and norm
            layers. A model without classifier (``num_classes=0``) is explained by methods that need no class; its
            logits are (B, 0), its targets 0. A copy of the model's modules with the same weights is at work, so it is
            left exactly as found, and other threads may use it meanwhile; explanations of one model by several
            threads wait for each other.
        images: (B, 3, H, W), normalised as the model wants them (as the Sequential wants them, if it is in one). H and
            W may differ from each other, and from the size of the training if the model was made with
            ``dynamic_img_size=True``. A caller's autocast plays no part: the model computes in its own dtype.
        targets: class indices: None (each image's top class), one for all images, (B,), or (B, K) for K classes an
            image from one forward pass. Of a model with one output 0 is the class of positive outputs, which is what
            None means too, and -1 the other class, whose score is minus the output.
        method: name of a method (``vitseg.methods.METHODS``).
        first_block: a rollout multiplies the blocks from this one on; as published unless given. Methods that look at
            one block, or at all, pass it over.
        rules: "robust" or "exact", how relevance is divided (`vitseg.relevance.rules`); of methods that propagate it.
        attention_walk: steps that the maps are walked over the attention between patches, which spreads them over
            whole objects (`vitseg.relevance.attention_walk`); 0: the explanation as it is.
        attention_blocks: blocks whose mean attention is walked over; unless given, from two thirds of the depth to five
            sixths, 8 and 9 of 12.

    Raises:
        InputError: unknown method or rules, an unsupported part of the model, by its name, images that do not fit it,
            targets of a wrong shape or out of range, a walk of maps that are no patches.

    Example:
        >>> import timm, torch, vitseg
        >>> model = timm.create_model("vit_tiny_patch16_224", pretrained=True)
        >>> images = torch.randn(2, 3, 224, 224)  # yours, normalised
        >>> vitseg.explain(model, images, targets=281).maps.shape
        torch.Size([2, 14, 14])
    """
    chosen, formulation = find_method(method), find_rules(rules)
    bare = unwrap(model)
    with undisturbed(bare.model, _device(images)):
        plain = private_copy(bare.model)
        check_supported(plain)
        featureless = headless(plain)
        _check_head(featureless, chosen, targets)
        check_images(images, plain)
        depth = len(plain.blocks)
        if first_block is not None:
            check_integer(first_block, "first_block")
        if first_block is not None and not 0 <= first_block < depth:
            raise InputError(f"`first_block` {first_block}: expected a block of the model, 0 to {depth - 1}")
        first = chosen.first_block(depth, first_block)
        blocks = walked_blocks(attention_walk, attention_blocks, depth)
        with torch.no_grad():
            prepared = Unwrapped(plain, tuple(map(private_copy, bare.front))).prepare(images)
        check_images(prepared, plain)
        with fitting_channels(prepared):
            trace = capture.run(plain, prepared, first=min((first, *blocks)), relevance=chosen.gradients)
        logits = trace.logits.detach()
        if featureless:
            logits, wanted, many = logits[:, :0], torch.zeros(len(images), 1, dtype=torch.long).to(images.device), False
        else:
            wanted, many = class_targets(targets, logits)
        with torch.no_grad() if not chosen.gradients else torch.enable_grad():
            found = chosen.maps(trace, wanted, first, formulation)
        if blocks:
            found = walk_maps(trace, found, attention_walk, blocks)
    maps = rearrange(found, "(k b) h w -> b k h w", b=len(images))
    if many:
        return Explanation(maps, wanted, logits, method)
    return Explanation(maps[:, 0], wanted[:, 0], logits, method)


def _device(images: Any) -> torch.device:
    """Where autocast is to be off; images that will be refused may be anything."""
    known = isinstance(images, Tensor) and torch.amp.is_autocast_available(images.device.type)
    return images.device if known else torch.device("cpu")


def _check_head(featureless: bool, method: Method, targets: Targets) -> None:
    """A model without a classifier has no class to explain."""
    if not featureless:
        return
    if targets is not None:
        raise InputError("targets: the model has no classes, as its head holds no Linear classifier; leave them out")
    if method.class_specific:
        others = ", ".join(sorted(name for name, one in METHODS.items() if not one.class_specific))
        raise InputError(
            f"model: head holds no Linear classifier; {method.name} explains a class. Without one: {others}"
        )
