"""Each rule of `cnnseg.rules` against its formula with matrices (`tests/slow_lrp.py`), alone and through a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from slow_lrp import Plain, slow_maps
from timm.layers import Conv2dSame
from torch import Tensor, nn

from cnnseg import explain
from cnnseg.rules import (
    COMPOSITES,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    Term,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    register_composite,
)
from cnnseg.unroll import unroll
from vitseg.relevance.rules import EXACT, ROBUST, input_box
from wsss.errors import InputError

CLASSES = 3

ENDS = tuple(torch.tensor(end).double().view(1, 3, 1, 1) for end in ((-3.0, -4.0, -3.5), (3.0, 3.5, 4.0)))
RULES: dict[str, tuple[Rule, dict[str, Any]]] = {
    "zero": (Zero(), {"name": "zero"}),
    "epsilon": (Epsilon(0.05), {"name": "epsilon", "epsilon": 0.05}),
    "zplus": (ZPlus(), {"name": "zplus"}),
    "zplus, zero bias": (ZPlus(zero_bias=True), {"name": "zplus", "zero_bias": True}),
    "zplus, stabiliser": (ZPlus(stabiliser=0.1), {"name": "zplus", "stabiliser": 0.1}),
    "alpha 1": (AlphaBeta(1.0), {"name": "alpha_beta", "alpha": 1.0}),
    "alpha 2": (AlphaBeta(2.0), {"name": "alpha_beta", "alpha": 2.0}),
    "alpha 1.5, zero bias": (AlphaBeta(1.5, zero_bias=True), {"name": "alpha_beta", "alpha": 1.5, "zero_bias": True}),
    "gamma": (Gamma(0.25), {"name": "gamma", "gamma": 0.25}),
    "gamma 3, zero bias": (Gamma(3.0, zero_bias=True), {"name": "gamma", "gamma": 3.0, "zero_bias": True}),
    "flat": (Flat(), {"name": "flat"}),
    "wsquare": (WSquare(), {"name": "wsquare"}),
    "zbox": (
        ZBox(tuple(ENDS[0].flatten().tolist()), tuple(ENDS[1].flatten().tolist())),
        {"name": "zbox", "ends": ENDS},
    ),
    "zbox of each image": (ZBox(), {"name": "zbox"}),
}


class Written(nn.Module):
    """A network that is written once over the operations of `Plain`, for PyTorch, and of `Tape`, for matrices."""

    def __init__(self, modules: Sequence[nn.Module], through: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self.parts, self.through = nn.ModuleList(modules), through

    def forward(self, x: Tensor) -> Tensor:
        return self.through(self.parts, Plain(), x)

    def slow(self, images: Tensor, rules: dict[Any, dict[str, Any]]) -> Tensor:
        return slow_maps(lambda operations, x: self.through(self.parts, operations, x), images, rules)


def ready(model: Written, *, biases: bool = True) -> Written:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.2 if biases else 0.0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2 if biases else 0.0)
        elif getattr(module, "bias", None) is not None and not biases:
            nn.init.zeros_(module.bias)
    return model.double().eval()


def images(count: int = 2, side: int = 7, *, signed: bool = True, seed: int = 1) -> Tensor:
    x = torch.randn(count, 3, side, side + 1, generator=torch.Generator().manual_seed(seed)).double()
    return x if signed else x.abs()


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max().item() < tolerance * expected.abs().max().item()


def pooled(parts: Any, o: Any, x: Any) -> Any:
    """The first layer alone, then a mean and a fully connected layer with LRP-0."""
    x = o.same(o.layer(x, parts[0]), parts[-1])
    return o.layer(o.pick(o.pool(x, lambda v: v.mean((2, 3), keepdim=True)), lambda v: v.flatten(1)), parts[1])


CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "plain": lambda: nn.Conv2d(3, 4, 3),
    "no bias": lambda: nn.Conv2d(3, 4, 3, bias=False),
    "strides": lambda: nn.Conv2d(3, 4, (3, 2), (2, 3), 1),
    "groups": lambda: nn.Conv2d(3, 6, 3, 1, 1, groups=3),
    "dilation": lambda: nn.Conv2d(3, 4, 3, 1, (2, 1), dilation=(2, 1)),
    "same": lambda: nn.Conv2d(3, 4, (3, 4), padding="same"),
    "valid": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(3, 4, 3, 2, 2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(3, 4, 3, 1, (1, 2), padding_mode="circular"),
    "replicate": lambda: nn.Conv2d(3, 4, 3, 2, 1, padding_mode="replicate"),
    "same of timm": lambda: Conv2dSame(3, 4, 3, 2),
}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "positive"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str, signed: bool) -> None:
    """All rules; the activation lets negative outputs through, so that they have relevance too."""
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[kind]()
    model = ready(Written([convolution, nn.Linear(convolution.out_channels, CLASSES), nn.LeakyReLU(0.3)], pooled))
    x = images(signed=signed)
    for name, (rule, slow) in RULES.items():
        found = unroll(model, rules={"first": rule})(x)[1]
        expected = model.slow(x, {convolution: slow})
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max(), name


def flat_linear(parts: Any, o: Any, x: Any) -> Any:
    x = o.pick(x, lambda v: v.flatten(1))
    return o.layer(o.same(o.layer(x, parts[0]), parts[2]), parts[1])


def lone_norm(parts: Any, o: Any, x: Any) -> Any:
    x = o.same(o.layer(x, parts[0]), parts[2])
    x = o.same(o.layer(x, parts[3]), parts[2])
    x = o.layer(x, parts[1])
    return o.pick(o.pool(x, lambda v: v.mean((2, 3), keepdim=True)), lambda v: v.flatten(1))


@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected_layers(bias: bool) -> None:
    torch.manual_seed(0)
    model = ready(Written([nn.Linear(168, 9, bias), nn.Linear(9, CLASSES), nn.LeakyReLU(0.3)], flat_linear))
    for name, (rule, slow) in RULES.items():
        if not name.startswith("zbox"):
            found = unroll(model, rules={"first": rule})(images())[1]
            expected = model.slow(images(), {model.parts[0]: slow})
            assert (found - expected).abs().max() < 1e-10 * expected.abs().max(), name
    found = unroll(model, rules={"first": ZBox(-4.0, 4.0)})(images())[1]
    ends = tuple(torch.full((1, 1), end).double() for end in (-4.0, 4.0))
    near(found, model.slow(images(), {model.parts[0]: {"name": "zbox", "ends": ends}}))


@pytest.mark.parametrize("name", [*(name for name in RULES if not name.startswith("zbox")), "pass"])
def test_a_batch_norm_by_itself(name: str) -> None:
    """Its inputs have both signs and zeros; a convolution's rules above and below it."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, CLASSES, 3), nn.ReLU(), nn.BatchNorm2d(4)]
    model, x = ready(Written(parts, lone_norm)), images()
    rule, slow = (Pass(), {"name": "pass"}) if name == "pass" else RULES[name]
    rules = {"batch_norm": rule, "parts.0": ZPlus(), "parts.1": Gamma(0.5)}
    gamma = {"name": "gamma", "gamma": 0.5}
    near(
        unroll(model, rules=rules)(x)[1], model.slow(x, {parts[3]: slow, parts[0]: {"name": "zplus"}, parts[1]: gamma})
    )


