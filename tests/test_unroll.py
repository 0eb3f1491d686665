"""The unrolled network against input times gradient, double backward, and equation 1 written out with matrices."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from cnnseg.unroll import UnrolledNetwork, unroll
from wsss.errors import InputError

CLASSES = 4


class Tiny(nn.Module):
    """Every kind of layer once: strides, batch norm, overlapping pool, skip with its own convolution, two heads."""

    def __init__(self, cap: bool = False) -> None:
        super().__init__()
        act = nn.ReLU6 if cap else nn.ReLU
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 5, 2, 2, bias=False), nn.BatchNorm2d(6), act()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(6, 8, 3, 1, 1), nn.BatchNorm2d(8), act(inplace=True)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, 2, 1, groups=2), nn.BatchNorm2d(8)
        self.short, self.norm = nn.Conv2d(6, 8, 1, 2), nn.BatchNorm2d(8)
        self.act3 = act()
        self.mean = nn.AvgPool2d(2, 1)
        self.global_pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc1, self.act4, self.drop = nn.Linear(8, 7), act(), nn.Dropout(0.3)
        self.fc2 = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(x)))))
        x = self.act3(y + self.norm(self.short(x)))
        x = self.flat(self.global_pool(self.mean(x)))
        return self.fc2(self.drop(self.act4(self.fc1(x))))


def ready(make, *, biases: bool = True) -> nn.Module:
    """In float64, with statistics that are not the identity."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1 if biases else 0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1 if biases else 0)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None and not biases:
            nn.init.zeros_(module.bias)
    return model.double().eval()


def images(count: int = 2, height: int = 33, width: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def input_times_gradient(model: nn.Module, x: Tensor, *, graph: bool = False) -> Tensor:
    x = x.clone().requires_grad_()
    logits = model(x)
    rows = [
        torch.autograd.grad(logits[:, c].sum(), x, create_graph=graph, retain_graph=True)[0] for c in range(CLASSES)
    ]
    return torch.stack([(x * row).sum(1) for row in rows], 1)


MODELS = {
    "tiny": Tiny,
    "timm resnet18": lambda: timm.create_model("resnet18", num_classes=CLASSES),
    "timm resnet26d": lambda: timm.create_model("resnet26d", num_classes=CLASSES),  # average pools, deep stem
    "timm resnet50": lambda: timm.create_model("resnet50", num_classes=CLASSES),
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "timm vgg11_bn": lambda: timm.create_model("vgg11_bn", num_classes=CLASSES, mlp_ratio=0.02),
    "torchvision densenet": lambda: torchvision.models.densenet.DenseNet(8, (2, 2), 8, num_classes=CLASSES),
    "timm repvgg": lambda: timm.create_model("repvgg_a0", num_classes=CLASSES),  # batch norm without convolution
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_input_times_gradient(name: str) -> None:
    model, x = ready(MODELS[name]), images()
    logits, heatmaps = unroll(model)(x)
    expected = input_times_gradient(model, x)
    assert torch.allclose(logits, model(x), rtol=1e-12, atol=1e-12)
    assert heatmaps.shape == (2, CLASSES, 33, 40)
    assert expected.abs().max() > 0
    assert (heatmaps - expected).abs().max() < 1e-12 * expected.abs().max()


def test_vgg_of_torchvision_with_its_fully_connected_head() -> None:
    def small() -> nn.Module:
        model = torchvision.models.vgg11(num_classes=CLASSES, init_weights=False)
        model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 16), nn.Linear(16, 16)
        model.classifier[6] = nn.Linear(16, CLASSES)
        return model

    model, x = ready(small), images(1, 64, 48)
    expected = input_times_gradient(model, x)
    assert (unroll(model)(x)[1] - expected).abs().max() < 1e-12 * expected.abs().max()


class Graph(nn.Module):
    """A small CNN whose middle is given: a function of the module and the maps of its first convolution."""

    def __init__(self, middle) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1)
        self.act, self.here, self.drop = nn.ReLU(), nn.ReLU(inplace=True), nn.Dropout(0.3)
        self.same, self.strange, self.head, self.middle = (
            nn.Identity(),
            nn.Threshold(0.1, 1.0, inplace=True),
            Head(5),
            middle,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self, self.first(x)))


