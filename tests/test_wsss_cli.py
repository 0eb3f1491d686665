"""The command ``wsss`` from its words: exit status, standard output, one line of error."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_run import make_data, make_run

import wsss.cli
from wsss.console import run
from wsss.store import Stage, write_mask


@pytest.fixture
def call(capsys):
    """Run words in this process; returns (status, stdout, stderr)."""

    def launch(*words: object) -> tuple[int, str, str]:
        app = importlib.reload(wsss.cli).app  # an app is run once a process
        capsys.readouterr()
        status = run(app, [str(word) for word in words])
        return (status, *capsys.readouterr())

    return launch


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with data.yaml and the runs one and two."""
    data = make_data(tmp_path / "data")
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / name, data, ["val", "own"], seed=len(name), noise=0.3 if name == "one" else 0.6)
    monkeypatch.chdir(tmp_path)
    return Path("data/data.yaml")


def assert_one_line(result: tuple[int, str, str], *parts: str) -> None:
    status, _, err = result
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_evaluate_then_compare(call, tiny):
    for name in ("one", "two"):
        status, out, err = call("evaluate", name, "--data", tiny, "--split", "val", "--workers", 1)
        assert (status, err) == (0, "")
        assert "protocol: image-level labels given" in out
        assert "oracle: the threshold was chosen on these very masks" in out
    entries = json.loads(Path("runs/one/metrics.json").read_text())["entries"]
    assert [e["rule"] for e in entries if e["stage"] == "seeds" and not e["oracle"]] == [
        "alpha 8",
        "alpha 4",
        "alpha 32",
    ]
    assert {e["command"] for e in entries} == {f"wsss evaluate one --data {tiny} --split val"}
    masks = next(e for e in entries if e["stage"] == "masks")
    status, out, err = call("evaluate", "one", "--data", tiny, "--split", "val", "--workers", 1)
    assert f"{masks['miou']:.1f}" in next(line for line in out.splitlines() if "as written" in line)
    assert (
        json.loads(Path("runs/one/metrics.json").read_text())["entries"] == entries
    )  # the second time changes nothing

    words = ("one", "runs/two", "--data", tiny, "--split", "val", "--out", "out/report.html", "--workers", 1)
    status, out, err = call("compare", *words)
    assert (status, err) == (0, "")
    assert "out/report.html" in out
    page = Path("out/report.html").read_text()
    assert "wsss compare one runs/two --data" in page
    assert page.count("<img ") == 4 * (2 + 2 * 3)
    rows = list(csv.DictReader(Path("out/report.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == {"one", "two"}
    assert Path("out/report.md").read_text().startswith("# one and two on tiny / val")


def test_evaluate_with_own_alphas_and_stage(call, tiny):
    words = ("evaluate", "one", "--data", tiny, "--split", "val", "--alpha", "8", "--alpha", "2", "--stage", "seeds")
    assert call(*words)[0] == 0
    entries = json.loads(Path("runs/one/metrics.json").read_text())["entries"]
    assert [(e["rule"], e["headline"]) for e in entries if not e["oracle"]] == [("alpha 8", True), ("alpha 2", False)]
    assert entries[0]["command"].endswith("--stage seeds --alpha 8 --alpha 2")


def test_compare_named_images(call, tiny):
    result = call("compare", "one", "--data", tiny, "--split", "own", "--images", "y", "--out", "o.html")
    assert result[0] == 0
    page = Path("o.html").read_text()
    assert page.count('<section class="image"') == 1
    assert 'aria-label="Image y"' in page
    bad = call("compare", "one", "--data", tiny, "--split", "own", "--images", "y,nope", "--out", "o.html")
    assert_one_line(bad, "--images nope", "known: x, y")


def test_mistakes_are_one_line_with_status_two(call, tiny, tmp_path):
    data = ("--data", tiny, "--split", "val", "--workers", 1)
    assert_one_line(call("evaluate", "onne", *data), "onne", "did you mean 'one'")
    assert_one_line(call("evaluate", "one", "--split", "val"), "--data")
    assert_one_line(call("evaluate", "one", "--data", tiny, "--split", "test"), "test")
    assert_one_line(call("evaluate", "one", "--data", "nowhere", "--split", "val"), "nowhere")
    assert_one_line(call("evaluate", "one", *data, "--stage", "mask"), "--stage mask", "did you mean 'masks'")
    assert_one_line(call("evaluate", "one", *data, "--alpha", "-1"), "--alpha -1")
    assert_one_line(call("evaluate", "one", "--data", tiny, "--split", "val", "--workers", 0), "--workers 0")
    assert_one_line(call("evaluate", "one", "--data", tiny, "--split", "own"), "no", "ground-truth mask")
    assert_one_line(call("compare", "one", *data, "--out", "report.pdf"), "--out report.pdf", ".html")
    assert_one_line(call("compare", *data), "NAMES")
    assert not Path("runs/one/metrics.json").exists()


def test_seeds_of_another_class_list_are_refused(call, tiny, tmp_path):
    other = make_data(tmp_path / "other", classes=("horse", "cow"))
    for command in ("evaluate", "compare"):
        result = call(command, "one", "--data", other, "--split", "val")
        assert_one_line(result, "runs/one/seeds", "other classes: cat, dog", "horse, cow")
    assert not Path("runs/one/metrics.json").exists()
    assert not Path("report.html").exists()


def test_evaluation_goes_on_after_what_was_missing_is_made(call, tiny):
    words = ("evaluate", "one", "--data", tiny, "--split", "val", "--workers", 1)
    assert call(*words)[0] == 0
    whole = json.loads(Path("runs/one/metrics.json").read_text())
    mask = Path("runs/one/masks/c.png")
    kept = mask.read_bytes()
    mask.unlink()
    assert_one_line(call(*words), "1 of 4 images", "c.png", "run again with --split val")
    assert json.loads(Path("runs/one/metrics.json").read_text()) == whole
    mask.write_bytes(kept[:40])  # a kill in the middle of a copy
    assert_one_line(call(*words), "runs/one/masks/c.png")
    mask.write_bytes(kept)
    assert call(*words)[0] == 0
    assert json.loads(Path("runs/one/metrics.json").read_text()) == whole


def test_a_stage_of_another_kind_is_refused(call, tiny):
    Path("runs/odd").mkdir()
    Stage.open(Path("runs/odd/masks"), kind="seeds", config={}, class_names=("cat", "dog"), suffix=".npz")
    write_mask(Path("runs/odd/masks"), "a", np.zeros((24, 37), np.uint8))
    assert_one_line(call("evaluate", "odd", "--data", tiny, "--split", "val"), "runs/odd/masks")


def test_data_check(call, tiny):
    status, out, err = call("data-check", "--data", tiny, "--workers", 1)
    assert (status, err) == (0, "")
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["val"])
    assert row == ["val", "4", "4", "3", "2", "0"]  # images, masks, cat, dog, no class
    assert "no problems found" in out
    Path("data/images/b.png").write_bytes(b"")
    write_mask(Path("data/masks"), "a", np.zeros((3, 3), np.uint8))
    status, out, err = call("data-check", "--data", tiny, "--split", "val", "--workers", 1)
    assert status == 2
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["problem", "problem", "error"]
    assert "b.png" in err
    assert "a.png" in err
    assert "2 problems" in lines[-1]


def test_help_names_every_option(call):
    status, out, _ = call("evaluate", "--help")
    assert status == 0
    for option in ("--data", "--split", "--root", "--runs", "--stage", "--alpha", "--workers"):
        assert option in out
