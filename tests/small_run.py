"""A tiny data set (folder layout) and a run on it, for the tests of evaluation, report and command line."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data import Dataset, load_dataset
from wsss.store import Seed, Stage, write_mask, write_seed

CLASSES = ("cat", "dog")
VAL = {"a": ("cat",), "b": ("dog",), "c": ("cat", "dog"), "d": ("cat",)}
OWN = {"x": ("dog",), "y": ("cat", "dog")}
"""Images without masks."""


def make_data(folder: Path, classes: Sequence[str] = CLASSES) -> Path:
    """Write images, labels.csv, masks (of split val only) and data.yaml; returns the YAML."""
    rng = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = ["image,classes,split"]
    for split, images in (("val", VAL), ("own", OWN)):
        for i, (image_id, shown) in enumerate(images.items()):
            height, width = 24 + 3 * i, 37 - 2 * i
            picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / "images" / f"{image_id}.png")
            names = [classes[CLASSES.index(name)] for name in shown]
            rows.append(f"{image_id},{';'.join(names)},{split}")
            if split == "val":
                mask = np.zeros((height, width), np.uint8)
                for k, name in enumerate(shown):
                    mask[4 : height - 5, 3 + 15 * k : 15 + 15 * k] = 1 + CLASSES.index(name)
                mask[:2] = 255
                Image.fromarray(mask).save(folder / "masks" / f"{image_id}.png")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    listed = ", ".join(f'"{name}"' for name in classes)
    file = folder / "data.yaml"
    file.write_text(f"name: tiny\nlayout: folder\nroot: .\nclasses: [{listed}]\n")
    return file


def make_run(run: Path, data: Path, splits: Sequence[str] = ("val",), *, seed: int = 0, noise: float = 0.5) -> None:
    """Write seeds, affinity labels and masks of a run: random maps, stronger where the ground truth shows the class."""
    rng = np.random.default_rng(seed)
    for split in splits:
        dataset = load_dataset(data, split)
        stages = {
            kind: Stage.open(
                run / kind, kind=kind, config={"seed": seed}, class_names=dataset.class_names, suffix=suffix
            )
            for kind, suffix in (("seeds", ".npz"), ("affinity_labels", ".png"), ("masks", ".png"))
        }
        for sample in dataset:
            with Image.open(sample.image_path) as image:
                width, height = image.size
            truth = dataset.load_mask(sample) if sample.mask_path else np.zeros((height, width), np.uint8)
            classes = np.array(sample.classes, np.uint8)
            maps = rng.random((len(classes), 6, 8)) * noise
            for k, c in enumerate(classes):
                maps[k] += np.asarray(Image.fromarray((truth == c).astype(np.float32)).resize((8, 6))) * (1 - noise)
            write_seed(run / "seeds", sample.id, Seed(maps.clip(0, 1).astype(np.float16), classes, (height, width)))
            flips = rng.random(truth.shape) < noise * 0.4
            mask = np.where(flips | (truth == 255), rng.choice(np.append(classes, 0), truth.shape), truth)
            write_mask(run / "masks", sample.id, mask.astype(np.uint8))
            neutral = rng.random(truth.shape) < 0.3
            write_mask(run / "affinity_labels", sample.id, np.where(neutral, 255, mask).astype(np.uint8))
        for kind, stage in stages.items():
            stage.done(
                command=f"make {kind} --split {split}", split=split, counts={"images": len(dataset)}, seconds=1.5
            )


def val(data: Path) -> Dataset:
    """The split with ground truth."""
    return load_dataset(data, "val")


def finish(steps: Generator[None, None, dict[str, np.ndarray]]) -> tuple[int, dict[str, np.ndarray]]:
    """Run a generator to its end: number of steps, and what it returns."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1