def add_in_place(m: Graph, x: Tensor) -> Tensor:
    y = m.second(x)
    x += y
    return m.act(x) + m.third(x)


def added(m: Graph, x: Tensor) -> Tensor:
    x = x + m.second(x)
    return m.act(x) + m.third(x)


relu = nn.functional.relu
IN_PLACE = {
    "module": (lambda m, x: m.second(m.here(x)) + x, lambda m, x: m.second(m.act(x)) + m.act(x)),
    "module, by another name": (
        lambda m, x: m.second(m.here(m.same(x))) + m.third(x),
        lambda m, x: m.second(m.act(x)) + m.third(m.act(x)),
    ),
    "before and after": (
        lambda m, x: m.third(x) + m.second(m.here(x)) + x,  # the first has read what was there
        lambda m, x: m.third(x) + m.second(m.act(x)) + m.act(x),
    ),
    "function": (
        lambda m, x: m.second(relu(x, inplace=True)) + m.third(x),
        lambda m, x: m.second(m.act(x)) + m.third(m.act(x)),
    ),
    "function, by position": (
        lambda m, x: m.second(relu(x, True)) + m.third(x),
        lambda m, x: m.second(m.act(x)) + m.third(m.act(x)),
    ),
    "sum": (add_in_place, added),
    "result unused": (lambda m, x: (m.here(x), m.second(x))[1], lambda m, x: m.second(m.act(x))),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_who_reads_after_a_change_in_place_reads_the_change(name: str) -> None:
    (model, written_out), x = (ready(lambda middle=middle: Graph(middle)) for middle in IN_PLACE[name]), images()
    logits, heatmaps = unroll(model)(x)
    expected = input_times_gradient(written_out, x)
    assert torch.allclose(model(x), written_out(x), rtol=1e-12, atol=1e-12)
    assert torch.allclose(logits, model(x), rtol=1e-12, atol=1e-12)
    assert (heatmaps - expected).abs().max() < 1e-12 * expected.abs().max()


def through_a_view(m: Graph, x: Tensor) -> Tensor:
    y = m.drop(x)  # in evaluation mode the same memory
    return m.second(m.here(y)) + x


def test_a_change_in_place_that_is_seen_through_a_view_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer here of Graph changes in place what later layers read"):
        unroll(Graph(through_a_view))
    unroll(Graph(lambda m, x: m.second(m.here(m.drop(x)))))  # nobody else reads it


DEAD = {
    "a layer": lambda m, x: (m.second(m.act(x)), m.third(x))[0],
    "a chain with a layer that has no rule": lambda m, x: (m.second(m.act(x)), m.third(m.strange(m.third(x))))[0],
    "a change in place of what nobody reads": lambda m, x: (m.second(y := m.act(x)), m.here(y))[0],
    "a shape": lambda m, x: (m.second(m.act(x)), x.shape)[0],
}


@pytest.mark.parametrize("name", DEAD)
def test_what_the_scores_do_not_hang_on_is_left_out(name: str) -> None:
    model, alive = ready(lambda: Graph(DEAD[name])), ready(lambda: Graph(lambda m, x: m.second(m.act(x))))
    network, x = unroll(model), images()
    expected = input_times_gradient(alive, x)
    assert (network(x)[1] - expected).abs().max() < 1e-12 * expected.abs().max()
    assert {step.name for step in network.steps} == {"first", "act", "second", "head.pool", "head.flat", "head.fc"}


def test_scores_before_a_dead_end() -> None:
    """The class scores need not be the last that is computed; a change in place without a rule is not passed over."""

    class Two(Graph):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.first(x))
            scores = self.head(x)
            self.third(x)
            return scores

    model, x = ready(lambda: Two(None)), images()
    expected = input_times_gradient(model, x)
    assert (unroll(model)(x)[1] - expected).abs().max() < 1e-12 * expected.abs().max()
    with pytest.raises(InputError, match=r"layer strange \(Threshold\) of Graph has no rule"):
        unroll(Graph(lambda m, x: (m.strange(x), m.second(x))[1]))


