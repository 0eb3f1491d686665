"""U-Nets: any size, the interface, the classifier's weights and scores inside, and foreign weights refused."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from cnnseg.baselines import Baseline, create_fcn, create_unet, load_encoder
from wsss.backbones import strides_first
from wsss.errors import InputError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return alive(torchvision.models.resnet18(num_classes=4))


def alive(model: nn.Module) -> nn.Module:
    """With statistics of batch norm unlike a fresh network's, so that they are seen to be taken."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module", params=["unet", "multitask_unet", "fcn"])
def network(request: pytest.FixtureRequest) -> Baseline:
    torch.manual_seed(1)
    if request.param == "fcn":
        return create_fcn("resnet18", 4).eval()
    return create_unet("resnet18", 4, classifier=request.param == "multitask_unet").eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (7, 90)])
def test_maps_have_the_size_of_the_images(network: Baseline, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    logits, maps = network(images)
    assert network.segments and maps.shape == (2, 4, *size) and maps.dtype == torch.float32
    assert (logits is not None) == network.classifies and (logits is None or logits.shape == (2, 4))
    for index in range(2):  # a batch equals its images
        alone_logits, alone = network(images[index : index + 1])
        torch.testing.assert_close(alone[0], maps[index], atol=1e-5, rtol=1e-4)
        if network.classifies:
            torch.testing.assert_close(alone_logits[0], logits[index], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_the_first_images_are_decoded(network: Baseline) -> None:
    images = torch.randn(3, 3, 32, 40)
    logits, maps = network(images)
    for decode in (0, 1, 3):
        some_logits, some = network(images, decode=decode)
        assert (some is None) if decode == 0 else some.shape[0] == decode
        if decode:
            torch.testing.assert_close(some, maps[:decode], atol=1e-5, rtol=1e-4)
        if network.classifies:
            torch.testing.assert_close(some_logits, logits)
    with torch.autocast("cpu", torch.bfloat16):
        half_logits, half = network(images)
    assert half.dtype == torch.float32 and (half_logits is None or half_logits.dtype == torch.float32)
    assert 0 < (half - maps).abs().max() < 0.1 * maps.abs().max()


@torch.no_grad()
def test_the_classifier_inside_gives_the_classifiers_scores(resnet: nn.Module) -> None:
    """At any size: a U-Net that was given a classifier's weights says what the classifier says."""
    for source in (resnet, alive(timm.create_model("resnet18", num_classes=4))):
        network = create_unet("resnet18", 4, classifier=True).eval()
        assert load_encoder(network, source.state_dict()) is True
        for size in ((64, 64), (45, 71)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(network(images)[0], source(images), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_version_1_has_its_strides_first() -> None:
    source = alive(torchvision.models.resnet50(num_classes=3))
    images = torch.randn(1, 3, 64, 64)
    plain = source(images)
    assert strides_first(source) == 3
    network = create_unet("resnet50_v1", 3, classifier=True).eval()
    load_encoder(network, source.state_dict())
    torch.testing.assert_close(network(images)[0], source(images), atol=1e-4, rtol=1e-3)
    assert (source(images) - plain).abs().max() > 1e-2
    assert all(create_fcn("resnet50_v1", 3).encoder.get_submodule(f"layer{n}.0.conv1").stride == (2, 2) for n in (2, 3))


def test_every_network_takes_a_classifiers_encoder(resnet: nn.Module, network: Baseline) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {name: tensor.half() for name, tensor in resnet.state_dict().items() if "batches" not in name}
    assert load_encoder(network, state, head=False) is False
    for name, tensor in network.state_dict().items():
        own = name.removeprefix("encoder.")
        if own != name and "batches" not in name:
            assert torch.equal(tensor, state[own].float())
        else:
            assert torch.equal(tensor, before[name])


def test_foreign_weights_are_refused(resnet: nn.Module) -> None:
    network = create_unet("resnet18", 4, classifier=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = resnet.state_dict()
    with pytest.raises(
        InputError, match=r"--classifier x: not the weights of a network of this architecture: .* first"
    ):
        load_encoder(network, torchvision.models.resnet50().state_dict(), source="--classifier x")
    with pytest.raises(InputError, match=r"layer1\.0\.conv1\.weight"):
        load_encoder(network, {key: value for key, value in state.items() if key != "layer1.0.conv1.weight"})
    with pytest.raises(InputError, match=r"1 tensor too many, first layer3\.7\.conv1\.weight"):
        load_encoder(network, state | {"layer3.7.conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"classifier of 4 outputs: .* fc\.weight"):
        load_encoder(network, torchvision.models.resnet18(num_classes=10).state_dict())
    for name, tensor in network.state_dict().items():  # nothing was taken from any of them
        assert torch.equal(tensor, before[name]), name


@torch.no_grad()
def test_vgg() -> None:
    """Any size, the classifier's features inside, and its fully connected layers passed over."""
    source = alive(vgg_features())
    state = source.state_dict() | {"classifier.0.weight": torch.zeros(2, 2), "pre_logits.fc1.weight": torch.zeros(2)}
    network = create_unet("vgg16_bn", 4, classifier=True).eval()
    assert load_encoder(network, state) is False
    images = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(network.encoder(images)[-1], source.features(images), atol=1e-4, rtol=1e-3)
    logits, maps = network(images[..., :20, :45])
    filled_up = torch.zeros_like(images)
    filled_up[..., :20, :45] = images[..., :20, :45]
    torch.testing.assert_close(maps, network(filled_up)[1][..., :20, :45])
    assert logits.shape == (1, 4)
    fcn = create_fcn("vgg16", 4).eval()
    assert fcn(images[..., :37])[1].shape == (1, 4, 32, 37)
    with pytest.raises(InputError, match="not the weights"):
        load_encoder(fcn, state)


def vgg_features() -> nn.Module:
    module = nn.Module()
    module.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    return module


def test_fcn_sees_the_bottleneck_alone() -> None:
    """Its maps hang on the last feature map and on the image's size; the U-Net's on the skips as well."""
    torch.manual_seed(2)
    fcn, unet = create_fcn("resnet18", 4).eval(), create_unet("resnet18", 4).eval()
    features = [level.detach() for level in fcn.encoder(torch.randn(1, 3, 64, 64))]
    changed = [*(torch.randn_like(level) for level in features[:-1]), features[-1]]
    assert torch.equal(fcn.decode(features), fcn.decode(changed))
    assert not torch.equal(unet.decode(features), unet.decode(changed))
    skips = sum(9 * level.shape[1] * width for level, width in zip(features[-2:0:-1], (256, 128, 64, 32), strict=True))
    assert count(unet) - count(fcn) == skips  # they differ by the weights of the concatenated channels alone


def test_parameters_of_resnet50() -> None:
    """The encoder's 23.51 M, and a decoder of 9.02 M, or less without its skips."""
    unet, multitask = create_unet("resnet50", 21), create_unet("resnet50.tv_in1k", 21, classifier=True)
    assert count(unet.encoder) == 23_508_032 and count(unet) == 32_524_005
    assert count(multitask) - count(unet) == 2048 * 21 + 21
    assert not unet.classifies and multitask.classifies
    assert {name.split(".")[0] for name, _ in multitask.named_parameters()} == {
        "encoder",
        "decoder",
        "segmentation_head",
        "classification_head",
    }


def test_losses_reach_every_weight() -> None:
    network = create_unet("resnet18", 4, classifier=True).train()
    logits, maps = network(torch.randn(2, 3, 64, 64), decode=1)
    (logits.square().sum() + maps.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(InputError, match=r"`architecture` resnet5: no U-Net on it; did you mean 'resnet50'"):
        create_unet("resnet5", 3)
    for name in ("resnet18_v1", "vit_tiny_patch16_224"):  # blocks of two 3x3 convolutions have no 1x1 to move it to
        with pytest.raises(InputError, match="known: resnet101, resnet101_v1"):
            create_fcn(name, 3)


@pytest.mark.parametrize("odd", range(1, 400, 14))
def test_nearest_upsampling_to_odd_sides_is_a_doubling(odd: int) -> None:
    """Why images for ResNets need no filling up: maps of (n + 1) / 2 pixels go to n without a shift."""
    small = torch.arange((odd + 1) // 2, dtype=torch.float32)
    large = nn.functional.interpolate(small[None, None], size=odd, mode="nearest")[0, 0]
    assert torch.equal(large, small.repeat_interleave(2)[:odd])
