"""`cnnseg.adapt`: class scores of a region, and that every explanation of them is what it should be; in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchvision
from small_networks import ready
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3, fcn, lraspp

import cnnseg
from cnnseg import adapt, explain
from cnnseg.adapter import RegionClassifier, pixel_region, predicted_region
from cnnseg.methods import METHODS
from cnnseg.models import PlainClassifier
from cnnseg.rules import COMPOSITES
from cnnseg.segmentation.network import SegmentationNetwork
from cnnseg.unroll import trace as tracing
from cnnseg.unroll import unroll
from wsss.errors import InputError

CLASSES = 4


def of_smp(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: smp.create_model(name, "resnet18", encoder_weights=None, classes=CLASSES, **options)


def of_torchvision(make: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    """A network of torchvision on a ResNet-18, with the auxiliary head that is to be passed over."""

    def build() -> nn.Module:
        layers = {"layer4": "out", "layer3": "aux"}
        backbone = torchvision.models._utils.IntermediateLayerGetter(torchvision.models.resnet18(), layers)
        return make(backbone, fcn.FCNHead(256, CLASSES))

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": of_smp("unet"),
    "unet with an auxiliary head": of_smp("unet", aux_params={"classes": 2}),
    "unetplusplus": of_smp("unetplusplus"),
    "linknet": of_smp("linknet"),
    "pspnet": of_smp("pspnet"),
    "deeplabv3": of_smp("deeplabv3"),
    "deeplabv3plus": of_smp("deeplabv3plus"),
    "segformer": of_smp("segformer"),
    "torchvision fcn": of_torchvision(lambda body, aux: fcn.FCN(body, fcn.FCNHead(512, CLASSES), aux)),
    "torchvision deeplabv3": of_torchvision(
        lambda body, aux: deeplabv3.DeepLabV3(body, deeplabv3.DeepLabHead(512, CLASSES, (1, 2)), aux)
    ),
}
"""of ReLUs: LRP-0 is the gradient"""
GATED: dict[str, Callable[[], nn.Module]] = {
    "unet with scse": of_smp("unet", decoder_attention_type="scse"),
    "manet": of_smp("manet"),
    "fpn": of_smp("fpn"),
    "upernet": of_smp("upernet", decoder_channels=64),
    "torchvision lraspp": lambda: lraspp._lraspp_mobilenetv3(
        torchvision.models.mobilenet_v3_small(dilated=True), CLASSES
    ),
}
"""of gates, attention and group norms as well"""


def network(name: str = "unet", **how: Any) -> nn.Module:
    torch.manual_seed(0)
    return ready((NETWORKS | GATED)[name](), **how)


def images(count: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1)).double()


def a_region(count: int = 1, classes: int = 1) -> Tensor:
    """Soft, another one for each image and class."""
    region = torch.rand(count, classes, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    return region * (region > 0.7)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (found - expected).abs().max().item() < tolerance * expected.abs().max().item()


def maps_by(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return out["out"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out


def by_autograd(adapted: nn.Module, x: Tensor, target: int) -> Tensor:
    given = x.clone().requires_grad_()
    return (torch.autograd.grad(adapted(given)[:, target].sum(), given)[0] * x).sum(1)


class Pixels(nn.Module):
    """A small network with maps of the image's own size, for what hangs on no architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(6, 6, 2, 2), nn.Conv2d(12, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.first(x))
        return self.head(torch.cat([F.relu(self.up(F.relu(self.second(fine)))), fine], 1))


def pixels() -> nn.Module:
    torch.manual_seed(0)
    return Pixels().double().eval()


def small(count: int = 3) -> Tensor:
    return images(count, 8, 10)


def small_region(count: int = 1, classes: int = 1) -> Tensor:
    return a_region(count, classes)[..., :8, :10].clamp(min=1e-3)


@pytest.mark.parametrize("name", [*NETWORKS, *GATED])
def test_everything_is_global_average_pooling_and_a_region_its_mean(name: str) -> None:
    model, x = network(name), images()
    with torch.no_grad():
        maps = maps_by(model, x)
        near(adapt(model)(x), maps.mean((2, 3)), 1e-12)
        region = a_region(2, CLASSES)
        near(adapt(model, region)(x), (maps * region).sum((2, 3)) / region.sum((2, 3)), 1e-12)