def winding(parts: Any, o: Any, x: Any) -> Any:
    """Batch norm folded in and alone, two skips, a concatenation, average and max pools, a fully connected head."""
    act = parts[-1]
    stem = o.same(o.layer(x, parts[0], parts[1]), act)
    stem = o.pick(stem, lambda v: nn.functional.max_pool2d(v, 2, 1))
    y = o.same(o.layer(stem, parts[2], parts[3]), act)
    y = o.same(o.add(o.layer(y, parts[4]), stem), act)
    z = o.same(o.layer(y, parts[5]), act)
    y = o.cat(o.pool(z, lambda v: nn.functional.avg_pool2d(v, 2)), o.pool(y, lambda v: nn.functional.avg_pool2d(v, 2)))
    y = o.same(o.layer(y, parts[6]), act)
    y = o.same(o.layer(y, parts[7]), act)
    y = o.add(y, o.same(o.layer(y, parts[8]), act))
    y = o.pick(o.pool(y, lambda v: v.mean((2, 3), keepdim=True)), lambda v: v.flatten(1))
    return o.layer(o.same(o.layer(y, parts[9]), act), parts[10])


def winding_network(activation: nn.Module | None = None) -> Written:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, 1, 1), nn.BatchNorm2d(5)]
    parts += [nn.Conv2d(5, 4, 1), nn.Conv2d(4, 3, 3, 1, 1), nn.BatchNorm2d(7), nn.Conv2d(7, 6, 2), nn.Conv2d(6, 6, 1)]
    parts += [nn.Linear(6, 5), nn.Linear(5, CLASSES), activation or nn.ReLU()]
    return ready(Written(parts, winding))


