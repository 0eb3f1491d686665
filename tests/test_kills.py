"""Killed at any write and started again, every command ends with what it would have ended with.

A run is recorded once: right before and right after each rename and each removal of a file, the folder of runs is
copied as it lies on the disk, half-written temporaries included: what `kill -9` leaves at that moment. Then the command
is started again from each of these copies.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import make_data

from affinity.cli import app as affinity
from cnnseg.cli import app as cnnseg
from cnnseg.models import Network, create_segmentation, save_network
from cnnseg.segmentation.settings import SegmentationConfig
from vitseg.cli import app as vitseg
from wsss.cli import app as wsss
from wsss.console import run
from wsss.explanation_tests import evaluations
from wsss.store import atomic

PROGRAMS = {"vitseg": vitseg, "cnnseg": cnnseg, "affinity": affinity, "wsss": wsss}
SMALL = "--architecture test_resnet --weights none --steps 3 --batch-size 2 --crop 32 --lr 1e-3 --save-every 1"
EVALUATED = "--evaluate-every 2 --evaluate-images 2"
COMMANDS = {
    "vitseg train-classifier": "--train-split val --val-split val --name vit --architecture test_vit --weights none "
    "--epochs 2 --batch-size 2 --precision float32 --sizes 32",
    "cnnseg train-classifier": f"--train-split val --val-split val --name cnn {SMALL} {EVALUATED}",
    "cnnseg train-unrolled": "--train-split val --val-split val --name unrolled --budget 2 --snapshots a "
    f"{SMALL} {EVALUATED}",
    "vitseg seeds": "--classifier vit --split val --name run --sizes 32 --first-block 1 --method rollout --no-flip",
    "cnnseg seeds": "--network cnn --split val --name other --sizes 32 --no-flip --method cam",
    "affinity combine": "--seeds run other --split val --name joined --workers 1",
    "affinity labels": "--seeds run --split val --workers 1",
    "affinity train": "--seeds run --split val --config TRAIN",
    "affinity refine": "--seeds run --split val --workers 1",
    "cnnseg train-segmentation": "--masks run --split val --val-split val --name net --decoder fpn "
    "--encoder mobilenetv3_small_050 --weights none --steps 2 --batch-size 2 --crop 32 --seed 1 --save-every 1 "
    f"{EVALUATED}",
    "cnnseg pseudo-masks": "--network net --split val --name taught",
    "cnnseg evaluate": "--network net --split val --workers 1",
    "cnnseg segment": "IMAGES --network net --out OUT --workers 1",
    "wsss evaluate": "run --split val --workers 1",
    "vitseg perturbation-test": "--classifier vit --split val --methods rollout",
    "vitseg segmentation-test": "--classifier vit --split val --methods rollout",
    "cnnseg region-test": "--network SEES_CATS --split val --methods input_x_gradient --size 32",
}
NO_DEVICE = ("affinity labels", "affinity combine", "wsss evaluate")
NO_DATA = ("cnnseg segment",)


@dataclass(frozen=True)
class Recorded:
    """A command, the folder of runs after it ran uninterrupted, and copies of it at each moment of a kill."""

    words: list[str]
    whole: Path
    moments: list[Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    make_data(folder / "data")
    (folder / "photographs").mkdir()
    for name, size in (("one", (40, 48, 3)), ("two", (48, 40, 3))):
        pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photographs/{name}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "test_resnet.safetensors")
    save_network(sees_cats(), folder / "sees_cats.safetensors")
    network = {"backbone": "test_resnet", "weights": str(folder / "test_resnet.safetensors")}
    network |= {"levels": [1, 2], "widths": [8, 8], "dim": 16, "groups": 4}
    train = {"network": network, "augment": {"crop": 48}, "epochs": 2, "batch_size": 2}
    (folder / "train.yaml").write_text(json.dumps(train))
    return folder


def sees_cats() -> Network:
    """A network that segments, at random but for a cat in every pixel."""
    config = SegmentationConfig(decoder="fpn", encoder="test_resnet", weights="none")
    network = create_segmentation(config, ("cat", "dog"), "nothing")
    *_, last = (module for module in network.module.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        last.bias[1] = 100
    return network


@pytest.fixture(scope="module")
def recorded(place: Path) -> Iterator[dict[str, Recorded]]:
    """Every command, run once after the other and recorded."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluations, "PART", 2)
        for name, options in COMMANDS.items():
            words = words_of(place, name, options)
            with recording(place / "runs", place / "moments" / name.replace(" ", "_")) as moments:
                assert run(PROGRAMS[name.split()[0]], words) == 0, name
            whole = place / "whole" / name.replace(" ", "_")
            copy(place / "runs", whole)
            found[name] = Recorded(words, whole, moments)
        yield found


