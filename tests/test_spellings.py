"""How people write networks: each spelling is LRP-0 as autograd has it, or is refused by the name of the layer.

The oracle is input times gradient. Where relevance is not the gradient's, `Relevance` makes it so: the ratio a / z of
an activation, a gate and the deviation of a norm are taken as constants, whoever computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import einops
import einops.layers.torch
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from small_networks import ready
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnseg import explain
from cnnseg.rules import COMPOSITES, Epsilon, Flat, Gamma, Pass
from cnnseg.unroll import unroll
from wsss.errors import InputError

CLASSES = 3
ACTIVATIONS = ("silu", "hardswish", "gelu", "mish", "relu6", "hardtanh", "tanh", "elu", "celu", "selu", "clamp")
GATES = ("sigmoid", "hardsigmoid", "softmax")


class Relevance(TorchFunctionMode):
    """Under which the gradient of a class score, times the image, is LRP-0."""

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, written = dict(kwargs or {}), getattr(function, "__name__", "")
        name = written.rstrip("_")
        if name in ACTIVATIONS:
            in_place = kwargs.pop("inplace", False) or written.endswith("_")
            plain = getattr(F, name) if hasattr(F, name) else getattr(torch, name)
            z = args[0]
            with torch.no_grad():
                a = plain(z.clone(), *args[1:], **kwargs)
                ratio = torch.where(z == 0, 0, a / torch.where(z == 0, 1, z))
            return z.copy_(z * ratio) if in_place else z * ratio
        if name in GATES:
            return getattr(F, name)(args[0].detach(), *args[1:], **kwargs)
        if name in ("layer_norm", "group_norm"):
            x, shape, *rest = args
            given = dict(zip(("weight", "bias", "eps"), rest, strict=False)) | kwargs
            rows = x.flatten(-len(shape)) if name == "layer_norm" else x.reshape(len(x), shape, -1)
            deviation = (rows.var(-1, unbiased=False, keepdim=True) + given["eps"]).sqrt().detach()
            out = ((rows - rows.mean(-1, keepdim=True)) / deviation).reshape(x.shape)
            affine = [given[key] for key in ("weight", "bias")]
            if name == "group_norm":
                affine = [value.view(-1, 1, 1) for value in affine]
            return out * affine[0] + affine[1]
        return function(*args, **kwargs)


def lrp0(model: nn.Module, x: Tensor) -> Tensor:
    """Maps (B, C, H, W) by autograd, under `Relevance`."""
    given = x.clone().requires_grad_()
    with Relevance():
        scores = model(given * 1.0)  # which may be changed in place
    rows = [torch.autograd.grad(scores[:, c].sum(), given, retain_graph=True)[0] for c in range(scores.shape[1])]
    return torch.stack([(row * x).sum(1) for row in rows], 1)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max().item() < tolerance * expected.abs().max().item()


class Net(nn.Module):
    """Convolutions around what is written: a function of the module and the maps (B, 8, 12, 14) of the first one.

    ``extra``: a module for that function.
    """

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], extra: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second, self.fc = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Linear(8, CLASSES),
        )
        self.middle, self.extra, self.sigmoid = middle, extra, nn.Sigmoid()
        self.register_buffer("mean", torch.rand(8, 1, 1))
        self.register_buffer("std", torch.rand(8, 1, 1) + 0.5)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self, self.first(x)))


def net(written: Any) -> nn.Module:
    torch.manual_seed(0)
    middle, extra = written if isinstance(written, tuple) else (written, lambda: None)
    return ready(Net(middle, extra()))


def images(count: int = 2, height: int = 12, width: int = 14) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1)).double()


def end(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1)


def top(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(F.relu(x), 1)


def with_statement(change: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, x: end(change(m.second(F.relu(x)), x))


def plus(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y


def minus(y: Tensor, x: Tensor) -> Tensor:
    y -= x
    return y


def halved(y: Tensor, x: Tensor) -> Tensor:
    y *= 0.5
    y /= 3
    return y


def chunks(m: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return end(torch.cat((b, F.relu(a)), 1))


def parts(m: Any, x: Tensor) -> Tensor:
    a, b = torch.split(x, [3, 5], dim=1)
    return end(torch.cat([F.relu(b), a], dim=1))


def attended(x: Tensor, scores: Tensor, *, first: bool = False) -> Tensor:
    """Maps weighed by the softmax of scores (B, n, n)."""
    if first:
        return torch.matmul(scores, x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    return (x.flatten(2) @ F.softmax(scores, dim=1)).view(x.shape)


class Weights(nn.Module):
    """The softmax over all pairs of places, as MAnet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        scores = x.transpose(1, 2) @ x
        return self.softmax(scores.view(scores.shape[0], -1)).view(scores.shape)


