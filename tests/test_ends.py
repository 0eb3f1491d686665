"""Relevance at one or more depths, and the heat-maps that are made of it."""

from __future__ import annotations

import copy
import math
import re

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnseg import unroll
from cnnseg.unroll.readout import find_readout, smoothed
from wsss.errors import InputError

ENDS = ("layer4", "layer3", "layer1", "input")
CLASSES = 5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("resnet18", num_classes=CLASSES, zero_init_last=False).double().eval()


@pytest.fixture(scope="module")
def without_biases(model: nn.Module) -> nn.Module:
    """Relevance neither arises nor vanishes in it."""
    found = copy.deepcopy(model)
    nn.init.zeros_(found.fc.bias)
    return found


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()


def by_autograd(model: nn.Module, images: Tensor, *, constant: bool) -> dict[str, Tensor]:
    """Activation times gradient of each class at every end, with a graph."""
    kept: dict[str, Tensor] = {"input": images.clone().requires_grad_()}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *args, name=name: kept.update({name: args[2]}))
        for name in ENDS[:-1]
    ]
    logits = model(kept["input"])
    for handle in handles:
        handle.remove()
    maps: dict[str, list[Tensor]] = {name: [] for name in ENDS}
    for target in range(CLASSES):
        fields = torch.autograd.grad(logits[:, target].sum(), [kept[name] for name in ENDS], create_graph=True)
        for name, field in zip(ENDS, fields, strict=True):
            maps[name].append(((kept[name].detach() if constant else kept[name]) * field).sum(1))
    return {name: torch.stack(found, 1) for name, found in maps.items()}


@pytest.mark.parametrize("features", ["constant", "trained"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_maps_and_gradients_are_those_of_double_backward(
    model: nn.Module, images: Tensor, features: str, chunk: int | None
) -> None:
    """LRP-0 at every depth; a loss reaches the layers below an end only if features are trained."""
    model = copy.deepcopy(model)
    network = unroll(model, ends=ENDS, readout="mean", features=features, classes_at_once=chunk)
    expected = by_autograd(model, images, constant=features == "constant")
    found = network.relevance(images, range(CLASSES))[1]
    assert list(found) == list(ENDS)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for maps in (found, expected):
        generator.manual_seed(1)
        weigh = [torch.rand(maps[name].shape, generator=generator, dtype=torch.float64) for name in ENDS]
        losses.append(sum((maps[name] * w).sum() for name, w in zip(ENDS, weigh, strict=True)))
    for name in ENDS:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)
    parameters = dict(model.named_parameters())
    ours, theirs = (
        torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for loss in losses
    )
    for name, mine, reference in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(
            mine, reference, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_loss_at_a_layer_reaches_what_lies_below_it_only_through_trained_features(
    model: nn.Module, images: Tensor
) -> None:
    for features, reached in (("constant", False), ("trained", True)):
        network = unroll(copy.deepcopy(model), ends=("layer3",), readout="mean", features=features)
        network(images)[1].square().sum().backward()
        assert network.model.layer4[0].conv1.weight.grad is not None
        assert (network.model.layer1[0].conv1.weight.grad is not None) == reached


@pytest.mark.parametrize("rules", [None, "epsilon_plus", "epsilon_alpha2_beta1"])
def test_relevance_sums_to_the_class_score_at_every_end(
    without_biases: nn.Module, images: Tensor, rules: str | None
) -> None:
    logits, found = unroll(without_biases, rules=rules, ends=ENDS, readout="mean").relevance(images, range(CLASSES))
    for name in ENDS:
        # the composites' stabilisers take a millionth a layer; padding takes some of the flat window's at the image
        tolerance = 1e-9 if rules is None else 2e-3
        torch.testing.assert_close(found[name].sum((2, 3)), logits, rtol=tolerance, atol=tolerance)


def test_one_pass_gives_what_each_end_alone_gives(model: nn.Module, images: Tensor) -> None:
    network = unroll(model, ends=ENDS)
    found = network.relevance(images, [3, 1])[1]
    for name in ENDS:
        assert torch.equal(found[name], network.heatmaps(images, [3, 1], name)[1])
    assert torch.equal(network.read(images, [3, 1]), network.readout(list(found.values()), (64, 96)))
    torch.testing.assert_close(network.read(images, [3, 1]), network(images)[1][:, [3, 1]])


def test_the_image_alone_is_the_network_of_the_paper_bit_for_bit(model: nn.Module, images: Tensor) -> None:
    network = unroll(model, ends=("input",), readout="sum")
    heatmaps = network(images)[1]
    assert torch.equal(heatmaps, unroll(model)(images)[1])
    assert torch.equal(heatmaps, network.heatmaps(images, range(CLASSES))[1])
    assert len(list(network.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["sum", "mean", "asinh"])
def test_readouts(name: str) -> None:
    """By a sum over cells, each enlarged alone; maps that are constant keep their mean, or their sum."""
    weights = {"layer4": 0.5, "layer1": 0.2}
    readout = find_readout(name, weights).double()
    coarse, fine = torch.rand(2, 3, 2, 3).double(), torch.rand(2, 3, 4, 6).double()
    expected = torch.zeros(2, 3, 8, 12).double()
    for weight, maps in zip(weights.values(), (coarse, fine), strict=True):
        cells = maps.shape[2] * maps.shape[3]
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                alone = torch.zeros_like(maps)
                alone[:, :, row, column] = maps[:, :, row, column]
                value = (alone * cells).asinh() if name == "asinh" else alone * cells
                expected += weight * F.interpolate(value, (8, 12), mode="bilinear")
    if name == "sum":
        expected /= 8 * 12
    torch.testing.assert_close(readout((coarse, fine), (8, 12)), expected)
    level = readout((torch.full((1, 1, 2, 3), 1 / 6).double(), torch.full((1, 1, 4, 6), 1 / 24).double()), (8, 12))
    total = level.sum() if name == "sum" else level.mean()
    expected = 0.7 * math.asinh(1) if name == "asinh" else 0.7
    torch.testing.assert_close(total, torch.tensor(expected).double())


def test_smoothing_takes_out_every_other_cell_and_keeps_the_sum() -> None:
    maps = torch.rand(2, 3, 6, 7).double()
    found = smoothed(maps)
    wide = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    window = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]).double() / 16
    for row in range(6):
        for column in range(7):
            expected = (wide[:, :, row : row + 3, column : column + 3] * window).sum((2, 3))
            torch.testing.assert_close(found[:, :, row, column], expected)
    torch.testing.assert_close(found.sum((2, 3)), maps.sum((2, 3)))
    sparse = torch.zeros(1, 1, 6, 8).double()
    sparse[:, :, ::2, ::2] = 1.0
    torch.testing.assert_close(smoothed(sparse)[:, :, 1:-1, 1:-1], torch.full((1, 1, 4, 6), 0.25).double())
    readout = find_readout("mean", {"a": 1.0, "b": 1.0}, smooth=True)
    torch.testing.assert_close(readout((maps, maps), (6, 7)), 42 * (maps + found))


def test_learnt_weights_are_counted_and_learn(model: nn.Module, images: Tensor) -> None:
    network = unroll(
        copy.deepcopy(model), ends={"layer4": 0.5, "layer2": 0.25}, readout="mean", learn_weights=True
    ).double()
    own = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in network.parameters()) == own + 2
    torch.testing.assert_close(network.readout.log_weights.detach().exp(), torch.tensor([0.5, 0.25]).double())
    network(images)[1].square().sum().backward()
    assert network.readout.log_weights.grad.abs().min() > 0


