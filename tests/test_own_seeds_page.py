"""docs/own_seeds.md as it stands: maps of pytorch-grad-cam on photographs become masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, as_it_was, run_page, write_photographs

import wsss
from wsss.store import read_json, read_mask, write_mask

SHOWN = {"chelsea": "cat", "coffee": "cup", "rocket": "rocket"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    pytest.importorskip("pytorch_grad_cam")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    write_photographs(tmp_path, SHOWN)
    mask = np.zeros((160, 240), np.uint8)
    mask[20:, 40:200] = 1  # most of the picture is the cat
    write_mask(tmp_path / "my_data/masks", "chelsea", mask)
    with as_it_was(tmp_path, monkeypatch):
        yield tmp_path


def test_from_pytorch_grad_cam_to_masks(place: Path) -> None:
    run_page("own_seeds.md", my_maps=lambda image, classes: np.ones((len(classes), 2, 2)))
    assert len(list((place / "runs/cams/seeds").glob("*.npz"))) == 3
    folder = place / "runs/mine"
    for name in SHOWN:
        seed = wsss.read_seed(folder, name)
        assert seed.scores.shape == (1, 224, 224)
        mask = read_mask(folder / "masks", name)
        assert mask.shape == seed.size
    masks = [entry for entry in read_json(folder / "metrics.json")["entries"] if entry["stage"] == "masks"]
    assert masks[0]["miou"] > 50  # the cat is found: a real model's maps, walked along real affinities
    (entry,) = read_json(folder / "seeds/manifest.json")["history"]
    assert entry["counts"] == {"images": 3}
    assert wsss.read_seed(place / "runs/few", "chelsea").scores.shape == (1, 7, 7)
    assert (place / "report.html").is_file()
