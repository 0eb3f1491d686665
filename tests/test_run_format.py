"""docs/run_format.md against runs that the commands make: every file and key is in it, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from small_networks import APPS, make_networks
from small_run import make_data

import wsss
from affinity.settings import STATE
from wsss.console import run
from wsss.store import locks, voc_palette, work
from wsss.store.atomic import TEMPORARY_SUFFIX
from wsss.store.records import inspect

PAGE = (Path(__file__).resolve().parents[1] / "docs/run_format.md").read_text()

TRAIN = "--weights none --batch-size 2 --crop 32 --steps 1 --evaluate-every 1 --evaluate-size 32 --encoder test_resnet"
AFFINITY = (
    "--network.backbone test_resnet --network.weights none --network.levels 1 2 --network.widths 8 8 "
    "--network.groups 4 --network.dim 16 --augment.crop 32 --batch-size 2 --epochs 1"
)
COMMANDS = f"""
vitseg train-classifier --architecture test_vit --weights none --epochs 1 --sizes 32 --train-split val --val-split val
vitseg seeds --classifier mine --split val --sizes 32 --no-flip
affinity labels --seeds mine --split val --workers 1
affinity train --seeds mine --split val {AFFINITY}
affinity refine --seeds mine --split val --workers 1
wsss evaluate mine --split val --workers 1
vitseg segmentation-test --classifier mine --methods rollout --split val
vitseg perturbation-test --classifier mine --methods rollout --split val --limit 1
cnnseg train-segmentation --masks mine --split val --val-split val --name net --decoder fpn --snapshots a {TRAIN}
cnnseg region-test --network net --split val --limit 1 --least 0.0001 --size 32 --methods gradcam
cnnseg evaluate --network net --split val --size 32 --workers 1
cnnseg pseudo-masks --network net --split val --name round2
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a stage of every kind."""
    place = tmp_path_factory.mktemp("made")
    make_data(place / "data")
    make_networks(place)
    common = ["--data", str(place / "data/data.yaml")]
    for line in filter(None, COMMANDS.splitlines()):
        program, *words = line.split()
        own = [] if "--name" in words or words[0] in ("labels", "train", "refine", "evaluate") else ["--name", "mine"]
        device = [] if "--workers" in words and words[0] != "refine" and program != "cnnseg" else ["--device", "cpu"]
        assert run(APPS[program], [*words, *common, *own, *device, "--runs", str(place / "runs")]) == 0, line
    wsss.write_seeds(place / "runs/own", "a", np.ones((1, 2, 2)), ["cat"], data=place / "data/data.yaml")
    return place / "runs"


def rows(heading: str) -> list[list[str]]:
    """Cells of the tables below a heading, without their heads."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def code(cell: str) -> str:
    found = re.match("`([^`]+)`", cell)
    assert found, cell
    return found[1]


def pattern(file: str) -> re.Pattern[str]:
    """What a name of the page stands for."""
    stage = "(?:[a-z_]+|(?:perturbation|segmentation|region)/tiny_val)"
    words = {"TEST": "(?:perturbation|segmentation|region)", "STAGE": stage, "DATA_SPLIT": "tiny_val"}
    words |= {"IMAGE": "[a-d]", "NUMBER": "[0-9]{5}", "STEP": "[0-9]+", "NAME": ".+"}
    known = "|".join(words)
    parts = re.split(f"(?<![A-Za-z])({known})(?![A-Za-z])", file)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "$")


def made(runs: Path) -> list[tuple[str, Path]]:
    """Files, by their place in their run; the networks that the test begins with are not made by commands."""
    found = [(file.relative_to(runs).parts, file) for file in sorted(runs.rglob("*")) if file.is_file()]
    of_runs = [(parts, file) for parts, file in found if parts[0] not in ("vit", "cnn", "seg")]
    pictures = [parts[0] for parts, _ in of_runs if len(parts) == 1]
    assert all(re.fullmatch(r"\w+\.(perturbation|segmentation|region)\.tiny_val\.png", name) for name in pictures)
    return [("/".join(parts[1:]), file) for parts, file in of_runs if len(parts) > 1]


def check(documented: Iterable[str], there: Iterable[str], what: str) -> None:
    documented, there = set(documented), set(there)
    assert there - documented == set(), f"{what}: not documented"
    assert documented - there == set(), f"{what}: documented, and not there"


def test_every_file_is_documented(runs: Path) -> None:
    table = rows("Files")
    lasting, passing = ([code(row[0]) for row in table if len(row) == width] for width in (3, 2))
    files = [file for file, _ in made(runs)]
    for file in files:
        assert any(
            pattern(one).match(file.rpartition("/")[2] if one == ".NAME.lock" else file) for one in (*lasting, *passing)
        ), file
    for one in lasting:
        assert any(pattern(one).match(file) for file in files), one
    names = [f"STAGE/{STATE}", f"STAGE/{work._TAKEN_OVER}", f"STAGE/.NAME{TEMPORARY_SUFFIX}", "STAGE.old"]
    assert passing == [*names, locks.lock_path(Path("NAME")).name]


