"""The public way to an explanation: a model, images and targets in, maps out."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vitseg.methods import find_method, find_rules
from vitseg.relevance import capture
from wsss.errors import InputError
from wsss.explanation import Explanation, Targets, check_images, class_targets


@torch.inference_mode(False)  # the gradients are needed under a caller's inference_mode or no_grad as well
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    method: str = "transformer_attribution",
    *,
    first_block: int | None = None,
    rules: str = "robust",
) -> Explanation:
    """Explain class scores of a timm ViT.

    Args:
        model: timm VisionTransformer whose head reads the class token (and the distillation token) or the mean of the
            patch tokens, on any device, of any float dtype; left exactly as found.
        images: (B, 3, H, W), normalised as the model wants them. H and W may differ from each other, and from the
            size of the training if the model was made with ``dynamic_img_size=True``.
        targets: class indices: None (each image's top class), one for all images, (B,), or (B, K) for K classes an
            image from one forward pass.
        method: name of a method (``vitseg.methods.METHODS``).
        first_block: a rollout multiplies the blocks from this one on; as published unless given. Methods that look at
            one block, or at all, pass it over.
        rules: "robust" or "exact", how relevance is divided (`vitseg.relevance.rules`); of methods that propagate it.

    Raises:
        InputError: unknown method or rules, unsupported model, targets of a wrong shape or out of range.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", pretrained=True)            # doctest: +SKIP
        >>> explain(model, images, targets=281).maps.shape                                # doctest: +SKIP
        torch.Size([8, 14, 14])
    """
    chosen, formulation = find_method(method), find_rules(rules)
    capture.check_supported(model)
    check_images(images, model)
    depth = len(model.blocks)
    if first_block is not None and not 0 <= first_block < depth:
        raise InputError(f"first_block {first_block}: the model has blocks 0 to {depth - 1}")
    first = chosen.first_block(depth, first_block)
    trace = capture.run(model, images, first=first, relevance=chosen.gradients)
    wanted, many = class_targets(targets, trace.logits)
    with torch.no_grad() if not chosen.gradients else torch.enable_grad():
        found = chosen.compute(trace, wanted, first, formulation).detach()
    maps = rearrange(found, "(k b) h w -> b k h w", b=len(images))
    logits = trace.logits.detach()
    if many:
        return Explanation(maps, wanted, logits, method)
    return Explanation(maps[:, 0], wanted[:, 0], logits, method)
