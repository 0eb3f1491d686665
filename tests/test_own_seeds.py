"""Anybody's maps as the seeds of a run: `wsss.seed_run`, `wsss.write_seeds`, `wsss.read_seed`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import make_networks
from small_run import VAL, make_data, make_run

import wsss
from affinity.cli import app as affinity
from wsss.cli import app as wsss_commands
from wsss.console import run
from wsss.data import load_dataset
from wsss.errors import InputError
from wsss.status import chain_of
from wsss.store import Seed, Stage, read_json, read_mask, write_seed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("networks")
    make_networks(place)
    return place / "affinity.safetensors"


def maps_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 5, 7)) * 3


def write_all(folder: Path, data: Path, **options: Any) -> None:
    with wsss.seed_run(folder, data=data, split="val", **options) as seeds:
        for place, sample in enumerate(seeds.missing()):
            seeds.write(sample.id, maps_of(len(sample.classes), place), sample.classes)


def refine(place: Path, data: Path, name: str, network: Path, *more: str) -> int:
    common = ["--runs", str(place / "runs"), "--data", str(data), "--split", "val", "--workers", "1"]
    return run(affinity, ["refine", "--seeds", name, "--network", str(network), "--device", "cpu", *common, *more])


def test_a_map_is_kept_as_its_share_of_its_maximum(data: Path, tmp_path: Path) -> None:
    maps = maps_of(2)
    wsss.write_seeds(tmp_path / "mine", "c", maps, ["cat", "dog"], (30, 33), data=data, split="val")
    seed = wsss.read_seed(tmp_path / "mine", "c")
    assert np.array_equal(seed.scores, (maps / maps.max((1, 2), keepdims=True)).astype(np.float16))
    assert seed.scores.max((1, 2)).tolist() == [1, 1]
    assert (seed.classes.tolist(), seed.size) == ([1, 2], (30, 33))


def test_classes_in_any_order_by_name_or_index(data: Path, tmp_path: Path) -> None:
    """The maps go with their classes: seeds keep classes ascending."""
    maps = maps_of(2)
    ways: list[Sequence[Any]] = [["cat", "dog"], [1, 2], ("cat", np.int64(2)), torch.tensor([1, 2])]
    for place, classes in enumerate(ways):
        wsss.write_seeds(tmp_path / f"{place}", "c", maps, classes, data=data)
        wsss.write_seeds(tmp_path / f"{place}r", "c", maps[::-1], classes[::-1] if place < 3 else [2, 1], data=data)
    seeds = [wsss.read_seed(folder, "c") for folder in tmp_path.iterdir() if folder != data.parent]
    assert len(seeds) == 2 * len(ways)
    for seed in seeds:
        assert seed.classes.tolist() == [1, 2]
        assert np.array_equal(seed.scores, seeds[0].scores)


def test_arrays_tensors_and_lists_of_maps(data: Path, tmp_path: Path) -> None:
    maps = maps_of(2).round(1)
    tensor = torch.tensor(maps)
    kinds = [
        tensor.clone().requires_grad_() * 1,
        tensor.float().numpy(),
        [maps[0], tensor[1]],
        torch.stack([tensor[0], tensor[1]]).float().transpose(1, 2).contiguous().transpose(1, 2),
    ]
    for place, kind in enumerate([maps, *kinds]):
        wsss.write_seeds(tmp_path / f"{place}", "c", kind, ["cat", "dog"], data=data)
        assert np.array_equal(
            wsss.read_seed(tmp_path / f"{place}", "c").scores, wsss.read_seed(tmp_path / "0", "c").scores
        )
    half = tensor.bfloat16()
    wsss.write_seeds(tmp_path / "half", "c", half, ["cat", "dog"], data=data)
    found = wsss.read_seed(tmp_path / "half", "c").scores
    assert np.abs(found - wsss.read_seed(tmp_path / "0", "c").scores).max() < 0.01
    whole = np.arange(12).reshape(1, 3, 4)
    wsss.write_seeds(tmp_path / "whole", "a", whole, ["cat"], data=data)
    assert np.array_equal(wsss.read_seed(tmp_path / "whole", "a").scores, (whole / 11).astype(np.float16))


def test_an_image_without_a_class_and_a_map_of_zeros(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    rows = (data.parent / "labels.csv").read_text()
    (data.parent / "labels.csv").write_text(
        rows.replace("a.png,cat,", "a.png,background,").replace("a,cat,", "a,background,")
    )
    wsss.write_seeds(tmp_path / "mine", "a", [], [], data=data)
    assert wsss.read_seed(tmp_path / "mine", "a").scores.shape == (0, 1, 1)
    wsss.write_seeds(tmp_path / "mine", "b", np.zeros((1, 2, 2)), ["dog"], data=data)
    assert not wsss.read_seed(tmp_path / "mine", "b").scores.any()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "id": ({"image_id": "a.png"}, r"image 'a.png': not in data set tiny, split all; did you mean 'a'\?"),
    "far id": ({"image_id": "qqqqqq"}, "image 'qqqqqq': not in data set tiny, split all; its images are a, b, c, ..."),
    "class": ({"classes": ["cta"]}, "class 'cta' is not in data set tiny: did you mean 'cat'"),
    "index": ({"classes": [3]}, "image a: classes: expected names, or indices from 1 to 2, got 3"),
    "background": ({"classes": ["background"]}, "image a: classes: 'background' is the background"),
    "zero": ({"classes": [0]}, "image a: classes: 0 is the background"),
    "one name": ({"classes": "cat"}, r"image a: classes: expected a list such as \['cat'\], got 'cat'"),
    "unordered": ({"classes": {"cat"}}, r"image a: classes: expected a list in the order of the maps, got \{'cat'\}"),
    "no classes": ({"classes": None}, "image a: classes: expected a list in the order of the maps, got None"),
    "other label": ({"classes": ["dog"]}, r"image a: expected one map of each of its labels \(cat\), got maps of dog"),
    "none": ({"classes": []}, r"image a: expected one map of each of its labels \(cat\), got maps of none"),
    "twice": ({"classes": ["cat", 1]}, r"of each of its labels \(cat\), got maps of cat, cat"),
    "flat": ({"maps": np.ones((5, 7))}, r"image a: maps: expected shape \(1, h, w\), .* got \(5, 7\); maps\[None\] is"),
    "more": ({"maps": np.ones((2, 5, 7))}, r"expected shape \(1, h, w\), one for each of its classes, got \(2, 5, 7\)"),
    "empty": ({"maps": np.ones((1, 0, 7))}, r"expected shape \(1, h, w\), .* got \(1, 0, 7\)"),
    "batch": ({"maps": np.ones((1, 1, 5, 7))}, r"got \(1, 1, 5, 7\)"),
    "words": ({"maps": "a map"}, "image a: maps: expected numbers .* got a str"),
    "nothing": ({"maps": None}, "image a: maps: expected numbers .* got a NoneType"),
    "complex": ({"maps": np.ones((1, 5, 7), complex)}, "image a: maps: expected numbers"),
    "ragged": ({"maps": [np.ones((5, 7)), np.ones((7, 5))]}, "image a: maps: expected numbers .* got a list"),
    "nan": ({"maps": np.array([[[1, np.nan]]])}, "image a: map of cat: expected finite values, got NaN"),
    "infinite": ({"maps": np.array([[[1, np.inf]]])}, "image a: map of cat: expected finite values"),
    "negative": ({"maps": np.array([[[1, -2.5]]])}, r"map of cat: expected values of at least 0, got -2.5 to 1; keep"),
    "above": ({"maps": np.array([[[0, 1.5]]]), "scale": False}, r"in \[0, 1\] with scale=False, got up to 1.5"),
    "size": ({"size": (24, 36)}, r"size: expected \(height, width\) of the photograph, \(24, 37\), got \(24, 36\)$"),
    "turned": ({"size": (37, 24)}, r"got \(37, 24\); the size of a PIL image is \(width, height\)"),
    "no size": ({"size": 24}, r"image a: size: expected \(height, width\) of the photograph, \(24, 37\), got 24"),
    "no data": ({"data": None}, "data: expected the data set that image a is of"),
    "split": ({"split": "vall"}, "`split` vall: no such split"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_seed_is_one_line(name: str, data: Path, tmp_path: Path) -> None:
    change, line = BAD[name]
    given = {"image_id": "a", "maps": np.ones((1, 5, 7)), "classes": ["cat"], "size": None, "data": data} | change
    with pytest.raises(InputError, match=line) as caught:
        wsss.write_seeds(tmp_path / "mine", **given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("mine/seeds/*.npz"))


def test_a_run_that_is_begun_scales_as_it_said(data: Path, tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=r"scale: expected seed_run\(..., scale=False\)")
    with wsss.seed_run(tmp_path / "mine", data=data) as seeds, refused:
        wsss.write_seeds(seeds, "a", np.full((1, 2, 2), 0.5), ["cat"], scale=False)
    assert not (tmp_path / "mine/seeds/a.npz").exists()


def test_a_photograph_that_is_stored_turned(data: Path, tmp_path: Path) -> None:
    """Maps of the photograph as it is stored, which other tools read, are not of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = data.parent / "images/a.png"
    with Image.open(path) as image:
        stored = (image.height, image.width)
        image.save(path, exif=exif)
    wsss.write_seeds(tmp_path / "mine", "a", maps_of(1), ["cat"], stored[::-1], data=data)
    with pytest.raises(InputError, match="the photograph is stored turned"):
        wsss.write_seeds(tmp_path / "mine", "a", maps_of(1), ["cat"], stored, data=data)


