"""The command `cnnseg` on a small folder of photographs: the chain, what is not redone, tables, and every mistake."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_run import make_data

from cnnseg import runs as stages
from cnnseg import scores as scoring
from cnnseg.classifiers import create_classifier
from cnnseg.cli import app
from cnnseg.history import read_history
from cnnseg.models import load_network
from cnnseg.scores import read_scores
from cnnseg.settings import NETWORKS
from cnnseg.table import BEST_LABEL, Result, markdown
from cnnseg.table_settings import TableConfig, read_table
from wsss.cli import app as wsss
from wsss.configs import config_root
from wsss.console import run
from wsss.data import load_dataset
from wsss.entries import read_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.store import Stage, file_hash, read_json, read_mask, write_json, write_mask

TRAINING = {"--architecture": "test_resnet", "--weights": "none", "--steps": 3, "--batch-size": 2, "--crop": 32}
TRAINING |= {"--lr": 1e-3, "--evaluate-every": 2, "--train-split": "val", "--val-split": "val"}
Cnnseg = Callable[..., int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cnnseg")
    make_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def cnnseg(place: Path) -> Cnnseg:
    def call(command: str, *options: object) -> int:
        common: dict[str, object] = {"--runs": place / "runs", "--device": "cpu"}
        if command != "run-table":
            common["--data"] = place / "data/data.yaml"
        if command.startswith("train"):
            common |= TRAINING
        if "--classifier" in options:
            del common["--weights"]
        for option, value in common.items():
            if option not in options:
                options += (option, value)
        return run(app, [command, *map(str, options)])

    return call


@pytest.fixture(scope="module")
def trained(place: Path, cnnseg: Cnnseg) -> Path:
    """Runs `start`, a classifier, and `mine`, an unrolled network that started from it."""
    assert cnnseg("train-classifier", "--name", "start") == 0
    assert cnnseg("train-unrolled", "--name", "mine", "--classifier", "start", "--budget", 2, "--snapshots", "a") == 0
    return place / "runs"


@pytest.fixture
def refused(cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with status 2 and one line, and returns the line."""

    def call(*command: object) -> str:
        capsys.readouterr()
        assert cnnseg(*command) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return call


def no_training(*args: object, **keywords: object) -> None:
    raise AssertionError("trained again")


