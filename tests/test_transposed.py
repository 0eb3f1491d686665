"""Layers of decoders: transposed convolutions against their matrices, up-sampling, layers called as functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from slow_lrp import linear_map
from test_rules import EPSILON, RULES, SHARED, Written, images, near, ready
from torch import Tensor, nn

from cnnseg import explain
from cnnseg.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, Zero, ZPlus
from cnnseg.unroll import unroll
from cnnseg.unroll.transposed import Transposed
from wsss.errors import InputError

CLASSES = 3

TRANSPOSED: dict[str, Callable[[], nn.ConvTranspose2d]] = {
    "plain": lambda: nn.ConvTranspose2d(3, 4, 3),
    "no bias": lambda: nn.ConvTranspose2d(3, 4, 2, 2, bias=False),
    "strides": lambda: nn.ConvTranspose2d(3, 4, (3, 2), (2, 3), 1),
    "output padding": lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1),
    "output padding as large as the stride": lambda: nn.ConvTranspose2d(3, 4, 2, 1, 1, output_padding=2, dilation=3),
    "groups": lambda: nn.ConvTranspose2d(3, 6, 4, 2, 1, groups=3),
    "dilation": lambda: nn.ConvTranspose2d(3, 4, 3, 1, (2, 1), dilation=(2, 1)),
    "strides wider than the kernel": lambda: nn.ConvTranspose2d(3, 4, 2, 3),
}


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_its_transpose_is_that_of_its_matrix(kind: str) -> None:
    torch.manual_seed(0)
    module, x = TRANSPOSED[kind]().double(), images(1, 4)
    layer, matrix = Transposed(module), linear_map(module, x).detach()
    p = torch.randn(module(x).shape).double()
    near(layer.apply(x, module.weight, module.bias).detach(), module(x).detach(), 1e-14)
    near(layer.transpose(p, module.weight.detach(), x.shape[1:]), (p.flatten() @ matrix).view_as(x), 1e-13)


@pytest.mark.parametrize("normed", [False, True], ids=["alone", "with a batch norm"])
@pytest.mark.parametrize("kind", TRANSPOSED)
def test_transposed_convolutions(kind: str, normed: bool) -> None:
    """All rules against the formula with matrices; outputs of either sign have relevance."""
    torch.manual_seed(0)
    module = TRANSPOSED[kind]()
    channels = module.out_channels
    parts = [module, nn.Linear(channels, CLASSES), nn.BatchNorm2d(channels), nn.LeakyReLU(0.3)]

    def through(parts: Any, o: Any, x: Any) -> Any:
        x = o.same(o.layer(x, parts[0], *([parts[2]] if normed else [])), parts[3])
        return o.layer(o.pick(o.pool(x, lambda v: v.mean((2, 3), keepdim=True)), lambda v: v.flatten(1)), parts[1])

    model, x = ready(Written(parts, through)), images(2, 4)
    for name, (rule, slow) in RULES.items():
        found = unroll(model, rules={"first": rule})(x)[1]
        expected = model.slow(x, {module: slow})
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max(), name


def decoder(parts: Any, o: Any, x: Any) -> Any:
    """A stride, a transposed convolution with its batch norm, a skip, bilinear up-sampling, a head, a global mean."""
    act = parts[-1]
    fine = o.same(o.layer(x, parts[0]), act)
    coarse = o.same(o.layer(fine, parts[1], parts[2]), act)
    y = o.same(o.layer(coarse, parts[3], parts[4]), act)
    y = o.cat(y, fine)
    y = o.pool(y, lambda v: F.interpolate(v, scale_factor=2, mode="bilinear", align_corners=True))
    y = o.layer(o.same(o.layer(y, parts[5]), act), parts[6])
    y = o.pool(y, lambda v: F.interpolate(v, (9, 11), mode="nearest"))
    return o.pick(o.pool(y, lambda v: v.mean((2, 3), keepdim=True)), lambda v: v.flatten(1))


def decoder_network() -> Written:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 2, 2)]
    parts += [nn.BatchNorm2d(3), nn.Conv2d(6, 4, 3, 1, 1), nn.Conv2d(4, CLASSES, 1), nn.ReLU()]
    return ready(Written(parts, decoder))


@pytest.mark.parametrize(
    ("convolution", "slow", "single"),
    [
        (ZPlus(), {"name": "zplus"}, {}),
        (ZPlus(), {"name": "zplus"}, {0: (Flat(), {"name": "flat"})}),
        (AlphaBeta(2.0), {"name": "alpha_beta", "alpha": 2.0}, {}),
        (Gamma(0.25), {"name": "gamma", "gamma": 0.25}, {0: (ZBox(), {"name": "zbox"})}),
        (Zero(), {"name": "zero"}, {3: (Flat(), {"name": "flat"})}),
        (ZPlus(), {"name": "zplus"}, {5: (WSquare(), {"name": "wsquare"})}),
    ],
)
def test_through_a_decoder(convolution: Rule, slow: dict[str, Any], single: dict[int, Any]) -> None:
    model, x = decoder_network(), images(2, 4)[..., :4]
    rules = SHARED | {"convolution": convolution} | {f"parts.{place}": rule for place, (rule, _) in single.items()}
    of_parts = {model.parts[place]: slow for place in (0, 1, 3, 5, 6)} | {"average_pool": EPSILON, "sum": EPSILON}
    of_parts |= {model.parts[place]: rule for place, (_, rule) in single.items()}
    near(unroll(model, rules=rules)(x)[1], model.slow(x, of_parts), 1e-9)


@pytest.mark.parametrize(
    "up",
    [
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        lambda: nn.UpsamplingNearest2d(size=(13, 9)),
        lambda: nn.UpsamplingBilinear2d(scale_factor=3),
        lambda: nn.PixelShuffle(2),
        lambda: nn.ConvTranspose2d(8, 8, 2, 2, bias=False),
    ],
)
@pytest.mark.parametrize("rules", [Zero(), Gamma(0.3, stabiliser=0.0), ZPlus(stabiliser=0.0)])
def test_up_sampling_conserves_relevance(up: Callable[[], nn.Module], rules: Rule) -> None:
    torch.manual_seed(0)
    module = up()
    width = 2 if isinstance(module, nn.PixelShuffle) else 8
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), module, nn.ReLU(), nn.Conv2d(width, 8, 3, bias=False)]
    model = nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES, bias=False)
    ).double()
    logits, maps = unroll(model, rules={"convolution": rules})(images(2, 6))
    assert logits.abs().min() > 1e-6
    assert torch.allclose(maps.sum((2, 3)), logits, rtol=1e-9, atol=0)


class Called(nn.Module):
    """The layers of ``parts`` called as functions."""

    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        up, conv, act, fc = self.parts
        x = act(F.conv_transpose2d(x, up.weight, bias=up.bias, stride=2, padding=1, output_padding=1))
        x = act(F.conv2d(x, conv.weight * 1.0, None, (2, 1), padding=(0, 1), groups=2))
        return F.linear(x.mean((2, 3)), fc.weight, fc.bias)


class AsModules(Called):
    """The same layers as modules."""

    def forward(self, x: Tensor) -> Tensor:
        up, conv, act, fc = self.parts
        return fc(act(conv(act(up(x)))).mean((2, 3)))


@pytest.mark.parametrize("name", RULES)
def test_layers_called_as_functions_are_layers(name: str) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1)
    conv = nn.Conv2d(4, 6, 3, (2, 1), (0, 1), groups=2, bias=False)
    parts = nn.ModuleList([up, conv, nn.LeakyReLU(0.2), nn.Linear(6, CLASSES)])
    called, modules, rule = Called(parts).double().eval(), AsModules(parts).double().eval(), RULES[name][0]
    everywhere = {"linear": Epsilon()} if name == "zbox" else {"convolution": rule}  # whose box has three channels
    for rules in ({"first": rule}, {"linear": Epsilon()} | everywhere):
        network, expected = unroll(called, rules=rules), unroll(modules, rules=rules)
        near(network(images())[1], expected(images())[1], 1e-12)
        one, other = (
            torch.autograd.grad(one(images())[1].square().sum(), list(parts.parameters()), allow_unused=True)
            for one in (network, expected)
        )
        for found, wanted in zip(one, other, strict=True):
            assert (found is None) == (wanted is None)
            if wanted is not None and wanted.abs().max() > 0:
                near(found, wanted, 1e-10)


def test_a_function_whose_padding_is_a_word_is_refused_by_name() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.conv.weight, padding="same").mean((2, 3))

    with pytest.raises(InputError, match="layer conv2d: conv2d: padding 'same' is not supported"):
        explain(Same().double(), images(), 0)


class Small(nn.Module):
    """A U-Net as zennit's composites know its layers: nearest up-sampling, transposed convolutions, concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(4, 6, 2, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.down3 = nn.Sequential(nn.Conv2d(6, 8, 2, 2), nn.ReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(12, 4, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        middle = self.down2(fine)
        x = torch.cat([self.up2(self.down3(middle)), middle], 1)
        return self.head(torch.cat([self.up1(x), fine], 1))


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("epsilon_plus", "EpsilonPlus"),
        ("epsilon_plus_flat", "EpsilonPlusFlat"),
        ("epsilon_alpha2_beta1", "EpsilonAlpha2Beta1"),
        ("epsilon_alpha2_beta1_flat", "EpsilonAlpha2Beta1Flat"),
        ("epsilon_gamma_box", "EpsilonGammaBox"),
    ],
)
def test_composites_of_a_region_are_zennits(name: str, peer: str) -> None:
    pytest.importorskip("zennit", reason="zennit is not installed: pip install -e '.[oracles]'")
    import zennit.composites
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm

    from cnnseg import adapt
    from cnnseg.rules import COMPOSITES

    torch.manual_seed(0)
    model, x = Small(), torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.eps = 0.0  # zennit merges a batch norm and keeps its epsilon
    model = model.double().eval()
    # zennit has nothing for up-sampling, whose nearest is a copy; ours has epsilon's millionth
    rules, box = dict(COMPOSITES[name].rules) | {"average_pool": Zero()}, {}
    if "box" in name:
        rules["first"] = ZBox(-3.0, 3.0)
        box = {"low": torch.full_like(x, -3.0), "high": torch.full_like(x, 3.0)}
    region = torch.zeros(1, 1, 16, 12).double()
    region[..., 4:9, 2:11] = 1
    found = explain(adapt(model, region), x, 1, rules=rules).maps
    composite = getattr(zennit.composites, peer)(canonizers=[SequentialMergeBatchNorm()], **box)
    part = region / region.sum() * torch.eye(CLASSES)[1].view(1, -1, 1, 1)
    with Gradient(model=copy.deepcopy(model), composite=composite) as attribute:
        _, relevance = attribute(x.clone(), lambda maps: maps * part)
    near(found, relevance.sum(1), 1e-9)
