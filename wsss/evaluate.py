"""The figures of a run's stages on one split: what ``wsss evaluate`` prints and ``metrics.json`` holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data import IGNORE, Dataset, Sample, check_foreground
from wsss.entries import ALPHAS, READING_ALPHA, STAGES, SUFFIX, MetricEntry, stages_of
from wsss.errors import InputError, did_you_mean
from wsss.metrics import ConfusionMatrix, ThresholdSweep, seed_to_mask
from wsss.parallel import map_parallel
from wsss.progress import note
from wsss.store import Stage, inputs_of, read_mask, read_seed
from wsss.store.content import as_text, hash_bytes
from wsss.words import agreeing, counted

# every protocol reads "<rule>; <labels>; <this>"
PROTOCOL = "one confusion matrix over all images at native size, background included, 255 ignored"


def evaluate_run(
    run: Path,
    dataset: Dataset,
    *,
    stages: Sequence[str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    workers: int = 1,
    command: str = "",
) -> list[MetricEntry]:
    """Evaluate stages of a run against the ground truth of a split (docs/protocols.md).

    Args:
        run: folder of the run.
        dataset: the split; its images without a mask are skipped with a note.
        stages: names of ``STAGES``; None means all that hold files of this split.
        alphas: exponents of the alpha rule for seeds, all > 0; the first is the headline. Walked seeds have their own.
        workers: processes.
        command: the command line, recorded with every figure.

    Returns:
        Entries in the order of the chain; :func:`save_metrics` writes them.

    Raises:
        InputError: no ground truth, no such stage, files missing, of another size or of other classes.
    """
    for alpha in alphas:
        if not (math.isfinite(alpha) and alpha > 0):
            raise InputError(f"`alpha` {alpha:g}: expected more than 0")
    for name in stages or ():
        if name not in STAGES:
            raise InputError(f"`stage` {name}: no such stage; {did_you_mean(name, STAGES)}")
    samples = [sample for sample in dataset if sample.mask_path is not None]
    if not samples:
        raise InputError(
            f"data set {dataset.name}, split {dataset.split}: none of {counted(len(dataset), 'image')} has a "
            "ground-truth mask to evaluate against (wsss compare shows the pictures without figures)"
        )
    if len(samples) < len(dataset):
        left = len(dataset) - len(samples)
        have, are = agreeing(left, "has", "have"), agreeing(left, "is", "are")
        note(f"{left} of {len(dataset)} images {have} no ground truth and {are} left out")
    chosen = list(stages) if stages else stages_of(run, samples)
    if not chosen:
        raise InputError(
            f"{run}: holds nothing for split {dataset.split} of {dataset.name}; make its {', '.join(STAGES)} for this "
            "split first"
        )
    check_foreground(dataset, samples)
    entries: list[MetricEntry] = []
    for name in sorted(set(chosen), key=list(STAGES).index):
        stage = Stage.read(run / name, kind=STAGES[name], class_names=dataset.class_names)
        _check_complete(stage, name, samples, dataset.split)
        of_stage = (READING_ALPHA[name],) if name in READING_ALPHA else tuple(dict.fromkeys(alphas))
        entries += _evaluate_stage(stage, name, dataset, samples, of_stage, workers, command)
    return entries


def content_of_figures(stage: Stage, dataset: Dataset) -> str:
    """What the figures of a stage on a split are made of: its files, the ground truth and the labels; 16 digits."""
    inputs = inputs_of(
        [sample for sample in dataset if sample.mask_path is not None],
        image=False,
        mask=dataset.mask_values,
        files={"results": lambda image_id: stage.folder / f"{image_id}{stage.manifest['suffix']}"},
    )
    return as_text(hash_bytes("".join(inputs.digests.values()).encode()))


def _check_complete(stage: Stage, name: str, samples: Sequence[Sample], split: str) -> None:
    missing = [s.id for s in samples if not (stage.folder / f"{s.id}{SUFFIX[STAGES[name]]}").is_file()]
    if missing:
        history = stage.manifest.get("history") or [{}]
        command = history[-1].get("command") or "the command that makes it"
        raise InputError(
            f"{stage.folder}: {len(missing)} of {counted(len(samples), 'image')} of split {split} "
            f"{agreeing(len(missing), 'is', 'are')} missing (first: {missing[0]}{SUFFIX[STAGES[name]]}); "
            f"run again with `split` {split}: {command}"
        )


@dataclass
class _Counts:
    """What all images of a stage come to: a matrix for each alpha, or one; and counts of pixels and images."""

    matrices: list[ConfusionMatrix]
    sweep: ThresholdSweep
    confident: int = 0
    known: int = 0
    unlabelled: int = 0


def _count(
    stage: Stage, name: str, dataset: Dataset, samples: Sequence[Sample], alphas: tuple[float, ...], workers: int
) -> _Counts:
    classes, kind = dataset.num_classes + 1, STAGES[name]
    found = _Counts([ConfusionMatrix(classes) for _ in (alphas if kind == "seeds" else (0,))], ThresholdSweep(classes))
    count = _Counter(kind, stage.folder, replace(dataset, samples=()), alphas)
    for part in map_parallel(count, samples, workers=workers, description=f"evaluate {name}"):
        for matrix, counts in zip(found.matrices, part.counts, strict=True):
            matrix.add(counts)
        if part.histogram is not None and part.classes is not None:
            found.sweep.add(part.histogram, part.classes)
        found.confident += part.confident
        found.known += part.counted
        found.unlabelled += part.unlabelled
    if not found.known:
        raise InputError(
            f"data set {dataset.name}, split {dataset.split}: every pixel of its ground truth is 255 (ignored)"
        )
    return found


def _evaluate_stage(
    stage: Stage,
    name: str,
    dataset: Dataset,
    samples: Sequence[Sample],
    alphas: tuple[float, ...],
    workers: int,
    command: str,
) -> list[MetricEntry]:
    kind = STAGES[name]
    counts = _count(stage, name, dataset, samples, alphas, workers)
    content = content_of_figures(stage, dataset)
    made = stage.manifest.get("config", {})
    declared = bool(made.get("labels_given", True))
    labels_given = declared and not counts.unlabelled
    if declared and counts.unlabelled:
        shown = f"{counted(counts.unlabelled, 'image')} {agreeing(counts.unlabelled, 'shows', 'show')}"
        note(f"{name}: {shown} classes that their labels do not name: not counted as made from labels")

    def entry(rule: str, matrix: ConfusionMatrix, how: str, **extra) -> MetricEntry:
        given = (
            "image-level labels given (absent classes cannot be predicted)"
            if labels_given
            else "no image-level labels given"
        )
        figures: dict[str, Any] = {"miou": _percent(matrix.miou), "pixel_accuracy": _percent(matrix.pixel_accuracy)}
        names = ("background", *dataset.class_names)
        figures["iou"] = {key: _percent(value) for key, value in zip(names, matrix.iou(), strict=True)}
        return MetricEntry(
            data=dataset.name,
            stage=name,
            split=dataset.split,
            rule=rule,
            labels_given=labels_given,
            images=len(samples),
            command=command,
            source=stage.fingerprint,
            content=content,
            network=made.get("network"),
            learnt_from=made.get("learnt_from"),
            protocol=f"{how}; {given}; {PROTOCOL}",
            **(figures | extra),
        )

    if kind == "affinity_labels":
        return [_label_entry(entry, counts.matrices[0].counts, counts.confident / counts.known)]
    if kind == "masks":
        return [entry("masks", counts.matrices[0], "masks as written", headline=True)]
    bilinear = "seeds upsampled bilinearly"
    rows = [
        entry(
            f"alpha {alpha:g}",
            matrix,
            f"background (1 - max score)^{alpha:g}, {bilinear}",
            headline=not i,
        )
        for i, (alpha, matrix) in enumerate(zip(alphas, counts.matrices, strict=True))
    ]
    best = counts.sweep.best()
    how = f"ORACLE: best fixed background threshold, chosen on these very masks, {bilinear}"
    return [*rows, entry(f"oracle threshold {best.threshold:g}", best.matrix, how, oracle=True)]


def _label_entry(entry, counts: np.ndarray, coverage: float) -> MetricEntry:
    """Affinity labels leave pixels out, so an IoU would not compare: coverage, and precision of what is labelled."""
    foreground, background = counts[:, 1:].sum(), counts[:, 0].sum()
    right = np.diag(counts)
    return entry(
        "confident pixels",
        ConfusionMatrix(len(counts)),
        "neutral pixels (255) left out, precision among confident pixels",
        headline=True,
        iou={},
        coverage=_percent(coverage),
        foreground_precision=_percent(right[1:].sum() / foreground) if foreground else None,
        background_precision=_percent(right[0] / background) if background else None,
    )


@dataclass(frozen=True)
class _Part:
    """What one image adds."""

    counts: list[np.ndarray]
    confident: int
    counted: int
    unlabelled: bool
    histogram: np.ndarray | None = None
    classes: np.ndarray | None = None


@dataclass(frozen=True)
class _Counter:
    """The work on one image; small enough to be sent to worker processes."""

    kind: str
    folder: Path
    dataset: Dataset
    alphas: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """With the background."""
        return self.dataset.num_classes + 1

    def __call__(self, sample: Sample) -> _Part:
        truth = self.dataset.load_mask(sample)
        path = self.folder / f"{sample.id}{SUFFIX[self.kind]}"
        try:
            return self._seed(sample, path, truth) if self.kind == "seeds" else self._mask(sample, path, truth)
        except InputError:  # names the file already
            raise
        except ValueError as error:
            raise InputError(f"{path}: {error} ({sample.mask_path})") from None

    def _seed(self, sample: Sample, path: Path, truth: np.ndarray) -> _Part:
        seed = read_seed(self.folder, sample.id)
        if tuple(seed.size) != truth.shape:
            raise ValueError(
                f"made for an image of {_hw(seed.size)}, its ground truth is {_hw(truth.shape)}"
                f"{sample.turn_hint(seed.size, truth.shape)}"
            )
        if len(seed.classes) and not 1 <= seed.classes.min() <= seed.classes.max() < self.num_classes:
            raise ValueError(f"holds class index {seed.classes.max()}, the data set has {self.num_classes - 1} classes")
        scores, counts = seed.upsample(), []
        for alpha in self.alphas:
            matrix = ConfusionMatrix(self.num_classes)
            matrix.update(seed_to_mask(scores, seed.classes, alpha=alpha), truth)
            counts.append(matrix.counts)
        histogram, classes = ThresholdSweep(self.num_classes).count(scores, seed.classes, truth)
        kept = int((truth != IGNORE).sum())
        return _Part(counts, kept, kept, not set(seed.classes.tolist()) <= set(sample.classes), histogram, classes)

    def _mask(self, sample: Sample, path: Path, truth: np.ndarray) -> _Part:
        mask = read_mask(self.folder, sample.id)
        if mask.shape != truth.shape:
            raise ValueError(
                f"mask is {_hw(mask.shape)}, its ground truth is {_hw(truth.shape)}"
                f"{sample.turn_hint(mask.shape, truth.shape)}"
            )
        kept = truth != IGNORE
        counted = int(kept.sum())
        unlabelled = not set(np.unique(mask).tolist()) - {0, IGNORE} <= set(sample.classes)
        if self.kind == "affinity_labels":
            kept &= mask != IGNORE
            mask, truth = np.where(kept, mask, 0), np.where(kept, truth, IGNORE)
        matrix = ConfusionMatrix(self.num_classes)
        matrix.update(mask, truth)
        return _Part([matrix.counts], int(kept.sum()), counted, unlabelled)


def _percent(value: float) -> float | None:
    return round(100 * float(value), 4) if math.isfinite(value) else None


def _hw(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
