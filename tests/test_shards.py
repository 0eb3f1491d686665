"""Work that is image by image, in shards and in processes that talk: no image twice, none lost, the dead replaced."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import VAL, make_data, make_run
from test_distributed import together

from affinity.checkpoint import save_affinity_network
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from cnnseg.models import create_segmentation, save_network
from cnnseg.segmentation.settings import SegmentationConfig
from vitseg.models import create_classifier, save_classifier
from wsss.console import run
from wsss.errors import InputError
from wsss.explanation_tests import commands, evaluations
from wsss.processes import of_shard, portion, processes, take_shard
from wsss.store import read_json
from wsss.store.work import all_done

COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # command -> module, options, and folders of results
    "seeds": (
        "vitseg.cli",
        "--classifier {place}/vit.safetensors --sizes 32 --precision float64 --name run {data}",
        ("run/seeds",),
    ),
    "labels": ("affinity.cli", "--seeds {place}/given --into run --workers 1 {data}", ("run/affinity_labels",)),
    "combine": ("affinity.cli", "--seeds {place}/given {place}/other --name run --workers 1 {data}", ("run/seeds",)),
    "refine": (
        "affinity.cli",
        "--seeds {place}/given --network {place}/affinity.safetensors --into run --workers 1 {data}",
        ("run/refined", "run/masks"),
    ),
    "pseudo-masks": ("cnnseg.cli", "--network {place}/cnn.safetensors --name run {data}", ("run/refined", "run/masks")),
    "segment": ("cnnseg.cli", "--network {place}/cnn.safetensors --out {runs}/run {files}", ("run/masks",)),
    "perturbation-test": (
        "vitseg.cli",
        "--classifier {place}/vit.safetensors --methods rollout --name run {data}",
        ("run/perturbation/tiny_val",),
    ),
    "segmentation-test": (
        "vitseg.cli",
        "--classifier {place}/vit.safetensors --methods rollout --name run {data}",
        ("run/segmentation/tiny_val",),
    ),
    "region-test": (
        "cnnseg.cli",
        "--network {place}/cnn.safetensors --methods gradcam --least 0.0001 --name run {data}",
        ("run/region/tiny_val",),
    ),
    "explain-segmentation": ("cnnseg.cli", "--network {place}/cnn.safetensors --out {runs}/run {files}", ("run",)),
    "explain": (
        "vitseg.cli",
        "--classifier {place}/vit.safetensors --sizes 32 --precision float64 --out {runs}/run {files}",
        ("run",),
    ),
}


Results = dict[str, tuple[np.ndarray, ...]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, seeds of two runs, and a network of each kind."""
    folder = tmp_path_factory.mktemp("place")
    data = make_data(folder / "data")
    (folder / "photographs").mkdir()
    for image in VAL:
        small = Image.open(folder / f"data/images/{image}.png")
        small.resize((2 * small.width, 2 * small.height)).save(folder / f"photographs/{image}.png")
    for number, name in enumerate(("given", "other")):
        make_run(folder / name, data, seed=number)
    torch.manual_seed(0)
    save_classifier(create_classifier("test_vit", ("cat", "dog"), "none"), folder / "vit.safetensors")
    config = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    save_affinity_network(folder / "affinity.safetensors", AffinityNetwork(config), info={})
    net = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")
    save_network(create_segmentation(net, ("cat", "dog"), "nothing"), folder / "cnn.safetensors")
    return folder


def call(name: str, place: Path, runs: Path, *more: str, beside: str = "") -> int:
    """Run a command in this process. `beside`: one more photograph."""
    evaluations.PART = commands.PAIRS = 1  # an image in each part of a test
    module, options, _ = COMMANDS[name]
    words = {
        "place": place,
        "runs": runs,
        "data": f"--data {place}/data/data.yaml --split val --runs {runs}",
        "files": " ".join([*(f"{place}/photographs/{image}.png" for image in VAL), beside]),
    }
    device = [] if name in ("labels", "combine") else ["--device", "cpu"]
    return run(importlib.import_module(module).app, [name, *more, *options.format(**words).split(), *device])


