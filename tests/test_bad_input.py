"""Bad input on every command: exit status 2, one line that names the file or the option, nothing lost and nothing
half-made left behind."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_networks import APPS, make_networks
from small_run import make_data, make_run

from wsss.console import run
from wsss.store import Seed, class_array, write_seed

Spoil = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, runs/{one,vit,cnn,seg} and affinity.safetensors, all of them as they should be."""
    place = tmp_path_factory.mktemp("sound")
    make_run(place / "runs/one", make_data(place / "data"))
    make_networks(place)
    return place


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be spoilt, and the working folder."""
    shutil.copytree(sound, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# --- what is done to the data, runs and files -----------------------------------------------------------------------


def write(path: Path, content: bytes | str) -> None:
    """A file anew: those of the copy are shared with all other cases."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def content(name: str, of: bytes | str) -> Spoil:
    return lambda place, _: write(place / name, of)


def cut(name: str) -> Spoil:
    return lambda place, _: write(place / name, (place / name).read_bytes()[:-40])


def picture(name: str, pixels: np.ndarray, **how: object) -> Spoil:
    def spoil(place: Path, _: pytest.MonkeyPatch) -> None:
        (place / name).unlink(missing_ok=True)
        Image.fromarray(pixels).save(place / name, **how)

    return spoil