@pytest.mark.parametrize("score", ["logit", "margin"])
@pytest.mark.parametrize("name", NETWORKS)
def test_lrp_0_is_input_times_gradient(name: str, score: Any) -> None:
    adapted, x = adapt(network(name), a_region(2), score), images()
    expected = by_autograd(adapted, x, 2)
    near(explain(adapted, x, 2, "input_x_gradient").maps, expected)
    found = explain(adapted, x, 2, rules="zero")
    near(found.maps, expected)
    near(found.logits, adapted(x).detach(), 1e-12)


@pytest.mark.parametrize("name", [*NETWORKS, *GATED])
def test_composites_go_through_every_network(name: str) -> None:
    adapted, x = adapt(network(name), a_region()), images(1)
    for rules in ("zero", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"):
        maps = explain(adapted, x, 1, rules=rules).maps
        assert maps.shape == (1, 64, 64) and maps.isfinite().all() and maps.abs().max() > 0, rules


@pytest.mark.parametrize("name", ["unet", "linknet", "deeplabv3", "unet with scse", "torchvision fcn", "fpn"])
def test_without_biases_relevance_is_conserved(name: str) -> None:
    adapted, x = adapt(network(name, biases=False), a_region()), images(1)
    found = explain(adapted, x, 1, rules="zero")
    near(found.maps.sum((1, 2)), found.logits[:, 1], 1e-8)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("unet", "encoder.layer4"),
        ("unet", "decoder.blocks.2"),
        ("unet", None),
        ("deeplabv3plus", "decoder.aspp"),
        ("torchvision fcn", "backbone.layer3"),
        ("torchvision fcn", None),
        ("linknet", "decoder.blocks.1"),
    ],
)
def test_grad_cams_by_hooks(name: str, layer: str | None) -> None:
    """The layer by the name that it has in the network; the encoder's last one unless named."""
    model, x, kept = network(name), images(), []
    adapted = adapt(model, a_region(2))
    usual = "encoder.layer4" if name == "unet" else "backbone.layer4"
    handle = model.get_submodule(layer or usual).register_forward_hook(lambda module, given, out: kept.append(out))
    scores = adapted(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), kept[0])
    for method, weight in (("gradcam", gradient.mean((2, 3), keepdim=True)), ("layercam", gradient.clamp(min=0))):
        expected = (weight * kept[0]).sum(1).clamp(min=0).detach()
        found = explain(adapted, x, 1, method, layer=layer).maps
        assert found.shape == expected.shape and (found - expected).abs().max() < 1e-12 * kept[0].abs().max()
        assert method == "gradcam" or expected.max() > 0


def test_a_network_without_an_encoder_has_the_maps_in_front_of_its_head() -> None:
    model, x = pixels(), small()
    adapted, kept = adapt(model, small_region()), []
    handle = model.head.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    scores = adapted(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), kept[0])
    near(explain(adapted, x, 1, "layercam").maps, (gradient.clamp(min=0) * kept[0]).sum(1).detach())
    straight = adapt(nn.Sequential(nn.Conv2d(3, CLASSES, 1)).double())
    with pytest.raises(InputError, match="the class maps are made of the image itself"):
        explain(straight, x, 1, "gradcam")


def test_margin_is_the_difference_to_the_strongest_other_class_of_each_pixel() -> None:
    model, x = pixels(), small()
    region = small_region(3, CLASSES)
    maps, scores = model(x).detach(), adapt(model, region, "margin")(x)
    for image in range(3):
        for c in range(CLASSES):
            others = maps[image, [other for other in range(CLASSES) if other != c]].amax(0)
            weight = region[image, c] / region[image, c].sum()
            near(scores[image, c].detach(), ((maps[image, c] - others) * weight).sum(), 1e-12)


