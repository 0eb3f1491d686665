"""The command `vitseg` on a small folder of photographs: the chain, its resumption, and one line for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import OWN, VAL, make_data

from vitseg.cli import app
from vitseg.methods import METHODS
from vitseg.models import create_classifier, load_classifier, save_classifier
from vitseg.settings import ExplainConfig
from wsss.console import run
from wsss.data import load_dataset
from wsss.store import read_json, read_seed

TINY = {"--architecture": "test_vit", "--weights": "none", "--epochs": 2, "--batch-size": 2, "--precision": "float32"}
QUICK = ["--sizes", "32", "--first-block", "1"]
Vitseg = Callable[..., int]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """data/data.yaml, and runs/trained with a classifier (that lists the classes in another order)."""
    make_data(tmp_path / "data")
    torch.manual_seed(0)
    classifier = create_classifier("test_vit", ("dog", "bird", "cat"), "none")
    save_classifier(classifier, tmp_path / "runs/trained/classifier/classifier.safetensors")
    return tmp_path


@pytest.fixture
def vitseg(place: Path) -> Vitseg:
    def call(command: str, *options: object) -> int:
        common = {"--runs": place / "runs", "--device": "cpu"}
        if command != "explain":
            common["--data"] = place / "data/data.yaml"
        if command == "train-classifier":
            common |= TINY
        if command in ("seeds", "train-classifier"):
            common["--sizes"] = 32
        if command == "seeds":
            common["--first-block"] = 1
        for option, value in common.items():
            if option not in options:
                options += (option, value)
        return run(app, [command, *map(str, options)])

    return call


@pytest.fixture
def refused(vitseg: Vitseg, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with status 2 and one line, and returns the line."""

    def call(*command: object) -> str:
        capsys.readouterr()
        assert vitseg(*command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return call


def times(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_the_chain(place: Path, vitseg: Vitseg, capsys: pytest.CaptureFixture[str]) -> None:
    training = ["train-classifier", "--train-split", "all", "--val-split", "val", "--name", "mine"]
    training += ["--sizes", 32, "--sizes", 48]
    assert vitseg(*training) == 0
    folder = place / "runs/mine/classifier"
    assert load_classifier(folder / "classifier.safetensors").class_names == ("cat", "dog")
    scores = read_json(folder / "scores.json")
    assert scores["images"] == 4 and set(scores["f1"]) == {"cat", "dog"} and 0 <= scores["macro_f1"] <= 100
    entry = read_json(folder / "manifest.json")["history"][-1]
    assert entry["counts"] == {"images": 6} and len(entry["losses"]) == 2 and entry["val_split"] == "val"
    before = (folder / "classifier.safetensors").stat().st_mtime_ns
    assert vitseg(*training) == 0
    assert (folder / "classifier.safetensors").stat().st_mtime_ns == before

    capsys.readouterr()
    assert vitseg("evaluate-classifier", "--classifier", "mine", "--split", "val", "--size", 48) == 0
    assert f"mean  F1 {scores['macro_f1']:5.1f}  AP {scores['map']:5.1f}" in capsys.readouterr().out

    for method, name in (("transformer_attribution", "lrp_vit"), ("rollout", "rollout_vit")):
        assert vitseg("seeds", "--classifier", "mine", "--split", "val", "--method", method) == 0
        manifest = read_json(place / "runs" / name / "seeds/manifest.json")
        assert manifest["history"][-1]["counts"] == {"images": 4, "maps": 5, "failed": 0}
        for sample in load_dataset(place / "data/data.yaml", "val"):
            seed = read_seed(place / "runs" / name / "seeds", sample.id)
            assert tuple(seed.classes) == sample.classes and seed.scores.any()


def test_seeds_go_on_and_split_into_shards(place: Path, vitseg: Vitseg, refused: Callable[..., str]) -> None:
    folder = place / "runs/lrp_vit/seeds"
    command = ("seeds", "--classifier", "trained", "--split", "val")
    assert vitseg(*command, "--shard", "2/3") == 0
    assert set(times(folder)) == {"b"}
    first = times(folder)
    assert vitseg(*command, "--shard", "1/3") == vitseg(*command, "--shard", "3/3") == 0
    assert set(times(folder)) == set(VAL)
    made = times(folder)
    (folder / "c.npz").write_bytes((folder / "c.npz").read_bytes()[:-30])  # a killed writer
    (folder / "d.npz").unlink()
    assert vitseg(*command) == vitseg("seeds", "--classifier", "trained", "--split", "own") == 0
    after = times(folder)
    assert set(after) == {*VAL, *OWN}
    assert {name for name in VAL if after[name] == made[name]} == {"a", "b"} and after["b"] == first["b"]
    read_seed(folder, "c")

    assert "config.power was 2.0, is 1.0 now; write into another run" in refused(*command, "--power", 1)
    other = place / "other.safetensors"
    torch.manual_seed(1)
    save_classifier(create_classifier("test_vit", ("cat", "dog"), "none"), other)
    assert "inputs.classifier was" in refused("seeds", "--classifier", other, "--split", "val")
    assert vitseg("seeds", "--classifier", other, "--split", "val", "--name", "second") == 0
    assert times(folder) == after and set(times(place / "runs/second/seeds")) == set(VAL)


def test_several_sizes_stand_behind_one_option(place: Path, vitseg: Vitseg) -> None:
    command = ("seeds", "--classifier", "trained", "--split", "val", "--sizes", 32, 48, "--no-flip")
    assert vitseg(*command) == 0
    config = read_json(place / "runs/lrp_vit/seeds/manifest.json")["config"]
    assert (config["sizes"], config["flip"]) == ([32, 48], False)


def test_a_seed_is_made_again_when_the_labels_have_changed(place: Path, vitseg: Vitseg) -> None:
    command = ("seeds", "--classifier", "trained", "--split", "val")
    assert vitseg(*command) == 0
    folder, table = place / "runs/lrp_vit/seeds", place / "data/labels.csv"
    made, sample = times(folder), load_dataset(place / "data/data.yaml", "val").samples[0]
    other = {1: "dog", 2: "cat"}[sample.classes[0]]
    lines = table.read_text().splitlines()
    own = (f"{sample.id},", f"{sample.id}.")
    lines = [f"{sample.id},{other},val" if line.startswith(own) else line for line in lines]
    table.write_text("\n".join(lines) + "\n")
    assert vitseg(*command) == 0
    after = times(folder)
    assert {name for name in VAL if after[name] != made[name]} == {sample.id}
    now = load_dataset(place / "data/data.yaml", "val").samples[0]
    assert tuple(read_seed(folder, sample.id).classes) == now.classes != sample.classes


def test_an_unreadable_image_costs_only_itself(place: Path, vitseg: Vitseg, refused: Callable[..., str]) -> None:
    folder, image = place / "runs/lrp_vit/seeds", place / "data/images/b.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    command = ("seeds", "--classifier", "trained", "--split", "val", "--batch-size", 1)
    assert refused(*command).startswith(f"image {image}: cannot be read")
    made = times(folder)
    assert set(made) == {"a", "c", "d"}
    assert read_json(folder / "manifest.json")["history"][-1]["counts"]["failed"] == 1
    image.write_bytes(b"")
    assert refused(*command) == f"image {image}: cannot be read (the file is empty)"
    image.write_bytes(whole)
    assert vitseg(*command) == 0
    assert set(times(folder)) == set(VAL) and made.items() <= times(folder).items()
    for name in ("x.png", "y.png"):
        (place / "data/images" / name).write_text("no image")
    line = refused("seeds", "--classifier", "trained", "--split", "own")
    assert "x.png: cannot be read (not an image) (2 images have no seed; the others are made)" in line


def test_mistakes_in_seeds(place: Path, refused: Callable[..., str]) -> None:
    command = ("seeds", "--classifier", "trained", "--split", "val")
    assert "method 'rolout' is unknown: did you mean 'rollout'?" in refused(*command, "--method", "rolout")
    assert refused("seeds", "--classifier", "nobody", "--split", "val") == (
        f"--classifier nobody: no such file, and no run {place / 'runs/nobody/classifier'}; "
        "`vitseg train-classifier` makes one"
    )
    for shard in ("0/3", "4/3", "3", "a/b", "1/0"):
        assert refused(*command, "--shard", shard).startswith(f"--shard {shard}: expected i/n with 1 <= i <= n")
    assert "--batch-size 0: expected at least 1" in refused(*command, "--batch-size", 0)
    assert "--first-block 6: expected a block of the model, 0 to 5" in refused(*command, "--first-block", 6)
    assert "--power: expected more than 0, got 0" in refused(*command, "--power", 0)
    assert "--split vall: no such split" in refused("seeds", "--classifier", "trained", "--split", "vall")
    plain = place / "plain.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), plain)
    line = f"classifier {plain}: expected one of `vitseg train-classifier`, got plain weights"
    assert refused("seeds", "--classifier", plain, "--split", "val") == line
    own = make_data(place / "horses", classes=("cat", "horse"))
    line = refused(*command, "--data", own)
    assert line.startswith("class 'horse' of data set tiny is not one of the classifier's:")
    assert not list((place / "runs").glob("*/seeds/*.npz"))


def test_mistakes_in_training(place: Path, refused: Callable[..., str]) -> None:
    command = ("train-classifier", "--train-split", "all")
    line = refused(*command, "--name", "v", "--architecture", "vit_tinny_patch16_224")
    assert line.startswith("architecture 'vit_tinny_patch16_224' is unknown to timm: did you mean 'vit_tiny_patch16")
    assert "--weights nowhere.pth: no such file" in refused(*command, "--name", "w", "--weights", "nowhere.pth")
    assert "--lr: expected more than 0, got 0" in refused(*command, "--lr", 0)
    line = refused(*command, "--name", "p", "--architecture", "test_vit3", "--weights", "none")
    assert "global_pool 'map' is not supported" in line  # said before the training, not after it
    (place / "data/images/a.png").write_text("junk")
    line = refused(*command, "--name", "j")
    assert line == f"image {place / 'data/images/a.png'}: cannot be read (not an image)"


def test_explain(place: Path, vitseg: Vitseg, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    photographs = [place / f"data/images/{name}.png" for name in "ab"]
    out = place / "out"
    assert vitseg("explain", *photographs, "--classifier", "trained", *QUICK, "--top", 2, "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    written = sorted(out.glob("*_*"))
    assert len(written) == 4 and [path.name[:2] for path in written] == ["a_", "a_", "b_", "b_"]
    assert all(any(line.startswith(f"{path}: ") for line in printed) for path in written)
    for photograph in photographs:
        with Image.open(photograph) as image:
            for path in out.glob(f"{photograph.stem}_*"):
                with Image.open(path) as overlay:
                    assert overlay.size == image.size
                    assert np.ptp(np.asarray(overlay, int) - np.asarray(image, int)) > 0
    named = ("explain", photographs[0], "--classifier", "trained", *QUICK)
    assert vitseg(*named, "--classes", "cat", "--classes", "bird", "--out", place / "named") == 0
    overlays = {"a_cat.png", "a_bird.png"}
    assert {path.name for path in (place / "named").iterdir()} == overlays | {"a.sheet.png", "a.sheet.json"}

    weights = place / "test_vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    capsys.readouterr()
    imagenet = ("explain", photographs[0], "--architecture", "test_vit", "--weights", weights, *QUICK)
    assert vitseg(*imagenet, "--classes", "tabby cat", "--out", place / "imagenet") == 0
    assert "281 (tabby" in capsys.readouterr().out
    several = (*imagenet, "--top", 3, "--out", place / "shares")
    assert vitseg(*several) == 0 and vitseg(*several, "--method", "rollout") == 0
    assert len(list((place / "shares").glob("a_*.rollout.png"))) == 3 == len(list((place / "shares").glob("a_???.png")))
    said = read_json(place / "shares" / "a.sheet.json")
    assert said["limits"] == [0, 1]  # a small part of one hundred per cent does not darken a class's map
    assert [one["predicted"] for one in said["classes"]] == [True, False, False]
    assert "class '1000' is none of ImageNet's 1,000" in refused(*imagenet, "--classes", 1000)

    line = refused(*named, "--classes", "cart")
    assert line.startswith("class 'cart' is unknown to the classifier: did you mean 'cat'?")
    assert refused(*named, "--top", 4) == "--top 4: expected 1 to 3, the number of classes"
    assert refused("explain", photographs[0]) == "--classifier or --architecture: expected one of the two"
    labels = place / "data/labels.csv"
    line = refused("explain", photographs[1], labels, "--classifier", "trained", *QUICK, "--out", place / "half")
    assert line == f"1 of 2 photographs has no overlay: image {labels}: cannot be read (not an image)"
    assert {path.name[:2] for path in (place / "half").iterdir()} == {"b_", "b."}
    assert refused("explain", place / "none.png", "--classifier", "trained").endswith("none.png: no such file")
    twin = place / "a.jpg"
    line = refused("explain", photographs[0], twin, "--classifier", "trained")
    assert line == "images: two files are named a; their overlays would overwrite each other"


def test_list_of_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["list-methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:1].strip()] == list(METHODS)
    assert any("Abnar and Zuidema" in line for line in lines)


@pytest.mark.parametrize("options", [[], ["--method", "rollout"]])
def test_explain_keeps_its_own_defaults_beside_other_options(options: list[str]) -> None:
    _, bound, _ = app.parse_args(["explain", "x.jpg", "--architecture", "vit_tiny_patch16_224", *options])
    settings = bound.arguments.get("cfg", ExplainConfig()).settled(side=224, first_block=1)
    assert (settings.rules, settings.power) == ("robust", 1)
