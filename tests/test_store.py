"""Run folders: whole files or none, whoever writes and however it ends; manifests that know what a folder holds."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.errors import InputError
from wsss.store import (
    Seed,
    Stage,
    atomic,
    read_json,
    read_mask,
    read_seed,
    resolve_run,
    voc_palette,
    write_json,
    write_mask,
    write_seed,
)

CLASSES = ("cat", "dog")


def seed(k: int = 2, h: int = 3, w: int = 4, size: tuple[int, int] = (30, 41), number: int = 0) -> Seed:
    scores = np.random.default_rng(number).random((k, h, w)).astype(np.float16)
    return Seed(scores, np.arange(1, k + 1, dtype=np.uint8), size)


def opened(folder: Path, **changes: object) -> Stage:
    config = {"method": "rollout", "scales": (1.0, 1.5), "crf": {"alpha": 4}}
    given = {"kind": "seeds", "config": config, "class_names": CLASSES, "suffix": ".npz", "inputs": {"model": "ab12"}}
    return Stage.open(folder, **{**given, **changes})


# --- atomic ---------------------------------------------------------------------------------------------------------


def test_atomic_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic(path) as temporary:
        temporary.write_text("old")
        assert not path.exists() and temporary.parent == path.parent
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


def test_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic(tmp_path / "x.npz") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "x.npz")
    assert os.listdir(tmp_path) == []


def test_write_that_really_stops_midway(tmp_path: Path) -> None:
    """The system refuses the rest of a file after 1 KiB have been written."""
    big = seed(k=20, h=40, w=40)
    write_seed(tmp_path, "x", seed())
    before = (tmp_path / "x.npz").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        with pytest.raises(OSError) as caught:
            write_seed(tmp_path, "x", big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(tmp_path / "x.npz")
    assert os.listdir(tmp_path) == ["x.npz"] and (tmp_path / "x.npz").read_bytes() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from wsss.store import atomic
with atomic(Path(sys.argv[1]) / "x.npz") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    opened(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".x.npz.*"))) == 1 and not (tmp_path / "x.npz").exists()
    with atomic(tmp_path / "y.npz") as living:
        living.write_bytes(b"y")
        stage = opened(tmp_path)
        assert list(tmp_path.glob(".x.npz.*")) == [] and living.exists()
    assert (tmp_path / "y.npz").read_bytes() == b"y"
    assert stage.pending(["x"]) == ["x"]


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, 2.5], "path": tmp_path})
    assert read_json(tmp_path / "a.json") == {"é": [1, 2.5], "path": str(tmp_path)}
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


# --- seeds ----------------------------------------------------------------------------------------------------------


def bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation from its definition, pixel by pixel, in float64: sample centres at half integers."""
    h, w = grid.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            b, a = v - top, u - left
            upper = (1 - a) * grid[top, left] + a * grid[top, right]
            lower = (1 - a) * grid[bottom, left] + a * grid[bottom, right]
            out[y, x] = (1 - b) * upper + b * lower
    return out


@pytest.mark.parametrize(
    ("k", "h", "w", "size"),
    [
        (0, 3, 4, (9, 9)),
        (1, 14, 14, (47, 50)),
        (7, 3, 5, (20, 17)),
        (2, 1, 1, (4, 3)),
        (2, 6, 5, (6, 5)),
        (1, 8, 9, (5, 4)),
    ],
)
def test_upsample_is_the_definition(k: int, h: int, w: int, size: tuple[int, int]) -> None:
    item = seed(k, h, w, size)
    found = item.upsample()
    assert found.shape == (k, *size) and found.dtype == np.float32
    for grid, plane in zip(item.scores.astype(np.float64), found, strict=True):
        np.testing.assert_allclose(plane, bilinear(grid, *size), atol=1e-6, rtol=0)
    assert item.upsample((12, 13)).shape == (k, 12, 13)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_seed_round_trip(tmp_path: Path, k: int) -> None:
    written = seed(k)
    write_seed(tmp_path, "2007_000032.v2", written)
    found = read_seed(tmp_path, "2007_000032.v2")
    assert np.array_equal(found.scores, written.scores) and found.scores.dtype == np.float16
    assert np.array_equal(found.classes, written.classes) and found.classes.dtype == np.uint8
    assert found.size == written.size
    assert os.listdir(tmp_path) == ["2007_000032.v2.npz"]


def broken(**changes: object) -> Seed:
    good = seed()
    return Seed(**{"scores": good.scores, "classes": good.classes, "size": good.size, **changes})


def with_value(value: float) -> np.ndarray:
    scores = seed().scores.copy()
    scores[1, 2, 3] = value
    return scores