def test_relevance_of_a_margin_is_that_of_the_difference_of_the_heads_rows() -> None:
    """Of one pixel: the same network whose head has the difference of two rows, which is linear in them."""
    model, x = pixels(), small(1)
    c, pixel = 2, (3, 4)
    region = pixel_region((8, 10), [pixel]).double()
    logits = model(x)[0, :, pixel[0], pixel[1]].detach()
    other = int(logits.index_fill(0, torch.tensor(c), -torch.inf).argmax())
    twin = copy.deepcopy(model)
    twin.head.weight.data[c] -= model.head.weight.data[other]
    twin.head.bias.data[c] -= model.head.bias.data[other]
    for rules in ("zero", {"first": "flat", "second": "zplus"}):
        found = explain(adapt(model, region, "margin"), x, c, rules=rules)
        expected = explain(adapt(twin, region), x, c, rules=rules)
        near(found.logits[:, c], expected.logits[:, c], 1e-12)
        near(found.maps, expected.maps)


OPTIONS: dict[str, list[dict[str, Any]]] = {"lrp": [{"rules": rules} for rules in COMPOSITES]}


@pytest.mark.parametrize("score", ["logit", "margin"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "cam"])
def test_a_batch_is_its_images_one_by_one(method: str, score: Any) -> None:
    model, x, region = pixels(), small(3), small_region(3)
    targets = torch.tensor([[2, 1], [0, 3], [1, 0]])
    for options in OPTIONS.get(method, [{}]):
        whole = explain(adapt(model, region, score), x, targets, method, **options)
        for i in range(3):
            alone = explain(adapt(model, region[i : i + 1], score), x[i : i + 1], targets[i : i + 1], method, **options)
            near(whole.maps[i : i + 1], alone.maps)
            near(whole.logits[i : i + 1], alone.logits)
        one = explain(adapt(model, region[:1], score), x, targets, method, **options)
        near(
            one.maps, explain(adapt(model, region[:1].expand(3, -1, -1, -1), score), x, targets, method, **options).maps
        )


def test_integrated_gradients_sum_to_the_difference_of_the_scores() -> None:
    adapted, x = adapt(pixels(), small_region(3)), small(3)
    found = explain(adapted, x, 1, "integrated_gradients")
    with torch.no_grad():
        expected = (adapted(x) - adapted(torch.zeros_like(x)))[:, 1]
    assert torch.allclose(found.maps.sum((1, 2)), expected, rtol=0.02)


def test_another_region_is_another_adapter_and_traces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, calls = pixels(), small(2), []
    traced = tracing._trace
    monkeypatch.setattr(tracing, "_trace", lambda model: (calls.append(1), traced(model))[1])
    adapted = adapt(model, small_region())
    assert adapted.region is not None
    everything, other = None, 1.0 * (small_region(2) > 0.5)
    for region in (small_region(), everything, other, other > 0):
        adapted.region = region
        for options in ({"method": "gradcam", "layer": "second"}, {"rules": "epsilon_plus"}):
            found = explain(adapted, x, 1, **options).maps
            assert len(calls) == 1
            near(found, explain(adapt(model, region), x, 1, **options).maps)
            calls.clear()
            calls.append(1)
    adapted.region = None
    assert adapted.region is None