def words_of(place: Path, name: str, options: str) -> list[str]:
    known = {"TRAIN": place / "train.yaml", "IMAGES": place / "photographs", "OUT": place / "runs/out"}
    known["SEES_CATS"] = place / "sees_cats.safetensors"
    words = [name.split()[1], *(str(known.get(word, word)) for word in options.split()), "--runs", str(place / "runs")]
    words += [] if name in NO_DEVICE else ["--device", "cpu"]
    return words + ([] if name in NO_DATA else ["--data", str(place / "data/data.yaml")])


def copy(source: Path, target: Path) -> None:
    """Hard links: what is written is never changed in place, but for lock files, which hold nothing."""
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target, copy_function=link)
    else:
        target.mkdir(parents=True)


def link(source: str, target: str) -> None:
    (shutil.copy if source.endswith((".lock", ".partial")) else os.link)(source, target)


@contextmanager
def recording(runs: Path, moments: Path) -> Iterator[list[Path]]:
    """Copies `runs` before and after each rename and each removal of a file in it."""
    taken: list[Path] = []
    numbers = itertools.count()

    def around(original: Callable[..., None], path_of: Callable[..., object]) -> Callable[..., None]:
        def changed(*args: object, **keywords: object) -> None:
            path = Path(str(path_of(*args)))
            counts = path.is_relative_to(runs) and path.suffix != ".partial"
            for before in (True, False):
                if counts:
                    taken.append(moments / f"{next(numbers):03d}_{'before' if before else 'after'}_{path.name}")
                    copy(runs, taken[-1])
                if before:
                    original(*args, **keywords)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", around(os.replace, lambda source, target, **how: target))
        patch.setattr(os, "rename", around(os.rename, lambda source, target, **how: target))
        patch.setattr(Path, "unlink", around(Path.unlink, lambda path, **how: path))
        yield taken


def content(folder: Path) -> dict[str, object]:
    """All files that a command has left; of manifests, what does not tell how long it took and who was there first."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".lock":
            continue
        name = str(path.relative_to(folder))
        if path.name != "manifest.json":
            found[name] = path.read_bytes()
            continue
        manifest = json.loads(path.read_text())
        kept = ("split", "command", "losses", "last", "best_chosen_on_validation", "parameters")
        manifest["history"] = [{key: past.get(key) for key in kept} for past in manifest["history"]]
        found[name] = manifest
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_write_and_started_again(
    name: str, place: Path, recorded: dict[str, Recorded], record_property: Callable[[str, object], None]
) -> None:
    one = recorded[name]
    expected = content(one.whole)
    assert len(one.moments) >= 2 and len({str(m) for m in one.moments}) == len(one.moments)
    for moment in one.moments:
        copy(moment, place / "runs")
        assert run(PROGRAMS[name.split()[0]], one.words) == 0, moment.name
        found = content(place / "runs")
        differ = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        assert not differ, f"killed {moment.name}: {differ}"
    record_property("kill points", len(one.moments))
    print(f"{name}: {len(one.moments)} kill points")


def test_kill_points_in_all(recorded: dict[str, Recorded], capsys: pytest.CaptureFixture[str]) -> None:
    total = sum(len(one.moments) for one in recorded.values())
    with capsys.disabled():
        print(f"\n{total} kill points of {len(recorded)} commands tried and survived")
    assert total > 200


KILLED = """
import os, sys
import wsss.store.atomic
from vitseg.cli import app
from wsss.console import run

replace, left = os.replace, [int(sys.argv[1])]

def killed(source, target, **how):
    left[0] -= "classifier.safetensors" in str(target)
    if left[0] == 0:
        os._exit(9)
    replace(source, target, **how)

os.replace = killed
run(app, sys.argv[2:])
"""


def test_a_copy_is_what_a_kill_leaves(place: Path, recorded: dict[str, Recorded]) -> None:
    """A process that really leaves at the write of the checkpoint: the same files as in the copy of that moment."""
    one = recorded["vitseg train-classifier"]
    shutil.rmtree(place / "runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, "1", *one.words]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 9
    (moment,) = (path for path in one.moments if path.name.endswith("before_classifier.safetensors"))

    def names(folder: Path) -> list[str]:
        paths = (path for path in folder.rglob("*") if path.is_file())
        return sorted(".".join(path.name.split(".")[:3]) if path.suffix == ".partial" else path.name for path in paths)

    assert names(place / "runs") == names(moment)


def test_the_harness_finds_what_is_lost(place: Path) -> None:
    """An unsafe command: two files of which the second is made only if the first is not there."""
    runs = place / "unsafe"

    def unsafe() -> None:
        if not (runs / "first").exists():
            for name in ("first", "second"):
                with atomic(runs / name) as temporary:
                    temporary.write_text(name)

    with recording(runs, place / "moments/unsafe") as moments:
        unsafe()
    assert [path.name.split("_", 1)[1] for path in moments] == [
        "before_first",
        "after_first",
        "before_second",
        "after_second",
    ]
    survived = []
    for moment in moments:
        copy(moment, runs)
        unsafe()
        survived.append((runs / "second").exists())
    assert survived == [True, False, False, True]
    assert np.all([(runs / "first").read_text() == "first"])
