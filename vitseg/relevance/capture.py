"""One forward pass of a timm ViT with everything the explanations need, and no trace left on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from einops import rearrange
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from wsss.errors import InputError


@dataclass
class BlockRecord:
    """What one block saw, detached; all None of a block that was not recorded.

    B images, N tokens (prefix first), D channels, H heads of d channels each.
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


@dataclass(frozen=True)
class Trace:
    """A finished forward pass.

    ``logits`` (B, C) still carries the graph down to the attention of the first recorded block.
    """

    model: VisionTransformer
    images: Tensor = field(repr=False)  # (B, 3, H, W)
    blocks: tuple[BlockRecord, ...]
    logits: Tensor
    grid: tuple[int, int]  # (h, w) patch tokens
    patches: Tensor = field(repr=False)  # (B, N - prefix, D) what the patch embedding made of the image
    embedded: Tensor = field(repr=False)  # (B, N, D) with prefix tokens and position embedding
    normed: Tensor = field(repr=False)  # (B, N, D) behind the last norm, before the pooling
    pooled: tuple[Tensor, ...] = field(repr=False)  # (B, D) input of each head

    @property
    def prefix(self) -> int:
        """Number of tokens in front of the patch tokens (class token, distillation token, registers)."""
        return self.model.num_prefix_tokens

    @property
    def tokens(self) -> int:
        """N."""
        return self.normed.shape[1]

    @property
    def heads(self) -> tuple[nn.Linear, ...]:
        """The classifiers whose mean is the class score: one, or two of a distilled model."""
        return heads(self.model)

    @property
    def rows(self) -> slice:
        """The tokens that the heads read: those alone carry relevance in the last block."""
        return slice(0, len(self.heads)) if self.model.global_pool == "token" else slice(self.prefix, None)

    def readout(self) -> Tensor:
        """Weight of each token in what the heads read, (N,), sums to 1: the class token alone, or a mean."""
        weights = self.normed.new_zeros(self.tokens)
        weights[self.rows] = 1
        return weights / weights.sum()


def heads(model: VisionTransformer) -> tuple[nn.Linear, ...]:
    """The model's linear classifiers, each of a token or mean of its own."""
    return (model.head, model.head_dist) if isinstance(model, VisionTransformerDistilled) else (model.head,)


def check_supported(model: nn.Module) -> None:
    """Raise InputError, naming the part and the reason, if the walk has no rule for something in `model`."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise InputError(
            f"model {type(model).__name__}: not supported; the walk knows timm's VisionTransformer (vit_*, deit_*)"
        )
    if model.global_pool not in ("token", "avg") or model.attn_pool is not None:
        raise InputError(
            f"model: global_pool {model.global_pool!r} is not supported, only 'token' (the class token) and 'avg'"
        )
    if model.global_pool == "avg" and model.pool_include_prefix:
        raise InputError("model: a mean that takes in the class token (pool_include_prefix) is not supported")
    for index, block in enumerate(model.blocks):
        where = f"model: blocks.{index}"
        if type(block) is not Block:
            raise InputError(f"{where} is a {type(block).__name__}; there are rules for timm's Block only")
        if type(block.attn) is not Attention or block.attn.gate is not None:
            raise InputError(
                f"{where}.attn is a {type(block.attn).__name__} without a rule; expected timm's plain Attention"
            )
        if type(block.mlp) is not Mlp:
            raise InputError(f"{where}.mlp is a {type(block.mlp).__name__}; there are rules for timm's Mlp only")
    for head in heads(model):
        if not isinstance(head, nn.Linear):
            raise InputError(f"model: head is a {type(head).__name__}; expected a Linear classifier")


def run(model: VisionTransformer, images: Tensor, *, first: int = 0, relevance: bool = True) -> Trace:
    """Forward `images` and record the blocks from `first` on.

    Args:
        model: a supported timm ViT, in any mode; it runs in evaluation mode and gets its own mode back.
        images: (B, 3, H, W), normalised.
        first: lower blocks are not recorded, and no graph reaches them.
        relevance: record all that gradients and relevance need; else the attention alone, without a graph.

    The parameters are swapped for detached ones during the pass, so the graph begins at the attention of block `first`,
    holds no gradient of a weight, and `requires_grad` and `.grad` of the model stay as they are.
    """
    records = tuple(BlockRecord(block) for block in model.blocks)
    seen: dict[str, Tensor] = {}
    detached = {name: _detached(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    with (
        _evaluation(model),
        _hooks(model, records, seen, first, relevance),
        torch.set_grad_enabled(relevance),
    ):
        try:
            logits = functional_call(model, detached, (images.detach(),))
        except AssertionError as error:
            hint = "" if model.dynamic_img_size else "; make the model with dynamic_img_size=True"
            raise InputError(f"images of {tuple(images.shape[2:])}: {error}{hint}") from None
    grid = model.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    return Trace(
        model=model,
        images=images.detach(),
        blocks=records,
        logits=logits,
        grid=(int(grid[0]), int(grid[1])),
        patches=seen["patches"].flatten(1, -2),  # (B, h, w, D) of models with dynamic_img_size
        embedded=seen["embedded"],
        normed=seen["normed"],
        pooled=tuple(seen[f"pooled {index}"] for index in range(len(heads(model)))),
    )


def pixels_reachable(model: VisionTransformer) -> bool:
    """Whether relevance can be led on from the tokens to the pixels: a plain patch embedding, not a trunk."""
    embedding = model.patch_embed
    return type(embedding) is PatchEmbed and isinstance(embedding.norm, nn.Identity) and embedding.proj.in_channels == 3


def _detached(tensor: Tensor) -> Tensor:
    """Without its graph; a copy of what was made in inference mode, which no graph may keep."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, unfused attention and no checkpointing inside; every module as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    fused = [(block.attn, block.attn.fused_attn) for block in model.blocks]
    checkpointing = model.grad_checkpointing
    try:
        model.eval()
        model.grad_checkpointing = False  # it would run the blocks again, without the hooks
        for attention, _ in fused:
            attention.fused_attn = False  # scaled_dot_product_attention never shows the matrix
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for attention, flag in fused:
            attention.fused_attn = flag
        model.grad_checkpointing = checkpointing


@contextmanager
def _hooks(
    model: VisionTransformer, records: tuple[BlockRecord, ...], seen: dict[str, Tensor], first: int, relevance: bool
) -> Iterator[None]:
    with ExitStack() as stack:

        def watch(module: nn.Module, record: BlockRecord, **names: str) -> None:
            """Store a module's input and output under the given names of the record."""

            def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                if "input" in names:
                    setattr(record, names["input"], args[0].detach())
                if "output" in names:
                    setattr(record, names["output"], output.detach())

            stack.callback(module.register_forward_hook(hook).remove)

        def see(module: nn.Module, name: str, what: str) -> None:
            """Store a module's input or output among what is seen outside the blocks."""

            def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                seen[name] = (args[0] if what == "input" else output).detach()

            stack.callback(module.register_forward_hook(hook).remove)

        def watch_attention(module: nn.Module, record: BlockRecord, leaf: bool) -> None:
            def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                record.attention = output.detach().requires_grad_() if leaf else output
                return record.attention

            stack.callback(module.register_forward_hook(hook).remove)

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
        for index, head in enumerate(heads(model)):
            see(head, f"pooled {index}", "input")
        yield
