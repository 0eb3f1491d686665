"""Networks: what their checkpoints say, what they take from a classifier, and version 1 of a ResNet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from cnnseg import models
from cnnseg.classifiers import create_classifier
from cnnseg.models import Network, PlainClassifier, create_network, load_network, save_network
from cnnseg.optimiser import new_layers
from cnnseg.settings import NetworkConfig
from wsss.errors import InputError

NAMES = ("cat", "dog")


def config(network: str, architecture: str = "resnet18", **options: object) -> NetworkConfig:
    return NetworkConfig(kind=network, architecture=architecture, weights="none", **options)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's checkpoint, its batch norm's statistics as after a training."""
    torch.manual_seed(0)
    made = create_network(config("classifier"), NAMES)
    for module in made.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("classifier") / "last.safetensors"
    save_network(replace(made, crop=64, masks=0), path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("kind", ["unet", "multitask_unet", "fcn", "unrolled", "unrolled_pixels", "free_convolutions"])
def test_every_network_starts_as_the_classifier_ended(classifier: Path, kind: str) -> None:
    made = create_network(config(kind, classifier=str(classifier)), NAMES)
    state, taken = load_file(classifier), made.module.state_dict()
    prefix = "encoder." if "encoder.conv1.weight" in taken else "model."
    for name, tensor in state.items():
        own = prefix + name.removeprefix("model.")
        if own in taken:
            assert torch.equal(taken[own], tensor), name
        else:
            assert name.startswith("model.fc.") and prefix == "encoder."
    images = torch.randn(2, 3, 48, 40)
    made.module.eval()
    logits, maps = made.module(images)
    assert maps.shape == (2, 3, 48, 40)
    if made.module.classifies:
        expected = load_network(classifier).module(images)[0]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert made.new_head is (kind in ("unet", "fcn"))  # they have no class scores that a head could come with
    assert (made.crop, made.masks) == (None, None)  # the classifier's training is not theirs


def test_a_head_that_stays_at_random_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG's fully connected layers have no place in the multi-task U-Net: its linear layer learns as new ones do."""
    vgg = nn.Module()
    vgg.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    trained = Network(PlainClassifier(vgg), "classifier", "vgg16", NAMES, (0.5,) * 3, (0.2,) * 3, new_head=False)
    monkeypatch.setattr(models, "load_network", lambda path: trained)
    made = create_network(config("multitask_unet", "vgg16", classifier="given"), NAMES)
    assert torch.equal(made.module.state_dict()["encoder.features.0.weight"], vgg.features[0].weight)
    assert made.new_head and "classification_head.3.weight" in new_layers(made, made.new_head)


def test_the_description_goes_round(classifier: Path, tmp_path: Path) -> None:
    made = load_network(classifier)
    assert (made.crop, made.masks, made.new_head) == (64, 0, False)
    state = load_file(classifier)
    description = {"format": "relseg-network", "kind": "classifier", "architecture": "resnet18"}
    description |= {"class_names": NAMES, "mean": made.mean, "std": made.std}

    def described(**more: object) -> Path:
        save_file(state, tmp_path / "x.safetensors", {"relseg": json.dumps(description | more)})
        return tmp_path / "x.safetensors"

    older = load_network(described())
    assert (older.crop, older.masks) == (None, None)
    assert load_network(described(crop=96, masks=5)).crop == 96
    for wrong in ({"crop": "96"}, {"crop": 0}, {"masks": 1.5}, {"baseline": "grey"}):
        with pytest.raises(InputError, match="does not fit its own description"):
            load_network(described(**wrong))


@torch.no_grad()
def test_the_baseline_goes_round(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 64, 64)
    maps = {}
    for baseline in ("black", "mean"):
        torch.manual_seed(0)
        made = create_network(config("unrolled_pixels", "test_resnet", baseline=baseline), NAMES)
        made.module.eval()
        save_network(made, tmp_path / "x.safetensors")
        loaded = load_network(tmp_path / "x.safetensors")
        assert loaded.baseline == baseline
        maps[baseline] = loaded.module(loaded.normalise(x))[1]
        assert torch.equal(maps[baseline], made.module(made.normalise(x))[1])
        black = loaded.module(loaded.normalise(torch.zeros_like(x)))[1].abs().max()
        assert black < 1e-6 if baseline == "black" else black > 1e-6
    assert not torch.allclose(maps["black"], maps["mean"])
    assert create_network(config("unet"), NAMES).baseline is None


def test_strength_of_maps() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unrolled = create_network(config("unrolled_pixels", "test_resnet"), NAMES)
        by_cells = create_network(config("unrolled", "test_resnet"), NAMES)
        unet = create_network(config("unet"), NAMES)
    assert replace(unrolled, crop=96).strength((448, 224)) == pytest.approx(448 * 224 / 96**2)
    assert unrolled.strength((448, 224)) == replace(unet, crop=96).strength((448, 224)) == 1
    assert replace(by_cells, crop=96).strength((448, 224)) == 1  # its maps have the class score as mean, not as sum


@torch.no_grad()
def test_strength_makes_up_for_the_size() -> None:
    """A picture tiled 2 x 2 has the same class scores, so heat-maps a quarter as strong, as far as borders allow."""
    torch.manual_seed(0)
    made = replace(create_network(config("unrolled_pixels", "test_resnet"), NAMES), crop=64)
    made.module.eval()
    small = torch.randn(1, 3, 128, 128)
    large = small.repeat(1, 1, 2, 2)
    raw = [made.module(images)[1].abs().mean().item() for images in (small, large)]
    assert 0.2 < raw[1] / raw[0] < 0.3
    strengths = [made.strength(images.shape[-2:]) for images in (small, large)]
    assert 0.8 < raw[1] * strengths[1] / (raw[0] * strengths[0]) < 1.2


@pytest.mark.parametrize("library", ["", "torchvision."])
def test_version_1_of_a_resnet(library: str) -> None:
    with torch.device("meta"):
        first = create_classifier(f"{library}resnet50_v1", 3)
        usual = create_classifier(f"{library}resnet50", 3)
    for layer in ("layer2", "layer3", "layer4"):
        for model, strides in ((first, [(2, 2), (1, 1)]), (usual, [(1, 1), (2, 2)])):
            block = model.get_submodule(layer)[0]
            assert [block.conv1.stride, block.conv2.stride] == strides
    with pytest.raises(InputError, match="is no ResNet of bottlenecks and has no version 1"), torch.device("meta"):
        create_classifier(f"{library}resnet18_v1", 3)
    with pytest.raises(InputError, match=f"there are none of {library}resnet50_v1; give a file"):
        create_classifier(f"{library}resnet50_v1", 3, pretrained=True)