conv = lambda **settings: nn.Conv2d(8, 8, 3, **settings)  # noqa: E731
through = lambda m, x: end(m.extra(x))  # noqa: E731
between = lambda m, x: end(m.second(m.extra(x)))  # noqa: E731

SPELLINGS: dict[str, Any] = {
    # shapes
    "x.flatten(1)": lambda m, x: top(x).flatten(1),
    "torch.flatten, start_dim": lambda m, x: torch.flatten(top(x), start_dim=1),
    "view by size()": lambda m, x: (y := top(x)).view(y.size(0), -1),
    "view by shape": lambda m, x: (y := top(x)).view(y.shape[0], -1),
    "view(-1, 8)": lambda m, x: top(x).view(-1, 8),
    "reshape": lambda m, x: top(x).reshape(-1, 8),
    "reshape of a size": lambda m, x: (y := top(x)).reshape(y.shape[0], y.shape[1]),
    "squeeze()": lambda m, x: top(x).squeeze(),
    "squeeze(-1).squeeze(-1)": lambda m, x: top(x).squeeze(-1).squeeze(-1),
    "squeeze of two": lambda m, x: top(x).squeeze((2, 3)),
    "torch.squeeze": lambda m, x: torch.squeeze(torch.squeeze(top(x), 3), 2),
    "[:, :, 0, 0]": lambda m, x: top(x)[:, :, 0, 0],
    "[..., 0, 0]": lambda m, x: top(x)[..., 0, 0],
    "permute": lambda m, x: F.relu(x).permute(0, 2, 3, 1).mean((1, 2)),
    "transpose": lambda m, x: F.relu(x).flatten(2).transpose(1, 2).mean(1),
    "unflatten": lambda m, x: end(x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)),
    "contiguous, clone": lambda m, x: end(x.contiguous().clone()),
    "Flatten": (lambda m, x: m.extra(top(x)), nn.Flatten),
    "Rearrange of einops": (
        lambda m, x: m.extra(top(x)),
        lambda: einops.layers.torch.Rearrange("b c h w -> b (c h w)"),
    ),
    "Reduce of einops": (
        lambda m, x: m.extra(F.relu(x)),
        lambda: einops.layers.torch.Reduce("b c h w -> b c", "mean"),
    ),
    # means and pools
    "mean([2, 3])": lambda m, x: F.relu(x).mean([2, 3]),
    "mean(axis=)": lambda m, x: F.relu(x).mean(axis=(2, 3)),
    "mean(-1).mean(-1)": lambda m, x: F.relu(x).mean(-1).mean(-1),
    "torch.mean": lambda m, x: torch.mean(F.relu(x), dim=(2, 3), keepdim=True).flatten(1),
    "sum / n": lambda m, x: F.relu(x).sum((2, 3)) / 168,
    "sum / size": lambda m, x: F.relu(x).sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "avg_pool2d of size()": lambda m, x: F.avg_pool2d(F.relu(x), x.size()[2:]).flatten(1),
    "avg_pool2d": lambda m, x: end(F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)),
    "adaptive_avg_pool2d, output_size": lambda m, x: F.adaptive_avg_pool2d(F.relu(x), output_size=(1, 1)).flatten(1),
    "adaptive_avg_pool2d of a size": lambda m, x: end(F.adaptive_avg_pool2d(F.relu(x), F.max_pool2d(x, 2).shape[2:])),
    "AdaptiveAvgPool2d((None, 3))": (through, lambda: nn.AdaptiveAvgPool2d((None, 3))),
    "AvgPool2d": (through, lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "max_pool2d": lambda m, x: end(F.max_pool2d(x, kernel_size=3, stride=2, padding=1)),
    "max_pool2d, ceil_mode": lambda m, x: end(F.max_pool2d(x, 3, 2, ceil_mode=True)),
    "max_pool2d, dilation": lambda m, x: end(F.max_pool2d(x, 3, 1, 1, 2)),
    "torch.max_pool2d": lambda m, x: end(torch.max_pool2d(x, 2)),
    "max_pool2d of size()": lambda m, x: F.max_pool2d(F.relu(x), x.size()[2:]).flatten(1),
    "adaptive_max_pool2d": lambda m, x: F.adaptive_max_pool2d(F.relu(x), 1).flatten(1),
    "AdaptiveMaxPool2d": (through, lambda: nn.AdaptiveMaxPool2d((3, 4))),
    # activations
    "F.relu_": lambda m, x: end(m.second(F.relu_(x)) + x),
    "x.relu()": lambda m, x: end(m.second(x.relu()) + x),
    "x.relu_()": lambda m, x: end(m.second(x.relu_()) + x),
    "torch.relu": lambda m, x: end(m.second(torch.relu(x)) + x),
    "F.relu(inplace=True)": lambda m, x: end(m.second(F.relu(x, inplace=True)) + x),
    "relu by keyword": lambda m, x: end(m.second(F.relu(input=x))),
    "clamp(min=0)": lambda m, x: end(m.second(x.clamp(min=0))),
    "torch.clamp": lambda m, x: end(m.second(torch.clamp(x, 0))),
    "clamp_min": lambda m, x: end(m.second(x.clamp_min(0))),
    "F.leaky_relu": lambda m, x: end(m.second(F.leaky_relu(x, 0.1)) + x),
    "F.leaky_relu in place": lambda m, x: end(m.second(F.leaky_relu(x, 0.1, True)) + x),
    "LeakyReLU": (through, lambda: nn.LeakyReLU(0.2)),
    "PReLU": (through, lambda: nn.PReLU(8)),
    # sums and products
    "torch.add": lambda m, x: end(torch.add(x, m.second(x))),
    "x.add": lambda m, x: end(x.add(m.second(x))),
    "x.add_": lambda m, x: end(m.second(F.relu(x)).add_(x)),
    "+=": with_statement(plus),
    "-=": with_statement(minus),
    "*=, /=": with_statement(halved),
    "a - b": lambda m, x: end(x - m.second(x)),
    "torch.sub": lambda m, x: end(torch.sub(x, m.second(x))),
    "1 - x": lambda m, x: end(1 - m.second(x)),
    "-x": lambda m, x: end(-m.second(x)),
    "0.5 * x": lambda m, x: end(0.5 * m.second(x)),
    "x / 255": lambda m, x: end(m.second(x) / 255),
    "x.mul(2).div(3)": lambda m, x: end(x.mul(2).div(3)),
    "buffers mean and std": lambda m, x: end(m.second((x - m.mean) / m.std)),
    "layer scale": lambda m, x: end(x + m.second(x) * m.scale),
    "stack and sum": lambda m, x: end(torch.stack([x, m.second(x), F.relu(x)]).sum(dim=0)),
    "sum of a list": lambda m, x: end(sum([x, m.second(x), F.relu(x)])),
    "sum with a broadcast": lambda m, x: end(x + top(m.second(x))),
    "x + x": lambda m, x: end(m.second(x) + m.second(x) + x + x),
    "one layer twice": lambda m, x: end(m.second(F.relu(m.second(x)))),
    # concatenations and slices
    "cat, dim=-3": lambda m, x: end(torch.cat([x[:, :4], m.second(x)[:, 4:]], dim=-3)),
    "cat of a tuple": lambda m, x: end(torch.cat((x[:, :4], m.second(x)[:, 4:]), 1)),
    "concat": lambda m, x: end(torch.concat([x[:, 4:], m.second(x)[:, 4:]], 1)),
    "chunk": chunks,
    "split": parts,
    "x[:, :, ::2, 1:]": lambda m, x: end(x[:, :, ::2, 1:]),
    "F.pad": lambda m, x: end(m.second(F.pad(x, (1, 2, 0, 1)))),
    "F.pad, reflect": lambda m, x: end(m.second(F.pad(x, (1, 2, 0, 1), mode="reflect"))),
    "ZeroPad2d": (through, lambda: nn.ZeroPad2d(1)),
    "PixelShuffle": (lambda m, x: end(F.pixel_unshuffle(m.extra(x), 2)), lambda: nn.PixelShuffle(2)),
    "F.interpolate": lambda m, x: end(F.interpolate(m.second(x), scale_factor=2, mode="bilinear")),
    "F.interpolate to a size": lambda m, x: end(x + F.interpolate(m.second(F.max_pool2d(x, 2)), size=x.shape[-2:])),
    "Upsample": (through, lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    # weights
    "weight_norm": (through, lambda: nn.utils.weight_norm(conv())),
    "weight_norm, parametrised": (through, lambda: nn.utils.parametrizations.weight_norm(conv())),
    "spectral_norm": (through, lambda: nn.utils.spectral_norm(conv())),
    "spectral_norm, parametrised": (through, lambda: nn.utils.parametrizations.spectral_norm(conv())),
    "spectral_norm of Linear": (
        lambda m, x: m.extra(end(x)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    ),
    "fused": (through, lambda: nn.utils.fuse_conv_bn_eval(conv().eval(), nn.BatchNorm2d(8).eval())),
    "LazyConv2d": (through, lambda: lazy(nn.LazyConv2d(8, 3))),
    "FrozenBatchNorm2d": (lambda m, x: end(m.extra(m.second(x))), lambda: torchvision.ops.FrozenBatchNorm2d(8)),
    "BatchNorm2d without weights": (through, lambda: nn.BatchNorm2d(8, affine=False)),
    "SyncBatchNorm": (through, lambda: nn.SyncBatchNorm(8)),
    "BatchNorm1d": (lambda m, x: m.extra(end(x)), lambda: nn.BatchNorm1d(8)),
    "ModuleDict": (lambda m, x: end(m.extra["a"](x)), lambda: nn.ModuleDict({"a": conv()})),
    "circular padding": (through, lambda: conv(padding=1, padding_mode="circular")),
    "ConvTranspose2d": (through, lambda: nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)),
    "F.conv2d": lambda m, x: end(F.conv2d(x, m.second.weight, padding=1)),
    "F.conv2d with weights that are computed": lambda m, x: end(F.conv2d(x, m.second.weight - m.second.weight.mean())),
    "F.conv_transpose2d": lambda m, x: end(F.conv_transpose2d(x, m.second.weight, m.second.bias, stride=(2,))),
    "F.linear": lambda m, x: F.linear(end(x), m.fc.weight.T @ m.fc.weight),
    # dropout
    "F.dropout": lambda m, x: F.dropout(end(x), 0.3, training=m.training),
    "F.dropout, False": lambda m, x: F.dropout(top(x), 0.1, False).flatten(1),
    "Dropout": (lambda m, x: m.extra(end(x)), nn.Dropout),
    "Dropout2d": (through, nn.Dropout2d),
    "AlphaDropout": (through, nn.AlphaDropout),
    "DropPath": (lambda m, x: end(x + m.extra(m.second(x))), lambda: timm.layers.DropPath(0.5)),
    "StochasticDepth": (
        lambda m, x: end(x + m.extra(m.second(x))),
        lambda: torchvision.ops.StochasticDepth(0.5, "row"),
    ),
}
GATED: dict[str, Any] = {
    "x * x.sigmoid()": lambda m, x: end(m.second(x * x.sigmoid())),
    "torch.sigmoid(x) * x": lambda m, x: end(m.second(torch.sigmoid(x) * x)),
    "SiLU": (through, nn.SiLU),
    "SiLU in place": (lambda m, x: end(m.extra(x) + x), lambda: nn.SiLU(inplace=True)),
    "F.silu": lambda m, x: end(F.silu(x)),
    "F.gelu": lambda m, x: end(F.gelu(x)),
    "GELU, tanh": (through, lambda: nn.GELU("tanh")),
    "Hardswish": (through, nn.Hardswish),
    "Mish": (through, nn.Mish),
    "Tanh": (through, nn.Tanh),
    "ELU(0.5)": (between, lambda: nn.ELU(0.5)),
    "CELU": (between, lambda: nn.CELU(0.7)),
    "SELU": (between, nn.SELU),
    "ReLU6": (lambda m, x: end(m.extra(8 * x)), nn.ReLU6),
    "clamp(0, 6)": lambda m, x: end((8 * x).clamp(0, 6)),
    "hardtanh": lambda m, x: end(F.hardtanh(8 * x, 0, 6)),
    "squeeze-excite of timm": (through, lambda: timm.layers.SqueezeExcite(8)),
    "squeeze-excite of torchvision": (through, lambda: torchvision.ops.SqueezeExcitation(8, 16)),
    "eca of timm": (through, lambda: timm.layers.EcaModule(8)),
    "gate of maps": lambda m, x: end(m.second(x) * m.sigmoid(x.mean(1, keepdim=True))),
    "gate by view": lambda m, x: end(m.second(x) * m.sigmoid(x.mean((2, 3))).view(x.size(0), 8, 1, 1)),
    "gate, expanded": lambda m, x: end(x * m.sigmoid(x.mean((2, 3), keepdim=True)).expand_as(x)),
    "gate of a softmax": lambda m, x: end(m.second(x) * x.softmax(1)),
    "gate of two": lambda m, x: end(m.second(x) * (m.sigmoid(x) + torch.sigmoid(m.second(x)))),
    "attention": lambda m, x: end(x + attended(x, x.flatten(2).mT @ m.second(x).flatten(2))),
    "attention, Softmax": (lambda m, x: end(attended(m.second(x), m.extra(x), first=True)), lambda: Weights()),
    "LayerNorm": (lambda m, x: m.extra(end(x)), lambda: nn.LayerNorm(8)),
    "LayerNorm of maps": (through, lambda: nn.LayerNorm((8, 12, 14))),
    "LayerNorm2d of timm": (through, lambda: timm.layers.LayerNorm2d(8)),
    "LayerNorm2d of torchvision": (through, lambda: torchvision.models.convnext.LayerNorm2d(8)),
    "GroupNorm": (through, lambda: nn.GroupNorm(4, 8)),
    "GroupNormAct of timm": (between, lambda: timm.layers.GroupNormAct(8, num_groups=4)),
}


def lazy(module: nn.Module) -> nn.Module:
    module(torch.zeros(1, 8, 5, 5))
    return module


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", [*SPELLINGS, *GATED])
def test_spellings(name: str) -> None:
    model, x = net((SPELLINGS | GATED)[name]), images()
    expected, given = lrp0(model, x), x.clone()
    logits, maps = unroll(model)(x)
    assert torch.equal(x, given)
    near(logits, model(x.clone()).detach(), 1e-12)
    near(maps, expected)
    if name in SPELLINGS:  # the gradient alone
        near(explain(model, x, 1, "input_x_gradient").maps, expected[:, 1])
    else:
        assert (explain(model, x, 1, "input_x_gradient").maps - expected[:, 1]).abs().max() > 1e-6
    for rules in COMPOSITES:
        maps = explain(model, x, 1, rules=rules).maps
        assert maps.isfinite().all() and maps.abs().max() > 0, rules
    assert explain(model, x, 1, "gradcam").maps.isfinite().all()


REFUSED: dict[str, tuple[Any, str]] = {
    "len": (lambda m, x: top(x).view(len(x), -1), "Net cannot be unrolled: .*'len' is not supported"),
    "Flatten(0)": ((lambda m, x: m.extra(top(x)).view(-1, 8), lambda: nn.Flatten(0)), "layer extra: .*for each of 2"),
    "a function of einops": (lambda m, x: einops.rearrange(top(x), "b c 1 1 -> b c"), "Net cannot be unrolled"),
    "Reduce to the maximum": (
        (lambda m, x: m.extra(x), lambda: einops.layers.torch.Reduce("b c h w -> b c", "max")),
        r"layer extra \(Reduce\) of Net has no rule",
    ),
    "values": (lambda m, x: end(x) if x.sum() > 0 else end(-x), "depends on values"),
    "images swapped with channels": (lambda m, x: end(x.transpose(0, 1)), "layer transpose: .*that of the images"),
    "mean of the images": (lambda m, x: end(x + x.mean(0, keepdim=True)), r"layer mean \(mean\) of Net has no rule"),
    "one image": (lambda m, x: end(x[0:1]), r"layer getitem \(getitem\) of Net has no rule"),
    "half of the images": (lambda m, x: end(x.chunk(2)[0]), "layer getitem: .*expected a row for each of 2"),
    "1 / x": (lambda m, x: end(1 / m.second(x)), "layer truediv"),
    "division with rounding": (lambda m, x: end(torch.div(x, 0.5, rounding_mode="floor")), "layer div"),
    "x ** 2": (lambda m, x: end(x**2), "layer pow_1"),
    "x.abs()": (lambda m, x: end(x.abs()), "layer abs_1"),
    "torch.where": (lambda m, x: end(torch.where(x > 0, x, 0)), "layer (gt|where)"),
    "torch.maximum": (lambda m, x: end(torch.maximum(x, m.second(x))), "layer maximum"),
    "amax": (lambda m, x: F.relu(x).amax((2, 3)), "layer amax"),
    "add, alpha": (lambda m, x: end(torch.add(x, m.second(x), alpha=2)), r"layer add \(add\)"),
    "two branches": (lambda m, x: end(x * m.second(x)), "layer mul of Net multiplies two branches"),
    "F.conv2d with weights of the image": (
        lambda m, x: end(F.conv2d(x, m.second.weight * x.mean())),
        r"layer conv2d \(conv2d\)",
    ),
    "matmul of two branches": (
        lambda m, x: (F.relu(x).flatten(2) @ m.second(x).flatten(2).transpose(1, 2)).mean(2),
        r"layer matmul \(matmul\)",
    ),
    "matmul": (lambda m, x: end(x) @ m.fc.weight.T @ m.fc.weight, r"layer matmul \(matmul\)"),
    "F.normalize": (lambda m, x: F.normalize(end(x)), r"layer normalize \(normalize\)"),
    "Softplus": ((through, nn.Softplus), r"layer extra \(Softplus\)"),
    "InstanceNorm2d": ((through, lambda: nn.InstanceNorm2d(8)), r"layer extra \(InstanceNorm2d\)"),
    "max pool with indices": (lambda m, x: end(F.max_pool2d(x, 2, return_indices=True)[0]), "layer"),
    "layer norm with an activation": ((through, lambda: timm.layers.LayerNormAct2d(8)), "layer (layer_norm|extra)"),
    "batch norm of (B, L, C)": (
        (
            lambda m, x: m.extra(F.relu(x).flatten(2).transpose(1, 2)).mean(1),
            lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(168)),
        ),
        "layer extra.0 with extra.1: a batch norm of",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    written, message = REFUSED[name]
    model = net(written)
    with pytest.raises(InputError, match=message) as caught:
        unroll(model)(images())
    assert "\n" not in str(caught.value)


def small(module: Any, name: str, **settings: Any) -> Callable[[], nn.Module]:
    if module is timm:
        return lambda: timm.create_model(name, num_classes=CLASSES, **settings)
    return lambda: getattr(torchvision.models, name)(num_classes=CLASSES, **settings)


ARCHITECTURES = {
    "timm efficientnet_b0": small(timm, "efficientnet_b0"),
    "timm mobilenetv3_small": small(timm, "mobilenetv3_small_100"),
    "timm mobilenetv2": small(timm, "mobilenetv2_100"),
    "timm convnext_atto": small(timm, "convnext_atto"),
    "timm densenet121": small(timm, "densenet121"),
    "timm repvgg_a0": small(timm, "repvgg_a0"),
    "timm res2net50": small(timm, "res2net50_26w_4s"),
    "timm regnety": small(timm, "regnety_002"),
    "timm nf_resnet26": small(timm, "nf_resnet26"),
    "timm tf_efficientnet_lite0": small(timm, "tf_efficientnet_lite0"),
    "torchvision convnext_tiny": small(torchvision, "convnext_tiny"),
    "torchvision efficientnet_b0": small(torchvision, "efficientnet_b0"),
    "torchvision mobilenet_v3_small": small(torchvision, "mobilenet_v3_small"),
    "torchvision shufflenet": small(torchvision, "shufflenet_v2_x1_0"),
    "torchvision googlenet": small(torchvision, "googlenet", init_weights=False),
}
NOT_THE_GRADIENT = ("efficientnet", "mobilenet", "convnext", "regnety")
"""of which SiLU, GELU, hardswish or ReLU6, squeeze-excite or layer norms pass relevance other than the gradient"""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    torch.manual_seed(0)
    model, x = ready(ARCHITECTURES[name]()), images(1, 64, 64)
    expected = lrp0(model, x)
    logits, maps = unroll(model)(x)
    near(logits, model(x).detach(), 1e-12)
    near(maps, expected, 1e-9)
    gradient = explain(model, x, 0, "input_x_gradient").maps
    differs = bool((gradient - expected[:, 0]).abs().max() > 1e-3 * gradient.abs().max())
    assert differs == any(word in name for word in NOT_THE_GRADIENT)
    for rules in ("epsilon_plus", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"):
        maps = explain(model, x, 0, rules=rules).maps
        assert maps.isfinite().all() and maps.abs().max() > 0, rules


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_without_biases_conserve_relevance(name: str) -> None:
    """Through gates, caps, norms and all: what is lost otherwise has gone into biases."""
    torch.manual_seed(0)
    model, x = ready(ARCHITECTURES[name](), biases=False), images(1, 64, 64)
    gamma = {"convolution": Gamma(0.25, stabiliser=0.0), "linear": Epsilon(0.0), "batch_norm": Pass()}
    for rules in ("zero", gamma, gamma | {"first": Flat(stabiliser=0.0)}):
        answer = explain(model, x, 0, rules=rules)
        assert torch.allclose(answer.maps.sum((1, 2)), answer.logits[:, 0], rtol=1e-6, atol=0), rules


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_b0"])
def test_stochastic_depth_is_the_same_in_both_halves(name: str) -> None:
    """In training, of a network without biases whose batch norms keep their statistics."""
    torch.manual_seed(0)
    model = ready(timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.5), biases=False)
    network, x = unroll(model).train(), images(2, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    still = unroll(model)(x)[0]
    logits, maps = network(x)
    assert (logits - still).abs().max() > 1e-9 * still.abs().max()  # ConvNeXt's branches start at a scale of 1e-6
    assert torch.allclose(maps.sum((2, 3)), logits, rtol=1e-6, atol=1e-12)


def test_alpha_dropout_in_training_is_refused() -> None:
    network = unroll(net((through, nn.AlphaDropout))).train()
    with pytest.raises(InputError, match="layer extra: alpha dropout"):
        network(images())


def derived(kind: type[nn.Module], **methods: Any) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"note": "mine", **methods})


@pytest.mark.parametrize("place", range(5))
def test_subclasses_that_add_something_beside_the_pass_are_their_base(place: int) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())]
    model = ready(nn.Sequential(*layers, nn.Linear(4, CLASSES)))
    want = explain(model, images(), 1).maps
    model[place].__class__ = derived(type(model[place]))
    near(explain(model, images(), 1).maps, want)


@pytest.mark.parametrize(
    ("kind", "args", "method"),
    [
        (nn.GroupNorm, (1, 3), "forward"),
        (nn.BatchNorm2d, (3,), "forward"),
    ],
)
def test_subclasses_that_compute_something_else_are_refused(kind: type, args: tuple, method: str) -> None:
    def doubled(self: nn.Module, *given: Any) -> Tensor:
        return getattr(kind, method)(self, *given) * 2

    other = derived(kind, **{method: doubled})(*args)
    model = ready(
        nn.Sequential(
            other, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
        )
    )
    with pytest.raises(InputError):
        explain(model, images(), 1)


@pytest.mark.parametrize("method", ["forward", "_conv_forward"])
def test_a_convolution_that_computes_something_else_is_followed(method: str) -> None:
    def doubled(self: nn.Module, *given: Any) -> Tensor:
        return getattr(nn.Conv2d, method)(self, *given) * 2

    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)]
    model = ready(nn.Sequential(derived(nn.Conv2d, **{method: doubled})(3, 3, 1), *layers))
    near(explain(model, images(), 1, rules="zero").maps, lrp0(model, images())[:, 1])
