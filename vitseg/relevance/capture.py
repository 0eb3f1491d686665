"""One forward pass of a timm ViT with everything the explanations need, and no trace left on the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitseg.relevance.parts import classifiers, linear_layers
from wsss.errors import InputError
from wsss.private import private_copy


@dataclass
class BlockRecord:
    """What one block saw, detached; all None of a block that was not recorded.

    B images, N tokens (prefix first), D channels, H heads of d channels each. Of the last block all behind the
    attention, from ``proj_in`` on, may hold the first tokens alone (`Trace`).
    """

    block: Block
    x: Tensor = None  # (B, N, D) input of the block
    qkv_in: Tensor = None  # (B, N, D)
    qkv_out: Tensor = None  # (B, N, 3 H d), bias included
    q: Tensor = None  # (B, H, N, d), after q_norm, not scaled
    k: Tensor = None  # (B, H, N, d), after k_norm
    attention: Tensor = None  # (B, H, N, N), rows sum to 1; part of the graph
    proj_in: Tensor = None  # (B, N, H d)
    proj_out: Tensor = None
    attention_branch: Tensor = None  # (B, N, D) what the attention adds to the skip
    middle: Tensor = None  # (B, N, D) x + attention_branch
    fc1_in: Tensor = None
    fc1_out: Tensor = None  # (B, N, 4 D)
    fc2_in: Tensor = None  # (B, N, 4 D)
    fc2_out: Tensor = None
    mlp_branch: Tensor = None  # (B, N, D)
    out: Tensor = None  # (B, N, D) middle + mlp_branch

    @property
    def v(self) -> Tensor:
        """(B, H, N, d)."""
        heads = self.block.attn.num_heads
        return rearrange(self.qkv_out, "b n (three h d) -> three b h n d", three=3, h=heads)[2]


@dataclass
class LayerRecord:
    """What one Linear layer of a head saw, detached."""

    layer: nn.Linear
    x: Tensor = None  # (B, I)
    out: Tensor = None  # (B, O), bias included


@dataclass(frozen=True)
class Trace:
    """A finished forward pass.

    ``logits`` (B, C) still carries the graph down to the attention of the first recorded block. n tokens come out of
    the last block: those that the heads read if these are the first ones, else all N.
    """

    model: VisionTransformer
    images: Tensor = field(repr=False)  # (B, 3, H, W)
    blocks: tuple[BlockRecord, ...]
    heads: tuple[tuple[LayerRecord, ...], ...]  # whose mean is the class score: one, or two of a distilled model
    logits: Tensor
    grid: tuple[int, int]  # (h, w) patch tokens
    patches: Tensor = field(repr=False)  # (B, N - prefix, D) what the patch embedding made of the image
    embedded: Tensor = field(repr=False)  # (B, N, D) with prefix tokens and position embedding
    normed: Tensor = field(repr=False)  # (B, n, D) behind the last norm, before the pooling
    pooled: tuple[Tensor, ...] = field(repr=False)  # (B, D) input of each head

    @property
    def prefix(self) -> int:
        """Number of tokens in front of the patch tokens (class token, distillation token, registers)."""
        return self.model.num_prefix_tokens

    @property
    def tokens(self) -> int:
        """N."""
        return self.embedded.shape[1]

    @property
    def rows(self) -> slice:
        """The tokens that the heads read: those alone carry relevance in the last block."""
        return _rows(self.model)

    def readout(self) -> Tensor:
        """Weight of each token in what the heads read, (N,), sums to 1: the class token alone, or a mean."""
        weights = self.embedded.new_zeros(self.tokens)
        weights[self.rows] = 1
        return weights / weights.sum()


def run(model: VisionTransformer, images: Tensor, *, first: int = 0, relevance: bool = True) -> Trace:
    """Forward `images` and record the blocks from `first` on.

    Args:
        model: a supported timm ViT, in any mode. A private copy of it runs, in evaluation mode, so nothing is done to
            the model itself, nor to what other threads do with it.
        images: (B, 3, H, W), normalised.
        first: lower blocks are not recorded, and no graph reaches them.
        relevance: record all that gradients and relevance need; else the attention alone, without a graph.

    The graph begins at the attention of block `first` and holds no gradient of a weight. Where the heads read single
    tokens, the last block finishes with those alone.
    """
    copy = private_copy(model)
    # of the blocks below, fused attention is faster; it rounds differently, which who asks for float64 does not want
    _prepare(copy, 0 if images.dtype == torch.float64 else first)
    if model.global_pool == "token" and not _hooked(copy.blocks[-1], copy.norm):
        _shorten(copy.blocks[-1], _rows(model))
    records = tuple(BlockRecord(block) for block in copy.blocks)
    seen: dict[str, Tensor] = {}
    heads = _record(copy, records, seen, first, relevance)
    with torch.set_grad_enabled(relevance):
        try:
            logits = copy(images.detach())
        except AssertionError as error:
            hint = "" if model.dynamic_img_size else "; make the model with dynamic_img_size=True"
            raise InputError(f"images of {tuple(images.shape[2:])}: {error}{hint}") from None
        finally:
            _release(copy)
    grid = model.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    return Trace(
        model=model,
        images=images.detach(),
        blocks=records,
        heads=heads,
        logits=logits,
        grid=(int(grid[0]), int(grid[1])),
        patches=seen["patches"].flatten(1, -2),  # (B, h, w, D) of models with dynamic_img_size
        embedded=seen["embedded"],
        normed=seen["normed"],
        pooled=tuple(seen[f"pooled {index}"] for index in range(len(heads))),
    )


def _rows(model: VisionTransformer) -> slice:
    return slice(0, len(classifiers(model))) if model.global_pool == "token" else slice(model.num_prefix_tokens, None)


def _prepare(model: VisionTransformer, first: int) -> None:
    """Attention that shows its matrix from block `first` on, blocks that run once, with their hooks."""
    model.grad_checkpointing = False
    for block in model.blocks[first:]:
        block.attn.fused_attn = False  # scaled_dot_product_attention never shows the matrix


def _release(model: VisionTransformer) -> None:
    """Take off what refers from a private copy back to the records, so that these go as soon as nobody holds them."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    model.blocks[-1].__dict__.pop("forward", None)


