"""What a data set of a million images costs before the first of them is looked at: seconds and memory of each step.

    python benchmarks/million.py [--images 1000000] [--folder /tmp]

Makes the images, and seeds and labels of them, as hard links to a few tiny files (a file system has a limit of links to
a file: ext4 65,000; so there is a new file every 50,000), with labels of 20 classes; every step runs in a process of
its own, and its peak memory is that of the whole process. Seconds are of the clock and, as other work may slow the
machine, of the processor. All is removed at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from affinity.runs import files_of
from wsss.data import Dataset, list_splits, load_dataset
from wsss.data.config import VOC_CLASSES, DataConfig
from wsss.entries import stages_of
from wsss.store import Seed, Stage, due, inputs_of, require, write_mask, write_seed
from wsss.store.inputs import Inputs

LINKS = 50_000
FOLDER = DataConfig(name="many", layout="folder", root=".", classes=list(VOC_CLASSES))
VOC = DataConfig(name="many_voc", layout="voc", root=".")


def imagenet() -> DataConfig:
    return DataConfig(name="many_imagenet", layout="imagenet", root=".", classes=[f"c{k:03d}" for k in range(1000)])


def name_of(number: int) -> str:
    return f"{number:08d}"


def links(make: Callable[[Path, int], None], count: int, kinds: int, path_of: Callable[[int], Path]) -> None:
    """`count` names for files that `make` writes, number n being one of `kinds` kinds of files."""
    first: dict[int, tuple[Path, int]] = {}
    for number in range(count):
        path, kind = path_of(number), number % kinds
        known, used = first.get(kind, (None, LINKS))
        if used == LINKS:
            make(path, kind)
            first[kind] = (path, 1)
        else:
            os.link(known, path)
            first[kind] = (known, used + 1)


def picture(path: Path, kind: int = 0) -> None:
    Image.fromarray(np.full((8, 8, 3), kind, np.uint8)).save(path)


def make_folder(base: Path, count: int) -> None:
    """A folder of images with a CSV, and a run on it: seeds, and labels made of them."""
    (base / "folder/images").mkdir(parents=True)
    links(picture, count, 1, lambda number: base / f"folder/images/{name_of(number)}.jpg")
    with (base / "folder/labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "classes", "split"])
        writer.writerows(
            [f"{name_of(number)}.jpg", VOC_CLASSES[number % 20], "train" if number % 10 else "val"]
            for number in range(count)
        )
    samples = load_dataset(FOLDER, "all", base / "folder").samples[:20]
    seeds, labels = (
        Stage.open(base / "run" / kind, kind=kind, config={}, class_names=VOC_CLASSES, suffix=suffix)
        for kind, suffix in (("seeds", ".npz"), ("affinity_labels", ".png"))
    )
    made_of = inputs_of(samples)

    def seed(path: Path, kind: int) -> None:
        found = Seed(np.zeros((1, 2, 2), np.float16), np.array([1 + kind], np.uint8), (8, 8))
        write_seed(path.parent, path.stem, found, made_of.record(kind))

    links(seed, count, 20, lambda number: seeds.folder / f"{name_of(number)}.npz")
    made_of_seeds = inputs_of(samples, files={"seeds": files_of(seeds)})

    def label(path: Path, kind: int) -> None:
        write_mask(path.parent, path.stem, np.zeros((8, 8), np.uint8), made_of_seeds.record(kind))

    links(label, count, 20, lambda number: labels.folder / f"{name_of(number)}.png")


def make_voc(base: Path, count: int) -> None:
    """A VOC devkit with ``cls_labels.npy`` and one list."""
    (base / "voc/ImageSets/Segmentation").mkdir(parents=True)
    (base / "voc/JPEGImages").symlink_to(base / "folder/images")
    ids = [name_of(number) for number in range(count)]
    (base / "voc/ImageSets/Segmentation/train_aug.txt").write_text("\n".join(ids) + "\n")
    table = {image_id: np.eye(20, dtype=np.float32)[number % 20] for number, image_id in enumerate(ids)}
    np.save(base / "voc/cls_labels.npy", table, allow_pickle=True)


def make_imagenet(base: Path, count: int) -> None:
    """A thousand folders, one for each class."""
    for k in range(1000):
        (base / f"imagenet/train/c{k:03d}").mkdir(parents=True)
    links(picture, count, 1, lambda n: base / f"imagenet/train/c{n % 1000:03d}/c{n % 1000:03d}_{name_of(n)}.jpg")


def folder_set(base: Path) -> Dataset:
    return load_dataset(FOLDER, "all", base / "folder")


def stage(base: Path, kind: str) -> Stage:
    return Stage.read(base / "run" / kind, kind=kind)


def due_seeds(base: Path) -> None:
    assert not due(stage(base, "seeds"), folder_set(base).samples, "seeds")


def due_labels(base: Path) -> None:
    files = {"seeds": files_of(stage(base, "seeds"))}
    assert not due(stage(base, "affinity_labels"), folder_set(base).samples, "labels", files=files)


def required(base: Path) -> None:
    require(stage(base, "seeds"), folder_set(base), "seed", "make them")


def training(base: Path) -> None:
    learnt = inputs_of(folder_set(base).samples)
    learnt.save(base)
    assert Inputs.read(base).digests == learnt.digests


def batches(base: Path) -> int:
    from cnnseg.examples import StepBatches  # of torch, whose half a gigabyte the other steps do without
    from cnnseg.settings import TrainConfig
    from wsss.training import EpochBatches

    dataset = folder_set(base)
    steps = StepBatches(dataset, (), TrainConfig(steps=10), 0)
    return sum(map(len, EpochBatches(len(dataset), 64, 0))) + sum(map(len, steps)) + len(dataset.labels())


STEPS: dict[str, Callable[[Path], object]] = {
    "nothing: Python and the libraries": lambda base: None,
    "folder: list": folder_set,
    "folder: splits": lambda base: list_splits(FOLDER, base / "folder"),
    "VOC with cls_labels.npy: list": lambda base: load_dataset(VOC, "train_aug", base / "voc"),
    "ImageNet's layout: list": lambda base: load_dataset(imagenet(), "train", base / "imagenet"),
    "folder: list, a stage opened to go on": lambda base: (
        folder_set(base),
        Stage.open(base / "run/seeds", kind="seeds", config={}, class_names=VOC_CLASSES, suffix=".npz"),
    ),
    "folder: list, hash, which seeds are missing": due_seeds,
    "folder: list, which seeds are missing (hashed before)": due_seeds,
    "folder: list, hash seeds, which labels are missing": due_labels,
    "folder: list, which labels are missing (hashed before)": due_labels,
    "folder: list, whether all seeds are there": required,
    "folder: list, what a training learns from": training,
    "folder: list, stages of the run (report, evaluate)": lambda base: stages_of(
        base / "run", folder_set(base).samples
    ),
    "folder: list, order of an epoch, labels": batches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        begin = time.monotonic()
        STEPS[options.step](options.folder)
        status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory too
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        times = f"{time.monotonic() - begin:7.1f} s, of the processor {time.process_time():6.1f} s"
        print(f"{options.step:54s} {times}, {peak:6.0f} MB", flush=True)
        return
    base = Path(tempfile.mkdtemp(prefix="million_", dir=options.folder))
    os.environ["RELSEG_CACHE"] = str(base / "cache")
    try:
        begin = time.monotonic()
        for make in (make_folder, make_voc, make_imagenet):
            make(base, options.images)
        print(f"{options.images} images; made in {time.monotonic() - begin:.0f} s", flush=True)
        for step in STEPS:
            subprocess.run([sys.executable, __file__, "--folder", str(base), "--step", step], check=True)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
