"""The how-to pages of docs/: each is run as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pages import ROOT, as_it_was, run_page, write_photographs
from PIL import Image
from skimage import data as photographs

from wsss.store import read_json, write_mask


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder: the demo, a photograph, and two data sets."""
    torch.manual_seed(0)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    Image.fromarray(photographs.chelsea()).save(tmp_path / "cat.jpg")
    write_photographs(tmp_path, {"chelsea": "cat", "astronaut": "person"})
    for name, height, width in (("chelsea", 300, 451), ("astronaut", 512, 512)):
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[100:200, 100:200] = 1 + (name == "astronaut")
        write_mask(tmp_path / "my_data/masks", name, mask.numpy())
    (tmp_path / "imagenet").mkdir()
    for name in ("n02123045", "n02124075"):
        Image.fromarray(photographs.chelsea()).save(tmp_path / "imagenet" / f"{name}_cat.jpg")
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
