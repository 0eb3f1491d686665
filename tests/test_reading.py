"""Where unrolled networks are read, from their settings to their files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cnnseg.methods.running import layer_at_stride, layers_with_maps
from cnnseg.models import create_network, load_network, save_network
from cnnseg.reading import AT_THE_PIXELS, Reading, find_reading
from cnnseg.settings import NetworkConfig
from cnnseg.unroll import unroll
from wsss.errors import InputError

NAMES = ("cat", "dog")


def config(**options: object) -> NetworkConfig:
    return NetworkConfig(**{"architecture": "test_resnet", "weights": "none", **options})


def test_what_is_usual() -> None:
    assert find_reading(config(kind="unrolled_pixels")) == AT_THE_PIXELS
    assert AT_THE_PIXELS.described() == {}  # of files that were written before there was a choice
    usual = find_reading(config())
    assert usual == Reading((32, 16, 8, 4), "last", (1, 0.5, 0.5, 0.5), False, "asinh", False, "trained")
    assert find_reading(config(kind="free_convolutions", strides=(16, 1))).readout == "asinh"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strides": (32, 8, 32)}, "`strides` 32 8 32: expected each once, coarsest first, 128 at most"),
        ({"strides": (4, 8)}, "`strides` 4 8: expected each once, coarsest first"),
        ({"strides": (1024,)}, "`strides` 1024: expected each once, coarsest first, 128 at most"),
        ({"strides": (32, 8), "stride_weights": (1.0,)}, "`stride_weights` 1: expected one for each of `strides` 32 8"),
    ],
)
def test_settings_that_do_not_go_together(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        find_reading(config(**options))


def test_strides_of_layers() -> None:
    """Of ResNet-18, whose stages have known names; a stride between two of them belongs to no layer."""
    model = timm.create_model("resnet18", num_classes=3)
    assert find_reading(config(strides=(32, 16, 8, 4))).ends(model) == {
        "layer4": 1.0,
        "layer3": 0.5,
        "layer2": 0.5,
        "layer1": 0.5,
    }
    strides = list(layers_with_maps(model, 32).values())
    assert strides == sorted(strides) and set(strides) == {2, 4, 8, 16, 32}
    assert layer_at_stride(model, 8) == "layer2" and layer_at_stride(model, 1) is None
    first = find_reading(config(strides=(32, 16, 1), stride_layers="first")).ends(model)
    assert [*first][::2] == ["layer4", "input"] and [*first][1] not in ("layer3", "layer2")
    with pytest.raises(InputError, match=re.escape("no layer of stride 12; it has 1 2 4 8")):
        find_reading(config(strides=(12,))).ends(model)
    with pytest.raises(
        InputError, match=re.escape("`strides` 64 32: this network has no layer of stride 64; it has 1 2 4")
    ):
        find_reading(config(strides=(64, 32))).ends(model)


def test_options_of_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match="`strides`: of unrolled networks; `kind` unet has none"):
        create_network(config(kind="unet", architecture="resnet18", strides=(7,)), NAMES)
    with pytest.raises(InputError, match=r"`rules` epsilon_plus: .*give `baseline` mean"):
        create_network(config(kind="unrolled_pixels", rules="epsilon_plus"), NAMES)
    create_network(config(kind="unrolled_pixels", rules="epsilon_plus", baseline="mean"), NAMES)


def test_a_vgg_is_read_as_well() -> None:
    """Its stages end in pooling; a mask loss reaches the first layer through the features that are read."""
    torch.manual_seed(0)
    model = timm.create_model("vgg11_bn", num_classes=3, mlp_ratio=0.02)
    reading = find_reading(config(strides=(32, 16, 8, 4)))
    assert next(iter(reading.ends(model))).startswith("features")  # the head enlarges small maps to 7 x 7
    network = unroll(model, **reading.options(model))
    logits, maps = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3) and maps.shape == (2, 3, 64, 64)
    maps.square().mean().backward()
    assert model.features[0].weight.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "unrolled"},
        {"kind": "unrolled", "strides": (32, 8), "stride_layers": "first", "smooth": True, "readout": "mean"},
        {"kind": "unrolled", "learn_weights": True, "rules": "epsilon_plus"},
        {"kind": "ws_ae", "strides": (16, 1), "features": "constant"},
        {"kind": "unrolled_pixels"},
    ],
)
def test_it_goes_round_with_the_file(tmp_path: Path, options: dict) -> None:
    torch.manual_seed(0)
    made = create_network(config(**options), NAMES)
    made.module.eval()
    save_network(made, tmp_path / "x.safetensors")
    loaded = load_network(tmp_path / "x.safetensors")
    assert loaded.reading == made.reading == find_reading(config(**options))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.module(images)[1], made.module(images)[1])


def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    save_network(create_network(config(), NAMES), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        said = json.loads(file.metadata()["relseg"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for key, value in (("strides", [0]), ("readout", "max"), ("stride_weights", []), ("more", 1)):
        wrong = {**said, "reading": {**said["reading"], key: value}}
        save_file(tensors, tmp_path / "y.safetensors", metadata={"relseg": json.dumps(wrong)})
        with pytest.raises(InputError, match=re.escape("y.safetensors")):
            load_network(tmp_path / "y.safetensors")