def linear_map(layer, x: Tensor) -> Tensor:
    """The matrix (outputs, inputs) of an affine layer at inputs of x's shape."""
    flat = x.flatten()
    return torch.func.jacrev(lambda v: layer(v.view_as(x)).flatten())(flat)


@pytest.mark.parametrize(("epsilon", "alpha"), [(0.0, None), (0.05, None), (0.0, 1.0), (0.0, 2.0)])
def test_rules_with_matrices(epsilon: float, alpha: float | None) -> None:
    """Equation 1 with its epsilon, and the alpha-beta rule, layer by layer, relevance itself handed on."""
    model, x = ready(Tiny), images(1, 17, 15)

    def back(relevance: Tensor, a: Tensor, layer, stabilise: bool = True) -> Tensor:
        z, w = layer(a).flatten(), linear_map(layer, a)
        if alpha is not None and stabilise:
            given = w * a.flatten()  # contribution of each input (columns) to each output (rows), bias apart
            positive, negative = given.clamp(min=0), given.clamp(max=0)
            shares = [part / part.sum(1, keepdim=True) for part in (positive, negative)]
            first, second = (share.nan_to_num(0.0).T @ relevance for share in shares)
            return alpha * first - (alpha - 1) * second
        eps = torch.where(z < 0, -epsilon, epsilon) if stabilise else 0.0
        quotient = torch.where(relevance == 0, 0.0, relevance / torch.where(z + eps == 0, 1.0, z + eps))
        return a.flatten() * (w.T @ quotient)

    with torch.no_grad():
        m = model
        stem = lambda v: m.bn1(m.conv1(v))  # noqa: E731
        main1, main2, side = (
            lambda v: m.bn2(m.conv2(v)),
            lambda v: m.bn3(m.conv3(v)),
            lambda v: m.norm(m.short(v)),
        )
        a1 = stem(x).relu()
        a2 = m.pool(a1)
        a3 = main1(a2).relu()
        left, right = main2(a3), side(a2)
        total = left + right
        a4 = total.relu()
        a5 = m.mean(a4)
        a6 = m.global_pool(a5).flatten(1)
        a7 = m.fc1(a6).relu()
        logits, maps = m.fc2(a7), []
        for c in range(CLASSES):
            start = torch.zeros(CLASSES, dtype=torch.double)
            start[c] = logits[0, c]
            r = back(start, a7, m.fc2)
            r = back(r, a6, m.fc1)
            r = back(r, a5, lambda v: m.global_pool(v).flatten(1), stabilise=False)
            r = back(r, a4, m.mean, stabilise=False)
            share = total.flatten() + torch.where(total.flatten() < 0, -epsilon, epsilon)
            to_left, to_right = left.flatten() * r / share, right.flatten() * r / share
            r = back(back(to_left, a3, main2), a2, main1) + back(to_right, a2, side)
            r = back(r, a1, m.pool, stabilise=False)
            maps.append(back(r, x, stem).view_as(x).sum(1))
    expected = torch.stack(maps, 1)
    rule = "epsilon" if epsilon else "lrp0" if alpha is None else "alpha_beta"
    network = unroll(model, rule=rule, epsilon=epsilon, alpha=alpha or 1.0)
    assert (network(x)[1] - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.parametrize("cap", [False, True], ids=["relu", "relu6"])
def test_relevance_is_conserved_without_biases(cap: bool) -> None:
    model, x = ready(lambda: Tiny(cap), biases=False), images()
    if cap:
        model.bn2.weight.data *= 30
        seen = []
        model.act2.register_forward_hook(lambda _m, _i, out: seen.append(out.max().item()))
        model(x)
        assert seen == [6.0]  # a cap is at work
    logits, heatmaps = unroll(model)(x)
    assert torch.allclose(heatmaps.sum((2, 3)), logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [Tiny, MODELS["timm resnet18"], MODELS["timm vgg11_bn"]])
def test_alpha_1_conserves_relevance_in_spite_of_biases(make) -> None:
    model, x = ready(make), images()
    whole, parts = unroll(model, rule="alpha_beta"), unroll(model, rule="alpha_beta", classes_at_once=3)
    logits, heatmaps = whole(x)
    assert torch.allclose(heatmaps.sum((2, 3)), logits, rtol=1e-9, atol=1e-9)
    assert torch.allclose(parts(x)[1], heatmaps, rtol=1e-12, atol=1e-15)
    (heatmaps**2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("classes_at_once", [None, 2])
def test_a_baseline_of_black_is_relevance_of_the_rgb_values(classes_at_once: int | None) -> None:
    model, mean, std = ready(Tiny), torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.25]).double()
    rgb = images().sigmoid()

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model((x - mean[:, None, None]) / std[:, None, None])

    expected = input_times_gradient(Normalised(), rgb)
    network = unroll(model, baseline=(-mean / std).tolist(), classes_at_once=classes_at_once)
    x = (rgb - mean[:, None, None]) / std[:, None, None]
    assert (network(x)[1] - expected).abs().max() < 1e-12 * expected.abs().max()
    assert network(torch.zeros_like(x) - (mean / std)[:, None, None])[1].abs().max() == 0
    assert (unroll(model)(x)[1] - expected).abs().max() > 0.1 * expected.abs().max()
    assert set(network.state_dict()) == set(unroll(model).state_dict())


