"""The peers' relevance, slowly: one image, float64, every rule by autograd. The oracle of the engine.

Chefer, Gur and Wolf, CVPR 2021, and the scheme of their published code: each layer has a way back of its own
(`safe_divide`, the gradient of the layer's forward), the attention products are halved, all else is passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    moved = b.clamp(min=1e-9) + b.clamp(max=1e-9)  # b + 1e-9
    moved = moved + moved.eq(0).to(b) * 1e-9
    return a / moved * b.ne(0).to(b)


def by_gradient(forward: Callable[..., Tensor], inputs: Sequence[Tensor], relevance: Tensor) -> list[Tensor]:
    """Input times the gradient of the layer's output, weighted by relevance / output."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        z = forward(*inputs)
    gradients = torch.autograd.grad(z, inputs, safe_divide(relevance, z.detach()))
    return [x.detach() * gradient for x, gradient in zip(inputs, gradients, strict=True)]


def add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Of one image: the sums run over everything."""
    a, b = by_gradient(torch.add, (a, b), relevance)
    magnitude = a.sum().abs() + b.sum().abs()
    factor_a, factor_b = (safe_divide(part.sum().abs(), magnitude) * relevance.sum() for part in (a, b))
    return a * safe_divide(factor_a, a.sum()), b * safe_divide(factor_b, b.sum())


def clone(x: Tensor, relevances: Sequence[Tensor]) -> Tensor:
    return x.detach() * sum(safe_divide(relevance, x.detach()) for relevance in relevances)


def linear(weight: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """alpha = 1, beta = 0: positive weights with positive inputs, negative with negative."""
    parts = [(weight.clamp(min=0), x.detach().clamp(min=0)), (weight.clamp(max=0), x.detach().clamp(max=0))]
    s = safe_divide(relevance, sum(F.linear(part_x, part_w) for part_w, part_x in parts))
    parts = [(part_w, part_x.requires_grad_()) for part_w, part_x in parts]
    with torch.enable_grad():
        gradients = [torch.autograd.grad(F.linear(part_x, part_w), part_x, s)[0] for part_w, part_x in parts]
    return sum(part_x.detach() * gradient for (_, part_x), gradient in zip(parts, gradients, strict=True))


class PeersBlock:
    """Forward of a block, everything kept; `relprop` takes relevance back and leaves `cam`, that of the attention."""

    def __init__(self, block: Block, x: Tensor) -> None:
        self.block, self.x = block, x
        attn, mlp = block.attn, block.mlp
        self.normed = block.norm1(x)
        batch, tokens, _ = x.shape
        q, k, self.v = attn.qkv(self.normed).view(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        self.q, self.k = attn.q_norm(q), attn.k_norm(k)
        self.attention = (torch.einsum("bhid,bhjd->bhij", self.q, self.k) * attn.scale).softmax(-1)
        heads = torch.einsum("bhij,bhjd->bhid", self.attention, self.v)
        self.joined = attn.norm(heads.transpose(1, 2).flatten(2))
        self.branch = block.ls1(attn.proj(self.joined))
        self.middle = x + self.branch
        self.fc1_in = block.norm2(self.middle)
        self.fc2_in = mlp.norm(mlp.act(mlp.fc1(self.fc1_in)))
        self.mlp_branch = block.ls2(mlp.fc2(self.fc2_in))
        self.out = self.middle + self.mlp_branch

    def relprop(self, cam: Tensor) -> Tensor:
        attn, mlp = self.block.attn, self.block.mlp
        skip, cam = add(self.middle, self.mlp_branch, cam)
        cam = linear(mlp.fc1.weight, self.fc1_in, linear(mlp.fc2.weight, self.fc2_in, cam))
        cam = clone(self.middle, (skip, cam))
        skip, cam = add(self.x, self.branch, cam)
        cam = linear(attn.proj.weight, self.joined, cam)
        cam = cam.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        cam, to_v = by_gradient(lambda a, v: torch.einsum("bhij,bhjd->bhid", a, v), (self.attention, self.v), cam)
        self.cam = cam = cam / 2
        to_q, to_k = by_gradient(lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k), (self.q, self.k), cam)
        parts = [part.transpose(1, 2).flatten(2) for part in (to_q / 2, to_k / 2, to_v / 2)]
        return clone(self.x, (skip, linear(attn.qkv.weight, self.normed, torch.cat(parts, -1))))


def forward(model: VisionTransformer, image: Tensor) -> tuple[list[PeersBlock], Tensor, Tensor]:
    """Blocks, input of the pooling, and logits of one image (3, H, W)."""
    tokens: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, args: tokens.append(args[0].detach()))
    expected = model(image[None])
    handle.remove()
    x = tokens[0].requires_grad_()
    blocks = []
    for block in model.blocks:
        blocks.append(PeersBlock(block, x))
        x = blocks[-1].out
    normed = model.norm(x)
    logits = model.head(normed[:, 0])
    torch.testing.assert_close(logits, expected)  # the oracle computes the same network
    return blocks, normed, logits


def multiply(matrices: Sequence[Tensor], normalise: bool) -> Tensor:
    """Product of (A + I) over the blocks, first block rightmost; matrices (N, N)."""
    joint = torch.eye(len(matrices[0]), dtype=matrices[0].dtype)
    for matrix in matrices:
        step = matrix + torch.eye(len(matrix), dtype=matrix.dtype)
        joint = (step / step.sum(-1, keepdim=True) if normalise else step) @ joint
    return joint


def transformer_attribution(model: VisionTransformer, image: Tensor, target: int, first: int = 1) -> Tensor:
    """Map over the patch tokens (N - prefix,)."""
    blocks, normed, logits = forward(model, image)
    gradients = torch.autograd.grad(logits[0, target], [block.attention for block in blocks])
    one_hot = F.one_hot(torch.tensor([target]), logits.shape[1]).to(logits)
    cam = linear(model.head.weight, normed[:, 0], one_hot)[:, None]
    (cam,) = by_gradient(lambda x: x[:, :1], (normed,), cam)
    for block in reversed(blocks):
        cam = block.relprop(cam)
    cams = [(gradient * block.cam)[0].clamp(min=0).mean(0) for gradient, block in zip(gradients, blocks, strict=True)]
    return multiply(cams[first:], normalise=False)[0, model.num_prefix_tokens :].detach()


def rollout(model: VisionTransformer, image: Tensor, first: int = 1) -> Tensor:
    """Map over the patch tokens (N - prefix,)."""
    blocks, _, _ = forward(model, image)
    attentions = [block.attention[0].detach().mean(0) for block in blocks]
    return multiply(attentions[first:], normalise=True)[0, model.num_prefix_tokens :]


def tiny_vit(seed: int = 0, **options: object) -> VisionTransformer:
    """A float64 ViT of three blocks with no parameter at a special value (no zero bias, no unit scale)."""
    defaults = {"img_size": 24, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = VisionTransformer(**{**defaults, **options}).double().eval()
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
