"""Figures of a finished network on a split: its masks as a stage of its run, and ``scores.json``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnseg.evaluation import PROTOCOLS, check_classes, evaluate_network, percent, predict_masks
from cnnseg.models import Network, find_network, load_network
from cnnseg.segmentation.settings import ViewsConfig
from cnnseg.settings import BEST, CHOSEN, LAST, STAGE, STATE
from wsss.classification import ClassificationScores
from wsss.data import Dataset
from wsss.entries import save_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.extras import need
from wsss.progress import note, warn
from wsss.provenance import command_line
from wsss.store import DATA, Stage, account, due, file_hash, inputs_of, locked, read_json, write_json
from wsss.store.atomic import remove_leftovers
from wsss.store.spelling import respelt
from wsss.training import choose_device
from wsss.words import counted

SCORES = "scores.json"


def evaluate_checkpoint(
    name_or_path: str,
    dataset: Dataset,
    *,
    runs: Path,
    which: str = LAST,
    name: str | None = None,
    size: int | None = None,
    protocol: str = "voc",
    keep_masks: bool = True,
    device: str = "auto",
    batch_size: int = 4,
    classes_at_once: int | None = None,
    precision: str = "float32",
    views: ViewsConfig = ViewsConfig(),
    labels_given: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Masks and figures of a finished network on a split, kept in its run.

    Those of best go into the run NAME_best, those made with the labels given into NAME_labels.

    Args:
        labels_given: a pixel can only be background or a class that its image is labelled with.
        keep_masks: write them as the run's stage ``masks``, which holds those of one size and precision alone; False:
            figures in ``scores.json`` alone, beside those of other sizes. The protocol of the paper keeps none.

    Returns:
        The entry of ``scores.json``: "miou" and the classification figures in per cent, None where undefined.
    """
    begin = time.monotonic()
    need("wsss")
    path = find_network(name_or_path, runs, which)
    network = load_network(path, classes_at_once=classes_at_once)
    check_classes(network, dataset)
    if (path.parent / STATE).exists():
        warn(f"{path}: its training is not finished")
    best = path.name == BEST
    folder = runs / name if name is not None else _run_of(path, runs, best, labels_given)
    how: dict[str, Any] = {
        "size": size,
        "device": choose_device(device),
        "batch_size": batch_size,
        "precision": precision,
    }
    how |= {"views": views, "labels_given": labels_given}
    title = f" (best: {CHOSEN})" if best else ""
    entry: dict[str, Any] = {
        "data": dataset.name,
        "split": dataset.split,
        "checkpoint": f"best: {CHOSEN}" if best else path.stem,
        "network": file_hash(path),
        "images": len(dataset),
        "content": _content(dataset),
        "size": size,
        "precision": precision,
        "protocol": PROTOCOLS[protocol],
        "miou": None,
        "command": command_line("cnnseg"),
        **({"labels_given": True} if labels_given else {}),
        **({"views": views.identity} if views.identity else {}),
    }
    if protocol == "paper" or not network.module.segments or not keep_masks:
        found = evaluate_network(
            network, dataset, protocol=protocol, description=f"evaluate {network.kind} on {dataset.split}", **how
        )
        entry["miou"], scores = found.miou, found.scores
        if found.miou is not None:
            note(f"mIoU {found.miou:.2f}{title}; protocol: {PROTOCOLS[protocol]}")
    else:
        stage_of = Stage.writing(
            folder / "masks",
            kind="masks",
            config=mask_settings(network, path, size, precision, views, labels_given),
            class_names=dataset.class_names,
            suffix=".png",
            inputs={"network": file_hash(path), "data": dataset.name},
            sources={DATA: dataset.root, "network": path},
        )
        with stage_of as stage:
            todo = due(stage, dataset.samples, "masks", labels=labels_given)
            scores = predict_masks(network, dataset, stage.folder, todo, **how)
            account(stage, dataset, len(todo), begin, command=command_line("cnnseg"))
        entry["miou"] = _score_masks(folder, dataset, workers, title)
    _print_scores(scores, dataset, title)
    return save_scores(folder / STAGE, entry, scores, dataset.class_names)


def mask_settings(
    network: Network, path: Path, size: int | None, precision: str, views: ViewsConfig, labels_given: bool
) -> dict[str, Any]:
    """What the manifest of a network's masks says of how they were made."""
    return {
        "labels_given": labels_given,
        "network": network.kind if network.decoder is None else network.title,
        "checkpoint": path.stem,
        "size": size,
        "precision": precision,
        **views.identity,
        **({} if network.learnt_from is None else {"learnt_from": network.learnt_from}),
    }