@pytest.mark.parametrize("classes_at_once", [None, 1, 3])
def test_gradients_equal_double_backward(classes_at_once: int | None) -> None:
    model, x = ready(Tiny), images()
    weights = list(model.parameters())
    target = torch.randn(2, CLASSES, 33, 40, generator=torch.Generator().manual_seed(3)).double()

    def loss(heatmaps: Tensor) -> Tensor:
        return ((heatmaps * 50 - target) ** 2).mean()

    expected = torch.autograd.grad(loss(input_times_gradient(model, x, graph=True)), weights, allow_unused=True)
    _, heatmaps = unroll(model, classes_at_once=classes_at_once)(x)
    found = torch.autograd.grad(loss(heatmaps), weights, allow_unused=True)
    compared = 0
    for name, mine, theirs in zip(dict(model.named_parameters()), found, expected, strict=True):
        theirs = torch.zeros_like(mine) if theirs is None and mine is not None else theirs
        if mine is None:
            assert theirs is None or theirs.abs().max() == 0, name  # biases are in no heat-map
        else:
            assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12), name
            compared += 1
    assert compared == 10


def test_each_loss_reaches_its_half_alone() -> None:
    """With free convolutions the two halves are apart: section 2.4 can be read off the gradients."""
    model, x = ready(Tiny), images()
    network = unroll(model, tied_convolutions=False)
    logits, heatmaps = network(x)
    (heatmaps**2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.decoder.values())
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"fc1.weight", "fc2.weight"}  # fully connected layers stay tied: the class weights
    network.zero_grad()
    logits = network(x)[0]
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in network.decoder.values())
    # tied, the gradient of both losses is the sum of the two: the decoder's part is that of the free decoder
    free = unroll(model, tied_convolutions=False)
    (free(x)[1] ** 2).sum().backward()
    scale = model.bn1.weight / (model.bn1.running_var + model.bn1.eps).sqrt()
    expected = free.decoder["0"].grad * scale[:, None, None, None]
    model.zero_grad()
    (unroll(model)(x)[1] ** 2).sum().backward()
    assert torch.allclose(model.conv1.weight.grad, expected, rtol=1e-10)


def test_batch_norm_in_training_mode_uses_the_batch() -> None:
    """Heat-maps of a batch are those of the network whose running statistics are the batch's."""
    model, x = ready(Tiny), images(3)
    model.train()
    model.drop.p = 0.0
    frozen = copy.deepcopy(model)
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    frozen(x)
    names = {module: name for name, module in frozen.named_modules()}
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm2d):  # the running variance is the unbiased one
            count = 3 * {"bn1": 17 * 20, "bn2": 9 * 10}.get(names[module], 25)
            module.running_var *= (count - 1) / count
    frozen.eval()
    network = unroll(model)
    assert not network.training and model.training
    logits, heatmaps = network.train()(x)
    expected = input_times_gradient(frozen, x)
    assert torch.allclose(logits, frozen(x), atol=1e-9)
    assert (heatmaps - expected).abs().max() < 1e-9 * expected.abs().max()
    assert int(model.bn1.num_batches_tracked) == 1  # forward ran the norms once


