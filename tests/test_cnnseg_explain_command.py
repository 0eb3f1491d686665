"""``cnnseg explain``: overlays of photographs, and the lists of methods and rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cnnseg
from cnnseg.cli import app
from cnnseg.methods import METHODS
from cnnseg.rules import COMPOSITES
from cnnseg.tested import find_model
from wsss.console import run
from wsss.explanation_tests.tested import stack
from wsss.maps import input_size
from wsss.overlay import colour_limits, overlay


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, size in (("a", (70, 50)), ("b", (40, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t").state_dict(), folder / "weights.safetensors")
    return folder


def command(place: Path, *words: object) -> list[str]:
    photographs = [place / "a.png", place / "b.png"]
    model = ["--architecture", "resnet10t", "--weights", place / "weights.safetensors", "--size", 64]
    return [str(word) for word in ("explain", *photographs, *model, *words)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method(place: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / method
    assert run(app, command(place, "--method", method, "--classes", "281", "282", "--out", out)) == 0
    due = {f"{image}_{c}.{method}.png" for image in "ab" for c in (281, 282)}
    assert {path.name for path in out.iterdir()} == due | {
        f"{image}.sheet.{method}.{end}" for image in "ab" for end in ("png", "json")
    }
    lines = capsys.readouterr().out.splitlines()
    assert sum("281 (tabby" in line and ", logit " in line and ", probability " in line for line in lines) == 2
    with Image.open(out / f"a_281.{method}.png") as picture:
        assert picture.size == (50, 70)
    said = json.loads((out / f"a.sheet.{method}.json").read_text())
    assert [(one["name"], one["overlay"]) for one in said["classes"]] == [
        (str(c), f"a_{c}.{method}.png") for c in (281, 282)
    ]


def test_the_picture_is_that_of_the_python_calls(place: Path) -> None:
    out = place / "same"
    assert run(app, command(place, "--rules", "epsilon_plus_flat", "--classes", "7", "--out", out)) == 0
    model = timm.create_model("resnet10t").eval()
    model.load_state_dict(load_file(place / "weights.safetensors"))
    with Image.open(place / "b.png") as opened:
        image = opened.convert("RGB")
    height, width = input_size(image, 64, (32, 32))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    settings = model.pretrained_cfg
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    inputs = ((torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255 - mean) / std)[None]
    found = cnnseg.explain(model, inputs, 7, rules="epsilon_plus_flat").maps[0]
    with Image.open(out / "b_7.lrp.epsilon_plus_flat.png") as picture:
        difference = np.asarray(picture, int) - np.asarray(overlay(image, found), int)
    assert np.abs(difference).max() <= 2


def test_classes_of_a_photograph_share_one_scale(place: Path) -> None:
    out = place / "scale"
    assert run(app, command(place, "--rules", "epsilon", "--classes", "281", "7", "--out", out)) == 0
    low, high = json.loads((out / "a.sheet.lrp.epsilon.json").read_text())["limits"]
    assert low == -high
    model = timm.create_model("resnet10t").eval()
    model.load_state_dict(load_file(place / "weights.safetensors"))
    with Image.open(place / "a.png") as opened:
        image = opened.convert("RGB")
    tested = find_model(None, "resnet10t", str(place / "weights.safetensors"), place, 64)
    height, width = input_size(image, 64, (32, 32))
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    found = cnnseg.explain(model, tested.inputs(stack([resized])), [[281, 7]], rules="epsilon")
    assert high == pytest.approx(max(colour_limits(one, True)[1] for one in found.maps[0]), rel=1e-3)
    for c, heat in zip((281, 7), found.maps[0], strict=True):
        with Image.open(out / f"a_{c}.lrp.epsilon.png") as picture:
            drawn = overlay(image, heat, limits=(low, high), signed=True)
            assert np.abs(np.asarray(picture, int) - np.asarray(drawn, int)).max() <= 2


def test_mistakes_take_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: object) -> str:
        assert run(app, command(place, *words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    assert refused("--method", "gradcan").startswith("method 'gradcan' is unknown: did you mean 'gradcam'?")
    assert refused("--rules", "epsilon_pluss").startswith("rules 'epsilon_pluss' are unknown: did you mean")
    assert refused("--method", "cam", "--rules", "zero") == "rules: method cam has none; lrp has"
    assert refused("--method", "gradcam", "--layer", "layer5").startswith("layer 'layer5' is unknown to the model: did")
    assert refused("--classes", "1000").startswith("class '1000' is none of ImageNet's 1,000")


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["list-methods"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == list(METHODS)
    assert run(app, ["list-rules"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMPOSITES) and "ZPlus" in printed
