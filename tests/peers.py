"""Every method slowly: one image, float64, rules by autograd or share by share. The oracle of the engine.

Chefer, Gur and Wolf, CVPR 2021, and the scheme of their published code: each layer has a way back of its own
(`safe_divide`, the gradient of the layer's forward), the attention products are halved, all else is passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

MEMBERS = ("transformer_attribution", "attention_perception")  # of the ensemble


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


class Ours:
    """`layers_ours.py`: the rules of transformer attribution."""

    @staticmethod
    def add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Of one image: the sums run over everything."""
        a, b = by_gradient(torch.add, (a, b), relevance)
        magnitude = a.sum().abs() + b.sum().abs()
        factor_a, factor_b = (safe_divide(part.sum().abs(), magnitude) * relevance.sum() for part in (a, b))
        return a * safe_divide(factor_a, a.sum()), b * safe_divide(factor_b, b.sum())

    @staticmethod
    def clone(x: Tensor, relevances: Sequence[Tensor]) -> Tensor:
        return x.detach() * sum(safe_divide(relevance, x.detach()) for relevance in relevances)

    @staticmethod
    def linear(weight: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
        """alpha = 1, beta = 0: positive weights with positive inputs, negative with negative."""
        parts = [(weight.clamp(min=0), x.detach().clamp(min=0)), (weight.clamp(max=0), x.detach().clamp(max=0))]
        s = safe_divide(relevance, sum(F.linear(part_x, part_w) for part_w, part_x in parts))
        parts = [(part_w, part_x.requires_grad_()) for part_w, part_x in parts]
        with torch.enable_grad():
            gradients = [torch.autograd.grad(F.linear(part_x, part_w), part_x, s)[0] for part_w, part_x in parts]
        return sum(part_x.detach() * gradient for (_, part_x), gradient in zip(parts, gradients, strict=True))

    @staticmethod
    def product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """a @ b, halved."""
        to_a, to_b = by_gradient(torch.matmul, (a, b), relevance)
        return to_a / 2, to_b / 2


class Baseline(Ours):
    """`layers_lrp.py`: the rules of LRP and partial LRP."""

    @staticmethod
    def add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(by_gradient(torch.add, (a, b), relevance))

    @staticmethod
    def linear(weight: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
        def half(part_w: Tensor, part_x: Tensor) -> Tensor:
            return by_gradient(lambda given: F.linear(given, part_w), (part_x,), relevance)[0]

        return half(weight.clamp(min=0), x.clamp(min=0)) + half(weight.clamp(max=0), x.clamp(max=0))


class Shares(Ours):
    """The robust rules, each contribution written out: relevance is shared by absolute contribution."""

    @staticmethod
    def share(contributions: Tensor, dim: int) -> Tensor:
        total = contributions.sum(dim, keepdim=True)
        return torch.where(total > 0, contributions / total, 0.0)

    @classmethod
    def add(cls, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        lengths = torch.stack([a.square().sum(-1).sqrt(), b.square().sum(-1).sqrt()])
        of_a, of_b = cls.share(lengths, 0)[..., None]
        return of_a * relevance, of_b * relevance

    @staticmethod
    def clone(x: Tensor, relevances: Sequence[Tensor]) -> Tensor:
        return sum(relevances)

    @classmethod
    def linear(cls, weight: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
        contributions = (x[..., None, :] * weight).clamp(min=0)  # (..., O, I)
        return (cls.share(contributions, -1) * relevance[..., None]).sum(-2)

    @classmethod
    def product(cls, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        contributions = (a[..., :, :, None] * b[..., None, :, :]).abs()  # (..., n, d, m)
        shared = cls.share(contributions, -2) * relevance[..., :, None, :]
        return shared.sum(-1) / 2, shared.sum(-3) / 2


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

    def relprop(self, cam: Tensor, rules: type[Ours] = Ours) -> Tensor:
        attn, mlp = self.block.attn, self.block.mlp
        skip, cam = rules.add(self.middle, self.mlp_branch, cam)
        cam = rules.linear(mlp.fc1.weight, self.fc1_in, rules.linear(mlp.fc2.weight, self.fc2_in, cam))
        cam = rules.clone(self.middle, (skip, cam))
        skip, cam = rules.add(self.x, self.branch, cam)
        cam = rules.linear(attn.proj.weight, self.joined, cam)
        cam = cam.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        self.cam, to_v = rules.product(self.attention, self.v, cam)
        to_q, to_k = rules.product(self.q, self.k.transpose(-1, -2), self.cam)
        parts = [part.transpose(1, 2).flatten(2) for part in (to_q, to_k.transpose(-1, -2), to_v)]
        return rules.clone(self.x, (skip, rules.linear(attn.qkv.weight, self.normed, torch.cat(parts, -1))))


class PeersForward:
    """One image (3, H, W) through the model, everything kept; the blocks are `PeersBlock`."""

    def __init__(self, model: VisionTransformer, image: Tensor) -> None:
        self.model, self.image = model, image
        seen: dict[str, Tensor] = {}
        handles = [
            model.blocks[0].register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0].detach())),
            model.patch_embed.register_forward_hook(
                lambda _m, _a, out: seen.update(patches=out.detach().flatten(1, -2))
            ),
            model.pos_drop.register_forward_hook(lambda _m, _a, out: seen.update(embedded=out.detach())),
        ]
        expected = model(image[None])
        for handle in handles:
            handle.remove()
        self.patches, self.embedded = seen["patches"].flatten(1, -2), seen["embedded"]
        x = seen["tokens"].requires_grad_()
        self.blocks = []
        for block in model.blocks:
            self.blocks.append(PeersBlock(block, x))
            x = self.blocks[-1].out
        self.normed = model.norm(x)
        if hasattr(model, "head_dist"):
            self.heads, self.read = (model.head, model.head_dist), (0, 1)
            self.pooled = [self.normed[:, 0], self.normed[:, 1]]
        elif model.global_pool == "avg":
            self.heads, self.read = (model.head,), tuple(range(model.num_prefix_tokens, x.shape[1]))
            self.pooled = [model.fc_norm(self.normed[:, model.num_prefix_tokens :].mean(1))]
        else:
            self.heads, self.read = (model.head,), (0,)
            self.pooled = [self.normed[:, 0]]
        self.layers = [[] for _ in self.heads]  # of each head the Linear layers with their inputs
        scores = []
        for head, value, kept in zip(self.heads, self.pooled, self.layers, strict=True):
            for layer in head if isinstance(head, nn.Sequential) else [head]:
                if isinstance(layer, nn.Linear):
                    kept.append((layer, value.detach()))
                value = layer(value)
            scores.append(value)
        self.logits = sum(scores) / len(scores)
        torch.testing.assert_close(self.logits, expected)  # the oracle computes the same network

    def gradients(self, target: int) -> list[Tensor]:
        attentions = [block.attention for block in self.blocks]
        return [g[0] for g in torch.autograd.grad(self.logits[0, target], attentions, retain_graph=True)]

    def relprop(self, target: int, rules: type[Ours]) -> Tensor:
        """Relevance of the first block's input (1, N, D); every block's `cam` is left behind."""
        last = [layers[-1] for layers in self.layers]
        weight = torch.cat([layer.weight for layer, _ in last], -1).detach()
        one_hot = F.one_hot(torch.tensor([target]), len(weight)).to(weight)
        joint = rules.linear(weight, torch.cat([x for _, x in last], -1), one_hot)
        parts = []
        for layers, part in zip(self.layers, joint.chunk(len(self.heads), -1), strict=True):
            for layer, x in reversed(layers[:-1]):
                part = rules.linear(layer.weight.detach(), x, part)
            parts.append(part)
        relevance = torch.cat(parts, -1)
        cam = torch.zeros_like(self.normed)
        if self.model.global_pool == "avg":
            tokens = self.normed[0, list(self.read)].detach()
            for channel in range(tokens.shape[1]):
                sign = tokens[:, channel].mean().sign()
                pull = (sign * tokens[:, channel]).clamp(min=0)
                cam[0, list(self.read), channel] = pull / pull.sum() * relevance[0, channel]
        else:
            for token, part in zip(self.read, relevance.chunk(len(self.heads), -1), strict=True):
                cam[:, token] = rules.clone(self.normed[:, token], (part,))
        for block in reversed(self.blocks):
            cam = block.relprop(cam, rules)
        return cam.detach()

    def row(self, matrix: Tensor) -> Tensor:
        """(N, N) to the mean of the rows that the heads read, over the patch tokens."""
        return matrix[list(self.read)].mean(0)[self.model.num_prefix_tokens :].detach()


def multiply(matrices: Sequence[Tensor], normalise: bool) -> Tensor:
    """Product of (A + I) over the blocks, first block rightmost; matrices (N, N)."""
    joint = torch.eye(len(matrices[0]), dtype=matrices[0].dtype)
    for matrix in matrices:
        step = matrix + torch.eye(len(matrix), dtype=matrix.dtype)
        joint = (step / step.sum(-1, keepdim=True) if normalise else step) @ joint
    return joint


def transformer_attribution(
    model: VisionTransformer, image: Tensor, target: int, first: int = 1, rules: type[Ours] = Ours
) -> Tensor:
    """Map over the patch tokens (N - prefix,)."""
    run = PeersForward(model, image)
    run.relprop(target, rules)
    cams = [
        (gradient * block.cam[0]).clamp(min=0).mean(0)
        for gradient, block in zip(run.gradients(target), run.blocks, strict=True)
    ]
    return run.row(multiply(cams[first:], normalise=False))


def rollout(model: VisionTransformer, image: Tensor, first: int = 1) -> Tensor:
    """Map over the patch tokens (N - prefix,)."""
    run = PeersForward(model, image)
    attentions = [block.attention[0].detach().mean(0) for block in run.blocks]
    return run.row(multiply(attentions[first:], normalise=True))


def raw_attention(model: VisionTransformer, image: Tensor) -> Tensor:
    run = PeersForward(model, image)
    return run.row(run.blocks[-1].attention[0].mean(0))


def gradcam(model: VisionTransformer, image: Tensor, target: int) -> Tensor:
    run = PeersForward(model, image)
    total = 0
    for attention, gradient in zip(run.blocks[-1].attention[0], run.gradients(target)[-1], strict=True):
        total = total + run.row(gradient).mean() * run.row(attention)
    return (total / len(run.blocks[-1].attention[0])).clamp(min=0)


def partial_lrp(model: VisionTransformer, image: Tensor, target: int, rules: type[Ours] = Baseline) -> Tensor:
    run = PeersForward(model, image)
    run.relprop(target, rules)
    return run.row(run.blocks[-1].cam[0].clamp(min=0).mean(0))


def generic_attention(model: VisionTransformer, image: Tensor, target: int, first: int = 0) -> Tensor:
    run = PeersForward(model, image)
    relevancy = torch.eye(run.normed.shape[1], dtype=run.normed.dtype)
    for block, gradient in list(zip(run.blocks, run.gradients(target), strict=True))[first:]:
        relevancy = relevancy + (gradient * block.attention[0]).clamp(min=0).mean(0) @ relevancy
    return run.row(relevancy)


def attention_perception(model: VisionTransformer, image: Tensor, first: int) -> Tensor:
    run = PeersForward(model, image)
    relevancy = torch.eye(run.normed.shape[1], dtype=run.normed.dtype)
    for block in run.blocks[first:]:
        projected = block.v[0].transpose(0, 1).flatten(1) @ block.block.attn.proj.weight.T
        order = torch.diag(projected.norm(dim=-1) / block.x[0].norm(dim=-1))
        relevancy = relevancy + block.attention[0].mean(0) @ order @ relevancy
    return run.row(relevancy)


def beyond_intuition(model: VisionTransformer, image: Tensor, target: int, first: int) -> Tensor:
    total = 0
    for step in range(20):
        run = PeersForward(model, image * step / 19)
        total = total + run.gradients(target)[-1]
    feedback = (total / 20)[:, list(run.read)].mean(1).clamp(min=0).mean(0)[model.num_prefix_tokens :]
    return attention_perception(model, image, first) * feedback


def lrp(model: VisionTransformer, image: Tensor, target: int, rules: type[Ours] = Baseline) -> Tensor:
    """Map over the pixels (H, W)."""
    run = PeersForward(model, image)
    cam = run.relprop(target, rules)[:, model.num_prefix_tokens :]
    embedded = run.embedded[:, model.num_prefix_tokens :]
    cam, _ = rules.add(run.patches, embedded - run.patches, cam)
    weight = model.patch_embed.proj.weight.detach()
    size = weight.shape[-1]
    found = torch.zeros_like(image)
    low, high = image.min(), image.max()
    columns = image.shape[2] // size
    for place, relevance in enumerate(cam[0]):
        top, left = place // columns * size, place % columns * size
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        x = image[window]
        share = x * weight - low * weight.clamp(min=0) - high * weight.clamp(max=0)  # (D, 3, size, size)
        total = share.sum((1, 2, 3)) + 1e-9
        found[window] = (share * (relevance / total)[:, None, None, None]).sum(0)
    return found.sum(0)


def oracle(method: str, model: VisionTransformer, image: Tensor, target: int, rules: str) -> Tensor:
    """The method's map of one image, flat."""
    attribution, baseline = (Ours, Baseline) if rules == "exact" else (Shares, Shares)
    if method == "ensemble":
        members = [oracle(name, model, image, target, rules) for name in MEMBERS]
        scaled = [(member / member.max()).clamp(min=1e-6) for member in members]
        return torch.stack(scaled).prod(0) ** (1 / len(members))
    arguments = {
        "transformer_attribution": (target, 1, attribution),
        "rollout": (),
        "raw_attention": (),
        "gradcam": (target,),
        "partial_lrp": (target, baseline),
        "lrp": (target, baseline),
        "generic_attention": (target,),
        "attention_perception": (len(model.blocks) * 5 // 12,),
        "beyond_intuition": (target, len(model.blocks) * 5 // 12),
    }
    return globals()[method](model, image, *arguments[method]).flatten()


def tiny_vit(seed: int = 0, distilled: bool = False, **options: object) -> VisionTransformer:
    """A float64 ViT of three blocks with no parameter at a special value (no zero bias, no unit scale)."""
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    defaults = {"img_size": 24, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(**{**defaults, **options}).double().eval()
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
