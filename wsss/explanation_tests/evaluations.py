"""What the perturbation test and the segmentation test share: their runs, and results kept in parts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.settings import EvaluationConfig
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.processes import from_first, gathered, portion
from wsss.progress import note, track
from wsss.store import DATA, Stage, file_hash, inputs_of, read_json
from wsss.store.atomic import write_bytes
from wsss.store.inputs import differing
from wsss.store.manifest import MANIFEST
from wsss.store.records import Record, pack, with_record
from wsss.store.work import all_done, check_root, records_of
from wsss.words import agreeing, counted

PART = 64
"""Images in a file of results: what a run that was killed does again at most."""

PROTOCOL = 1
"""Number of the way results are scored, to be raised whenever it changes: no run goes on with those of another."""

Evaluate = Callable[["Evaluation"], Generator[None, None, dict[str, np.ndarray]]]
"""Tests one explainer on a part: yields once an image, returns arrays with one row an image."""


@dataclass(frozen=True)
class Evaluation:
    """One explainer on evaluation, and where its results go."""

    explainer: Explainer
    run: Path
    stage: Stage
    precision: str = "float32"

    @property
    def method(self) -> str:
        """The method's name."""
        return self.explainer.name

    @property
    def settings(self) -> str:
        """What sets the maps apart from those of the published method."""
        found = [f"{key.replace('_', ' ')} {value}" for key, value in self.explainer.options.items()]
        return ", ".join(found + [self.precision] * (self.precision != "float32")) or "as published"


@dataclass(frozen=True)
class Done:
    """What a call added to a evaluation: images tested, and the seconds that this method alone takes for them."""

    images: int
    seconds: float

    def __add__(self, other: Done) -> Done:
        return Done(self.images + other.images, self.seconds + other.seconds)


