"""`wsss status`: the chain of a run, what is stale in it and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_data

from affinity.cli import app as affinity
from vitseg.cli import app as vitseg
from wsss.cli import app as wsss
from wsss.console import run
from wsss.status import State, chain_of
from wsss.store import Seed, read_json, read_seed, write_json, write_seed
from wsss.store.locks import writing

TINY = "--architecture test_vit --weights none --epochs 1 --batch-size 2 --precision float32 --sizes 32 --device cpu"
SEEDS = "--classifier mine --split val --sizes 32 --first-block 1 --method rollout --no-flip --device cpu --name seedy"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data, and runs with a classifier, seeds, labels and figures."""
    place = tmp_path_factory.mktemp("made")
    make_data(place / "data")
    common = ["--runs", str(place / "runs"), "--data", str(place / "data/data.yaml")]
    assert run(vitseg, ["train-classifier", *TINY.split(), "--name", "mine", "--train-split", "val", *common]) == 0
    assert run(vitseg, ["seeds", *SEEDS.split(), *common]) == 0
    assert run(affinity, ["labels", "--seeds", "seedy", "--split", "val", "--workers", "1", *common]) == 0
    assert run(wsss, ["evaluate", "seedy", "--split", "val", "--workers", "1", *common]) == 0
    test = ["segmentation-test", "--classifier", "mine", "--methods", "rollout", "--split", "val", "--device", "cpu"]
    assert run(vitseg, [*test, *common]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def chain(place: Path) -> Callable[..., dict[str, State]]:
    def look(run: str = "seedy", data: bool = True) -> dict[str, State]:
        states = chain_of(place / "runs" / run, str(place / "data/data.yaml") if data else None)
        return {f"{state.name} {state.made}" if "json" in state.name else state.name: state for state in states}

    return look


def words(states: dict[str, State]) -> dict[str, str]:
    return {name: state.words for name, state in states.items()}


def test_all_is_up_to_date_also_after_a_move(chain: Callable[..., dict[str, State]], place: Path) -> None:
    """`place` is a copy at another root, with other times."""
    found = chain()
    assert list(found) == [
        "mine/classifier",
        "seedy/seeds",
        "seedy/affinity_labels",
        "seedy/metrics.json seeds on val",
        "seedy/metrics.json affinity_labels on val",
    ]
    assert set(words(found).values()) == {"up to date"}
    assert found["mine/classifier"].made == "training on 4 images of val"
    assert found["seedy/seeds"].made == "4 images"
    assert found["seedy/seeds"].sources == ("mine/classifier", "data tiny")
    assert found["seedy/affinity_labels"].sources == ("seedy/seeds",)
    assert set(words(chain(data=False)).values()) == {"up to date"}
    assert set(words(chain("mine.rollout")).values()) == {"up to date"}


def test_a_changed_image_shows_all_the_way_down(place: Path, chain: Callable[..., dict[str, State]]) -> None:
    path = place / "data/images/b.png"
    with Image.open(path) as image:
        Image.fromarray(255 - np.asarray(image)).save(path)
    found = words(chain())
    assert found["mine/classifier"] == "stale: 1 of 4 images changed (b)"
    assert found["seedy/seeds"] == "stale: 1 of 4 images changed (b), made of mine/classifier, which is stale"
    assert found["seedy/affinity_labels"] == "stale: 1 of 4 images changed (b), made of seedy/seeds, which is stale"
    assert found["seedy/metrics.json seeds on val"] == "up to date"  # the figures are those of the seeds that are there
    assert "images of 1 part changed" in words(chain("mine.rollout"))["mine.rollout/segmentation/tiny_val"]
    assert set(words(chain(data=False)).values()) == {"up to date"}  # nobody looked


def test_changed_labels_masks_seeds_and_networks(place: Path, chain: Callable[..., dict[str, State]]) -> None:
    table = place / "data/labels.csv"
    whole = table.read_text()
    table.write_text(whole.replace("cat,val", "dog,val"))
    found = words(chain())
    assert found["mine/classifier"] == "stale: labels of 2 of 4 images changed (a is the first)"
    assert found["seedy/seeds"].startswith("stale: labels of 2 of 4 images changed (a)")
    table.write_text(whole)

    with Image.open(place / "data/masks/c.png") as mask:
        Image.fromarray(255 - np.asarray(mask)).save(place / "data/masks/c.png")
    found = words(chain())
    assert found["seedy/metrics.json seeds on val"] == "stale: results or ground truth changed"
    assert found["seedy/seeds"] == "up to date"

    seed = read_seed(place / "runs/seedy/seeds", "d")
    write_seed(place / "runs/seedy/seeds", "d", Seed(seed.scores / 2, seed.classes, seed.size))
    found = words(chain(data=False))
    assert found["seedy/affinity_labels"] == "stale: seeds of 1 of 4 images changed (d)"

    with (place / "runs/mine/classifier/classifier.safetensors").open("ab") as file:
        file.write(b"\0")
    found = words(chain(data=False))
    assert found["seedy/seeds"] == "stale: classifier changed"
    assert found["seedy/affinity_labels"].endswith("made of seedy/seeds, which is stale")
    (place / "runs/mine/classifier/classifier.safetensors").unlink()
    assert "classifier is not at" in words(chain(data=False))["seedy/seeds"]


def test_missing_images_and_old_and_unfinished_stages(place: Path, chain: Callable[..., dict[str, State]]) -> None:
    (place / "runs/seedy/seeds/a.npz").unlink()
    assert words(chain())["seedy/seeds"] == "stale: 1 image of split val not made"
    for path in (place / "runs/seedy/seeds").glob("*.npz"):
        write_seed(path.parent, path.stem, read_seed(path.parent, path.stem))
    assert chain()["seedy/seeds"].made == "3 images, of 3 it is not known what they were made of"
    path = place / "runs/mine/classifier/manifest.json"
    write_json(path, {**read_json(path), "history": []})
    assert words(chain("mine"))["mine/classifier"].endswith("not finished: run its command again")
    with writing(path.parent):
        assert "being written by `" in words(chain("mine"))["mine/classifier"]


def test_the_command(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    common = ["status", "seedy", "--runs", str(place / "runs")]
    data = ["--data", str(place / "data/data.yaml")]
    assert run(wsss, [*common, *data, "--check"]) == 0
    out = capsys.readouterr().out
    assert "everything is up to date" in out and "mine/classifier" in out
    assert run(wsss, common) == 0 and "were not looked at: give --data" in capsys.readouterr().out
    (place / "runs/seedy/seeds/a.npz").unlink()
    assert run(wsss, [*common, *data]) == 0
    assert run(wsss, [*common, *data, "--check"]) == 1
    assert "3 of 5 are stale" in capsys.readouterr().out
    assert run(wsss, ["status", "nobody", "--runs", str(place / "runs")]) == 2
    assert "nobody: no such run" in capsys.readouterr().err
    (place / "runs/empty").mkdir()
    assert run(wsss, ["status", "empty", "--runs", str(place / "runs")]) == 2
    assert "got a folder without stages" in capsys.readouterr().err
    assert run(wsss, [*common, "--root", str(place)]) == 2


def test_figures_of_masks_of_0_and_255(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "data/masks/c.png").unlink()  # of two classes
    for path in (place / "data/masks").glob("*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 0, 0, 255).astype(np.uint8)).save(path)
    common = ["seedy", "--runs", str(place / "runs"), "--data", str(place / "data/data.yaml")]
    as_255 = ["--foreground-value", "255"]
    assert run(wsss, ["evaluate", *common, *as_255, "--split", "val", "--workers", "1"]) == 0
    assert run(wsss, ["status", *common, *as_255, "--check"]) == 0
    assert run(wsss, ["status", *common, "--check"]) == 1
    assert "results or ground truth changed" in " ".join(capsys.readouterr().out.split())
    assert run(wsss, ["status", *common[:3], *as_255]) == 2
    assert capsys.readouterr().err == "error: --foreground-value 255: give --data with it\n"