def test_dropout_is_the_same_in_both_halves() -> None:
    model, x = ready(Tiny), images()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(5)
    network = unroll(model)
    network.training = True  # what train() does, but for the batch norms
    logits, heatmaps = network(x)
    gradient = input_times_gradient(model.eval(), x)
    assert (heatmaps - gradient).abs().max() > 1e-3 * gradient.abs().max()
    for module in model.modules():  # without biases below, the sum tells that the drawn units are the same
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
    model.drop.train()
    logits, heatmaps = network(x)
    assert torch.allclose(heatmaps.sum((2, 3)), logits, atol=1e-9)


def test_parameters_are_the_classifiers_each_once() -> None:
    model = timm.create_model("resnet50", num_classes=21)
    network = unroll(model)
    assert [id(p) for p in network.parameters()] == [id(p) for p in model.parameters()]
    assert sum(p.numel() for p in network.parameters()) == 23_551_061
    assert set(network.state_dict()) == {f"model.{name}" for name in model.state_dict()}


def test_batch_equals_loop_and_parts_equal_the_whole() -> None:
    network, x = unroll(ready(Tiny)), images(3)
    logits, heatmaps = network(x)
    for index in range(3):
        assert torch.allclose(network(x[index : index + 1])[1][0], heatmaps[index], rtol=1e-12, atol=1e-12)
    assert torch.allclose(network(x, decode=2)[1], heatmaps[:2], rtol=1e-12, atol=1e-12)
    assert network(x, decode=0)[1] is None
    assert torch.equal(network(x, decode=2)[0], logits)
    assert torch.allclose(network.heatmaps(x, [2, 0])[1], heatmaps[:, [2, 0]], rtol=1e-12, atol=1e-12)
    network.classes_at_once = 3
    assert torch.allclose(network(x)[1], heatmaps, rtol=1e-12, atol=1e-12)


def test_contrastive_takes_the_mean_of_the_others_away() -> None:
    model, x = ready(Tiny), images()
    plain, contrast = unroll(model)(x)[1], unroll(model, contrastive=True)(x)[1]
    expected = plain - (plain.sum(1, keepdim=True) - plain) / (CLASSES - 1)
    assert torch.allclose(contrast, expected, rtol=1e-9, atol=1e-12)