def masks(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(place: Path, _: pytest.MonkeyPatch) -> None:
        for path in (place / "data/masks").iterdir():
            changed = change(np.asarray(Image.open(path)))
            path.unlink()
            Image.fromarray(changed).save(path)

    return spoil


def weights(name: str, value: float) -> Spoil:
    """A checkpoint with a value in its largest tensor."""

    def spoil(place: Path, _: pytest.MonkeyPatch) -> None:
        from safetensors import safe_open

        with safe_open(place / name, "pt") as file:
            metadata = file.metadata()
        state = load_file(place / name)
        max(state.values(), key=torch.numel).view(-1)[3] = value
        (place / name).unlink()
        save_file(state, place / name, metadata)

    return spoil


def seed_of(scores: np.ndarray, classes: tuple[int, ...] = (1,), size: tuple[int, int] = (24, 37)) -> Spoil:
    def spoil(place: Path, _: pytest.MonkeyPatch) -> None:
        path = place / "runs/one/seeds/a.npz"
        path.unlink()
        np.savez(path, scores=scores, classes=class_array(classes), size=np.asarray(size, np.int32))

    return spoil


def link(name: str, to: str) -> Spoil:
    def spoil(place: Path, _: pytest.MonkeyPatch) -> None:
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(place / to)

    return spoil


def full_disk(code: int) -> Spoil:
    """Every file that is written through `atomic` fails as it would on a disk that is full, or read-only."""

    def spoil(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def replace(source: object, target: object) -> None:
            raise OSError(code, os.strerror(code), str(source))

        monkeypatch.setattr(os, "replace", replace)

    return spoil


def few_pixels(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)


def no_images(place: Path, _: pytest.MonkeyPatch) -> None:
    for path in (place / "data/images").iterdir():
        write(path, "text")


def thousand(place: Path, _: pytest.MonkeyPatch) -> None:
    names = ", ".join(["cat", "dog", *(f"c{number}" for number in range(998))])
    write(place / "many.yaml", f"name: tiny\nlayout: folder\nroot: data\nclasses: [{names}]\n")


def thousand_without_masks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thousand(place, monkeypatch)
    shutil.rmtree(place / "data/masks")


def pickled(place: Path, _: pytest.MonkeyPatch) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, place / "code.pth")


def turned(place: Path, _: pytest.MonkeyPatch) -> None:
    """Image a of the split with masks, stored lying with the orientation that turns it upright; its mask lies."""
    image = Image.open(place / "data/images/a.png").convert("RGB")
    (place / "data/images/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(place / "data/images/a.png", exif=exif)
    path = place / "runs/one/seeds/a.npz"
    path.unlink()
    write_seed(path.parent, "a", Seed(np.ones((1, 4, 4), np.float16), class_array((1,)), image.size))


def two_runs_one_damaged(place: Path, _: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "runs/one", place / "runs/two")
    cut("runs/two/seeds/a.npz")(place, _)


BINARY = masks(lambda mask: np.where(mask == 1, 255, np.where(mask == 2, 255, 0)).astype(np.uint8))
EMPTY = masks(np.zeros_like)
COLOURS = masks(lambda mask: np.stack([mask] * 3, -1))
DEEP = masks(lambda mask: mask.astype(np.uint16) * 257)
STRANGE = masks(lambda mask: np.where(mask == 1, 7, mask).astype(np.uint8))
MAPS = np.full((1, 4, 4), 0.5, np.float16)

A, ON = "data/images/a.png", "--data data/data.yaml --split val"
BY_VIT, BY_CNN = "--classifier vit --sizes 32 --first-block 1 --device cpu", "--classifier cnn --size 32 --device cpu"
VIT_TRAINING = "--architecture test_vit --epochs 1 --batch-size 2 --sizes 32 --precision float32 --device cpu"
CNN_TRAINING = "--architecture test_resnet --weights none --steps 1 --batch-size 2 --crop 32 --device cpu"
SEG_TRAINING = "--encoder test_resnet --decoder fpn --weights none --steps 1 --batch-size 2 --crop 32 --device cpu"


FP32 = r".*--precision.* \(fp32 is called float32\)$"


@dataclass(frozen=True)
class Case:
    """A command line, what the one line says (a pattern), how the files were spoilt, what may be new all the same."""

    command: str
    told: str
    spoil: Spoil | None = None
    made: str | None = None


PICTURES = [  # of photographs, on the commands that take files of any name
    ("text.jpg", content("text.jpg", "no image"), r"image text\.jpg: cannot be read \(not an image\)"),
    ("empty.jpg", content("empty.jpg", b""), r"image empty\.jpg: cannot be read \(the file is empty\)"),
    ("cut.png", lambda p, m: write(p / "cut.png", (p / A).read_bytes()[:-200]), r"image cut\.png: cannot be read \("),
    ("deep.png", picture("deep.png", np.zeros((9, 9), np.uint16)), r"image deep\.png: expected 8 bits a channel"),
    ("real.tif", picture("real.tif", np.zeros((9, 9), np.float32)), r"image real\.tif: expected 8 bits a channel"),
    ("loop.png", link("loop.png", "loop.png"), r"loop\.png"),
    ("'no\nsuch.png'", None, r"image no such\.png: no such file"),
    ("'a name.png'", content("a name.png", "no"), r"image a name\.png: cannot be read \(not an image\)"),
    ("'\udcff\udcfe.png'", None, r"image \\udcff\\udcfe\.png: no such file"),
    (A, few_pixels, r"image data/images/a\.png: expected at most 0 million pixels, it has more; shrink it"),
]
CASES = [
    # wsss
    *(
        Case(f"wsss evaluate one {ON} {more}", told, spoil)
        for more, told, spoil in (
            ("", r"tiny/val: no mask shows a class: 4 masks hold 0 and 255 alone.* --foreground-value 255", BINARY),
            ("", r"tiny/val: no mask shows a class: 4 masks hold 0 alone", EMPTY),
            (
                "--foreground-value 255",
                r"image c is labelled cat, dog; a mask of one value goes with a single class",
                BINARY,
            ),
            ("--foreground-value 0", r"--foreground-value 0: expected a pixel value from 1 to 255", None),
            ("", r"mask data/masks/a\.png: expected a palette or grey-scale image, got mode RGB", COLOURS),
            ("", r"mask data/masks/a\.png: pixel values 0 to 65535; expected 0 background", DEEP),
            ("", r"mask data/masks/a\.png: cannot be read \(the file is empty\)", content("data/masks/a.png", b"")),
            ("", r"mask data/masks/a\.png: cannot be read", content("data/masks/a.png", "text")),
            ("", r"ground truth.*(EXIF orientation 6).*turn the mask upright, too", turned),
            (
                "",
                r"^error: seed runs/one/seeds/a\.npz: damaged: .*run the command that makes the seeds again$",
                cut("runs/one/seeds/a.npz"),
            ),
            ("", r"seed runs/one/seeds/a\.npz: NaN or infinite values", seed_of(MAPS * np.nan)),
            ("", r"seed runs/one/seeds/a\.npz: values outside \[0, 1\]", seed_of(MAPS * 3)),
            ("", r"runs/one/seeds/a\.npz: holds class index 9, the data set has 2 classes", seed_of(MAPS, (9,))),
            (
                "",
                r"runs/one/seeds/a\.npz: made for an image of 9 x 9, its ground truth is 24 x 37",
                seed_of(MAPS, (1,), (9, 9)),
            ),
            (
                "",
                r"runs/one/masks/a\.png: mask is 9 x 9, its ground truth is",
                picture("runs/one/masks/a.png", np.zeros((9, 9), np.uint8)),
            ),
            ("", r"one/seeds/manifest\.json: not valid JSON", content("runs/one/seeds/manifest.json", "{")),
            (
                "",
                r"one/seeds/manifest\.json: not a manifest of this toolkit",
                content("runs/one/seeds/manifest.json", "[]"),
            ),
            (
                "",
                r"runs/one/metrics\.json: not valid JSON|not written by wsss evaluate",
                content("runs/one/metrics.json", "{"),
            ),
            ("--alpha nan", r"--alpha nan: expected more than 0", None),
            ("--stage maps", r"--stage maps: no such stage", None),
            (
                "--runs affinity.safetensors",
                r"^error: --runs affinity\.safetensors: expected a folder, .*got a file",
                None,
            ),
            ("--root nowhere", r"--root nowhere: no such folder", None),
        )
    ),
    Case("wsss evaluate one --data many.yaml --split val", r"masks of at most 254 classes, got 1000", thousand),
    Case(f"vitseg explain {A} --classifier vit --device tpu9", r"--device tpu9: not available here"),
    Case(f"cnnseg explain {A} --classifier cnn --device tpu9", r"--device tpu9: not available here"),
    Case(
        "vitseg seeds --data data/data.yaml --classifier vit --split vel",
        r"--split vel: no such split in .*did you mean 'val'",
    ),
    Case("wsss evaluate one --data data --split val", r"data", None),
    Case("wsss evaluate one --data bad.yaml --split val", r"bad\.yaml: not valid YAML", content("bad.yaml", "a: [")),
    Case(
        f"wsss evaluate one {ON}",
        r"labels\.csv: not a CSV in UTF-8",
        content("data/labels.csv", b"image,classes\n\xff,cat\n"),
    ),
    Case(
        f"wsss evaluate one {ON}",
        r"labels\.csv: expected the columns image, classes.*, got a, b",
        content("data/labels.csv", "a,b\n1,2\n"),
    ),
    Case(f"wsss evaluate nothing {ON}", r"nothing: no such run in runs", None),
    Case(f"wsss compare one {ON} --out data", r"--out data: expected a name that ends in", None),
    Case(f"wsss compare one {ON} --out affinity.safetensors/a.html", r"affinity\.safetensors", None),
    Case(f"wsss compare one {ON} --images z", r"z", None),
    Case(f"wsss compare one {ON} --images a", r"image data/images/a\.png: cannot be read", content(A, "text")),
    Case(f"wsss compare one {ON}", r"the disk is full while writing report", full_disk(errno.ENOSPC)),
    # explain, of both families
    *(Case(f"vitseg explain {name} {BY_VIT}", told, spoil) for name, spoil, told in PICTURES),
    *(Case(f"cnnseg explain {name} {BY_CNN}", told, spoil) for name, spoil, told in PICTURES),
    *(
        Case(f"{family} explain {more} {by}", told, spoil, made)
        for family, by in (("vitseg", BY_VIT), ("cnnseg", BY_CNN))
        for more, told, spoil, made in (
            (
                f"{A} text.jpg data/images/b.png --out out",
                r"1 of 3 photographs has no overlay: image text\.jpg: cannot be read",
                content("text.jpg", "no"),
                r"out/[ab](_|\.sheet\.)",
            ),
            (
                f"{A} --out affinity.safetensors",
                r"--out affinity\.safetensors: expected a folder, .*got a file",
                None,
                None,
            ),
            (f"{A} --out affinity.safetensors/sub", r"affinity\.safetensors", None, None),
            (
                f"{A} --runs affinity.safetensors",
                r"--runs affinity\.safetensors: expected a folder, .*got a file",
                None,
                None,
            ),
            (f"{A} --top 0", r"--top 0: expected 1 to 2", None, None),
            (f"{A} --classes cart", r"class 'cart' is unknown to the classifier: did you mean 'cat'", None, None),
            (f"{A} --method lrpp", r"method 'lrpp' is unknown: did you mean 'lrp'", None, None),
            (f"{A} data/a.png", r"two files are named a", None, None),
            ("data/images", r"image data/images: cannot be read \(is a directory\)", None, None),
            (
                f"{A} --out out",
                r"the disk is full while writing out/a_.*: free some space",
                full_disk(errno.ENOSPC),
                None,
            ),
            (f"{A} --out out", r"out/a_.*: read-only file system; give another place", full_disk(errno.EROFS), None),
        )
    ),
    Case(
        f"vitseg explain {A} {BY_VIT}",
        r"vit/.*has values that are not finite.*train again",
        weights("runs/vit/classifier/classifier.safetensors", np.nan),
    ),
    Case(
        f"cnnseg explain {A} {BY_CNN}",
        r"cnn/.*has values that are not finite.*train again",
        weights("runs/cnn/network/last.safetensors", np.inf),
    ),
    Case(
        f"vitseg explain {A} {BY_VIT}",
        r"not a readable safetensors file",
        cut("runs/vit/classifier/classifier.safetensors"),
    ),
    Case(
        f"vitseg explain {A} --classifier runs/cnn/network/last.safetensors",
        r"classifier runs/cnn.*vitseg train-classifier",
        None,
    ),
    Case(
        f"vitseg explain {A} --architecture test_vit --weights code.pth",
        r"--weights code\.pth: expected weights alone, got more, and to read that could run code",
        pickled,
    ),
    Case(
        f"cnnseg explain {A} --architecture test_resnet --weights code.pth",
        r"--weights code\.pth: expected weights alone",
        pickled,
    ),
    Case(
        f"vitseg explain {A} --architecture test_vit --weights text.pth",
        r"--weights text\.pth: not a readable file of weights",
        content("text.pth", "text"),
    ),
    Case(
        f"vitseg explain {A} --architecture resnet18 --weights none.pth",
        r"architecture 'resnet18' is no plain ViT",
        None,
    ),
    # the other commands of vitseg
    *(
        Case(f"vitseg seeds {ON} {BY_VIT} {more}", told, spoil, made)
        for more, told, spoil, made in (
            ("--shard 5/4", r"--shard 5/4: expected i/n", None, None),
            ("--batch-size 0", r"--batch-size 0: expected at least 1", None, None),
            ("--name one", r"runs/one/seeds: made with other settings", None, None),
            (
                "--name new",
                r"image data/images/a\.png: cannot be read",
                content(A, "text"),
                r"runs/new/seeds/[bcd]\.npz",
            ),
            ("--name new", r"the disk is full while writing runs/new", full_disk(errno.ENOSPC), None),
        )
    ),
    Case(
        f"vitseg train-classifier --data data/data.yaml --train-split val --name new --weights none.pth {VIT_TRAINING}",
        r"--weights none\.pth: no such file",
        None,
    ),
    Case(
        f"vitseg train-classifier --data data/data.yaml --train-split val --name new --weights none {VIT_TRAINING}",
        r"image data/images/[abcd]\.png: cannot be read",
        no_images,
    ),
    Case(f"vitseg evaluate-classifier {ON} --classifier nowhere", r"--classifier nowhere: no such file", None),
    Case(
        f"vitseg perturbation-test {ON} --classifier vit --methods rolout --device cpu",
        r"'rolout'.*did you mean 'rollout'",
        None,
    ),
    *(
        Case(f"{family} segmentation-test {by} --device cpu {more}", told, spoil)
        for family, by in (("vitseg", "--classifier vit"), ("cnnseg", "--classifier cnn"))
        for more, told, spoil in (
            ("", r"--data or --images: expected", None),
            ("--images data/images", r"--images data/images: needs --masks", None),
            ("--images data/images --masks data/masks", r"image data/images/x\.png: no mask", None),
            (ON, r"no mask shows a class.*--foreground-value 255", BINARY),
            (f"{ON} --foreground-value 999", r"--foreground-value 999: expected a pixel value", None),
            (f"{ON} --name a/b", r"--name a/b: expected the name of a folder", None),
        )
    ),
    Case(
        "vitseg train-classifier --data data/data.yaml --train-split vel",
        r"^error: --train-split vel: no such split in .*did you mean 'val'",
    ),
    Case(
        "cnnseg train-unrolled --data data/data.yaml --train-split val --val-split vel",
        r"^error: --val-split vel: no such split in .*did you mean 'val'",
    ),
    # names and values of older versions
    *(
        Case(f"{command} {more}" + " --data data/data.yaml" * ("segment " not in command), rf"^error: {told}")
        for command, more, told in (
            ("cnnseg train-unrolled", "--network unet", r"--network unet: expected --kind unet; "),
            ("cnnseg train-classifier", "--network fcn", r"--network fcn: expected --kind fcn; "),
            (
                "cnnseg train-unrolled",
                "--precision bf16",
                r"--precision: .*'bfloat16', got 'bf16' \(bf16 is called bfloat16\)$",
            ),
            ("vitseg train-classifier", "--precision fp32", FP32),
            ("affinity train --seeds one --split val", "--precision fp32", FP32),
            ("cnnseg evaluate --network seg --split val", "--precision fp32", FP32),
            ("cnnseg segment data/images/a.png --network seg --out out", "--precision fp32", FP32),
            ("vitseg seeds --classifier vit --split val", "--precision fp32", FP32),
        )
    ),
    Case(
        "cnnseg run-table old.yaml",
        r"^error: old\.yaml: rows\.0: network is called kind; expected kind: unet",
        content("old.yaml", "title: old\ndata: x\nbudgets: [1]\nrows: [{label: U-Net, network: unet}]\n"),
    ),
    # the other commands of cnnseg
    Case(
        f"cnnseg train-unrolled --data data/data.yaml --train-split val --name new {CNN_TRAINING}",
        r"no mask shows a class.*--foreground-value 255",
        BINARY,
    ),
    Case(
        f"cnnseg train-unrolled --data many.yaml --train-split val --name new {CNN_TRAINING}",
        r"expected at most 254 classes in masks, got 1000",
        thousand_without_masks,
    ),
    Case(
        f"cnnseg train-unrolled --data data/data.yaml --train-split val --name new {CNN_TRAINING}",
        r"mask data/masks/a\.png: 9 x 9 pixels, its image 37 x 24",
        picture("data/masks/a.png", np.ones((9, 9), np.uint8)),
        r"runs/new/network/",
    ),
    Case(
        f"cnnseg train-segmentation --masks true {ON} --name new {SEG_TRAINING}",
        r"no mask shows a class.*--foreground-value 255",
        BINARY,
    ),
    Case(f"cnnseg train-segmentation --masks two {ON} --name new {SEG_TRAINING}", r"two: no such run in runs", None),
    Case(
        f"cnnseg evaluate {ON} --network seg --device cpu",
        r"no mask shows a class.*--foreground-value 255",
        BINARY,
        r"runs/seg/masks",
    ),
    Case(
        f"cnnseg evaluate {ON} --network seg --device cpu",
        r"image data/images/a\.png: cannot be read",
        content(A, "text"),
        r"runs/seg/masks",
    ),
    Case(f"cnnseg pseudo-masks {ON} --network cnn --name new", r"--network cnn: a classifier makes no masks", None),
    Case(f"cnnseg seeds {ON} --network nowhere", r"nowhere: no such file", None),
    Case(f"cnnseg seeds {ON} --network seg --device cpu", r"is no classifier that could be explained", None),
    Case(
        "cnnseg segment text.jpg --network seg --out out --device cpu",
        r"^error: image text\.jpg: cannot be read",
        content("text.jpg", "no"),
        r"out/",
    ),
    Case(
        f"cnnseg segment {A} --network seg --out affinity.safetensors",
        r"--out affinity\.safetensors: expected a folder, .*got a file",
        None,
    ),
    Case(
        f"cnnseg segment {A} --network seg --out out --device cpu",
        r"not finite",
        weights("runs/seg/network/last.safetensors", np.nan),
    ),
    Case(
        "cnnseg explain-segmentation text.jpg --network seg --out out --device cpu",
        r"image text\.jpg: cannot be read \(not an image\)",
        content("text.jpg", "no"),
    ),
    Case(
        f"cnnseg explain-segmentation {A} --network seg --out affinity.safetensors",
        r"--out affinity\.safetensors: expected a folder, .*got a file",
    ),
    Case("cnnseg export --network seg --out net.pt", r"--out net\.pt: expected a name that ends in \.onnx", None),
    Case(f"cnnseg evolution {ON} --network cnn --out page.txt", r"page\.txt|cnn", None),
    Case("cnnseg run-table nowhere", r"nowhere: no such file", None),
    # affinity
    *(
        Case(f"affinity labels {ON} --seeds one --into new {more}", told, spoil, r"runs/new/affinity_labels/")
        for more, told, spoil in (
            ("", r"^error: seed runs/one/seeds/a\.npz: damaged", cut("runs/one/seeds/a.npz")),
            ("", r"seed of image a and data/images/a\.png differ in size", seed_of(MAPS, (1,), (9, 9))),
            ("", r"seed of image a shows the classes \[2\], its labels are \[1\]", seed_of(MAPS, (2,))),
            ("", r"image data/images/a\.png: cannot be read", content(A, "text")),
            ("--alpha-low 40", r"alpha_low 40", None),
            ("", r"the disk is full while writing runs/new", full_disk(errno.ENOSPC)),
        )
    ),
    Case(
        "affinity labels --data many.yaml --split val --seeds one",
        r"expected at most 254 classes in masks, got 1000",
        thousand_without_masks,
    ),
    Case(f"affinity labels {ON} --seeds vit", r"runs/vit/seeds: no seeds there", None),
    Case(
        f"affinity combine {ON} --seeds one two --name new",
        r"^error: seed runs/two/seeds/a\.npz: damaged",
        two_runs_one_damaged,
        r"runs/new/seeds/",
    ),
    Case(
        f"affinity combine {ON} --seeds one two --weights 1",
        r"^error: --weights: expected one for each of the 2 runs of --seeds, got 1$",
        two_runs_one_damaged,
    ),
    Case(f"affinity combine {ON} --seeds one", r"--seeds one: expected two or more runs", None),
    Case(
        f"affinity train {ON} --seeds one --network.backbone resnet99 --device cpu",
        r"resnet99: timm has no such model",
        None,
    ),
    *(
        Case(
            f"affinity refine {ON} --seeds one --into new --network affinity.safetensors --device cpu {more}",
            told,
            spoil,
        )
        for more, told, spoil in (
            ("--batch-size 0", r"--batch-size 0: expected at least 1", None),
            ("", r"affinity network affinity\.safetensors: .*not finite", weights("affinity.safetensors", np.nan)),
            (
                "",
                r"affinity network affinity\.safetensors: not a readable safetensors file",
                content("affinity.safetensors", "text"),
            ),
            ("--preset sead", r"sead", None),
        )
    ),
    Case(
        f"affinity train {ON} --seeds one --network.levels 3 1 --device cpu",
        r"^error: --network: levels \(3, 1\): expected indices from 0 in ascending order",
    ),
    Case(
        f"affinity refine {ON} --seeds one --network nowhere.safetensors",
        r"--network nowhere\.safetensors: no such file",
        None,
    ),
]


def files(place: Path) -> dict[str, tuple[int, int]]:
    """All files but locks and the like: size and time of change."""
    found = (path for path in place.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(place).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command.split(" --")[0])
def test_bad_input(
    place: Path, case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.spoil is not None:
        case.spoil(place, monkeypatch)
    program, *words = shlex.split(case.command)
    if program in ("wsss", "affinity") and words[0] not in ("train", "compare"):
        words += ["--workers", "1"]
    before = files(place)
    assert run(APPS[program], words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert re.search(case.told, lines[0]), lines[0]
    assert not re.search(r"`\w+`", lines[0]), lines[0]  # an argument that the command has no option for
    after = files(place)
    assert before.items() <= after.items()  # nothing is lost or changed
    new = {name for name in after.keys() - before.keys() if not name.endswith("manifest.json")}
    assert all(case.made is not None and re.match(case.made, name) for name in new), new


def test_there_are_fifty_of_them() -> None:
    commands = {" ".join(case.command.split()[:2]) for case in CASES}
    assert len(CASES) >= 50 and len(commands) >= 20, (len(CASES), sorted(commands))