def results(name: str, runs: Path) -> Results:
    """File -> what it holds, of all results of a command."""
    found: Results = {}
    for folder in COMMANDS[name][2]:
        for path in (runs / folder).glob("[!.]*"):
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    found[f"{folder}/{path.name}"] = tuple(arrays[key] for key in sorted(arrays))
            elif path.suffix == ".png" and path.name not in ("curves.png", "gallery.png"):
                found[f"{folder}/{path.name}"] = (np.asarray(Image.open(path)),)
    return found


def times(name: str, runs: Path) -> dict[str, int]:
    return {file: (runs / file).stat().st_mtime_ns for file in results(name, runs)}


def accounts(name: str, runs: Path) -> list[int]:
    """How many entries the history of each stage has."""
    return [len(read_json(runs / f / "manifest.json")["history"]) for f in COMMANDS[name][2] if "explain" not in name]


def assert_same(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys() and found
    for file, arrays in found.items():
        for mine, theirs in zip(arrays, expected[file], strict=True):
            if mine.dtype.kind == "f":
                np.testing.assert_allclose(mine, theirs, atol=2e-3, err_msg=file)  # float16, other batches
            else:
                assert np.mean(mine != theirs) < 0.01, file


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "PART", evaluations.PART)
    monkeypatch.setattr(commands, "PAIRS", commands.PAIRS)


@pytest.mark.parametrize("name", COMMANDS)
def test_shards_and_processes_make_what_one_call_makes(name: str, place: Path, tmp_path: Path) -> None:
    whole, shards, dead, talking = (tmp_path / folder for folder in ("whole", "shards", "dead", "talking"))
    assert call(name, place, whole) == 0
    expected, account = results(name, whole), accounts(name, whole)

    assert call(name, place, shards, "--shard", "1/2") == 0
    first = times(name, shards)
    assert 0 < len(first) < len(expected)
    assert accounts(name, shards) == [0] * len(account)  # nobody says that it is made
    assert call(name, place, shards, "--shard", "2/2") == 0
    assert times(name, shards).items() >= first.items()  # no image twice
    assert_same(results(name, shards), expected)
    assert accounts(name, shards) == account

    assert call(name, place, dead, "--shard", "2/3") == 0  # the other two have died, one amidst its work
    missing = set(expected) - set(results(name, dead))
    kept = times(name, dead)
    assert call(name, place, dead, "--shard", "1/3") == 0
    lost = sorted(set(results(name, dead)) - set(kept))
    assert lost and set(lost) < missing
    (dead / lost[0]).unlink()
    assert call(name, place, dead) == 0
    assert_same(results(name, dead), expected)
    assert "explain" in name or times(name, dead).items() >= kept.items()
    assert accounts(name, dead) == account

    assert together(3, call, name, place, talking) == [0, 0, 0]
    assert_same(results(name, talking), expected)
    assert accounts(name, talking) == account


def test_the_table_of_shares_has_all_photographs(place: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        assert call("segment", place, tmp_path, "--shard", shard) == 0
    with (tmp_path / "run/shares.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(VAL)


def test_a_photograph_that_one_process_cannot_read_stops_no_other(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert together(2, partial(call, beside=str(tmp_path / "bad.png")), "segment", place, tmp_path) == [2, 2]
    assert {path.stem for path in (tmp_path / "run/masks").glob("[!.]*.png")} == set(VAL)


def missing_of(there: set[int]) -> Callable[[list[int]], list[int]]:
    return lambda items: [item for item in items if item not in there]


def test_shards_are_cut_from_all_items_whatever_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    items, there = list(range(10)), {0, 1, 2}
    with processes():
        take_shard("2/3")
        assert of_shard(items) == [1, 4, 7]
        assert portion(items, missing_of(there)) == [4, 7]
        assert not all_done(items, missing_of(there))
        assert all_done(items, missing_of({0, 2, 3, 5, 6, 8, 9}))  # its own are not looked at again
    assert of_shard(items) == items and all_done(items, missing_of(set()))  # forgotten with the command


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "", "1/2/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"`shard` {text}: expected i/n"):
        take_shard(text)


def refusal(place: Path) -> int:
    return run(importlib.import_module("cnnseg.cli").app, ["list-networks"])


def test_a_command_for_one_process_says_so(place: Path) -> None:
    assert together(2, refusal, place) == [2, 2]
