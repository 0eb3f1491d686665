"""Propagation backwards through a captured ViT: from class scores to the relevance of every attention matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from vitseg.relevance.capture import BlockRecord, Trace
from vitseg.relevance.parts import pixels_reachable
from vitseg.relevance.rules import Exact, input_box
from wsss.explanation import class_vectors

EVERY = slice(None)


def attention_gradients(trace: Trace, targets: Tensor, first: int) -> list[Tensor]:
    """Gradient of the target scores with respect to the attention of blocks ``first`` and above.

    Args:
        trace: recorded from block ``first`` on or lower, with ``relevance=True``.
        targets: class indices (B, K).

    Returns:
        One tensor (K * B, H, N, N) a block, class-major: item ``k * B + b`` explains target k of image b.
    """
    attentions = [record.attention for record in trace.blocks[first:]]
    vectors = class_vectors(targets.T, trace.logits.shape[1], trace.logits.dtype)  # (K, B, C)
    if len(vectors) == 1:
        return list(torch.autograd.grad(trace.logits, attentions, vectors[0], retain_graph=True))
    batched = torch.autograd.grad(trace.logits, attentions, vectors, is_grads_batched=True, retain_graph=True)
    return [gradient.flatten(0, 1) for gradient in batched]


@torch.no_grad()
def attention_relevances(trace: Trace, targets: Tensor, first: int, rules: Exact) -> Iterator[Tensor]:
    """Relevance of the attention of blocks ``first`` and above, from the last down; each target score has 1.

    Args:
        targets: class indices (B, K).
        rules: one of the sets of `vitseg.relevance.rules`.

    Yields:
        One tensor (K * B, H, N, N) a block, class-major; the last block's, which comes first, has the rows that the
        heads read alone, (K * B, H, n, N), n = 1 for a class token: no other row carries relevance. One at a time, so
        that none need be kept.
    """
    pairs = _Pairs(trace, targets, rules)
    relevance, rows = pairs.start(), trace.rows
    for record in reversed(trace.blocks[first:]):
        lowest = record is trace.blocks[first]
        of_attention, relevance = _through_block(pairs, record, relevance, rows, go_on=not lowest)
        yield of_attention
        rows = EVERY


@torch.no_grad()
def input_relevance(trace: Trace, targets: Tensor, rules: Exact) -> Tensor:
    """Relevance of the pixels, (K * B, H, W), class-major: down through all blocks, position and patch embedding.

    Of a model whose tokens come from a convolutional trunk it ends at the tokens: (K * B, h, w).

    Args:
        trace: recorded from block 0 on.
        targets: class indices (B, K).
        rules: one of the sets of `vitseg.relevance.rules`.
    """
    pairs = _Pairs(trace, targets, rules)
    relevance, rows = pairs.start(), trace.rows
    for record in reversed(trace.blocks):
        _, relevance = _through_block(pairs, record, relevance, rows, go_on=True)
        rows = EVERY
    embedded, patches = pairs(trace.embedded[:, trace.prefix :]), pairs(trace.patches)
    relevance, _ = rules.skip(patches, embedded - patches, embedded, relevance[:, trace.prefix :])
    height, width = trace.grid
    relevance = rearrange(relevance, "p (h w) d -> p d h w", h=height, w=width)
    if not pixels_reachable(trace.model):
        return relevance.sum(1)
    return input_box(pairs(trace.images), trace.model.patch_embed.proj.weight.detach().to(pairs.dtype), relevance)


class _Pairs:
    """Repeats what was recorded for each image for each of its explained classes, in the dtype of the propagation."""

    def __init__(self, trace: Trace, targets: Tensor, rules: Exact) -> None:
        self.trace = trace
        self.targets = targets
        self.rules = rules
        # half precision has too few bits for the divisions of the rules; the propagation then runs in single precision
        self.dtype = torch.promote_types(trace.logits.dtype, torch.float32)

    def __call__(self, tensor: Tensor) -> Tensor:
        repeated = tensor.detach().to(self.dtype)
        classes = self.targets.shape[1]
        return repeated if classes == 1 else repeated.repeat(classes, *[1] * (tensor.ndim - 1))

    def weight(self, layer: nn.Linear) -> Tensor:
        return layer.weight.detach().to(self.dtype)

    def start(self) -> Tensor:
        """Relevance (P, n, D) of the tokens that the heads read, behind the last block: heads and last norm undone."""
        trace, rules = self.trace, self.rules
        relevances = self._through_heads()
        if trace.model.global_pool == "avg":
            return rules.mean(self(trace.normed[:, trace.rows]), relevances[0])
        # the pooled token is a selection, whose rule is the identity but for the stabiliser
        return rules.through(torch.stack([self(one) for one in trace.pooled], 1), torch.stack(relevances, 1))

    def _through_heads(self) -> list[Tensor]:
        """Relevance (P, D) of what each head reads; activations, drop-out and norms in a head pass it on unchanged."""
        units = self.targets.T.flatten()
        signs = torch.where(units < 0, -1, 1)[:, None]  # the other class of one output
        last = [head[-1] for head in self.trace.heads]
        inputs = [self(record.x) for record in last]
        weights = [self.weight(record.layer)[units.clamp(min=0)] * signs for record in last]
        joint = self.rules.linear_unit(torch.cat(inputs, -1), torch.cat(weights, -1))  # two heads: one layer of a sum
        found = []
        for head, relevance in zip(self.trace.heads, joint.split([x.shape[-1] for x in inputs], -1), strict=True):
            for record in reversed(head[:-1]):
                relevance = self.linear(record.layer, self(record.x), self(record.out), relevance)
            found.append(relevance)
        return found

    def linear(self, layer: nn.Linear, x: Tensor, out: Tensor, relevance: Tensor) -> Tensor:
        """Rule of a linear layer; `out` is its recorded output, from which the bias is taken off."""
        z = out if layer.bias is None else out - layer.bias.detach().to(self.dtype)
        return self.rules.linear(x, z, self.weight(layer), relevance)


def _through_block(
    pairs: _Pairs, record: BlockRecord, relevance: Tensor, rows: slice, go_on: bool
) -> tuple[Tensor, Tensor | None]:
    """One block: relevance of its attention, and of its input unless this is where the propagation ends.

    `relevance` (P, n, D) belongs to the token `rows` of the block's output; LayerNorm, GELU, softmax, layer scale and
    drop-out pass it on unchanged.
    """
    rules = pairs.rules
    middle = pairs(record.middle[:, rows])
    to_skip, to_mlp = rules.skip(middle, pairs(record.mlp_branch[:, rows]), pairs(record.out[:, rows]), relevance)
    mlp = record.block.mlp
    to_mlp = pairs.linear(mlp.fc2, pairs(record.fc2_in[:, rows]), pairs(record.fc2_out[:, rows]), to_mlp)
    to_mlp = pairs.linear(mlp.fc1, pairs(record.fc1_in[:, rows]), pairs(record.fc1_out[:, rows]), to_mlp)
    relevance = rules.through(middle, to_skip) + rules.through(middle, to_mlp)

    x = pairs(record.x[:, rows])
    to_skip, to_branch = rules.skip(x, pairs(record.attention_branch[:, rows]), middle, relevance)
    attn = record.block.attn
    to_heads = pairs.linear(attn.proj, pairs(record.proj_in[:, rows]), pairs(record.proj_out[:, rows]), to_branch)
    to_heads = rearrange(to_heads, "p n (h d) -> p h n d", h=attn.num_heads)
    to_attention, to_v = rules.product(pairs(record.attention[:, :, rows]), pairs(record.v), to_heads)
    if not go_on:
        return to_attention, None

    to_q, to_k = rules.product(pairs(record.q[:, :, rows]), pairs(record.k).transpose(-1, -2), to_attention)
    to_tokens = _through_qkv(pairs, record, to_q, to_k.transpose(-1, -2), to_v, rows)
    tokens = pairs(record.x)
    relevance = rules.through(tokens, to_tokens)
    relevance[:, rows] += rules.through(x, to_skip)
    return to_attention, relevance


def _through_qkv(pairs: _Pairs, record: BlockRecord, to_q: Tensor, to_k: Tensor, to_v: Tensor, rows: slice) -> Tensor:
    """The joint projection to q, k and v, a sum over outputs: queries of `rows` alone, keys and values of all."""
    rules, layer = pairs.rules, record.block.attn.qkv
    width = record.block.attn.attn_dim
    weight = pairs.weight(layer)
    x, z = pairs(record.qkv_in), pairs(record.qkv_out)
    if layer.bias is not None:
        z = z - layer.bias.detach().to(pairs.dtype)
    flat = [rearrange(part, "p h n d -> p n (h d)") for part in (to_q, to_k, to_v)]
    if rows == EVERY:
        return rules.linear(x, z, weight, torch.cat(flat, dim=-1))
    relevance = rules.linear(x, z[..., width:], weight[width:], torch.cat(flat[1:], dim=-1))
    relevance[:, rows] += rules.linear(x[:, rows], z[:, rows, :width], weight[:width], flat[0])
    return relevance
