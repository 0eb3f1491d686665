"""The public way to an explanation: a model, images and targets in, maps out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vitseg.methods import find_method
from vitseg.relevance import capture
from wsss.errors import InputError

FIRST_BLOCK = 1  # the peers' start_layer: attention of the first block mixes tokens that carry no class yet


@dataclass(frozen=True)
class Explanation:
    """Maps of the explained classes.

    Attributes:
        maps: (B, h, w) if one target was explained for each image, (B, K, h, w) for K; h and w count patches.
            Non-negative, not scaled.
        targets: class indices that were explained, (B,) or (B, K) likewise.
        logits: (B, C) class scores of the same forward pass.
        method: the method's name.
    """

    maps: Tensor
    targets: Tensor
    logits: Tensor
    method: str


@torch.inference_mode(False)  # the gradients are needed under a caller's inference_mode or no_grad as well
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | list[int] | list[list[int]] | int | None = None,
    method: str = "transformer_attribution",
    *,
    first_block: int = FIRST_BLOCK,
) -> Explanation:
    """Explain class scores of a timm ViT.

    Args:
        model: timm VisionTransformer with a class token, on any device, of any float dtype; left exactly as found.
        images: (B, 3, H, W), normalised as the model wants them. H and W may differ from each other, and from the
            size of the training if the model was made with ``dynamic_img_size=True``.
        targets: class indices: None (each image's top class), one for all images, (B,), or (B, K) for K classes an
            image from one forward pass.
        method: name of a method (``vitseg.methods.METHODS``).
        first_block: the rollout multiplies the blocks from this one on.

    Raises:
        InputError: unknown method, unsupported model, targets of a wrong shape or out of range.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", pretrained=True)            # doctest: +SKIP
        >>> explain(model, images, targets=281).maps.shape                                # doctest: +SKIP
        torch.Size([8, 14, 14])
    """
    chosen = find_method(method)
    capture.check_supported(model)
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"images: shape {tuple(images.shape)}; expected (B, 3, H, W), B >= 1")
    parameter = next(model.parameters())
    if (images.dtype, images.device) != (parameter.dtype, parameter.device):
        raise InputError(
            f"images: {images.dtype} on {images.device}; the model is {parameter.dtype} on {parameter.device}"
        )
    if not 0 <= first_block < len(model.blocks):
        raise InputError(f"first_block {first_block}: the model has blocks 0 to {len(model.blocks) - 1}")
    trace = capture.run(model, images, first=first_block, relevance=chosen.gradients)
    wanted, many = _targets(targets, trace.logits)
    with torch.no_grad() if not chosen.gradients else torch.enable_grad():
        tokens = chosen.compute(trace, wanted, first_block).detach()
    height, width = trace.grid
    maps = rearrange(tokens, "(k b) (h w) -> b k h w", b=len(images), h=height, w=width)
    logits = trace.logits.detach()
    if many:
        return Explanation(maps, wanted, logits, method)
    return Explanation(maps[:, 0], wanted[:, 0], logits, method)


def _targets(targets: Tensor | list[int] | list[list[int]] | int | None, logits: Tensor) -> tuple[Tensor, bool]:
    """Class indices (B, K), and whether the caller asked for several an image."""
    batch, classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1, keepdim=True), False
    wanted = torch.as_tensor(targets, device=logits.device)
    if wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(f"targets: dtype {wanted.dtype}; expected integer class indices")
    wanted = wanted.long()
    if wanted.ndim == 0:
        wanted = wanted.expand(batch)
    if wanted.ndim not in (1, 2) or len(wanted) != batch or wanted.numel() == 0:
        raise InputError(
            f"targets: shape {tuple(wanted.shape)} for {batch} images; expected ({batch},) or ({batch}, K)"
        )
    if wanted.min() < 0 or wanted.max() >= classes:
        raise InputError(
            f"targets: {int(wanted.min())} to {int(wanted.max())}; the model has classes 0 to {classes - 1}"
        )
    many = wanted.ndim == 2
    return (wanted if many else wanted[:, None]), many