def test_model_is_left_as_it_was() -> None:
    model, x = ready(Tiny), images()
    before = copy.deepcopy(model.state_dict())
    unroll(model)(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_copy_is_independent() -> None:
    network, x = unroll(ready(Tiny)), images()
    twin, expected = copy.deepcopy(network), network(x)[1]
    nn.init.zeros_(network.model.fc2.weight)
    assert network(x)[1].abs().max() == 0
    assert torch.equal(twin(x)[1], expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copy_has_layers_of_its_own_whatever_they_are(copied) -> None:
    """Settings of activations are read by functions: a copy's read those of the copy."""
    body = [nn.Conv2d(3, 5, 3, 2, 1), nn.PReLU(), nn.Conv2d(5, 6, 3), nn.GELU("tanh"), Head(6)]
    free, x = {"tied_convolutions": False, "ends": ("0", "2")}, images()
    network = unroll(ready(lambda: nn.Sequential(*body)), **free)
    twin, expected = copied(network), network(x)[1]
    assert torch.equal(twin(x)[1], expected)
    with torch.no_grad():
        network.model[1].weight.add_(0.5)
    assert not torch.equal(network(x)[1], expected)
    assert torch.equal(twin(x)[1], expected)


def test_own_activations_are_the_weight_sharing_autoencoder() -> None:
    model, x = (
        ready(lambda: nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), Head(6))),
        images(),
    )
    _, heatmaps = unroll(model, tied_relu=False)(x)
    features = model[:4](x)
    expected = []
    for c in range(CLASSES):
        p = features * model[4].fc.weight[c][None, :, None, None] / features[0, 0].numel()
        p = nn.functional.conv_transpose2d(p, model[2].weight).relu()
        p = nn.functional.conv_transpose2d(p, model[0].weight, stride=2, padding=1, output_padding=(0, 1))
        expected.append((p * x).sum(1))
    assert torch.allclose(heatmaps, torch.stack(expected, 1), rtol=1e-9, atol=1e-12)
    model.zero_grad()
    heatmaps.square().sum().backward()
    assert model[2].bias.grad.abs().max() > 0  # the bottleneck's activation carries the loss into the encoder
    direct = model[2].weight.grad.clone()
    model.zero_grad()
    unroll(model, tied_relu=False, classes_at_once=1)(x)[1].square().sum().backward()
    assert torch.allclose(model[2].weight.grad, direct, rtol=1e-9)


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.pool(x)))


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (47, 35)])
def test_nearest_upsampling_fits_any_size_and_keeps_the_mass(size: tuple[int, int]) -> None:
    model = ready(lambda: nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.MaxPool2d(2, 2, ceil_mode=True), Head(4)))
    x = torch.ones(1, 3, *size).double()
    tied, free = unroll(model)(x)[1], unroll(model, tied_upsampling=False)(x)[1]
    assert free.shape == tied.shape == (1, CLASSES, *size)
    if size == (32, 32):  # every window is whole: only where relevance lies differs, not how much there is
        assert torch.allclose(free.sum((2, 3)), tied.sum((2, 3)), rtol=1e-9)
        assert free.std((2, 3)).max() < 1e-9 < tied.std((2, 3)).min()
    whole = ready(Tiny)
    assert unroll(whole, tied_upsampling=False)(images(1, *size))[1].shape == (1, CLASSES, *size)


def test_bfloat16_follows_float32() -> None:
    model, x = ready(Tiny).float(), images().float()
    expected = unroll(model)(x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        logits, found = unroll(model)(x)
    assert logits.dtype == found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softsign(), Head(4)), r"layer 1 \(Softsign\)"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LPPool2d(2, 2), Head(4)), r"layer 1 \(LPPool2d\)"),
        (lambda: Graph(lambda m, x: m.second(x) * m.third(x)), "multiplies two branches"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "expected class scores"),
    ],
)
def test_what_has_no_rule_is_named(model, named: str) -> None:
    with pytest.raises(InputError, match=named):
        unroll(model())(torch.zeros(1, 3, 32, 32))


def test_bad_options_and_small_images() -> None:
    with pytest.raises(InputError, match="epsilon"):
        unroll(Tiny(), rule="epsilon")
    with pytest.raises(InputError, match=r"alpha 0\.5: expected at least 1"):
        unroll(Tiny(), rule="alpha_beta", alpha=0.5)
    with pytest.raises(InputError, match="'alpha_beta' with more"):
        unroll(Tiny(), alpha=2)
    with pytest.raises(InputError, match="each of the three channels"):
        unroll(Tiny(), baseline=[0.0])
    with pytest.raises(InputError, match="everything must be tied"):
        unroll(Tiny(), rule="alpha_beta", tied_relu=False)
    with pytest.raises(InputError, match="no baseline"):
        unroll(Tiny(), rule="alpha_beta", baseline=[0.0, 0.0, 0.0])
    for wrong in ({"alpha": float("nan")}, {"epsilon": -1.0}, {"rule": "epsilon", "epsilon": float("nan")}):
        with pytest.raises(InputError):
            unroll(Tiny(), **wrong)
    with pytest.raises(InputError, match="classes_at_once"):
        unroll(Tiny(), classes_at_once=0)
    network = unroll(timm.create_model("vgg11", num_classes=3, mlp_ratio=0.01))
    with pytest.raises(InputError, match="16 x 16 are too small for layer features"):
        network(torch.zeros(1, 3, 16, 16))


def test_type() -> None:
    assert isinstance(unroll(Tiny()), UnrolledNetwork)