def test_layers_below_the_last_end_are_not_decoded(model: nn.Module) -> None:
    """Free convolutions have no weights there either."""
    whole, short = (unroll(model, tied_convolutions=False, ends=ends) for ends in (("input",), ("layer3", "layer4")))
    inside = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    above = [name for name in inside if name.startswith("layer4")]
    assert len(whole.decoder) == len(inside) and len(short.decoder) == len(above)
    images = torch.randn(1, 3, 64, 64).double()
    assert short.heatmaps(images, [0], "layer4")[1].shape == (1, 1, 2, 2)
    for layer, name in ((None, "input"), ("layer1", "layer1")):
        with pytest.raises(InputError, match=f"layer '{name}': the decoder has no convolutions below 'layer3'"):
            short.heatmaps(images, [0], layer)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ends": ()}, "expected names of layers"),
        ({"ends": "layer4"}, "expected names of layers"),
        ({"ends": ("layer5",)}, "layer 'layer5' is unknown to the model: did you mean 'layer4'"),
        ({"ends": {"layer4": 0.0}}, "expected weights above 0"),
        ({"ends": {"layer4": 1e-60}}, "expected weights above 0"),
        ({"ends": {"layer4": "a"}}, "expected weights above 0"),
        ({"ends": 5}, "expected names of layers"),
        ({"ends": ["layer4", 3]}, "expected names of layers"),
        ({"ends": ("layer4", "layer4")}, "each once"),
        ({"ends": ("layer4",), "readout": "max"}, "readout 'max'"),
        ({"ends": ("layer4",), "features": "both"}, "features 'both'"),
    ],
)
def test_what_does_not_go_together_is_refused(model: nn.Module, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        unroll(model, **options)


def test_a_layer_without_maps_is_named(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match=re.escape("layer 'fc': expected maps (channels, height, width), got (5,)")):
        unroll(model, ends=("layer4", "fc"))(images)
