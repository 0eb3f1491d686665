"""Photographs of odd sizes and names go through every command: a single pixel, lines of pixels, spaces, line breaks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import APPS, make_networks

from cnnseg.cli import app as cnnseg
from wsss.console import run
from wsss.photographs import _claims
from wsss.store import read_mask, read_seed
from wsss.store.atomic import write_bytes

SIZES = {"one pixel": (1, 1), "flat\nline": (1, 700), "übereck": (700, 1), "narrow": (3, 90)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    lines = ["image,classes"]
    for folder in ("images", "masks"):
        (place / "data" / folder).mkdir(parents=True)
    for name, size in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(place / f"data/images/{name}.png")
        Image.fromarray(np.ones(size, np.uint8)).save(place / f"data/masks/{name}.png")
        lines.append(f'"{name}",cat')
    (place / "data/labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (place / "data/data.yaml").write_text("name: odd\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    make_networks(place)
    return place


def call(place: Path, program: str, *words: object) -> None:
    options = [] if words[0] in ("explain", "segment") else ["--data", place / "data/data.yaml", "--split", "all"]
    tokens = [str(word) for word in (*words, *options, "--runs", place / "runs")]
    assert run(APPS[program], tokens) == 0


def test_the_chain(place: Path) -> None:
    workers = ("--workers", 1)
    call(place, "vitseg", "seeds", "--classifier", "vit", "--sizes", 32, "--first-block", 1, "--name", "one")
    call(place, "cnnseg", "seeds", "--network", "cnn", "--sizes", 32, "--name", "two")
    for name, size in SIZES.items():
        assert read_seed(place / "runs/one/seeds", name).size == read_seed(place / "runs/two/seeds", name).size == size
    call(place, "affinity", "labels", "--seeds", "one", *workers)
    call(place, "affinity", "refine", "--seeds", "one", "--network", place / "affinity.safetensors", "--crf", *workers)
    assert {name: read_mask(place / "runs/one/masks", name).shape for name in SIZES} == SIZES
    call(place, "wsss", "evaluate", "one", *workers)
    call(place, "wsss", "compare", "one", "two", "--out", place / "report.html", *workers)
    call(place, "cnnseg", "evaluate", "--network", "seg", "--device", "cpu", *workers)
    for family, by in (("vitseg", ("--classifier", "vit")), ("cnnseg", ("--classifier", "cnn"))):
        call(place, family, "segmentation-test", *by, "--methods", "gradcam", "--device", "cpu")


@pytest.mark.parametrize("program", ["vitseg", "cnnseg"])
def test_explain(place: Path, program: str, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"\xff\xfe.png")  # a name that is no UTF-8
    strange.write_bytes((place / "data/images/narrow.png").read_bytes())
    photographs = [*(place / f"data/images/{name}.png" for name in SIZES), strange]
    size = ("--sizes", 32, "--first-block", 1) if program == "vitseg" else ("--size", 32)
    by = ("--classifier", "vit" if program == "vitseg" else "cnn")
    call(place, program, "explain", *photographs, *by, *size, "--classes", "cat", "--out", tmp_path / "out")
    sizes = []
    for path in sorted((tmp_path / "out").glob("*_cat*.png")):
        with Image.open(path) as image:
            sizes.append(image.size[::-1])
    assert sorted(sizes) == sorted([*SIZES.values(), SIZES["narrow"]])
    assert len(list((tmp_path / "out").glob("*.sheet*.png"))) == len(photographs)


def test_each_class_has_an_overlay_whatever_its_name() -> None:
    names = ("a/b", "a_b", "L" * 300, "dog")
    claims = _claims(torch.zeros(4), range(4), names, "x" * 180, "")
    files = [claim.overlay.removeprefix("x" * 180) for claim in claims]
    assert files == ["_a_b_1.png", "_a_b_2.png", f"_{'L' * 60}.png", "_dog.png"]


def test_a_class_is_named_once(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", place / "data/images/narrow.png", "--classifier", "vit", "--runs", place / "runs"]
    status = run(APPS["vitseg"], [*map(str, words), "--classes", "dog", "dog", "--out", str(tmp_path / "out")])
    assert (status, capsys.readouterr().err) == (2, "error: --classes dog, dog: expected each class once\n")


def test_a_name_as_long_as_they_may_be_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 250 + ".png"), b"1")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"1"]


def test_segment_names_what_is_smaller_than_its_stride(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 1000)).save(tmp_path / "tall.png")
    words = ["segment", place / "data/images", tmp_path / "tall.png", "--network", "seg", "--out", tmp_path / "out"]
    assert run(cnnseg, [str(word) for word in (*words, "--runs", place / "runs")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and "4 of 5 photographs were left out; the first: image " in lines[0]
    assert "less than the network's stride of 32; enlarge the photograph first" in lines[0]
    assert read_mask(tmp_path / "out/masks", "tall").shape == (1000, 40)


@pytest.mark.parametrize("program", ["vitseg", "cnnseg"])
def test_a_large_photograph_is_drawn_at_a_sensible_size(place: Path, program: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "large.jpg"
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (400, 14, 3)).reshape(400, 3584, 3)).save(path, exif=exif)
    by = ("--classifier", "vit", "--sizes", 32) if program == "vitseg" else ("--classifier", "cnn", "--size", 32)
    for more, due in (((), (179, 1600)), (("--full-size",), (400, 3584))):
        out = tmp_path / f"out{len(more)}"
        call(place, program, "explain", path, *by, "--top", 1, "--out", out, *more)
        (written,) = out.glob("large_*.png")
        with Image.open(written) as overlay:
            assert overlay.size == due