def everything_of(model: nn.Module) -> tuple[Any, ...]:
    state = {key: (value, value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    return state, [module.training for module in model.modules()], [dict(vars(m)) for m in model.modules()]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cam"])
def test_the_network_is_left_as_found(method: str) -> None:
    model = network("unet")
    model.train()
    model.decoder.eval()
    model.encoder.layer1.register_forward_hook(lambda module, given, out: None)
    state, modes, own = everything_of(model)
    grads = [parameter.requires_grad for parameter in model.parameters()]
    region = a_region()
    before = region.clone()
    explain(adapt(model, region), images(1), 1, method)
    assert torch.equal(region, before)
    for key, value in model.state_dict(keep_vars=True).items():
        assert value is state[key][0] and torch.equal(value, state[key][1]) and value.grad is None
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    for module, then in zip(model.modules(), own, strict=True):
        assert vars(module).keys() == then.keys()
        assert len(module._forward_hooks) == (module is model.encoder.layer1)


@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
def test_this_toolkits_networks_pad_and_cut_as_they_do(size: tuple[int, int]) -> None:
    """The gradient goes through the border's copies; single precision, which these networks' maps have."""
    model = ready(smp.Unet("resnet18", encoder_weights=None, classes=CLASSES, aux_params={"classes": CLASSES}))
    own, x = SegmentationNetwork(model, 32).float().eval(), images(2, *size).float()
    region = torch.rand(2, 1, *size)
    adapted = adapt(own, region)
    maps = own(x)[1]
    near(adapted(x).detach(), ((maps * region).sum((2, 3)) / region.sum((2, 3))).detach(), 1e-5)
    expected = by_autograd(adapted, x, 1)
    near(explain(adapted, x, 1, "input_x_gradient").maps, expected, 1e-4)
    near(explain(adapted, x, 1, rules="zero").maps, expected, 1e-3)
    assert explain(adapted, x, 1, "gradcam", layer="encoder.layer3").maps.shape == (
        2,
        -(-size[0] // 32) * 2,
        -(-size[1] // 32) * 2,
    )


def test_a_softmax_at_the_end_is_left_out() -> None:
    model, x = pixels(), small()
    ended = nn.Sequential(model, nn.Softmax2d())
    near(explain(adapt(ended), x, 1, rules="zero").maps, explain(adapt(model), x, 1, rules="zero").maps)
    near(explain(adapt(ended), x, 1, "input_x_gradient").logits, adapt(model)(x).detach())


class Classifier(nn.Module):
    """Three layers, a global pool and a fully connected layer, to be unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.layer3, self.fc = nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.layer1, self.layer2, self.layer3):
            x = F.relu(layer(x))
        return self.fc(x.mean((2, 3)))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return ready(Classifier())


def test_the_pixels_relevance_of_an_unrolled_network_is_its_own_explanation() -> None:
    """Relevance is linear in the pixels between two gates: input times gradient is relevance within the region."""
    unrolled, x, region = unroll(classifier()), images(), a_region(2)
    found = explain(adapt(unrolled, region), x, 1, "input_x_gradient").maps
    near(found, unrolled(x)[1][:, 1].detach() * region[:, 0] / region.sum((1, 2, 3))[:, None, None])


def test_an_unrolled_network_that_reads_layers() -> None:
    """Against its parts: relevance at a layer is features times p, and p does not hang on the image between gates."""
    ends, x, region = ("layer2", "layer1"), images(2, 16, 16), a_region(2)[..., :16, :16]
    unrolled = unroll(classifier(), ends=ends, readout="mean", features="constant", classes_at_once=2)
    adapted = adapt(unrolled, region)
    near(adapted(x).detach(), (unrolled(x)[1] * region).sum((2, 3)).detach() / region.sum((1, 2, 3))[:, None])
    model, target, total = unrolled.model, 1, 0.0
    given = x.clone().requires_grad_()
    fine = model.layer1(given)
    coarse = model.layer2(F.relu(fine))
    score = model.fc(F.relu(model.layer3(F.relu(coarse))).mean((2, 3)))[:, target]
    for features in (coarse, fine):
        (p,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
        relevance = (features * p).sum(1, keepdim=True) * features[0, 0].numel() / 2  # the mean of two ends
        enlarged = F.interpolate(relevance, (16, 16), mode="bilinear")
        total = total + ((enlarged * region).sum((1, 2, 3)) / region.sum((1, 2, 3))).sum()
    gradients = torch.autograd.grad(total, [given, fine, coarse])
    near(explain(adapted, x, target, "input_x_gradient").maps, (gradients[0] * x).sum(1))
    for layer, features, gradient in (("layer1", fine, gradients[1]), ("layer2", coarse, gradients[2])):
        expected = (features * gradient.clamp(min=0)).sum(1).clamp(min=0).detach()
        near(explain(adapted, x, target, "layercam", layer=layer).maps, expected)
    assert explain(adapted, x, target, "gradcam").maps.shape == (2, 8, 8)  # of the deepest end
    with pytest.raises(InputError, match="layer 'layer3' is unknown"):
        explain(adapted, x, target, "gradcam", layer="layer3")
    with pytest.raises(InputError, match="LRP does not go through LRP"):
        explain(adapted, x, target)


def test_predicted_region() -> None:
    maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = predicted_region(maps, 1)
    assert found.shape == (2, 1, 5, 4) and set(found.unique().tolist()) == {0.0, 1.0}
    for image in range(2):
        for row in range(5):
            for column in range(4):
                assert found[image, 0, row, column] == (int(maps[image, :, row, column].argmax()) == 1)
    assert torch.equal(predicted_region(maps[:, :1], 0), (maps[:, :1] > 0).float())
    with pytest.raises(InputError, match="class 3: expected 0 to 2, the classes of the maps"):
        predicted_region(maps, 3)


def test_pixel_region() -> None:
    region = pixel_region((4, 6), [(0, 5), (3, 0), (3, 0)])
    assert region.shape == (1, 1, 4, 6) and region.sum() == 2 and region[0, 0, 0, 5] == region[0, 0, 3, 0] == 1
    for points, message in (([], "got no pixel"), ([(4, 0)], r"got \(4, 0\)"), ([(0, -1)], r"got \(0, -1\)")):
        with pytest.raises(InputError, match=message):
            pixel_region((4, 6), points)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.zeros(1, 1, 8, 10), "is empty"),
        (torch.stack([torch.ones(1, 8, 10), torch.zeros(1, 8, 10)]), "of image 1, channel 0 is empty"),
        (-torch.ones(1, 1, 8, 10), r"expected values from 0 .*, got -1 to -1"),
        (2 * torch.ones(1, 1, 8, 10), r"expected values from 0 .*, got 2 to 2"),
        (torch.full((1, 1, 8, 10), torch.nan), r"expected values from 0 .*, got nan"),
        (torch.ones(8, 10), r"expected \(1 or B, 1 or C, H, W\), got \(8, 10\)"),
        ("cat", "expected a torch.Tensor .* got a str"),
    ],
)
def test_regions_that_are_none_are_refused_at_once(region: Any, message: str) -> None:
    adapted = adapt(pixels())
    with pytest.raises(InputError, match=message) as caught:
        adapted.region = region
    assert "\n" not in str(caught.value) and adapted.region is None


@pytest.mark.parametrize("method", ["gradcam", "lrp", "input_x_gradient"])
@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.ones(1, 1, 10, 8), r"region: shape \(1, 1, 10, 8\) for maps of \(4, 4, 8, 10\)"),
        (torch.ones(1, 3, 8, 10), r"expected \(1 or 4, 1 or 4, 8, 10\)"),
        (torch.ones(2, 1, 8, 10), "region: expected 1 or 4 for 4 images, got 2"),
    ],
)
def test_regions_of_other_maps_are_refused(region: Tensor, message: str, method: str) -> None:
    adapted = adapt(pixels(), region)
    with pytest.raises(InputError, match=message) as caught:
        explain(adapted, small(4), 1, method)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_adapted_or_explained_is_refused_in_a_line() -> None:
    for make, message in (
        (lambda: adapt(PlainClassifier(classifier())), "PlainClassifier: gives no maps"),
        (lambda: adapt(pixels(), score="logits"), "score 'logits': did you mean 'logit'"),
        (lambda: adapt("unet"), "expected a torch.nn.Module"),
        (lambda: explain(adapt(classifier()), images(1), 0), r"expected maps \(B, C, H, W\)"),
        (lambda: explain(adapt(network("linknet")), images(1, 64, 70), 0), "divisible by 32"),
        (lambda: explain(adapt(network("unet")), images(1), 0, "cam"), "method cam: needs a CNN"),
        (lambda: explain(adapt(of_smp("pan")().double()), images(1, 128, 128), 0), "of PAN multiplies two branches"),
        (lambda: explain(adapt(pixels()), small(), 0, "gradcam", layer="secnd"), "did you mean 'second'"),
        (lambda: explain(adapt(pixels()), small(), CLASSES), f"classes 0 to {CLASSES - 1}"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_wrappers_are_taken_off_and_the_adapter_is_public() -> None:
    model, x = pixels(), small()
    near(adapt(nn.DataParallel(model))(x).detach(), adapt(model)(x).detach())
    assert isinstance(cnnseg.adapt(model), RegionClassifier) and cnnseg.adapt(model).network is model
