"""Maps walked over the model's own attention: patches that attend to each other share what either was given.

The attention between patches as the affinity that class maps are spread with comes from Xu et al., "Multi-class Token
Transformer for Weakly Supervised Semantic Segmentation" (MCTformer, CVPR 2022); that it is symmetrised, as affinity is
mutual, from Ru et al., "Learning Affinity from Attention" (AFA, CVPR 2022); that it is made doubly stochastic first
from Lin et al., "CLIP is Also an Efficient Segmenter" (CLIP-ES, CVPR 2023). They take all blocks or the last ones. Here
two in the middle of the upper half are taken unless others are given: the very last gather what the class needs,
wherever it lies (docs/better_masks.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from vitseg.relevance.capture import Trace
from wsss.errors import InputError
from wsss.explanation import check_integer

SINKHORN_ROUNDS = 3


def walked_blocks(steps: int, blocks: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """The blocks whose attention is walked over, none if there are no steps: `blocks`, or the usual ones.

    Raises:
        InputError: fewer than 0 steps, or `blocks` that a model of `depth` blocks does not have.
    """
    check_integer(steps, "attention_walk")
    for block in blocks or ():
        check_integer(block, "attention_blocks")
    if steps < 0:
        raise InputError(f"attention_walk {steps}: expected a number of steps, 0 or more")
    if steps == 0:
        return ()
    if blocks is None:
        return tuple(range(depth * 2 // 3, max(depth * 2 // 3 + 1, depth * 5 // 6)))
    if not blocks or not all(0 <= block < depth for block in blocks):
        given = " ".join(map(str, blocks)) or "none"
        raise InputError(f"attention_blocks {given}: expected some of the model's blocks, 0 to {depth - 1}")
    return tuple(blocks)


@torch.no_grad()
def patch_transitions(trace: Trace, blocks: Sequence[int]) -> Tensor:
    """Transition matrix (B, n, n) between the n patches of each image; rows sum to 1.

    The mean of the attention between patches over heads and `blocks`, made nearly doubly stochastic (columns and rows
    divided by their sums in turn: a patch that all attend to draws no more than others), then symmetrised, then rows
    divided by their sums.

    Args:
        trace: with the attention of `blocks` recorded.
    """
    prefix = trace.prefix
    attention = torch.stack([trace.blocks[block].attention.detach().mean(1) for block in blocks]).mean(0)
    affinity = attention[:, prefix:, prefix:]
    for _ in range(SINKHORN_ROUNDS):
        affinity = affinity / affinity.sum(1, keepdim=True)
        affinity = affinity / affinity.sum(2, keepdim=True)
    affinity = affinity + affinity.transpose(1, 2)
    return affinity / affinity.sum(2, keepdim=True)


@torch.no_grad()
def walk_maps(trace: Trace, maps: Tensor, steps: int, blocks: Sequence[int]) -> Tensor:
    """Maps of the patches after `steps` steps over `patch_transitions`: each value becomes a mean of all, so weighted.

    Args:
        trace: with the attention of `blocks` recorded.
        maps: (K * B, h, w), class-major, on the grid of the patches.

    Raises:
        InputError: the maps are of another grid.
    """
    height, width = trace.grid
    if maps.shape[1:] != (height, width):
        raise InputError(
            f"attention_walk {steps}: the map has a grid of {tuple(maps.shape[1:])}, expected that of the patches, "
            f"{(height, width)}; take a method that explains patches, or 0"
        )
    transitions = patch_transitions(trace, blocks).to(maps.dtype)
    values = rearrange(maps, "(k b) h w -> b (h w) k", b=len(transitions))
    for _ in range(steps):
        values = transitions @ values
    return rearrange(values, "b (h w) k -> (k b) h w", h=height)
