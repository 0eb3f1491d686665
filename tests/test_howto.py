"""The how-to pages of docs/: each is run as it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pages import ROOT, as_it_was, run_page, write_photographs
from PIL import Image
from skimage import data as photographs

import wsss
from wsss.store import read_json, write_mask


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder: the demo, a photograph, and two data sets."""
    torch.manual_seed(0)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    Image.fromarray(photographs.chelsea()).save(tmp_path / "cat.jpg")
    write_photographs(tmp_path, {"chelsea": "cat", "astronaut": "person"})
    for name, height, width in (("chelsea", 160, 240), ("astronaut", 240, 240)):
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[50:100, 50:100] = 1 + (name == "astronaut")
        write_mask(tmp_path / "my_data/masks", name, mask.numpy())
    (tmp_path / "imagenet").mkdir()
    Image.fromarray(photographs.chelsea()).save(tmp_path / "imagenet/n02123045_cat.jpg")
    (tmp_path / "my_imagenet.yaml").write_text("name: mine\nlayout: imagenet\nroot: imagenet\n")
    with as_it_was(tmp_path, monkeypatch):
        yield tmp_path


def test_add_a_method(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytorch_grad_cam")
    run_page("howto_method.md")
    out = capfd.readouterr().out
    assert "gradient_rollout         one map for each class; Gildenblat" in out
    assert "gradcam_plus_plus        takes --layer; Chattopadhay" in out
    manifest = read_json(place / "runs/gradient_rollout_vit/seeds/manifest.json")
    assert manifest["config"]["method"] == "gradient_rollout"
    assert len(manifest["inputs"]["method"]) == 16
    assert list((place / "explanations").glob("cat_*.png"))


def test_add_a_rule(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_page("howto_rule.md")
    out = capfd.readouterr().out
    assert "absolute_flat" in out and "convolution Absolute(" in out
    assert list((place / "explanations").glob("cat_*.png"))


def test_add_a_kind_of_data_set(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With worker processes, to which samples of one's own travel."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    write_pets(place / "pets")
    run_page("howto_data_set.md")
    assert "no problems found" in capfd.readouterr().out
    assert read_json(place / "runs/lrp_vit/metrics.json")["entries"][0]["miou"] > 0


def test_another_backbone(place: Path) -> None:
    with wsss.seed_run("runs/lrp_vit", data="my_data.yaml") as seeds:
        for sample in seeds.missing():
            seeds.write(sample.id, torch.rand(1, 14, 14), sample.classes)
    run_page("howto_backbone.md")
    assert (place / "runs/small/affinity_net/affinity_net.safetensors").is_file()


def write_pets(folder: Path) -> None:
    """Two images in the way of the Oxford-IIIT Pet data set; trimaps: 1 the animal, 2 background, 3 its border."""
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True)
    for name in ("Bengal_1", "beagle_2"):
        Image.fromarray(photographs.chelsea()).save(folder / "images" / f"{name}.jpg")
        trimap = torch.full((300, 451), 2, dtype=torch.uint8)
        trimap[50:250, 100:300], trimap[100:200, 150:250] = 3, 1
        Image.fromarray(trimap.numpy()).save(folder / "annotations/trimaps" / f"{name}.png")
    lines = "# a comment\nBengal_1 6 1 1\nbeagle_2 5 2 2\n"
    for split in ("trainval", "test"):
        (folder / f"annotations/{split}.txt").write_text(lines)