def test_what_was_stopped_goes_on(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt), wsss.seed_run(folder, data=data, split="val") as seeds:
        for sample in seeds.missing()[:3]:
            seeds.write(sample.id, maps_of(len(sample.classes)), sample.classes)
        raise KeyboardInterrupt
    assert read_json(folder / "seeds/manifest.json")["history"] == []
    with wsss.seed_run(folder, data=data, split="val") as seeds:
        assert [sample.id for sample in seeds.missing()] == ["d"]
        seeds.write("d", maps_of(1), ["cat"])
    (entry,) = read_json(folder / "seeds/manifest.json")["history"]
    assert (entry["split"], entry["counts"]) == ("val", {"images": 1})
    Image.fromarray(np.full((27, 35, 3), 99, np.uint8)).save(data.parent / "images/b.png")  # another photograph
    with wsss.seed_run(folder, data=data, split="val") as seeds:
        assert [sample.id for sample in seeds.missing()] == ["b"]
    assert "3 of 4 seeds are up to date, 1 image changed" in capfd.readouterr().out


def test_an_image_that_is_written_again_is_replaced(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for seed in (1, 2):
        wsss.write_seeds(folder, "a", maps_of(1, seed), ["cat"], data=data)
    other = tmp_path / "other"
    wsss.write_seeds(other, "a", maps_of(1, 2), ["cat"], data=data)
    assert np.array_equal(wsss.read_seed(folder, "a").scores, wsss.read_seed(other, "a").scores)
    (entry,) = read_json(folder / "seeds/manifest.json")["history"]  # one script, one entry
    assert entry["counts"] == {"images": 2}


def test_what_made_the_maps_is_part_of_the_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_all(folder, data, settings={"method": "gradcam", "layer": "layer4"})
    manifest = read_json(folder / "seeds/manifest.json")
    assert manifest["config"] == {"method": "gradcam", "layer": "layer4", "made_by": "wsss.write_seeds", "scale": True}
    with (
        pytest.raises(InputError, match=r"made with other settings: config.layer was 'layer4', is 'layer3' now; write"),
        wsss.seed_run(folder, data=data, settings={"method": "gradcam", "layer": "layer3"}),
    ):
        pass
    make_run(tmp_path / "theirs", data)
    with pytest.raises(InputError, match="made with other settings: config"):
        wsss.write_seeds(tmp_path / "theirs", "a", maps_of(1), ["cat"], data=data)


def test_one_writer_at_a_time(data: Path, tmp_path: Path) -> None:
    with (
        wsss.seed_run(tmp_path / "mine", data=data) as seeds,
        pytest.raises(InputError, match="is being written by"),
    ):
        wsss.write_seeds(tmp_path / "mine", "a", maps_of(1), ["cat"], data=data)
    with pytest.raises(InputError, match="the run is begun already"):
        wsss.write_seeds(seeds, "a", maps_of(1), ["cat"], data=data)


def test_the_seeds_of_a_run_written_again_make_the_same_masks(data: Path, tmp_path: Path, network: Path) -> None:
    """The oracle of all of it: maps of the toolkit's own, read and written as those of any other program."""
    make_run(tmp_path / "runs/own", data)
    shutil.rmtree(tmp_path / "runs/own/masks")
    with wsss.seed_run(tmp_path / "runs/mine", data=data, split="val", scale=False) as seeds:
        for sample in seeds.missing():
            own = wsss.read_seed(tmp_path / "runs/own", sample.id)
            wsss.write_seeds(seeds, sample.id, own.scores, own.classes, own.size)
    for name in ("own", "mine"):
        assert refine(tmp_path, data, name, network, "--crf") == 0
    for image_id in VAL:
        own, mine = (wsss.read_seed(tmp_path / "runs" / name, image_id) for name in ("own", "mine"))
        assert np.array_equal(own.scores, mine.scores)
        own, mine = (wsss.read_seed(tmp_path / "runs" / name, image_id, "refined") for name in ("own", "mine"))
        assert np.array_equal(own.scores, mine.scores)
        own, mine = (read_mask(tmp_path / "runs" / name / "masks", image_id) for name in ("own", "mine"))
        assert np.array_equal(own, mine)
        assert len(np.unique(mine)) > 1


def test_every_command_takes_them(data: Path, tmp_path: Path, network: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path / "runs/mine", data)
    make_run(tmp_path / "runs/own", data)
    place = ["--data", str(data), "--runs", str(tmp_path / "runs")]
    split = [*place, "--split", "val", "--workers", "1"]
    assert run(affinity, ["labels", "--seeds", "mine", *split]) == 0
    assert refine(tmp_path, data, "mine", network) == 0
    assert run(affinity, ["labels", "--seeds", "mine", "--from", "refined", "--into", "again", *split]) == 0
    assert run(affinity, ["combine", "--seeds", "mine", "own", *split]) == 0
    assert run(wsss_commands, ["evaluate", "mine", *split]) == 0
    report = tmp_path / "report.html"
    assert run(wsss_commands, ["compare", "mine", "own", *split, "--out", str(report)]) == 0
    assert "mine" in report.read_text()
    assert run(wsss_commands, ["status", "mine", "--check", *place]) == 0
    capfd.readouterr()
    Image.fromarray(np.full((27, 35, 3), 99, np.uint8)).save(data.parent / "images/b.png")
    assert run(wsss_commands, ["status", "mine", "--check", *place]) == 1
    states = {state.name: state.words for state in chain_of(tmp_path / "runs/mine", str(data))}
    assert states["mine/seeds"] == "stale: 1 of 4 images changed (b)"
    assert run(affinity, ["labels", "--seeds", "mine", *split]) == 2
    assert "1 of 4 images of split val has changed" in capfd.readouterr().err


def test_seeds_that_are_missing_are_named(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wsss.write_seeds(tmp_path / "runs/mine", "a", maps_of(1), ["cat"], data=data, split="val")
    split = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--split", "val", "--workers", "1"]
    assert run(affinity, ["labels", "--seeds", "mine", *split]) == 2
    assert re.search("3 of 4 images of split val have no seed .b is the first", capfd.readouterr().err)


def test_a_loaded_data_set_serves_too(data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data, "val")
    wsss.write_seeds(tmp_path / "mine", "a", maps_of(1), ["cat"], data=dataset)
    with wsss.seed_run(tmp_path / "mine", data=data, split="val") as seeds:
        assert [sample.id for sample in seeds.missing()] == ["b", "c", "d"]


def test_a_file_put_there_by_hand_is_a_seed(data: Path, tmp_path: Path) -> None:
    """docs/run_format.md: it need not say what it was made of."""
    write_all(tmp_path / "mine", data)
    stage = Stage.read(tmp_path / "mine/seeds", kind="seeds")
    seed = wsss.read_seed(tmp_path / "mine", "a")
    write_seed(stage.folder, "a", Seed(seed.scores[:, ::-1].copy(), seed.classes, seed.size))
    with wsss.seed_run(tmp_path / "mine", data=data, split="val") as seeds:
        assert seeds.missing() == []


def test_reading_names_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.npz: no such file"):
        wsss.read_seed(tmp_path, "nothing")