def is_evaluation_of(
    entry: dict[str, Any], path: Path, dataset: Dataset, *, size: int | None, protocol: str, precision: str
) -> bool:
    """Whether an entry of ``scores.json`` is about this checkpoint, these images, and this rule, one plain look.

    Images, labels and masks are told by content, where the entry says it; those of older versions do not.
    """
    if entry.get("labels_given") or entry.get("views"):
        return False
    due = {"data": dataset.name, "split": dataset.split, "images": len(dataset)}
    due |= {"size": size, "precision": precision, "protocol": PROTOCOLS[protocol]}
    if any(entry.get(key) != value for key, value in due.items()) or entry.get("network") != file_hash(path):
        return False
    return entry.get("content") is None or entry["content"] == _content(dataset)


def _content(dataset: Dataset) -> dict[str, str]:
    return inputs_of(dataset.samples, mask=dataset.mask_values).digests


def save_scores(
    folder: Path, entry: dict[str, Any], scores: ClassificationScores | None, names: Sequence[str]
) -> dict[str, Any]:
    """Merge an entry into ``<folder>/scores.json``: it replaces that of the same data, split, checkpoint, protocol.

    Returns the entry, with the figures of `scores` (in per cent) added.
    """
    entry = dict(entry)
    if scores is not None:
        entry |= {
            "macro_f1": percent(scores.macro_f1),
            "map": percent(scores.mean_average_precision),
            "threshold": scores.threshold,
            "f1": {name: percent(value) for name, value in zip(names, scores.f1, strict=True)},
            "ap": {name: percent(value) for name, value in zip(names, scores.average_precision, strict=True)},
        }
    key = ("data", "split", "checkpoint", "protocol", "size", "precision", "labels_given", "views")
    with locked(folder / f".{SCORES}.lock"):
        old = [row for row in read_scores(folder) if any(row.get(name) != entry.get(name) for name in key)]
        write_json(folder / SCORES, {"entries": [*old, entry]})
        remove_leftovers(folder)
    return entry


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """The entries that `save_scores` wrote, none if there is no such file."""
    path = folder / SCORES
    if not path.exists():
        return []
    content = read_json(path)
    rows = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: no list of entries; delete it and evaluate again")
    return [respelt(row) for row in rows]


def _score_masks(folder: Path, dataset: Dataset, workers: int, title: str) -> float | None:
    """mIoU of a run's masks in per cent, kept in its metrics.json; None if the split has no ground truth."""
    if not any(sample.mask_path is not None for sample in dataset):
        note(f"{dataset.name}/{dataset.split} has no masks to compare with: no mIoU")
        return None
    entries = evaluate_run(folder, dataset, stages=["masks"], workers=workers, command=command_line("cnnseg"))
    save_metrics(folder, entries)
    (entry,) = entries
    by_class = ", ".join(f"{key} {value:.1f}" for key, value in entry.iou.items() if value is not None)
    note(f"{folder.name} on {dataset.name}/{dataset.split}: mIoU {_show(entry.miou)}{title}")
    note(f"IoU by class: {by_class}")
    note(f"protocol: {entry.protocol}")
    return entry.miou


def _print_scores(scores: ClassificationScores | None, dataset: Dataset, title: str) -> None:
    if scores is None:
        return
    for class_name, f1, precision in zip(dataset.class_names, scores.f1, scores.average_precision, strict=True):
        note(f"{class_name:>16s}  F1 {_show(percent(f1)):>6s}  AP {_show(percent(precision)):>6s}")
    macro, average = percent(scores.macro_f1), percent(scores.mean_average_precision)
    note(
        f"{'mean':>16s}  F1 {_show(macro):>6s}  AP {_show(average):>6s}  ({counted(len(dataset), 'image')} of "
        f"{dataset.name}/{dataset.split}, threshold {scores.threshold}){title}"
    )


def _run_of(path: Path, runs: Path, best: bool, labels_given: bool) -> Path:
    """The run that a checkpoint lies in, else one named like the file."""
    ending = "_best" * best + "_labels" * labels_given
    if path.resolve().parent.name == STAGE:
        run = path.resolve().parents[1]
        return run.with_name(f"{run.name}{ending}")
    return runs / f"{path.stem}{ending}"


def _show(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