EPSILON = {"name": "epsilon", "epsilon": 1e-6}
CONVOLUTION_PLACES, LINEAR_PLACES = (0, 2, 4, 5, 7, 8), (9, 10)


@dataclass(frozen=True)
class Case:
    """Rules as they are given, and of the slow version: of convolutions, and of single parts."""

    rules: Any
    convolution: dict[str, Any]
    single: dict[int, dict[str, Any]]
    shared: bool = True
    """epsilon in fully connected layers, sums and average pools, batch norms passed"""


SHARED = {"linear": Epsilon(), "sum": Epsilon(), "average_pool": Epsilon(), "batch_norm": Pass()}
PLUS, TWO_ONE, QUARTER = {"name": "zplus"}, {"name": "alpha_beta", "alpha": 2.0}, {"name": "gamma", "gamma": 0.25}
CASES = {
    "epsilon_plus": Case("epsilon_plus", PLUS, {}),
    "epsilon_plus_flat": Case("epsilon_plus_flat", PLUS, {0: {"name": "flat"}}),
    "epsilon_alpha2_beta1": Case("epsilon_alpha2_beta1", TWO_ONE, {}),
    "epsilon_alpha2_beta1_flat": Case("epsilon_alpha2_beta1_flat", TWO_ONE, {0: {"name": "flat"}}),
    "epsilon_gamma_box": Case("epsilon_gamma_box", QUARTER, {0: {"name": "zbox"}}),
    "zero": Case("zero", {"name": "zero"}, {}, shared=False),
    # below these R is carried, where the skip's other branch brings p
    "flat in the middle": Case(SHARED | {"convolution": ZPlus(), "parts.2": Flat()}, PLUS, {2: {"name": "flat"}}),
    "flat on both sides of a skip": Case(
        SHARED | {"convolution": ZPlus(), "parts.[24]": Flat()}, PLUS, {2: {"name": "flat"}, 4: {"name": "flat"}}
    ),
    "flat below a concatenation": Case(
        SHARED | {"convolution": Gamma(), "parts.7": Flat(), "parts.5": WSquare()},
        QUARTER,
        {7: {"name": "flat"}, 5: {"name": "wsquare"}},
    ),
    "flat below a sum": Case(SHARED | {"convolution": AlphaBeta(), "parts.8": Flat()}, TWO_ONE, {8: {"name": "flat"}}),
    "box in the middle": Case(SHARED | {"convolution": ZPlus(), "parts.5": ZBox()}, PLUS, {5: {"name": "zbox"}}),
    "flat everywhere": Case(SHARED | {"convolution": Flat()}, {"name": "flat"}, {}),
    "flat in the head": Case(SHARED | {"convolution": ZPlus(), "parts.9": Flat()}, PLUS, {9: {"name": "flat"}}),
    "zero below flat": Case({"parts.7": Flat()}, {"name": "zero"}, {7: {"name": "flat"}}, shared=False),
    "nothing is passed": Case(
        {"convolution": Flat(), "batch_norm": ZPlus()}, {"name": "flat"}, {6: {"name": "zplus"}}, shared=False
    ),
}


def slow_rules(model: Written, case: Case) -> dict[Any, dict[str, Any]]:
    parts = model.parts
    rules: dict[Any, dict[str, Any]] = {parts[place]: case.convolution for place in CONVOLUTION_PLACES}
    if case.shared:
        rules |= {parts[place]: EPSILON for place in LINEAR_PLACES}
        rules |= {"sum": EPSILON, "average_pool": EPSILON, parts[6]: {"name": "pass"}}
    return rules | {parts[place]: rule for place, rule in case.single.items()}


