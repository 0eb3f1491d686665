"""Runs and figures that were written before settings had the names of today."""

from __future__ import annotations

import doctest
import hashlib
import json
from pathlib import Path

import pytest
from small_run import make_data

from cnnseg import runs as stages
from cnnseg.cli import app
from cnnseg.scores import read_scores
from wsss import settings
from wsss.console import run
from wsss.errors import InputError
from wsss.store import Stage, read_json, spelling, write_json

OLD = {"network": "unet", "architecture": "resnet18", "precision": "fp32", "augment": {"precision": "bf16"}}
NEW = {"kind": "unet", "architecture": "resnet18", "precision": "float32", "augment": {"precision": "bfloat16"}}


def opened(folder: Path, config: dict, formerly: dict[str, str] | None = None) -> Stage:
    named = {"kind": "network", "class_names": ("cat", "dog"), "suffix": ".safetensors"}
    return Stage.open(folder, config=config, formerly=formerly, **named)


def test_examples_of_the_docstrings() -> None:
    for module in (spelling, settings):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


def test_settings_are_read_as_today() -> None:
    assert spelling.respelt(OLD, {"kind": "network"}) == NEW
    assert spelling.respelt(NEW, {"kind": "network"}) == NEW
    both = {"kind": "masks", "network": "unet resnet18"}
    assert spelling.respelt(both, {"kind": "network"}) == both  # the one name is taken: the other is another setting
    assert spelling.respelt({"precision": None, "sizes": [1]}) == {"precision": None, "sizes": [1]}
    assert spelling.respelt([{"precision": "fp32"}]) == [{"precision": "fp32"}] and spelling.respelt(None) is None


def test_an_old_stage_is_the_same_stage(tmp_path: Path) -> None:
    old = opened(tmp_path, OLD)
    old.done(command="cnnseg train-unrolled", split="train", counts={}, seconds=1)
    written = (tmp_path / "manifest.json").read_bytes()
    identity = {"kind": "network", "config": OLD, "class_names": ["cat", "dog"], "inputs": {}}
    by_hand = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    today = opened(tmp_path, NEW, {"kind": "network"})
    assert today.fingerprint == old.fingerprint == by_hand  # what others have made of it still is made of it
    assert (tmp_path / "manifest.json").read_bytes() == written
    with pytest.raises(InputError, match=r"config\.precision was 'float32', is 'bfloat16' now"):
        opened(tmp_path, NEW | {"precision": "bfloat16"}, {"kind": "network"})
    with pytest.raises(InputError, match=r"config\.kind was 'unet', is 'fcn' now"):
        opened(tmp_path, NEW | {"kind": "fcn"}, {"kind": "network"})


def test_a_training_of_an_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training is known as finished, its masks are gone on with, and its figures are replaced, not doubled."""
    data, runs = make_data(tmp_path / "data"), tmp_path / "runs"
    common = ["--data", str(data), "--runs", str(runs), "--device", "cpu"]
    training = ["train-unrolled", "--kind", "unet", "--architecture", "resnet18", "--weights", "none"]
    training += ["--steps", "1", "--batch-size", "2", "--crop", "32", "--train-split", "val", "--name", "one", *common]
    evaluation = ["evaluate", "--network", "one", "--split", "val", "--workers", "1", *common]
    assert run(app, training) == 0 and run(app, evaluation) == 0
    for stage, names in (("network", {"kind": "network"}), ("masks", {})):
        manifest = read_json(runs / "one" / stage / "manifest.json")
        config = {names.get(name, name): value for name, value in manifest["config"].items()}
        write_json(runs / "one" / stage / "manifest.json", manifest | {"config": config | {"precision": "fp32"}})
    assert manifest["config"]["network"] == "unet"  # of masks: what they were made by
    figures = runs / "one/network/scores.json"
    (entry,) = read_json(figures)["entries"]
    write_json(figures, {"entries": [entry | {"precision": "fp32"}]})
    assert read_scores(figures.parent) == [entry]
    monkeypatch.setattr(stages, "train_network", None)  # is not called
    capsys.readouterr()
    assert run(app, training) == 0 and "trained already" in capsys.readouterr().out
    assert run(app, [*training, "--precision", "bfloat16"]) == 2
    assert "config.precision was 'float32', is 'bfloat16' now" in capsys.readouterr().err
    (runs / "one/masks/a.png").unlink()
    assert run(app, evaluation) == 0
    (again,) = read_json(figures)["entries"]
    assert again["miou"] == entry["miou"] and (runs / "one/masks/a.png").is_file()
    assert read_json(runs / "one/masks/manifest.json")["config"]["precision"] == "fp32"  # as it was
