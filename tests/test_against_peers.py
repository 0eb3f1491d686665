"""Against what others wrote: zennit's composites, captum's LRP and gradients, the CAMs of pytorch-grad-cam; in float64.

Each of them is installed by the extra ``oracles``; what is absent is passed over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from small_networks import ready
from torch import Tensor, nn

from cnnseg import explain
from cnnseg.rules import COMPOSITES, Epsilon, Gamma, ZBox, ZPlus

CLASSES = 3
BOX = -3.0, 3.0


def peer(name: str):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[oracles]'")


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return ready(make())


def vgg11_bn() -> nn.Module:
    model = torchvision.models.vgg11_bn(num_classes=CLASSES, init_weights=False)
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 16), nn.Linear(16, 16)
    model.classifier[6] = nn.Linear(16, CLASSES)
    return model


MODELS = {"resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES), "vgg11_bn": vgg11_bn}


def images(*, signed: bool = True) -> Tensor:
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)).double()
    return x if signed else x.abs()


def worst(found: Tensor, expected: Tensor) -> float:
    """The greatest difference as a part of the greatest value."""
    assert found.shape == expected.shape and expected.abs().max() > 0
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


ZENNIT = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_plus_flat": "EpsilonPlusFlat",
    "epsilon_alpha2_beta1": "EpsilonAlpha2Beta1",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
    "epsilon_gamma_box": "EpsilonGammaBox",
}


@pytest.mark.parametrize("name", ZENNIT)
@pytest.mark.parametrize("network", MODELS)
def test_composites_are_zennits(network: str, name: str) -> None:
    peer("zennit")
    import zennit.composites
    import zennit.torchvision
    from zennit.attribution import Gradient

    model, x = made(MODELS[network]), images()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = (
                0.0  # zennit merges a batch norm and keeps its epsilon: scores times 1 / sqrt(1 + 1e-5) a layer
            )
    rules, box = dict(COMPOSITES[name].rules), {}
    if "box" in name:
        rules["first"] = ZBox(*BOX)
        box = {"low": torch.full_like(x, BOX[0]), "high": torch.full_like(x, BOX[1])}
    canonizer = zennit.torchvision.ResNetCanonizer if network == "resnet18" else zennit.torchvision.VGGCanonizer
    composite = getattr(zennit.composites, ZENNIT[name])(canonizers=[canonizer()], **box)
    targets = torch.tensor([2, 0])
    found = explain(model, x, targets, rules=rules)
    with Gradient(model=copy.deepcopy(model), composite=composite) as attribute:
        scores, relevance = attribute(x.clone(), lambda out: out * torch.eye(CLASSES).double()[targets])
    assert worst(found.logits, scores.detach()) < 1e-12
    assert worst(found.maps, relevance.sum(1)) < 1e-9


class Plain(nn.Module):
    """Where captum's rules are the same: they know no sign of inputs, and leave a bias as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, 1, 1, bias=False), nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc1, self.relu3, self.fc2 = nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc2(self.relu3(self.fc1(self.pool(x).flatten(1))))


CAPTUM = {
    "EpsilonRule": (lambda rule: rule(0.03), Epsilon(0.03)),
    "GammaRule": (lambda rule: rule(0.4), Gamma(0.4, stabiliser=1e-9)),
    "Alpha1_Beta0_Rule": (lambda rule: rule(), ZPlus(stabiliser=1e-9)),
}


@pytest.mark.parametrize("name", CAPTUM)
def test_rules_are_captums(name: str) -> None:
    """Non-negative images through convolutions without biases."""
    peer("captum")
    from captum.attr import LRP
    from captum.attr._utils import lrp_rules

    model, x = made(Plain), images(signed=False)
    make, ours = CAPTUM[name]
    rules = {"convolution": ours, "linear": Epsilon(1e-9), "average_pool": Epsilon(1e-9)}
    for c in range(CLASSES):
        twin = copy.deepcopy(model)  # captum takes the rules off again
        for module in (twin.fc1, twin.fc2, twin.pool):
            module.rule = lrp_rules.EpsilonRule(1e-9)
        twin.conv1.rule, twin.conv2.rule = (make(getattr(lrp_rules, name)) for _ in range(2))
        expected = LRP(twin).attribute(x.clone().requires_grad_(), target=c).sum(1)
        assert worst(explain(model, x, c, rules=rules).maps, expected) < 1e-8


@pytest.mark.parametrize("network", MODELS)
def test_gradients_are_captums(network: str) -> None:
    peer("captum")
    from captum.attr import InputXGradient, IntegratedGradients

    model, x = made(MODELS[network]), images()
    targets = torch.tensor([2, 0])
    expected = InputXGradient(model).attribute(x.clone().requires_grad_(), target=targets).sum(1)
    assert worst(explain(model, x, targets, "input_x_gradient").maps, expected) < 1e-12
    expected = IntegratedGradients(model).attribute(x, target=targets, n_steps=20, method="gausslegendre").sum(1)
    assert worst(explain(model, x, targets, "integrated_gradients").maps, expected) < 1e-7  # its weights are float32


CAMS = {"gradcam": "GradCAM", "layercam": "LayerCAM"}
LAYERS = [("resnet18", "layer4"), ("resnet18", "layer2"), ("resnet18", "layer3.0"), ("vgg11_bn", "features")]


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize(("network", "layer"), LAYERS)
def test_cams_are_pytorch_grad_cams(network: str, layer: str, method: str) -> None:
    """Their maps in the layer's own size, before they are scaled to [0, 1] and enlarged."""
    library = peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x, targets = made(MODELS[network]), images(), [1, 2]
    found = explain(model, x, targets, method, layer=layer).maps
    with getattr(library, CAMS[method])(model, [model.get_submodule(layer)]) as cam:
        chosen = [ClassifierOutputTarget(c) for c in targets]
        cam(x, chosen)
        activations, gradients = (
            kept[0].numpy() for kept in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
        )
        expected = torch.from_numpy(
            cam.get_cam_image(x, model.get_submodule(layer), chosen, activations, gradients, False)
        )
    assert worst(found, expected.clamp(min=0)) < 1e-12


@pytest.mark.parametrize("method", CAMS)
def test_cams_by_hooks(method: str) -> None:
    """The same from a hook and autograd alone, in the layer that is taken unless another one is named."""
    model, x, kept = made(MODELS["resnet18"]), images(), []
    handle = model.layer4.register_forward_hook(lambda module, given, out: kept.append(out))
    scores = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), kept[0])
    weight = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient.clamp(min=0)
    expected = (weight * kept[0]).sum(1).clamp(min=0).detach()
    assert worst(explain(model, x, 1, method).maps, expected) < 1e-12


def test_cam_is_the_score_spread_out() -> None:
    model, x = made(MODELS["resnet18"]), images()
    answer = explain(model, x, 1, "cam")
    assert torch.allclose(answer.maps.mean((1, 2)) + model.fc.bias[1], answer.logits[:, 1], rtol=1e-12)
    gradcam = explain(model, x, 1, "gradcam").maps  # of the same layer: the gradients are the weights
    assert torch.allclose(answer.maps.clamp(min=0) / answer.maps[0].numel(), gradcam, rtol=1e-9)