@pytest.mark.parametrize("name", CASES)
def test_through_a_network(name: str) -> None:
    model, x, case = winding_network(), images(), CASES[name]
    near(unroll(model, rules=case.rules)(x)[1], model.slow(x, slow_rules(model, case)), 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_through_a_network_whose_activations_are_negative(name: str) -> None:
    model, x, case = winding_network(nn.LeakyReLU(0.2)), images(1), CASES[name]
    near(unroll(model, rules=case.rules)(x)[1], model.slow(x, slow_rules(model, case)), 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_batches_classes_and_chunks(name: str) -> None:
    model, x, case = winding_network(), images(3), CASES[name]
    network = unroll(model, rules=case.rules)
    whole = network(x)[1]
    for index in range(3):
        near(network(x[index : index + 1])[1], whole[index : index + 1], 1e-11)
    for step in (1, 2):
        near(unroll(model, rules=case.rules, classes_at_once=step)(x)[1], whole, 1e-12)
    near(network(x, decode=2)[1], whole[:2], 1e-12)
    near(network.heatmaps(x, [2, 0])[1], whole[:, [2, 0]], 1e-12)
    targets = torch.tensor([[2, 1], [0, 2], [1, 0]])
    near(explain(model, x, targets, rules=case.rules).maps, whole[torch.arange(3)[:, None], targets], 1e-12)


@pytest.mark.parametrize("classes_at_once", [None, 2])
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_a_loss_on_heat_maps(name: str, classes_at_once: int | None) -> None:
    """By the weights, inputs and denominators being constants: those of autograd through the slow version."""
    model, x, case = winding_network(), images(1), CASES[name]
    target = torch.randn(1, CLASSES, *x.shape[2:], generator=torch.Generator().manual_seed(3)).double()
    weights = dict(model.named_parameters())

    def gradients(maps: Tensor) -> dict[str, Tensor]:
        loss = ((maps * 50 - target) ** 2).mean()
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return {key: torch.zeros_like(weights[key]) if g is None else g for key, g in zip(weights, found, strict=True)}

    expected = gradients(model.slow(x, slow_rules(model, case)))
    found = gradients(unroll(model, rules=case.rules, classes_at_once=classes_at_once)(x)[1])
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 0
    for key, gradient in expected.items():
        assert (found[key] - gradient).abs().max() < 1e-8 * scale, key


class InPlace(nn.Module):
    """What a box's convolution and a sum have read is changed in place afterwards, or is not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)
        self.fourth, self.head = nn.Conv2d(4, CLASSES, 3), nn.ReLU(inplace=in_place)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = self.second(x) + x
        return self.fourth(total + self.third(self.head(x))).mean((2, 3))


@pytest.mark.parametrize(
    "rules", [{"second": ZBox()}, {"fourth": Flat()}, {"fourth": Flat(), "second": ZBox(-1.0, 1.0)}]
)
def test_what_is_changed_in_place_afterwards_is_remembered_as_it_was(rules: dict[str, Rule]) -> None:
    models = []
    for in_place in (True, False):
        torch.manual_seed(0)
        models.append(InPlace(in_place=in_place).double().eval())
    found, expected = (unroll(model, rules=rules)(images())[1] for model in models)
    near(found, expected, 1e-12)


# The outputs of part 4 go into a sum with either sign, those of the head are class scores: where no contribution to one
# of them is positive, z+ has nothing to hand its relevance on to.
SIGNED_OUTPUTS = {"parts.4": Zero(), "linear": Zero()}


@pytest.mark.parametrize(
    "rule", [Zero(), Epsilon(1e-12), ZPlus(stabiliser=0.0), AlphaBeta(1.0, stabiliser=0.0), Gamma(0.3, stabiliser=0.0)]
)
def test_without_biases_relevance_is_conserved(rule: Rule) -> None:
    model, x = ready(winding_network(), biases=False), images()
    logits, maps = unroll(model, rules={"convolution": rule, "batch_norm": Pass()} | SIGNED_OUTPUTS)(x)
    assert torch.allclose(maps.sum((2, 3)), logits, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "first", [Flat(stabiliser=0.0), WSquare(stabiliser=0.0), ZPlus(zero_bias=True, stabiliser=0.0)]
)
def test_with_biases_rules_that_give_them_nothing_conserve_relevance(first: Rule) -> None:
    """The first layer's square rule counts its bias; the layers with LRP-0 have none here.

    Weights are positive: where there are but negative contributions and a bias, z+ has nothing to hand relevance on to.
    """
    model, x = winding_network(), images()
    for place in (2, 4, 5, 7, 8):
        model.parts[place].weight.data.abs_()
    for place in (4, 9, 10):
        nn.init.zeros_(model.parts[place].bias)
    if isinstance(first, WSquare):
        nn.init.zeros_(model.parts[1].bias)
        nn.init.zeros_(model.parts[1].running_mean)
    rules = {"convolution": ZPlus(zero_bias=True, stabiliser=0.0), "batch_norm": Pass(), "first": first}
    logits, maps = unroll(model, rules=rules | SIGNED_OUTPUTS)(x)
    assert torch.allclose(maps.sum((2, 3)), logits, rtol=1e-9, atol=1e-12)
    assert logits.abs().min() > 1e-4
    lossy = unroll(model, rules=rules | SIGNED_OUTPUTS | {"convolution": ZPlus(stabiliser=0.0)})(x)[1]
    assert not torch.allclose(lossy.sum((2, 3)), logits, rtol=1e-2)


@dataclass(frozen=True)
class Absolute(Rule):
    """Shares of absolute contributions."""

    def terms(self) -> tuple[Term, ...]:
        return Term("positive", Tensor.abs), Term("negative", Tensor.abs, sign=-1)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Any, ...]:
        return ((1.0, products[0] - products[1]),) * 2


@pytest.mark.parametrize("signed", [True, False])
def test_a_rule_of_ones_own(signed: bool) -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES), nn.ReLU()]
    model, x = ready(Written(parts, pooled)), images(signed=signed)
    found = unroll(model, rules={"first": Absolute()})(x)[1]

    def back(c: int) -> Tensor:
        w = torch.func.jacrev(lambda v: nn.functional.conv2d(v.view(1, 3, 7, 8), parts[0].weight).flatten())
        each = w(x[0].flatten()) * x[0].flatten()
        a = parts[0](x[:1]).relu()
        r = (a * parts[1].weight[c].view(1, 4, 1, 1) / a[0, 0].numel()).flatten()
        return (each.abs().T @ (r / (each.abs().sum(1) + 1e-6))).view(3, 7, 8).sum(0)

    near(found[0], torch.stack([back(c) for c in range(CLASSES)]))
    assert explain(model, x, 0, rules=Absolute()).maps.isfinite().all()


def test_a_composite_of_ones_own() -> None:
    model, x = winding_network(), images()
    tenth = {"name": "epsilon", "epsilon": 0.1}
    try:
        made = register_composite("mine", {"convolution": ZPlus(), "parts.0": Flat(), "parts.[45]": Epsilon(0.1)})
        assert COMPOSITES["mine"] is made and made.name == "mine"
        case = Case("mine", {"name": "zplus"}, {4: tenth, 5: tenth}, shared=False)
        case.single[0] = {"name": "flat"}
        expected = model.slow(x, slow_rules(model, case))
        near(unroll(model, rules="mine")(x)[1], expected)
        near(explain(model, x, [[0, 1, 2]] * 2, rules="mine").maps, expected)
        near(explain(model, x, [[0, 1, 2]] * 2, rules=made).maps, expected)
        near(explain(model, x, [[0, 1, 2]] * 2, rules=dict(made.rules)).maps, expected)
    finally:
        COMPOSITES.pop("mine", None)


def test_of_names_the_first_that_fits_counts_and_before_first_and_kinds() -> None:
    composite = Composite({"convolution": Zero(), "first": Flat(), "a.*": ZPlus(), "a.b": Gamma()})
    assert composite.rule("convolution", ("a.b", "bn")) == ZPlus()
    assert composite.rule("convolution", ("c", "a.b"), first=True) == ZPlus()
    assert composite.rule("convolution", ("c",), first=True) == Flat()
    assert composite.rule("convolution", ("c",)) == composite.rule("linear", ("c",)) == Zero()
    assert composite.rule("sum", ("a.add",)) == Zero()  # a name with wildcards is meant for others


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("epsilon_pluss", "did you mean 'epsilon_plus'"),
        ({"parts.22": ZPlus()}, r"rules\['parts.22'\]: no layer has that name: did you mean 'parts.2'"),
        ({"parts.11": ZPlus()}, r"rules\['parts.11'\]: no layer"),  # an activation, which has no rule
        ({"add": ZPlus()}, r"rules\['add'\]: .*Zero\(\) or Epsilon\(\)"),
        ({"convolution": Pass()}, "Pass is for layers"),
        ({"parts.0": Pass()}, "mixes its inputs"),
        ({"sum": ZPlus()}, r"expected Zero\(\) or Epsilon\(\), got ZPlus"),
        ({"convolution": 3}, "expected a Rule"),
        ({"convolution": "zplu"}, "rule 'zplu' is unknown: did you mean 'zplus'"),
        (3, "expected a name, a Rule, a Composite or a mapping, got a int"),
        ({"first": ZBox((0.0, 1.0), 1.0)}, "low has 2 values; expected one, or one for each of 3 channels"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules: Any, message: str) -> None:
    model = winding_network()
    with pytest.raises(InputError, match=message):
        explain(model, images(), 0, rules=rules)


@pytest.mark.parametrize(
    "make", [lambda: Epsilon(-1.0), lambda: ZPlus(stabiliser=-1.0), lambda: AlphaBeta(0.5), lambda: Gamma(-1.0)]
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Rule]) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("inputs", ["positive", "negative"])
def test_a_rule_of_one_part_alone(inputs: str) -> None:
    """Inputs of the other sign get nothing; nothing at all where no input has that sign."""

    @dataclass(frozen=True)
    class Part(Rule):
        def terms(self) -> tuple[Term, ...]:
            return (Term(inputs, torch.abs),)

        def denominators(self, products: Any, z: Tensor) -> Any:
            return ((1.0, products[0] if isinstance(products[0], Tensor) else torch.ones_like(z)),)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    x = torch.randn(2, 3, 6, 6).double()
    maps = explain(model, x, [[0, 1]] * 2, rules={"first": Part()}).maps
    assert maps.isfinite().all() and maps.any()
    other = -x.abs() if inputs == "positive" else x.abs()
    assert not explain(model, other, [[0, 1]] * 2, rules={"first": Part()}).maps.any()


def test_mistakes_in_a_rule_of_ones_own_are_named() -> None:
    class Bare(Rule):
        def terms(self) -> Any:
            return Term("all")

    class Flatly(Zero):
        def denominators(self, products: Any, z: Tensor) -> Any:
            return products

    model = winding_network()
    for rule, message in (
        (Bare(), r"rule Bare: expected terms\(\) to give Terms, .* got Term"),
        (Rule(), r"rule Rule: has no terms\(\)"),
        (Flatly(), r"rule Flatly: denominators\(\) gives list of 1; expected a tuple of 1 pairs"),
    ):
        with pytest.raises(InputError, match=message):
            explain(model, images(), 0, rules=rule)
    with pytest.raises(InputError, match="inputs 'positiv': did you mean 'positive'"):
        Term("positiv")
    with pytest.raises(InputError, match="'epsilon_plus': is one of this toolkit's"):
        register_composite("epsilon_plus", ZPlus())


def test_rules_of_cnns_and_of_transformers_are_the_same() -> None:
    """z+ through signed inputs, and z^B of pixels: each package computes them its own way."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double().eval()
    found = explain(model, image, [[0, 3]], rules={"linear": ZPlus(zero_bias=True, stabiliser=0.0)})
    weight, x = model[1].weight, image.flatten(1)
    for place, target in enumerate((0, 3)):
        relevance = torch.zeros(1, 5, dtype=torch.float64)
        relevance[0, target] = found.logits[0, target]
        for rules in (EXACT, ROBUST):
            expected = rules.linear(x, x @ weight.T, weight, relevance).view_as(image).sum(1)
            torch.testing.assert_close(found.maps[:, place], expected, rtol=1e-6, atol=1e-7)

    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(24, 5)).double().eval()
    box = ZBox(low=float(image.min()), high=float(image.max()), stabiliser=0.0)
    found = explain(model, image, 2, rules={"convolution": box, "linear": Zero()})
    tokens = model[0](image)
    share = (tokens * model[2].weight[2].view_as(tokens)).detach()
    relevance = share * found.logits[0, 2] / (share.sum() + model[2].bias[2]).detach()
    torch.testing.assert_close(found.maps, input_box(image, model[0].weight, relevance), rtol=1e-6, atol=1e-7)