def _hooked(*modules: nn.Module) -> bool:
    """Whether hooks of the model's owner are in there, which expect all the tokens."""
    parts = [part for module in modules for part in module.modules()]
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def _shorten(block: Block, rows: slice) -> None:
    """Let the last block, of a private copy, finish with the tokens `rows` alone, which are all that the heads read."""

    def forward(x: Tensor) -> Tensor:
        middle = x[:, rows] + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
        return middle + block.drop_path2(block.ls2(block.mlp(block.norm2(middle))))

    block.attn.proj.register_forward_pre_hook(lambda _layer, args: (args[0][:, rows],))
    block.forward = lambda x, attn_mask=None, is_causal=False: forward(x)


def _record(
    model: VisionTransformer, records: tuple[BlockRecord, ...], seen: dict[str, Tensor], first: int, relevance: bool
) -> tuple[tuple[LayerRecord, ...], ...]:
    """Hooks into a private copy that fill the records; returns those of the heads."""

    def watch(module: nn.Module, record: BlockRecord | LayerRecord, **names: str) -> None:
        """Store a module's input and output under the given names of the record."""

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if "input" in names:
                setattr(record, names["input"], args[0].detach())
            if "output" in names:
                setattr(record, names["output"], output.detach())

        module.register_forward_hook(hook)

    def see(module: nn.Module, name: str, what: str) -> None:
        """Store a module's input or output among what is seen outside the blocks."""

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (args[0] if what == "input" else output).detach()

        module.register_forward_hook(hook)

    def watch_attention(module: nn.Module, record: BlockRecord, leaf: bool) -> None:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            record.attention = output.detach().requires_grad_() if leaf else output
            return record.attention

        module.register_forward_hook(hook)

    for block, record in list(zip(model.blocks, records, strict=True))[first:]:
        watch_attention(block.attn.attn_drop, record, leaf=relevance and record is records[first])
        if not relevance:
            continue
        watch(block, record, input="x", output="out")
        watch(block.attn.qkv, record, input="qkv_in", output="qkv_out")
        watch(block.attn.q_norm, record, output="q")
        watch(block.attn.k_norm, record, output="k")
        watch(block.attn.proj, record, input="proj_in", output="proj_out")
        watch(block.drop_path1, record, output="attention_branch")
        watch(block.norm2, record, input="middle")
        watch(block.mlp.fc1, record, input="fc1_in", output="fc1_out")
        watch(block.mlp.fc2, record, input="fc2_in", output="fc2_out")
        watch(block.drop_path2, record, output="mlp_branch")
    see(model.patch_embed, "patches", "output")
    see(model.pos_drop, "embedded", "output")
    see(model.norm, "normed", "output")
    heads: list[tuple[LayerRecord, ...]] = []
    for index, head in enumerate(classifiers(model)):
        see(head, f"pooled {index}", "input")
        heads.append(tuple(LayerRecord(layer) for layer in linear_layers(head)))
        for linear in heads[-1]:
            watch(linear.layer, linear, input="x", output="out")
    return tuple(heads)