def evenly(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` samples spread evenly over the data set, in its order; all of them if that is fewer or None."""
    count = len(dataset)
    if limit is None or limit >= count:
        return dataset
    return replace(dataset, samples=tuple(dataset.samples[place * count // limit] for place in range(limit)))


def open_evaluations(
    tested: ModelUnderTest,
    dataset: Dataset,
    test: str,
    explainers: Sequence[Explainer],
    config: EvaluationConfig,
    runs: Path,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    more: Mapping[str, Any] | None = None,
    held: ExitStack | None = None,
) -> list[Evaluation]:
    """Open the stage of every explainer: ``<runs>/<model>.<method>/<test>/<data>_<split>``, to begin or to go on.

    Variants of a method have runs of their own, ``<model>.<method>.<variant>``, in float64 ``....float64``, so that
    they can be compared.

    Args:
        test: "perturbation", "segmentation" or "region".
        config: limit and precision; `explainers` are those of its methods.
        name: the run, instead of <model>.<method>; for one explainer alone.
        classes: what the images were chosen by, for the manifest.
        more: settings of this test alone that change its results.
        held: what the stages are held in, against other processes; without it they are not.

    Raises:
        InputError: a name that is a path or stands for several explainers, or a stage that was made with other settings
            or is being written by another process.
    """
    if name is not None:
        _check_name(name, explainers)
    chosen = {"limit": config.limit} | ({"classes": list(classes)} if classes else {}) | dict(more or {})
    precise = {"precision": config.precision} if config.precision != "float32" else {}
    evaluations = []
    for explainer in explainers:
        run = name or ".".join([tested.name, explainer.label, *precise.values()])
        identity = {"method": explainer.name, **explainer.options, **precise, "size": tested.size, **chosen}
        folder = runs / run / test / f"{dataset.name}_{dataset.split}"
        how: dict[str, Any] = {
            "kind": f"{test}_test",
            "config": {"protocol": PROTOCOL, **identity},
            "class_names": dataset.class_names,
            "suffix": ".npz",
            "inputs": {
                "model": tested.fingerprint,
                **({} if explainer.code is None else {"method": file_hash(explainer.code)}),
                **_times(folder, dataset, masks=test == "segmentation"),
            },
            "sources": {DATA: dataset.root}
            | ({} if tested.path is None else {"model": tested.path})
            | ({} if explainer.code is None else {"method": explainer.code}),
        }
        try:
            stage = Stage.open(folder, **how) if held is None else held.enter_context(Stage.writing(folder, **how))
        except InputError as error:
            count = len(explainers)
            elsewhere = "`name` or `runs`" if count == 1 else f"`runs`, as these are {count} methods"
            if "inputs.images" in str(error):
                elsewhere += "; inputs.images: ids, classes, sizes and times of the files"
            raise InputError(f"{error} (into another run: {elsewhere})") from None
        evaluations.append(Evaluation(explainer, stage.folder.parents[1], stage, config.precision))
    return evaluations


def _check_name(name: str, explainers: Sequence[Explainer]) -> None:
    if name in ("", ".", "..") or os.sep in name:
        raise InputError(f"`name` {name}: expected the name of a folder in `runs`, got a path")
    if len(explainers) > 1:
        labels = ", ".join(explainer.label for explainer in explainers)
        raise InputError(f"`name` {name}: a run holds one method, these are {len(explainers)}: {labels}")


def _times(folder: Path, dataset: Dataset, masks: bool) -> dict[str, str]:
    """The input "images" of results of an older version, by which it told images from others of the same names.

    A hash of ids, classes, size and time of change of every file; nothing where results are new, and tell by content.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file() or "images" not in read_json(manifest).get("inputs", {}):
        return {}

    @cache  # a .mat holds all of them
    def state(path: Path | None) -> tuple[int, int] | None:
        try:
            found = path.stat() if path is not None else None
        except FileNotFoundError:  # is named when it is read
            return None
        return (found.st_size, found.st_mtime_ns) if found is not None else None

    rows = [(s.id, s.classes, state(s.image_path), state(s.mask_path) if masks else None) for s in dataset]
    return {"images": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}


def run_evaluations(
    evaluations: Sequence[Evaluation],
    dataset: Dataset,
    prepare: Callable[[Sequence[Sample]], Evaluate],
    description: str,
    part: int | None = None,
) -> dict[str, Done] | None:
    """Make the parts that are missing or of other images, each written when it is finished; memory is that of one part.

    Several processes share the parts (`wsss.processes`).

    Args:
        prepare: reads the images of a part once for all explainers and returns what tests one of them on these.
        part: images in a file of results, `PART` unless given; the same in every call of a test.

    Returns:
        Label of the explainer -> what was done now in all processes. None if the figures are not this process's to
        make: another one makes them, or a shard is not done yet.
    """
    size = part or PART
    starts = range(0, len(dataset), size)
    parts = {f"part-{place:05d}": dataset.samples[start : start + size] for place, start in enumerate(starts)}
    masks = dataset.mask_values if evaluations[0].stage.manifest["kind"].startswith("segmentation") else None
    inputs = from_first(lambda: inputs_of(dataset.samples, mask=masks))
    records = {name: inputs.part(slice(start, start + size)).digests for name, start in zip(parts, starts, strict=True)}

    def missing(names: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Parts with the methods that they lack."""
        left = {evaluation.explainer.label: _pending(evaluation.stage, records, names) for evaluation in evaluations}
        there = sum(len(parts[name]) for found in left.values() for name in names if name not in found)
        if there:
            count = len(evaluations) * sum(len(parts[name]) for name in names)
            of = f"{counted(count, 'result')} ({counted(len(evaluations), 'method')})"
            note(f"{there} of {of} {agreeing(there, 'is', 'are')} there already")
        lacking = [(name, [label for label, found in left.items() if name in found]) for name in names]
        return [(name, labels) for name, labels in lacking if labels]

    mine = portion(list(parts), missing)
    images = {evaluation.explainer.label: 0 for evaluation in evaluations}
    for name, labels in mine:
        for label in labels:
            images[label] += len(parts[name])
    seconds = dict.fromkeys(images, 0.0)

    def work() -> Iterator[None]:
        for name, labels in mine:
            samples = parts[name]
            begin = time.monotonic()
            evaluate = prepare(samples)
            shared = time.monotonic() - begin  # a method on its own would have spent it too
            for evaluation in (evaluation for evaluation in evaluations if evaluation.explainer.label in labels):
                begin = time.monotonic()
                results = yield from evaluate(evaluation)
                write_part(evaluation.stage.folder / f"{name}.npz", samples, results, pack(records[name]))
                seconds[evaluation.explainer.label] += shared + time.monotonic() - begin
            del evaluate, results  # before the next part's images are read

    for _ in track(work(), description, total=sum(images.values())):
        pass
    found = gathered({label: Done(images[label], seconds[label]) for label in images})
    if not all_done(list(parts), missing):
        return None
    return {label: sum((one[label] for one in found[1:]), found[0][label]) for label in images}


def _pending(stage: Stage, records: dict[str, Record], names: Sequence[str]) -> set[str]:
    """The named parts that are missing, or of other images, labels or masks; those beyond the last are removed."""
    for path in stage.folder.glob("part-*.npz"):
        if path.stem not in records:
            path.unlink(missing_ok=True)  # there are fewer images now
    there = records_of(stage, names, records.__getitem__, "parts")
    changed = {part for part, record in there.items() if differing(record, records[part])}
    if changed:
        check_root(stage, "parts", counted(len(changed), "part"))
        are = agreeing(len(changed), "is", "are")
        note(f"{stage.folder}: {len(changed)} of {len(names)} parts {are} of images that have changed: tested again")
    return changed | (set(names) - there.keys())


def write_part(path: Path, samples: Sequence[Sample], results: dict[str, Any], made_of: str = "") -> None:
    """Write the results of a part, atomically: ``ids`` and the arrays, one row an image; `made_of`: its record."""
    buffer = io.BytesIO()  # savez to a full disk leaves a file that looks whole to nobody; bytes raise OSError
    np.savez_compressed(buffer, ids=np.array([sample.id for sample in samples]), **results)
    write_bytes(path, with_record(buffer.getvalue(), made_of))


def read_map(folder: Path, place: int) -> np.ndarray:
    """The map of one image of a segmentation test, float32 (h, w), by the image's place in the data set."""
    with np.load(folder / f"part-{place // PART:05d}.npz", allow_pickle=False) as arrays:
        return arrays["maps"][place % PART].astype(np.float32)
