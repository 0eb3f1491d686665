"""The figures of a training: a row for each evaluation, in ``history.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnseg.evaluation import Evaluation
from cnnseg.settings import TrainConfig
from wsss.errors import InputError
from wsss.store import atomic

HISTORY = "history.jsonl"

Row = dict[str, Any]
"""step; loss, classification_loss and segmentation_loss, means over the steps since the row before; miou, macro_f1 and
map in per cent, None where undefined, of so many images."""


def read_history(folder: Path) -> list[Row]:
    """Rows of ``history.jsonl``. InputError naming the file if it is missing or damaged."""
    path = folder / HISTORY
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the training writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: not lines of JSON ({error}); delete the folder and train again") from None


@dataclass
class Progress:
    """All of a training that is neither weights nor optimiser."""

    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """classification and segmentation loss since the last evaluation"""
    since: int = 0
    """steps since then"""
    history: list[Row] = field(default_factory=list)
    best: Row | None = None

    def row(self, config: TrainConfig, found: Evaluation | None) -> Row:
        """The figures of this moment; the losses begin anew after it."""
        row: Row = {"step": self.step}
        if self.since:
            classification, segmentation = (total / self.since for total in self.sums)
            total = config.classification_weight * classification + config.segmentation_weight * segmentation
            row |= {"loss": total, "classification_loss": classification, "segmentation_loss": segmentation}
        if found is not None:
            row |= {"images": found.images, "miou": found.miou}
            row |= {"macro_f1": found.macro_f1, "map": found.mean_average_precision}
        self.sums, self.since = [0.0, 0.0], 0
        return row

    def add(self, losses: tuple[float, float]) -> None:
        """Count a step."""
        self.step, self.since = self.step + 1, self.since + 1
        self.sums = [total + loss for total, loss in zip(self.sums, losses, strict=True)]


def is_better(row: Row, best: Row | None) -> bool:
    """Whether a row beats another by what checkpoints are chosen by: mIoU, macro F1 of a classifier."""
    mine, others = _figure(row), None if best is None else _figure(best)
    return mine is not None and (others is None or mine > others)


def row_line(row: Row) -> str:
    """A row for the console."""
    parts = []
    if "loss" in row:
        parts.append(f"loss {row['loss']:.4f}")
        if row["classification_loss"] and row["segmentation_loss"]:
            parts[0] += f" (classification {row['classification_loss']:.4f}"
            parts[0] += f", segmentation {row['segmentation_loss']:.4f})"
    for key, name in (("miou", "mIoU"), ("macro_f1", "F1"), ("map", "mAP")):
        if row.get(key) is not None:
            parts.append(f"{name} {row[key]:.2f}")
    return ", ".join(parts) or "the start"


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """Write ``history.jsonl``, atomically."""
    with atomic(folder / HISTORY) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")


def _figure(row: Row) -> float | None:
    return row["miou"] if row.get("miou") is not None else row.get("macro_f1")
