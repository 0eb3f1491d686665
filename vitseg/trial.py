"""What the perturbation test and the segmentation test share: the model under test, its runs, results kept in parts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.checkpoints import checkpoint_name, find_checkpoint
from vitseg.methods import METHODS, find_method
from vitseg.models import Classifier, load_classifier, load_imagenet_vit
from vitseg.relevance.parts import check_supported
from vitseg.settings import TrialConfig
from wsss.console import note, track
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.store import Stage, atomic, file_hash

PART = 64
"""Images in a file of results: what a run that was killed does again at most."""

PROTOCOL = 1
"""Number of the way results are scored, to be raised whenever it changes: no run goes on with those of another."""

Judge = Callable[["Trial"], Generator[None, None, dict[str, np.ndarray]]]
"""Tests one method on a part: yields once an image, returns arrays with one row an image."""


@dataclass(frozen=True)
class Subject:
    """The model under test. ``fingerprint`` tells it from another model of the same ``name``."""

    classifier: Classifier
    name: str
    fingerprint: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the model was made for; images are squeezed to it."""
        height, width = self.classifier.model.patch_embed.img_size
        return int(height), int(width)

    def to(self, device: str, precision: str) -> None:
        """Bring the model, in place, to a device, in evaluation mode and in "float32" or "float64"."""
        self.classifier.model.to(device, getattr(torch, precision)).eval()


@dataclass(frozen=True)
class Trial:
    """One method on trial: where its results go, and the options of `explain` that it is called with."""

    method: str
    run: Path
    stage: Stage
    options: dict[str, object]
    precision: str = "float32"

    @property
    def settings(self) -> str:
        """What sets the maps apart from those of the published method."""
        words = {"rules": "rules", "first_block": "first block"}
        found = [f"{words[key]} {value}" for key, value in self.options.items()]
        return ", ".join(found + [self.precision] * (self.precision != "float32")) or "as published"


@dataclass(frozen=True)
class Done:
    """What a call added to a trial: images tested, and the seconds that this method alone takes for them."""

    images: int
    seconds: float


def find_subject(classifier: str | None, architecture: str | None, weights: str, runs: Path) -> Subject:
    """The model that the options of the command line mean.

    Args:
        classifier: file or run of `vitseg train-classifier`.
        architecture: else timm's name of a ViT with its ImageNet head; `weights` "pretrained" or a file.

    Raises:
        InputError: neither or both are given, no such model, or a model that cannot be explained.
    """
    if (classifier is None) == (architecture is None):
        raise InputError("--classifier or --architecture: give one of the two")
    if classifier is not None:
        path = find_checkpoint(classifier, runs)
        subject = Subject(load_classifier(path), checkpoint_name(path), file_hash(path))
    else:
        model = load_imagenet_vit(architecture, weights)
        known = f"pretrained {architecture}" if weights == "pretrained" else file_hash(Path(weights))
        subject = Subject(model, architecture, known)
    check_supported(subject.classifier.model)
    return subject