def test_every_key_of_a_manifest_is_documented(runs: Path) -> None:
    keys, entries, stages = set(), [], {}
    for file, path in made(runs):
        if file.endswith("manifest.json"):
            stages[path] = json.loads(path.read_text())
            keys |= set(stages[path])
            entries += stages[path]["history"]
    table = [code(row[0]) for row in rows("manifest.json")]
    of_manifest, of_entry = table[: table.index("history") + 1], table[table.index("history") + 1 :]
    check(of_manifest, keys, "manifest")
    for path, manifest in stages.items():
        assert keys - set(manifest) <= {"content"}, path
        assert ("content" in manifest) == (manifest["suffix"] == ".safetensors")
    check(of_entry, set.intersection(*map(set, entries)), "history")
    kinds = re.findall("`([a-z_]+)`", next(row[1] for row in rows("manifest.json") if row[0] == "`kind`"))
    check(set(kinds) - {"refined"}, {manifest["kind"] for manifest in stages.values()}, "kinds")


def test_every_array_is_documented(runs: Path) -> None:
    """By name, type and number of dimensions."""
    table: dict[str, dict[str, str]] = {}
    for file, name, kind, _ in rows("Arrays"):
        table.setdefault(code(file), {})[code(name)] = kind
    for file, path in made(runs):
        if not file.endswith(".npz"):
            continue
        (of_file,) = (arrays for one, arrays in table.items() if pattern(one).match(file))
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
        if file.endswith(".inputs.npz"):
            assert {values.dtype.name for name, values in found.items() if name != "ids"} == {"uint64"}
            found = {"ids": found["ids"]}
        check(of_file, found, file)
        for name, values in found.items():
            kind, dimensions = re.match(r"(\w+) \((.*)\)", of_file[name]).groups()
            assert values.dtype.name.startswith(kind), (file, name)
            assert values.ndim == len(list(filter(None, dimensions.split(",")))), (file, name)
    unused = [one for one in table if not any(pattern(one).match(file) for file, _ in made(runs))]
    assert unused == []


def test_pngs_checkpoints_and_records(runs: Path) -> None:
    for file, path in made(runs):
        if file.startswith(("masks/", "affinity_labels/")) and file.endswith(".png"):
            with Image.open(path) as image:
                assert image.mode == "P"
                assert np.array_equal(np.array(image.getpalette()).reshape(-1, 3), voc_palette())
            assert "image" in inspect(path)[1]
        if re.match("(seeds|refined)/", file) and path.suffix == ".npz":
            record = inspect(path)[1]
            assert all(re.fullmatch("[0-9a-f]{16}", value) for value in record.values())
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as weights:
                assert "class_names" in json.loads(weights.metadata()["relseg"]) or "affinity" in file


def test_metrics(runs: Path) -> None:
    keys: dict[str, set[str]] = {}
    for file, path in made(runs):
        if file == "metrics.json":
            for kind, entries in json.loads(path.read_text()).items():
                keys.setdefault(kind, set()).update(*entries)
    table = [code(row[0]) for row in rows("metrics.json")]
    start = table.index("test")
    check(table[:start], keys.pop("entries"), "entries")
    check(table[start:], keys.pop("tests"), "tests")
    assert keys == {}


def test_masks_of_another_tool(runs: Path, tmp_path: Path) -> None:
    """The manifest of the page, and PNGs: evaluated like any other."""
    manifest: dict[str, Any] = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    (tmp_path / "runs/theirs/masks").mkdir(parents=True)
    (tmp_path / "runs/theirs/masks/manifest.json").write_text(json.dumps(manifest))
    for path in (runs.parent / "data/masks").glob("*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 255, 0, mask)).save(tmp_path / "runs/theirs/masks" / path.name)
    place = ["--data", str(runs.parent / "data/data.yaml"), "--split", "val", "--runs", str(tmp_path / "runs")]
    assert run(APPS["wsss"], ["evaluate", "theirs", "--workers", "1", *place]) == 0
    (entry,) = json.loads((tmp_path / "runs/theirs/metrics.json").read_text())["entries"]
    assert entry["miou"] == 100
    out = str(tmp_path / "report.html")
    assert run(APPS["wsss"], ["compare", "theirs", "--workers", "1", "--out", out, *place]) == 0
    assert run(APPS["wsss"], ["status", "theirs", *place[:2], *place[4:]]) == 0
    more = ["--masks", "theirs", "--name", "net", "--decoder", "fpn", "--device", "cpu", *TRAIN.split()]
    assert run(APPS["cnnseg"], ["train-segmentation", *more, *place]) == 0
