"""Methods without a rollout: of the last block's attention, and LRP down to the pixels."""

from __future__ import annotations

from torch import Tensor

from vitseg.methods.registry import Formulation, last_block, lowest_block, patch_maps, register
from vitseg.relevance import propagation
from vitseg.relevance.capture import Trace


def _read(trace: Trace, matrix: Tensor) -> Tensor:
    """(..., N, N), or its rows that the heads read, (..., n, N), to the mean of those rows over the patch tokens."""
    if matrix.shape[-2] == trace.tokens:
        matrix = matrix[..., trace.rows, :]
    return matrix.mean(-2)[..., trace.prefix :]


@register(
    "raw_attention",
    "the last attention itself, a baseline of Chefer, Gur and Wolf, CVPR 2021, section 4",
    start=last_block,
    class_specific=False,
    gradients=False,
    rolls_out=False,
)
def raw_attention(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Attention of the class token in the last block, mean over heads. The same for every class."""
    tokens = _read(trace, trace.blocks[-1].attention.detach()).mean(1)
    return patch_maps(trace, tokens).repeat(targets.shape[1], 1, 1)


@register(
    "gradcam",
    "Selvaraju et al., ICCV 2017, eq. 1 and 2, on the last attention as in Chefer, Gur and Wolf, CVPR 2021, section 4",
    start=last_block,
    rolls_out=False,
)
def gradcam(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """The class token's last attention, each head weighted with the mean of its gradient over the patch tokens."""
    (gradient,) = propagation.attention_gradients(trace, targets, len(trace.blocks) - 1)
    weights = _read(trace, gradient).mean(-1, keepdim=True)  # (P, H, 1)
    attention = _read(trace, trace.blocks[-1].attention.detach()).repeat(targets.shape[1], 1, 1)
    return patch_maps(trace, (weights * attention).mean(1).clamp(min=0))


@register(
    "partial_lrp",
    "Voita et al., ACL 2019, section 4, as in Chefer, Gur and Wolf, CVPR 2021, section 4",
    start=last_block,
    relevance=True,
    rolls_out=False,
)
def partial_lrp(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Positive relevance of the class token's attention in the last block, mean over heads."""
    relevance = next(propagation.attention_relevances(trace, targets, len(trace.blocks) - 1, rules.baseline))
    return patch_maps(trace, _read(trace, relevance.clamp(min=0)).mean(1))


@register(
    "lrp",
    "Binder et al., ICANN 2016, and Montavon et al., 2017 (z^B at the pixels), as in Chefer, Gur and Wolf, CVPR 2021",
    start=lowest_block,
    relevance=True,
    rolls_out=False,
)
def lrp(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Relevance led through everything down to the pixels; signed, (P, H, W) at the size of the image."""
    return propagation.input_relevance(trace, targets, rules.baseline)