FAULTS = [
    ({"scores": with_value(np.nan)}, "NaN or infinite values in the map of class index 2"),
    ({"scores": with_value(np.inf)}, "NaN or infinite"),
    ({"scores": with_value(1.5)}, r"values outside \[0, 1\] in the map of class index 2"),
    ({"scores": with_value(-0.1)}, r"values outside \[0, 1\]"),
    ({"scores": seed().scores.astype(np.float32)}, "float32"),
    ({"scores": seed().scores[0]}, r"scores \(K, h, w\)"),
    ({"scores": seed(3).scores}, r"scores \(K, h, w\) and classes \(K,\)"),
    ({"scores": np.zeros((2, 0, 4), np.float16)}, "at least one pixel"),
    ({"classes": np.array([2, 1], np.uint8)}, "ascending"),
    ({"classes": np.array([1, 1], np.uint8)}, "ascending"),
    ({"classes": np.array([0, 1], np.uint8)}, r"1\.\.254"),
    ({"classes": np.array([1, 2])}, "int64"),
    ({"size": (0, 5)}, "at least one pixel"),
]


@pytest.mark.parametrize(("changes", "told"), FAULTS)
def test_bad_seed_is_neither_written_nor_read(tmp_path: Path, changes: dict, told: str) -> None:
    bad = broken(**changes)
    with pytest.raises(InputError, match=f"^seed of image x: .*{told}"):
        write_seed(tmp_path, "x", bad)
    assert os.listdir(tmp_path) == []
    np.savez_compressed(tmp_path / "x.npz", scores=bad.scores, classes=bad.classes, size=np.asarray(bad.size))
    with pytest.raises(InputError, match=f"x\\.npz: .*{told}.*; delete it and run"):
        read_seed(tmp_path, "x")


def test_half_written_or_foreign_seed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match=r"x\.npz: no such file"):
        read_seed(tmp_path, "x")
    write_seed(tmp_path, "x", seed())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 255
    plain = tmp_path / "plain.npy"
    np.save(plain, np.zeros(3))
    other = tmp_path / "other.npz"
    np.savez(other, maps=np.zeros(3))
    cases = [b"", b"text", whole[:40], whole[:-1], bytes(flipped), plain.read_bytes(), other.read_bytes()]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: .*; delete it and run the command") as caught:
            read_seed(tmp_path, "x")
        assert "\n" not in str(caught.value)


# --- masks ----------------------------------------------------------------------------------------------------------


def test_palette_is_that_of_voc(shared: Path) -> None:
    folder = shared / "data" / "voc12-animals" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    with Image.open(sorted(folder.iterdir())[0]) as image:
        theirs = np.array(image.getpalette()).reshape(-1, 3)
    assert np.array_equal(voc_palette()[: len(theirs)], theirs)


def test_mask_round_trip(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path, "a.b", mask[:, ::-1])
    assert np.array_equal(read_mask(tmp_path, "a.b"), mask[:, ::-1])
    with Image.open(tmp_path / "a.b.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image.convert("RGB")), voc_palette()[mask[:, ::-1]])
    assert voc_palette()[[0, 1, 15, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    for bad in (mask.astype(np.int64), mask[0], mask[:0]):
        with pytest.raises(InputError, match="mask of image b"):
            write_mask(tmp_path, "b", bad)
    (tmp_path / "a.b.png").write_bytes((tmp_path / "a.b.png").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"a\.b\.png: cannot be read.*delete it"):
        read_mask(tmp_path, "a.b")


# --- stages ---------------------------------------------------------------------------------------------------------


def test_stage_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"i{number}.v2" for number in range(6)]
    stage = opened(tmp_path)
    assert stage.pending(ids) == ids
    for image_id in ids[:5]:
        write_seed(tmp_path, image_id, seed())
    whole = (tmp_path / "i0.v2.npz").read_bytes()
    assert opened(tmp_path).pending(reversed(ids)) == ["i5.v2"]
    (tmp_path / "i1.v2.npz").write_bytes(b"")
    (tmp_path / "i2.v2.npz").write_bytes(whole[:-5])
    (tmp_path / "i3.v2.npz").write_bytes(whole[:50] + whole[60:])
    (tmp_path / "i4.v2.npz").write_bytes(b"x" + whole[1:])
    assert capsys.readouterr().err == ""
    assert stage.pending(ids) == ids[1:]
    assert "i1.v2.npz and 3 more: half-written" in capsys.readouterr().err


def test_pending_masks(tmp_path: Path) -> None:
    stage = opened(tmp_path, kind="masks", suffix=".png")
    for image_id in "abcd":
        write_mask(tmp_path, image_id, np.ones((5, 5), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:-4])
    (tmp_path / "c.png").write_bytes(b"")
    assert stage.pending("abcde") == ["b", "c", "e"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "masks"}, "kind was 'seeds', is 'masks' now"),
        (
            {"config": {"method": "rollout", "scales": (1.0, 2.0), "crf": {"alpha": 4}}},
            r"config.scales was \[1.0, 1.5\], is",
        ),
        (
            {"config": {"method": "rollout", "scales": (1.0, 1.5), "crf": {"alpha": 8}}},
            "config.crf.alpha was 4, is 8 now",
        ),
        ({"config": {"method": "rollout", "scales": (1.0, 1.5)}}, "config.crf was .*, is None now"),
        ({"class_names": ("dog", "cat")}, "class_names was"),
        ({"inputs": {"model": "cd34"}}, "inputs.model was 'ab12', is 'cd34' now"),
    ],
)
def test_stage_made_otherwise_is_refused(tmp_path: Path, changes: dict, told: str) -> None:
    first = opened(tmp_path / "seeds")
    (tmp_path / "seeds" / "a.npz").write_bytes(b"a result")
    before = (tmp_path / "seeds" / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=f"{told}.*; write into another run or delete the folder"):
        opened(tmp_path / "seeds", **changes)
    assert (tmp_path / "seeds" / "manifest.json").read_bytes() == before
    assert opened(tmp_path / "seeds").fingerprint == first.fingerprint
    assert opened(tmp_path / "other", **changes).fingerprint != first.fingerprint


