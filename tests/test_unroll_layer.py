"""Relevance of a layer's output: what the decoder holds on its way to the pixels, and no more work than that."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from cnnseg import explain, unroll
from cnnseg.methods.running import layer_at_stride
from cnnseg.rules import Flat
from cnnseg.unroll.weighted import Convolution
from wsss.errors import InputError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Without biases, so that relevance neither arises nor vanishes on its way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = timm.create_model("resnet18", num_classes=5, zero_init_last=False).double().eval()
        nn.init.zeros_(made.fc.bias)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("layer", ["conv1", "layer1", "layer3", "layer4.0.conv1", "layer4"])
def test_lrp_0_is_activation_times_gradient(model: nn.Module, images: Tensor, layer: str) -> None:
    caught: list[Tensor] = []
    watched = layer.replace("conv", "bn")  # a convolution and its batch norm are one layer
    handle = model.get_submodule(watched).register_forward_hook(
        lambda *args: caught.append(args[2].clone()) or caught[0]
    )
    logits = model(images)
    handle.remove()
    expected = []
    for target in (3, 1):
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), caught[0], retain_graph=True)
        expected.append((gradient * caught[0]).sum(1))
    found = explain(model, images, [[3, 1]] * 2, rules="zero", layer=layer)
    torch.testing.assert_close(found.maps, torch.stack(expected, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logits, logits)


@pytest.mark.parametrize("rules", ["zplus", "epsilon_alpha2_beta1", "epsilon_gamma_box", {"layer4.*": Flat()}], ids=str)
def test_relevance_is_the_same_at_every_layer(model: nn.Module, images: Tensor, rules: object) -> None:
    """Flat windows give R, not R / activation, to all layers below, padding takes some of theirs."""
    scores = explain(model, images, [[3, 1]] * 2).logits[:, [3, 1]]
    for layer, grid in (("layer1", (16, 24)), ("layer2", (8, 12)), ("layer3", (4, 6)), ("layer4", (2, 3))):
        maps = explain(model, images, [[3, 1]] * 2, rules=rules, layer=layer).maps
        assert maps.shape == (2, 2, *grid) and maps.abs().sum() > 0
        if isinstance(rules, str):
            torch.testing.assert_close(maps.sum((2, 3)), scores, rtol=1e-3, atol=0)
        one_by_one = unroll(model, rules=rules, classes_at_once=1).heatmaps(images, [3, 1], layer)[1]
        # batch norm folded here and not there: below Flat, LRP-0 divides by sums near 0, which shows the last bits
        torch.testing.assert_close(one_by_one, maps, rtol=0, atol=1e-10 * float(maps.abs().max()))


def test_positive_relevance_of_channels_is_layercam(model: nn.Module, images: Tensor) -> None:
    """By LRP-0, where activations are not negative; by any rule it is at least the positive part of the sum."""
    for layer in ("layer1", "layer3"):
        found = unroll(model).heatmaps(images, [3, 1], layer, positive=True)[1]
        expected = explain(model, images, [[3, 1]] * 2, "layercam", layer=layer).maps
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for rules in ("epsilon_alpha2_beta1", {"layer4.*": Flat()}):
        network = unroll(model, rules=rules)
        signed, found = (network.heatmaps(images, [3, 1], "layer2", positive=p)[1] for p in (False, True))
        assert (found > signed.clamp(min=0) + 1e-9).any() and (found >= signed.clamp(min=0) - 1e-12).all()


def test_the_last_layer_of_a_stride() -> None:
    """That all relevance passes through: layer3.0.act1 of a ResNet-50 is as fine as layer2, but has a branch beside."""
    for name, layers in (
        ("resnet50", [None, "act1", "layer1", "layer2", "layer3", "layer4"]),
        ("vgg11_bn", ["features.2", "features.6", "features.13", "features.20", "features.27"]),
        ("densenet121", [None, "features.norm0", "features.transition1.conv", "features.transition2.conv"]),
    ):
        made = timm.create_model(name, num_classes=2)
        assert [layer_at_stride(made, 2**power) for power in range(len(layers))] == layers


def test_layers_below_are_not_gone_back_through(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    back: list[nn.Module] = []
    transpose = Convolution.transpose
    monkeypatch.setattr(Convolution, "transpose", lambda *a, **k: (back.append(a[0].module), transpose(*a, **k))[1])
    explain(model, images, 1, rules="epsilon_gamma_box", layer="layer3")
    assert {id(m) for m in back} == {id(m) for m in model.layer4.modules() if isinstance(m, nn.Conv2d)}


def test_layers_without_maps_are_refused(model: nn.Module, images: Tensor) -> None:
    for layer, line in (
        ("fc", r"layer 'fc': expected maps .*, got \(5,\)"),
        ("layer5", "layer 'layer5' is unknown to the model"),
    ):
        with pytest.raises(InputError, match=line):
            explain(model, images, 1, layer=layer)