def test_training_makes_the_stage(trained: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind, masks in (("start", "classifier", 0), ("mine", "unrolled", 2)):
        folder = trained / name / "network"
        present = {path.name for path in folder.iterdir() if path.name[0] != "."} - {"snapshots"}
        assert present == {"manifest.json", "last.safetensors", "best.safetensors", "history.jsonl"}
        network = load_network(folder / "last.safetensors")
        assert (network.kind, network.architecture, network.class_names) == (kind, "test_resnet", ("cat", "dog"))
        manifest = read_json(folder / "manifest.json")
        (entry,) = manifest["history"]
        assert manifest["kind"] == "network" and entry["counts"] == {"images": 4, "masks": masks}
        assert entry["parameters"] == sum(p.numel() for p in network.module.parameters())
        rows = read_history(folder)
        assert [row["step"] for row in rows] == [0, 2, 3] and entry["last"] == rows[-1]
        assert entry["best_chosen_on_validation"] in rows
    assert {path.name for path in (trained / "mine/network/snapshots").iterdir()} == {"0", "2", "3"}
    # The unrolled network starts as the classifier ended.
    start, mine = (read_history(trained / name / "network") for name in ("start", "mine"))
    assert mine[0]["macro_f1"] == start[-1]["macro_f1"] and mine[0]["map"] == start[-1]["map"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train_network", no_training)
        capsys.readouterr()
        for change in (("--save-every", 7), ("--classes-at-once", 2)):  # that change no result
            assert cnnseg("train-classifier", "--name", "start", *change) == 0
            assert "trained already" in capsys.readouterr().out
    config = read_json(trained / "mine/network/manifest.json")["config"]
    assert "weights" not in config and "classes_at_once" not in config  # it starts at the classifier


def test_weights_of_a_file_are_known_by_their_content(
    place: Path, cnnseg: Cnnseg, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = place / "first.safetensors", place / "second.safetensors"
    for seed, file in enumerate((first, second)):
        torch.manual_seed(seed)
        save_file(create_classifier("test_resnet", 5).state_dict(), file)
    call = ("train-classifier", "--name", "weighty", "--steps", 1, "--weights")
    assert cnnseg(*call, first) == 0
    manifest = read_json(place / "runs/weighty/network/manifest.json")
    assert manifest["config"]["weights"] == "file" and manifest["inputs"] == {"weights": file_hash(first)}
    moved = place / "elsewhere.safetensors"
    moved.write_bytes(first.read_bytes())
    capsys.readouterr()
    assert cnnseg(*call, moved) == 0 and "trained already" in capsys.readouterr().out
    assert "made with other settings: inputs.weights was" in refused(*call, second)
    first.write_bytes(second.read_bytes())  # another content under the same name
    assert "made with other settings: inputs.weights was" in refused(*call, first)
    assert "made with other settings: config.weights was 'file', is 'none' now" in refused(*call, "none")
    first.unlink()
    assert refused(*call, first).startswith(f"--weights {first}: no such file (or the word 'pretrained'")


def test_whether_the_head_is_new(trained: Path, cnnseg: Cnnseg, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def training(*args: object, new_head: bool, **keywords: object) -> None:
        given.append(new_head)
        raise InputError("enough")

    monkeypatch.setattr(stages, "train_network", training)
    assert cnnseg("train-unrolled", "--name", "head", "--classifier", "start") == 2
    assert cnnseg("train-unrolled", "--name", "head2") == 2
    assert given == [False, True]


def test_evaluation_and_comparison(
    trained: Path, place: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cnnseg("evaluate", "--network", "mine", "--split", "val", "--workers", 1) == 0
    out = capsys.readouterr().out
    (entry,) = read_metrics(trained / "mine")
    last = read_history(trained / "mine/network")[-1]
    assert (entry.stage, entry.split, entry.labels_given, entry.headline) == ("masks", "val", False, True)
    manifest = read_json(trained / "mine/masks/manifest.json")
    assert manifest["config"]["labels_given"] is False and manifest["inputs"]["data"] == "tiny"
    assert entry.miou == last["miou"] and f"mIoU {entry.miou:.2f}" in out and "255 ignored" in out
    (scores,) = read_scores(trained / "mine/network")
    assert scores["macro_f1"] == last["macro_f1"] and scores["map"] == last["map"] and scores["miou"] == entry.miou
    assert scores["checkpoint"] == "last" and set(scores["f1"]) == {"cat", "dog"}
    data = load_dataset(place / "data/data.yaml", "val")
    for sample in data:
        assert read_mask(trained / "mine/masks", sample.id).shape == data.image_size(sample)
    (trained / "mine/masks/a.png").unlink()
    times = {path: path.stat().st_mtime_ns for path in (trained / "mine/masks").glob("*.png")}
    assert cnnseg("evaluate", "--network", "mine", "--split", "val", "--workers", 1, "--classes-at-once", 1) == 0
    assert (trained / "mine/masks/a.png").exists() and all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert read_metrics(trained / "mine")[0].miou == entry.miou and len(read_scores(trained / "mine/network")) == 1
    page = place / "report.html"
    options = ["--data", place / "data/data.yaml", "--split", "val", "--runs", trained, "--out", page, "--workers", 1]
    assert run(wsss, ["compare", "mine", *map(str, options)]) == 0
    assert f"{entry.miou:.1f}" in page.with_suffix(".md").read_text()


@pytest.mark.parametrize("given", [False, True])
def test_classes_beyond_the_labels_are_told_of_where_labels_were_given(
    place: Path, tmp_path: Path, given: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_dataset(place / "data/data.yaml", "val")
    config = {"labels_given": given}
    stage = Stage.open(tmp_path / "masks", kind="masks", config=config, class_names=data.class_names, suffix=".png")
    for sample in data:
        write_mask(stage.folder, sample.id, np.full(data.image_size(sample), 2, np.uint8))  # dogs everywhere
    (entry,) = evaluate_run(tmp_path, data, stages=["masks"])
    assert not entry.labels_given
    assert ("show classes that their labels do not name" in capsys.readouterr().out) is given


def test_best_is_called_so_wherever_it_is_shown(
    trained: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cnnseg("evaluate", "--network", "mine", "--split", "val", "--which", "best", "--workers", 1) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "mIoU" in line or " mean  F1" in line]
    assert len(lines) == 2 and all("(best: chosen on the validation split" in line for line in lines)
    best = read_json(trained / "mine/network/manifest.json")["history"][0]["best_chosen_on_validation"]
    (entry,) = read_metrics(trained / "mine_best")
    (scores,) = read_scores(trained / "mine_best/network")
    assert entry.miou == best["miou"] and scores["checkpoint"].startswith("best: chosen on the validation split")
    assert not (trained / "mine_best/network/last.safetensors").exists()


def test_the_papers_protocol_is_printed_and_kept_apart(
    trained: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cnnseg("evaluate", "--network", "mine", "--split", "val", "--protocol", "paper") == 0
    assert "resized to 256 x 256" in capsys.readouterr().out
    (scores,) = (row for row in read_scores(trained / "mine/network") if "256 x 256" in row["protocol"])
    assert scores["miou"] is not None
    metrics = trained / "mine/metrics.json"
    assert not metrics.exists() or "256 x 256" not in metrics.read_text()


def test_networks_without_masks_or_truth(trained: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnnseg("evaluate", "--network", "start", "--split", "val") == 0
    assert not (trained / "start/masks").exists()
    (scores,) = read_scores(trained / "start/network")
    assert scores["miou"] is None and scores["macro_f1"] == read_history(trained / "start/network")[-1]["macro_f1"]
    capsys.readouterr()
    assert cnnseg("evaluate", "--network", "mine", "--split", "own", "--name", "own", "--size", 32) == 0
    assert "no mIoU" in capsys.readouterr().out and len(list((trained / "own/masks").glob("*.png"))) == 2


def test_mistakes(trained: Path, place: Path, refused: Callable[..., str]) -> None:
    assert "made with other settings: config.lr was 0.001, is 0.01 now" in refused(
        "train-classifier", "--name", "start", "--lr", 0.01
    )
    assert refused("train-classifier", "--kind", "unet").startswith("--kind unet: expected classifier; `cnnseg train-")
    assert refused("train-unrolled", "--kind", "classifier").startswith(
        "--kind classifier: expected another kind; `cnn"
    )
    assert refused("train-classifier", "--budget", 5).startswith("--budget 5: a classifier learns from image-level")
    assert "--budget 5: expected at most 4" in refused("train-unrolled", "--budget", 5)
    assert "no such file, and no" in refused("train-unrolled", "--classifier", "nowhere")
    (trained / "start/network/resume.pt").touch()
    assert "its training is not finished" in refused("train-unrolled", "--classifier", "start")
    (trained / "start/network/resume.pt").unlink()
    assert "no such file, and no" in refused("evaluate", "--network", "nowhere", "--split", "val")
    for option in ("--size", "--batch-size", "--classes-at-once"):
        line = f"{option} 0: expected at least 1"
        assert refused("evaluate", "--network", "mine", "--split", "val", option, 0) == line
    both = refused("train-unrolled", "--classifier", "start", "--weights", "none", "--name", "both")
    assert both == "--weights none: the encoder starts at --classifier start; give one"
    assert not (trained / "both").exists()
    assert "made with other settings: config.size" in refused(
        "evaluate", "--network", "mine", "--split", "own", "--name", "own", "--size", 48
    )
    assert "--workers -1" in refused("train-unrolled", "--workers", -1, "--name", "never")
    assert not (trained / "unrolled").exists()
    other = make_data(place / "other", ("bird", "dog"))
    assert "made for other classes: cat, dog" in refused(
        "evaluate", "--network", "mine", "--split", "val", "--data", other
    )
    assert refused("run-table", "cnnseg/table7").startswith("configuration cnnseg/table7: no such file")


def test_list_networks_and_import_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["list-networks"]) == 0
    out = capsys.readouterr().out
    assert all(line in out for line in NETWORKS.values())
    code = "import sys, cnnseg.cli, cnnseg.table_settings; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TABLE = {
    "title": "A small table",
    "data": "data/data.yaml",
    "train_split": "val",
    "val_split": "val",
    "budgets": [1, 3],
    "seeds": [0, 4],
    "weights": {"test_resnet": "none"},
    "pretraining": {"steps": 1, "batch_size": 2, "crop": 32},
    "training": {"steps": 2, "batch_size": 2, "crop": 32, "evaluate_every": 1},
    "best": True,
    "rows": [
        {"label": "ours", "kind": "unrolled", "architecture": "test_resnet", "published": {3: 12.34}},
        {"label": "autoencoder", "kind": "ws_ae", "architecture": "test_resnet", "train": {"lr": 1e-4}},
    ],
}


def test_a_table(place: Path, cnnseg: Cnnseg, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    file, runs = place / "small.yaml", place / "table_runs"
    file.write_text(yaml.safe_dump(TABLE | {"data": str(place / "data/data.yaml")}))
    call = ("run-table", file, "--runs", runs)
    assert "fits none of the 8 trainings" in refused(*call, "--only", "fcn*")
    assert cnnseg(*call, "--only", "unrolled_*_s0", "--only", "unrolled_test_resnet_3_*") == 0
    some = read_json(runs / "small.json")["results"]
    assert {row["run"] for row in some} == {f"unrolled_test_resnet_{end}" for end in ("1_s0", "3_s0", "3_s4")}
    assert cnnseg(*call) == 0
    content = read_json(runs / "small.json")
    results = content["results"]
    assert len(results) == 16 and [row for row in results if row["run"] in {r["run"] for r in some}] == some
    for row in results:
        suffix = "" if row["checkpoint"] == "last" else "_best"
        (scores,) = read_scores(runs / f"{row['run']}{suffix}/network")
        assert (row["miou"], row["macro_f1"]) == (scores["miou"], scores["macro_f1"])
        assert not (runs / f"{row['run']}{suffix}" / "masks").exists()
        assert row["f1_before"] == read_scores(runs / "classifier_test_resnet/network")[0]["macro_f1"]
        assert row["published_miou"] is None  # of another data set
        assert row["parameters"] == read_json(runs / row["run"] / "network/manifest.json")["history"][0]["parameters"]
    assert {row["checkpoint"] for row in results} == {"last", BEST_LABEL}
    config = read_json(runs / "ws_ae_test_resnet_3_s4/network/manifest.json")["config"]
    assert (config["lr"], config["budget"], config["seed"], config["steps"]) == (1e-4, 3, 4, 2)
    with (runs / "small.csv").open() as lines:
        assert [row["run"] for row in csv.DictReader(lines)] == [row["run"] for row in results]
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train_network", no_training)
        patch.setattr(scoring, "evaluate_network", no_training)
        assert cnnseg(*call) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == before
    assert read_json(runs / "small.json") == content
    assert "at native size, networks in float32; one confusion matrix" in content["protocol"]
    assert "| ours | test_resnet | 0.37 M |" in capsys.readouterr().out
    assert f"| ours ({BEST_LABEL}) |" in (runs / "small.md").read_text()
    stale = read_json(runs / "unrolled_test_resnet_1_s0/network/scores.json")
    stale["entries"][0] |= {"network": "another", "miou": 99.0}
    write_json(runs / "unrolled_test_resnet_1_s0/network/scores.json", stale)  # as of a network that was trained anew
    # Masks of another size in the run are no obstacle, and stay as they are.
    own = ("--network", "unrolled_test_resnet_1_s0", "--split", "val", "--runs", runs, "--workers", 1)
    assert cnnseg("evaluate", *own, "--size", 48) == 0
    assert cnnseg(*call) == 0 and read_json(runs / "small.json")["results"] == results
    assert [row["size"] for row in read_scores(runs / "unrolled_test_resnet_1_s0/network")] == [48, None]
    assert read_json(runs / "unrolled_test_resnet_1_s0/masks/manifest.json")["config"]["size"] == 48


def test_what_a_table_shows() -> None:
    def result(network: str, budget: int, seed: int, miou: float, f1: float | None, checkpoint: str = "last") -> Result:
        return Result("r", network, "resnet50", budget, seed, checkpoint, 23_551_061, miou, f1, f1, 70.0)

    rows = [
        {"label": "ours", "kind": "unrolled", "published": {20: 39.8}, "published_f1": {0: 81.62, 20: 80.35}},
        {"label": "U-Net", "kind": "unet", "published": {20: 25.89}},
    ]
    table = TableConfig(title="T", data="voc12", budgets=(20, 100), rows=rows)
    values = {0: 30.0, 1: 33.0, 2: 31.5}
    found = [result("unrolled", 20, seed, miou, 80.0 + seed) for seed, miou in values.items()]
    found += [result("unet", 100, 1, 44.0, None), result("unet", 100, 1, 99.0, None, BEST_LABEL)]
    lines = markdown(table, found).splitlines()
    assert "| network | encoder | parameters | 20 | 100 | paper, 20 |" in lines
    mean = f"{fmean(values.values()):.2f} (30.00, 33.00, 31.50)"
    assert f"| ours | resnet50 | 23.55 M | {mean} | - | 39.80 |" in lines
    assert "| U-Net | resnet50 | 23.55 M | - | 44.00 (-, 44.00, -) | 25.89 |" in lines  # what is missing shows
    assert "| network | encoder | parameters | before | 20 | 100 | paper, before | paper, 20 |" in lines
    assert "| ours | resnet50 | 23.55 M | 70.00 | 81.00 (80.00, 81.00, 82.00) | - | 81.62 | 80.35 |" in lines
    assert sum(line.startswith("| U-Net") for line in lines) == 1  # it does not classify
    assert not any("99" in line for line in lines)  # best is shown where it is asked for, and called so
    shown = markdown(table.model_copy(update={"best": True}), found).splitlines()
    assert any(line.startswith(f"| U-Net ({BEST_LABEL}) |") and "99.00" in line for line in shown)
    assert "255 ignored" in markdown(table, []) and "resized to 256" in markdown(
        table.model_copy(update={"protocol": "paper"}), []
    )
    assert "evaluated on val: images at native size, networks in float32; " in markdown(table, [])
    small = markdown(table.model_copy(update={"size": 160, "precision": "bfloat16"}), found)
    assert "images resized to an area of 160 x 160, networks in bfloat16; " in small
    assert "Before: the classifier that all trainings of a row start from, at the same size and precision." in small
    assert "paper" not in markdown(table.model_copy(update={"data": "voc12_animals"}), found)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"budgets": []}, "budgets: expected a list of at least 1, got []"),
        ({"training": {"lrate": 1}}, "lrate: unknown; known: "),
        ({"training": {"seed": 1}}, "training: seed is the table's; give it under seeds"),
        ({"rows": [TABLE["rows"][0]] * 2}, "expected each once"),
        ({"rows": [{"label": "x", "kind": "classifier"}]}, "rows.0.kind: a classifier gives no masks"),
        ({"rows": [{"label": "x", "network": "unet"}]}, "network is called kind; expected kind: unet"),
        ({"rows": [{"label": "x", "kind": "unets"}]}, "rows.0.kind: expected 'unrolled', "),
        ({"colour": 3}, "colour: unknown; known: "),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, cnnseg: Cnnseg, change: dict, line: str, capsys) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(TABLE | change))
    assert cnnseg("run-table", file) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {file}: ") and line in error


def test_tables_that_ship() -> None:
    """The published figures stand where they belong: Yu et al. 2024, tables 1 to 3, first and last column."""
    counts, figures = {}, {}
    for number in (1, 2, 3):
        path, table = read_table(f"cnnseg/table{number}")
        assert path.parent == config_root() / "cnnseg" and table.budgets == (20, 100, 500, 1464)
        counts[number] = len(list(table.cells()))
        for row in table.rows:
            if row.published:
                figures[row.kind, row.architecture] = (row.published[20], row.published[1464])
    assert counts == {1: 84, 2: 24, 3: 84}
    assert figures == {
        ("unet", "vgg16_bn"): (20.38, 60.53),
        ("unrolled", "vgg16_bn"): (33.92, 63.85),
        ("unet", "resnet50"): (25.89, 60.07),
        ("multitask_unet", "resnet50"): (25.06, 60.37),
        ("unrolled", "resnet50"): (39.80, 61.50),
        ("ws_ae", "resnet50"): (29.50, 57.91),
        ("fcn", "resnet50"): (26.23, 56.64),
    }


@pytest.mark.parametrize(
    "names",
    [
        ("table1", "table2", "table3"),
        ("table1_animals", "table3_animals"),
        ("table1_animals_cpu", "table3_animals_cpu"),
    ],
)
def test_one_training_serves_all_tables(names: tuple[str, ...]) -> None:
    tables = [read_table(f"cnnseg/{name}")[1] for name in names]
    trainings = {cell.name: (cell.train_config(), cell.network_config()) for cell in tables[0].cells()}
    common = ("data", "train_split", "val_split", "weights", "size", "protocol", "precision")
    for table in tables[1:]:
        again = [cell for cell in table.cells() if cell.name in trainings]
        assert again and all(trainings[cell.name] == (cell.train_config(), cell.network_config()) for cell in again)
        assert all(getattr(table, key) == getattr(tables[0], key) for key in common)
        assert table.pretraining_config() == tables[0].pretraining_config()


@pytest.mark.parametrize("name", ["classifier_voc", "unrolled_voc"])
def test_recipes_that_ship_are_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "train-classifier" if name.startswith("classifier") else "train-unrolled"
    assert run(app, [command, "--config", f"cnnseg/{name}", "--root", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --root {tmp_path / 'none'}: ")