def test_folder_that_is_no_stage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.npz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds files but no manifest\.json"):
        opened(tmp_path)
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest of this toolkit \(kind, "):
        opened(tmp_path)


def test_stage_without_image_files(tmp_path: Path) -> None:
    assert opened(tmp_path / "net", kind="affinity_net", suffix="").manifest["suffix"] == ""


def test_manifest_and_history(tmp_path: Path) -> None:
    stage = opened(tmp_path)
    fingerprint = stage.fingerprint
    stage.done(command="vitseg seeds", split="train", counts={"made": 3}, seconds=1.23456, device="cpu")
    opened(tmp_path).done(command="vitseg seeds", split="val", counts={"made": 1}, seconds=2, root=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {"kind", "config", "class_names", "inputs", "versions", "commit", "history"} <= set(manifest)
    assert [entry["split"] for entry in manifest["history"]] == ["train", "val"]
    assert manifest["history"][0]["seconds"] == 1.235 and manifest["history"][0]["device"] == "cpu"
    found = Stage.read(tmp_path, kind="seeds", class_names=CLASSES)
    assert found.manifest == manifest and found.fingerprint == fingerprint and found.class_names == CLASSES


def test_histories_of_many_writers_all_arrive(tmp_path: Path) -> None:
    stages = [opened(tmp_path) for _ in range(8)]

    def finish(number: int) -> None:
        stages[number % 8].done(command="c", split=str(number), counts={}, seconds=0)

    with ThreadPoolExecutor(8) as pool:  # flock holds between file handles, so threads stand for processes
        list(pool.map(finish, range(40)))
    entries = read_json(tmp_path / "manifest.json")["history"]
    assert sorted(int(entry["split"]) for entry in entries) == list(range(40))


def test_reading_a_stage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no seeds there \(no manifest.json\)$"):
        Stage.read(tmp_path, kind="seeds")
    with pytest.raises(InputError, match=r"no seeds there .*; `any seeds` makes it$"):
        Stage.read(tmp_path, kind="seeds", maker="any seeds")
    opened(tmp_path)
    with pytest.raises(InputError, match="expected masks, got seeds"):
        Stage.read(tmp_path, kind="masks")
    with pytest.raises(InputError, match="seeds made for other classes: cat, dog; this data set has: dog, cat"):
        Stage.read(tmp_path, kind="seeds", class_names=("dog", "cat"))


def test_resolve_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="there are none yet"):
        resolve_run("lrp_vit", runs)
    for name in ("lrp_vit", "rollout_vit"):
        opened(runs / name / "seeds")
    assert resolve_run("lrp_vit", runs) == runs / "lrp_vit"
    monkeypatch.chdir(tmp_path)
    assert resolve_run("runs/lrp_vit", Path("elsewhere")) == Path("runs/lrp_vit")
    assert resolve_run(runs / "lrp_vit" / "seeds", runs) == runs / "lrp_vit"
    with pytest.raises(InputError, match=r"did you mean 'lrp_vit'.*known: lrp_vit, rollout_vit"):
        resolve_run("lrp_vti", runs)
    opened(runs / "lrp_vit" / "masks", kind="masks", suffix=".png")
    with pytest.raises(InputError, match="is one stage of a run; give the run's folder"):
        resolve_run(runs / "lrp_vit" / "masks", runs)


def test_a_start_that_failed_before_its_first_result_binds_nobody(tmp_path: Path) -> None:
    opened(tmp_path / "seeds")
    again = opened(tmp_path / "seeds", config={"method": "gradcam"})
    on_disk = read_json(tmp_path / "seeds" / "manifest.json")
    assert again.manifest["config"] == on_disk["config"] == {"method": "gradcam"}
