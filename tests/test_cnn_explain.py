"""`cnnseg.explain`: what it takes, what it gives, and that it leaves everything as it found it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize

from cnnseg import explain
from cnnseg.methods import METHODS
from wsss.errors import InputError

CLASSES = 4


class Small(nn.Module):
    """A block with a skip, batch norms, activations in place and dropout."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.Dropout2d(0.5), nn.ReLU())
        self.pool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = self.layer2(self.layer1(x) + x)
        return self.fc(self.drop(self.pool(x).flatten(1)))


def small(classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    model = Small(classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.fc.weight.data.abs_()  # or GradCAM of some class would be 0 everywhere
    return model.double().eval()


def images(count: int = 3, side: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side + 4, generator=torch.Generator().manual_seed(seed)).double()


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max().item() < tolerance * expected.abs().max().item()


every_method = pytest.mark.parametrize("method", METHODS)


@every_method
def test_a_batch_equals_a_loop_and_many_targets_equal_single_ones(method: str) -> None:
    model, x = small(), images()
    targets = torch.tensor([[0, 2], [3, 1], [2, 2]])
    many = explain(model, x, targets, method)
    assert many.maps.shape[:2] == (3, 2) and torch.equal(many.targets, targets) and many.method == method
    near(many.logits, model(x).detach())
    for index in range(3):
        for k in range(2):
            one = explain(model, x[index : index + 1], int(targets[index, k]), method)
            near(one.maps[0], many.maps[index, k])
    near(explain(model, x, targets[:, 0], method).maps, many.maps[:, 0])
    assert not many.maps.requires_grad and not many.logits.requires_grad


@every_method
def test_forms_of_targets(method: str) -> None:
    model, x = small(), images()
    top = model(x).argmax(1)
    expected = explain(model, x, top, method)
    assert expected.maps.ndim == 3 and torch.equal(expected.targets, top)
    for form in (None, top.tolist(), top.int(), top.numpy(), tuple(top.tolist())):
        answer = explain(model, x, form, method)
        assert torch.equal(answer.maps, expected.maps) and torch.equal(answer.targets, top)
    near(explain(model, x, [[c] for c in top.tolist()], method).maps[:, 0], expected.maps)
    near(explain(model, x, 2, method).maps, explain(model, x, [2, 2, 2], method).maps)


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    tensors, others = before.pop("tensors"), after.pop("tensors")
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    for mine, theirs in zip(before.pop("grads"), after.pop("grads"), strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))
    assert before == after


def with_spectral_norms() -> nn.Module:
    model = small()
    model.layer1[0] = nn.utils.parametrizations.spectral_norm(model.layer1[0])
    model.layer2[0] = nn.utils.spectral_norm(model.layer2[0])
    return model.double()


@every_method
@pytest.mark.parametrize("make", [small, with_spectral_norms])
def test_the_model_is_left_bit_for_bit_in_training_mode(make: Callable[[], nn.Module], method: str) -> None:
    """Training mode all over but one module; a parameter that is frozen, gradients and a hook that are there."""
    model, x = make(), images()
    expected = explain(model, x, 1, method).maps
    model.train()
    model.layer1.eval()
    model.fc.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    handle = model.pool.register_forward_hook(lambda module, given, out: None)
    before, given, random = state_of(model), x.clone(), torch.get_rng_state()
    near(explain(model, x, 1, method).maps, expected)
    same_state(before, state_of(model))
    assert torch.equal(given, x) and torch.equal(random, torch.get_rng_state())
    handle.remove()


class PreparesInPlace(nn.Module):
    """Works on what it is given, as people's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.sub_(0.1).mul_(2.0))


@every_method
def test_images_that_the_model_changes_in_place_are_left_as_they_are(method: str) -> None:
    model, x = PreparesInPlace().eval(), images()
    given = x.clone()

    class Apart(PreparesInPlace):
        def forward(self, x: Tensor) -> Tensor:
            return self.model((x - 0.1) * 2.0)

    expected = explain(Apart().eval(), x, 1, method).maps
    near(explain(model, x, 1, method).maps, expected)
    assert torch.equal(given, x)


@every_method
def test_images_that_want_gradients_and_frozen_models(method: str) -> None:
    model, x = small(), images()
    expected = explain(model, x, 1, method).maps
    asked = x.clone().requires_grad_()
    near(explain(model, asked, 1, method).maps, expected)
    assert asked.grad is None
    model.requires_grad_(False)
    near(explain(model, x, 1, method).maps, expected)


@every_method
def test_under_no_grad_and_inference_mode(method: str) -> None:
    model, x = small(), images()
    expected = explain(model, x, 1, method).maps
    with torch.no_grad():
        near(explain(model, x, 1, method).maps, expected)
    with torch.inference_mode():
        near(explain(model, x, 1, method).maps, expected)
        near(explain(model, x.clone(), 1, method).maps, expected)  # an image of inference mode
        own = small()  # a model of inference mode
        near(explain(own, x.clone(), 1, method).maps, expected)
        targets = torch.tensor([1, 1, 1])
        near(explain(own, x, targets, method).maps, expected)
    near(explain(own, x, 1, method).maps, expected)


@every_method
def test_a_callers_autocast_changes_nothing(method: str) -> None:
    model, x = small().float(), images().float()
    expected = explain(model, x, 1, method).maps
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(model, x, 1, method)
    assert torch.equal(found.maps, expected) and found.logits.dtype == torch.float32


@every_method
def test_threads_share_a_model(method: str) -> None:
    model, batches = small().train(), [images(2, seed=seed) for seed in range(8)]
    expected = [explain(model, x, 1, method).maps for x in batches]
    before = state_of(model)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda x: explain(model, x, 1, method).maps, batches))
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
    same_state(before, state_of(model))


@every_method
def test_types(method: str) -> None:
    model, x = small(), images()
    wide = explain(model, x, 1, method).maps
    single = explain(copy.deepcopy(model).float(), x.float(), 1, method)
    assert single.maps.dtype == single.logits.dtype == torch.float32
    near(single.maps.double(), wide, 1e-4)
    half = explain(copy.deepcopy(model).bfloat16(), x.bfloat16(), 1, method).maps
    assert half.isfinite().all()
    assert torch.corrcoef(torch.stack([half.flatten().double(), wide.flatten()]))[0, 1] > 0.98


class Division(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compile of DataParallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "DataParallel of compile": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}
FRONTS = {"torchvision": lambda: Normalize([0.5] * 3, [0.25] * 3), "own": Division}


@every_method
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_change_nothing(name: str, method: str) -> None:
    model, x = small(), images()
    assert torch.equal(explain(WRAPPERS[name](model), x, 1, method).maps, explain(model, x, 1, method).maps)


@every_method
@pytest.mark.parametrize("front", FRONTS)
def test_what_prepares_the_images_is_taken_off(front: str, method: str) -> None:
    model, x, prepare = small(), images(), FRONTS[front]()
    expected = explain(model, prepare(x), 1, method)
    chain = nn.Sequential(prepare, model)
    for wrapped in (
        chain,
        nn.DataParallel(chain),
        nn.Sequential(prepare, nn.DataParallel(model)),
        nn.Sequential(nn.Sequential(prepare), model),
        torch.compile(chain, backend="eager"),
    ):
        answer = explain(wrapped, x, 1, method)
        near(answer.maps, expected.maps)
        near(answer.logits, chain(x).detach())


@every_method
def test_one_logit(method: str) -> None:
    """0 is the output, and what is taken unless given; -1 the other class, whose score is minus the output."""
    model, x = small(1), images()
    answer = explain(model, x, 0, method)
    assert torch.equal(explain(model, x, None, method).maps, answer.maps)
    other = explain(model, x, -1, method)
    assert torch.equal(other.targets, torch.full((3,), -1)) and torch.equal(other.logits, answer.logits)
    if METHODS[method].signed:
        near(other.maps, -answer.maps)
    else:
        flipped = copy.deepcopy(model)
        flipped.fc.weight.data.neg_()
        flipped.fc.bias.data.neg_()
        near(other.maps + 1, explain(flipped, x, 0, method).maps + 1)
    both = explain(model, x, [[0, -1]] * 3, method).maps
    near(both[:, 0] + 1, answer.maps + 1)
    near(both[:, 1] + 1, other.maps + 1)
    with pytest.raises(InputError, match="expected classes -1 to 0"):
        explain(model, x, 1, method)


@every_method
@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid(), nn.LogSoftmax(1), nn.LogSigmoid()])
def test_what_turns_scores_into_probabilities_is_left_out(end: nn.Module, method: str) -> None:
    model, x = small(), images()
    answer = explain(nn.Sequential(model, end), x, 1, method)
    near(answer.maps, explain(model, x, 1, method).maps)
    near(answer.logits, model(x).detach())


LAYERS = {"stem": (8, 10), "norm": (8, 10), "act": (8, 10), "layer1": (8, 10), "layer1.2": (8, 10), "layer2": (4, 5)}


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_by_name(layer: str, method: str) -> None:
    """What a layer gives, before a later one changes it in place; of a convolution what its batch norm makes of it."""
    model, x, kept = small(), images(), []
    apart = copy.deepcopy(model)
    apart.act.inplace = apart.layer1[2].inplace = False
    watched = "norm" if layer == "stem" else layer
    apart.get_submodule(watched).register_forward_hook(lambda module, given, out: kept.append(out))
    (gradient,) = torch.autograd.grad(apart(x)[:, 1].sum(), kept)
    weight = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient.clamp(min=0)
    expected = (weight * kept[0]).sum(1).clamp(min=0).detach()
    found = explain(model, x, 1, method, layer=layer).maps
    assert found.shape == (3, *LAYERS[layer])
    near(found, expected)


def test_the_usual_layer_is_the_last_with_maps() -> None:
    model, x = timm.create_model("resnet18", num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    for method in ("gradcam", "layercam"):
        found, expected = explain(model, x, 1, method).maps, explain(model, x, 1, method, layer="layer4").maps
        assert torch.equal(found, expected) and found.shape == (1, 2, 2)
        assert explain(model, x, 1, method, layer="layer3").maps.shape == (1, 4, 4)
    with pytest.raises(InputError, match=r"layer 'layr3' is unknown to the model: did you mean 'layer3'"):
        explain(model, x, 1, "gradcam", layer="layr3")


def no_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()


X = images()
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "method": (lambda: explain(small(), X, method="lpr"), "method 'lpr' is unknown: did you mean 'lrp'"),
    "rules of another": (
        lambda: explain(small(), X, method="cam", rules="zero"),
        "rules: method cam has none; lrp has",
    ),
    "layer of another": (lambda: explain(small(), X, 0, "cam", layer="fc"), "layer 'fc': method cam looks at none"),
    "layer of lrp": (lambda: explain(small(), X, layer="fc"), "expected maps"),
    "layer without maps": (lambda: explain(small(), X, 0, "gradcam", layer="fc"), "expected maps"),
    "no module": (lambda: explain(lambda x: x, X), "expected a torch.nn.Module, got a function"),
    "no tensor": (lambda: explain(small(), X.numpy()), r"torch.from_numpy"),
    "one image": (lambda: explain(small(), X[0]), r"one image is images\[None\]"),
    "no images": (lambda: explain(small(), X[:0]), "B >= 1"),
    "type": (lambda: explain(small(), X.float()), "expected torch.float64 on cpu, got torch.float32 on cpu"),
    "range": (lambda: explain(small(), X, 4), "expected classes 0 to 3"),
    "negative": (lambda: explain(small(), X, -1), "expected classes 0 to 3"),
    "float": (lambda: explain(small(), X, 1.0), "expected integer class indices"),
    "count": (lambda: explain(small(), X, [0, 1]), "for 3 images"),
    "ragged": (lambda: explain(small(), X, [[0], [1, 2], [3]]), "with the same K"),
    "multi-hot": (lambda: explain(small(), X, [[0, 1, 0, 1]] * 3), "look like a mask"),
    "no head, lrp": (lambda: explain(no_head(), X), "expected class scores"),
    "no head, cam": (lambda: explain(no_head(), X, method="cam"), "global average pooling"),
    "no head, gradcam": (lambda: explain(no_head(), X, method="gradcam"), "expected class scores"),
    "no head, gradient": (lambda: explain(no_head(), X, method="input_x_gradient"), "expected class scores"),
    "channels": (lambda: explain(small(), X[:, :2]), "layer stem with norm: .* to have 3 channels, but got 2 channels"),
    "small": (lambda: explain(nn.Sequential(nn.MaxPool2d(40), small()), X), "too small for layer 0"),
    "no layers": (lambda: explain(nn.Identity(), X), "has no parameters"),
    "no maps": (
        lambda: explain(nn.Sequential(nn.Flatten(), nn.Linear(960, 2)).double(), X, method="gradcam"),
        "no layer has maps",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_explained_is_said_in_one_line(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_sums_are_as_documented() -> None:
    """Integrated gradients sum to the score minus that of the baseline; LRP-0 and input x gradient are one here."""
    model, x = small(), images()
    answer = explain(model, x, 1, "integrated_gradients")
    gap = answer.logits[:, 1] - model(torch.zeros_like(x))[:, 1]
    assert (answer.maps.sum((1, 2)) - gap).abs().max() < 0.03 * gap.abs().max()
    near(explain(model, x, 1, rules="zero").maps, explain(model, x, 1, "input_x_gradient").maps)


class Tempered(nn.Module):
    """A model with settings that its code reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.temperature, self.squares = small(), 1.0, False

    def forward(self, x: Tensor) -> Tensor:
        scores = self.body((x - torch.tensor([0.5, 0.4, 0.3], dtype=x.dtype).view(1, 3, 1, 1)) / 0.25)
        return scores * (3.0 if self.squares else self.temperature)


def gradient_oracle(model: nn.Module, x: Tensor, target: int) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(copy.deepcopy(model).eval()(x)[:, target].sum(), x)
    return (gradient * x.detach()).sum(1)


SETTINGS: dict[str, Callable[[Tempered], Any]] = {
    "number": lambda model: setattr(model, "temperature", 5.0),
    "flag": lambda model: setattr(model, "squares", True),
    "class": lambda model: setattr(model, "__class__", type("Halved", (Tempered,), {"forward": halved})),
}


def halved(model: Tempered, x: Tensor) -> Tensor:
    return model.body(x) / 2


@pytest.mark.parametrize("change", SETTINGS)
def test_settings_that_are_changed_between_two_calls_count(change: str) -> None:
    model, x = Tempered(), images()
    explain(model, x, 1)
    SETTINGS[change](model)
    near(explain(model, x, 1, "input_x_gradient").maps, gradient_oracle(model, x, 1))


def test_the_window_of_a_pool_may_change_between_two_calls() -> None:
    model, x = nn.Sequential(nn.MaxPool2d(2), small()).double(), images(side=32)
    explain(model, x, 1)
    model[0].kernel_size = model[0].stride = 4
    near(explain(model, x, 1, "input_x_gradient").maps, gradient_oracle(model, x, 1))


def test_constants_in_the_code_are_not_left_on_the_model() -> None:
    model, x = Tempered().train(), images()
    before = state_of(model)
    answer = explain(model, x, 1)
    same_state(before, state_of(model))
    near(answer.logits, model.eval()(x))


@pytest.mark.parametrize("name", ["", "0", "1", "4"])
def test_a_forward_replaced_on_the_object_is_refused(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).double()
    part = model.get_submodule(name)
    kept = part.forward
    part.forward = lambda x: kept(x) * 2
    for method in METHODS:
        with pytest.raises(InputError, match="was replaced on the object"):
            explain(model, images(), 1, method)
    del part.forward
    explain(model, images(), 1)


class Drawn(nn.Module):
    """Prepares images, in training as nobody wants it in an explanation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3, affine=False).double(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x))


def test_what_prepares_the_images_is_in_evaluation_mode_and_untouched() -> None:
    model, x = nn.Sequential(Drawn(), small()).train(), images()
    before = state_of(model)
    maps = explain(model, x, 1).maps
    near(explain(model, x[:1], 1).maps, maps[:1])
    same_state(before, state_of(model))


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_what_makes_no_images_prepares_none() -> None:
    x = images()
    model = nn.Sequential(Flat(), nn.Linear(x[0].numel(), 2)).double()
    near(explain(model, x, 1, rules="zero").maps, gradient_oracle(model, x, 1))


def test_hooks_that_change_what_passes_are_refused_and_others_run() -> None:
    model, x, seen = small(), images(), []
    want = explain(model, x, 1).maps
    watching = model.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    near(explain(model, x, 1).maps, want)
    assert seen and watching.id in model._forward_hooks
    for register in (model.register_forward_pre_hook, next(model.children()).register_forward_pre_hook):
        handle = register(lambda module, args: (args[0] * 2,))
        with pytest.raises(InputError, match="changes what passes through"):
            explain(model, x, 1)
        handle.remove()


@pytest.mark.parametrize("normed", [False, True])
def test_weights_that_hooks_make_are_those_of_now(normed: bool) -> None:
    convolution = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    norm = [nn.BatchNorm2d(4)] if normed else []
    model = nn.Sequential(convolution, *norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model, x = model.double().eval(), images()
    model(x)
    with torch.no_grad():
        convolution.weight_g.mul_(3)
        convolution.weight_v.add_(0.3)
    answer = explain(model, x, 1, rules="zero")
    logits = model(x)
    near(answer.logits, logits)
    near(answer.maps, explain(model, x, 1, rules="zero").maps)