def evenly(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` samples spread evenly over the data set, in its order; all of them if that is fewer or None."""
    count = len(dataset)
    if limit is None or limit >= count:
        return dataset
    return replace(dataset, samples=tuple(dataset.samples[place * count // limit] for place in range(limit)))


def open_trials(
    subject: Subject,
    dataset: Dataset,
    test: str,
    config: TrialConfig,
    runs: Path,
    name: str | None = None,
    classes: Sequence[str] | None = None,
) -> list[Trial]:
    """Open the stage of every method: ``<runs>/<model>.<method>/<test>/<data>_<split>``, to begin or to go on.

    By the exact rules the run is ``<model>.<method>.exact``, in float64 ``....float64``, so that they can be compared.

    Args:
        test: "perturbation" or "segmentation".
        name: the run, instead of <model>.<method>; for one method alone.
        classes: what the images were chosen by, for the manifest.

    Raises:
        InputError: no or an unknown method, a first block that the model does not have, a name that is a path or stands
            for several methods, or a stage that was made with other settings or images.
    """
    depth = len(subject.classifier.model.blocks)
    methods = _methods(config)
    if config.first_block is not None and config.first_block >= depth:
        raise InputError(f"--first-block {config.first_block}: the model has blocks 0 to {depth - 1}")
    if name is not None:
        _check_name(name, methods)
    chosen = {"limit": config.limit} | ({"classes": list(classes)} if classes else {})
    precise = {"precision": config.precision} if config.precision != "float32" else {}
    inputs = {"model": subject.fingerprint, "images": _images_hash(dataset, masks=test == "segmentation")}
    trials = []
    for method in methods:
        options = _options(method, config, depth)
        variants = [".exact"] * (options.get("rules") == "exact") + [f".{config.precision}"] * len(precise)
        run = name or f"{subject.name}.{method}{''.join(variants)}"
        try:
            stage = Stage.open(
                runs / run / test / f"{dataset.name}_{dataset.split}",
                kind=f"{test}_test",
                config={"protocol": PROTOCOL, "method": method, **options, **precise, "size": subject.size, **chosen},
                class_names=dataset.class_names,
                suffix=".npz",
                inputs=inputs,
            )
        except InputError as error:
            elsewhere = "--name or --runs" if len(methods) == 1 else f"--runs, as these are {len(methods)} methods"
            if "inputs.images" in str(error):
                elsewhere += "; inputs.images: ids, classes, sizes and times of the files"
            raise InputError(f"{error} (into another run: {elsewhere})") from None
        trials.append(Trial(method, stage.folder.parents[1], stage, options, config.precision))
    return trials


def _methods(config: TrialConfig) -> tuple[str, ...]:
    """The methods asked for, each once. InputError naming --methods."""
    if config.methods == ():
        raise InputError("--methods: names none; leave the option out for all methods")
    for method in config.methods or ():
        if "," in method:
            spaced = " ".join(method.replace(",", " ").split())
            raise InputError(f"--methods {method}: names are separated by spaces, not commas: --methods {spaced}")
        find_method(method)
    return tuple(dict.fromkeys(config.methods or METHODS))


def _check_name(name: str, methods: Sequence[str]) -> None:
    if name in ("", ".", "..") or os.sep in name:
        raise InputError(f"--name {name}: is no name of a folder in --runs; a path goes there")
    if len(methods) > 1:
        raise InputError(f"--name {name}: a run holds one method, these are {len(methods)}: {', '.join(methods)}")


def _images_hash(dataset: Dataset, masks: bool) -> str:
    """Tells images from others of the same names: ids, classes, size and time of change of every file."""

    @cache  # a .mat holds all of them
    def state(path: Path | None) -> tuple[int, int] | None:
        try:
            found = path.stat() if path is not None else None
        except FileNotFoundError:  # is named when it is read
            return None
        return (found.st_size, found.st_mtime_ns) if found is not None else None

    rows = [(s.id, s.classes, state(s.image_path), state(s.mask_path) if masks else None) for s in dataset]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _options(method: str, config: TrialConfig, depth: int) -> dict[str, object]:
    """The options of `explain` that make a difference to this method."""
    chosen = find_method(method)
    rules = {"rules": config.rules} if chosen.relevance else {}
    return rules | ({"first_block": chosen.first_block(depth, config.first_block)} if chosen.rolls_out else {})


def run_trials(
    trials: Sequence[Trial], dataset: Dataset, prepare: Callable[[Sequence[Sample]], Judge], description: str
) -> dict[str, Done]:
    """Make the parts that are missing, each written as soon as it is finished; memory is that of one part.

    Args:
        prepare: reads the images of a part once for all methods and returns what tests one method on them.

    Returns:
        Method -> what was done now.
    """
    starts = range(0, len(dataset), PART)
    parts = {f"part-{place:05d}": dataset.samples[start : start + PART] for place, start in enumerate(starts)}
    pending = {trial.method: set(trial.stage.pending(parts)) for trial in trials}
    images = {method: sum(len(parts[part]) for part in missing) for method, missing in pending.items()}
    seconds = dict.fromkeys(images, 0.0)
    there = len(trials) * len(dataset) - sum(images.values())
    if there:
        note(f"{there} of {len(trials) * len(dataset)} results ({len(trials)} methods) are there already")

    def work() -> Iterator[None]:
        for part, samples in parts.items():
            due = [trial for trial in trials if part in pending[trial.method]]
            if not due:
                continue
            begin = time.monotonic()
            judge = prepare(samples)
            shared = time.monotonic() - begin  # a method on its own would have spent it too
            for trial in due:
                begin = time.monotonic()
                results = yield from judge(trial)
                write_part(trial.stage.folder / f"{part}.npz", samples, results)
                seconds[trial.method] += shared + time.monotonic() - begin
            del judge, results  # before the next part's images are read

    for _ in track(work(), description, total=sum(images.values())):
        pass
    return {method: Done(images[method], seconds[method]) for method in images}


def write_part(path: Path, samples: Sequence[Sample], results: dict[str, np.ndarray]) -> None:
    """Write the results of a part, atomically: ``ids`` and the arrays, one row an image."""
    buffer = io.BytesIO()  # savez to a full disk leaves a file that looks whole to nobody; bytes raise OSError
    np.savez_compressed(buffer, ids=np.array([sample.id for sample in samples]), **results)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_map(folder: Path, place: int) -> np.ndarray:
    """The map of one image of a segmentation test, float32 (h, w), by the image's place in the data set."""
    with np.load(folder / f"part-{place // PART:05d}.npz", allow_pickle=False) as arrays:
        return arrays["maps"][place % PART].astype(np.float32)


def squeeze(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An RGB image at `size` (height, width), whatever its proportions (PIL, bilinear): uint8 (height, width, 3)."""
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def stack(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) as one tensor (n, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def model_input(classifier: Classifier, pixels: Tensor, device: str) -> Tensor:
    """uint8 (n, 3, H, W) to the model's normalised input on the device, in the precision of its weights."""
    return classifier.normalise(pixels.to(device, next(classifier.model.parameters()).dtype) / 255)
