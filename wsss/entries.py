"""``metrics.json``, the figures of a run, and the stages that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from wsss.console import Config, validation_line
from wsss.data import Sample
from wsss.errors import InputError
from wsss.store import MADE_BY, locked, read_json, write_json

STAGES: dict[str, str] = {"seeds": "seeds", "refined": "seeds", "affinity_labels": "affinity_labels", "masks": "masks"}
"""Stage folder of a run, in the order of the chain -> kind of files that lie there."""

ALPHAS = (8.0, 4.0, 32.0)
"""Exponents that seeds are evaluated with: the headline, and the two of the affinity labels that lie about it."""

READING_ALPHA: dict[str, float] = {"refined": 1}
"""Stages whose scores are to be read with one alpha: after the walk a class has beaten the background above 1/2."""

MAKERS: dict[str, str] = MADE_BY | {"refined": MADE_BY["masks"]}
"""Stage -> the command that usually makes it, for messages."""

SUFFIX: dict[str, str] = {"seeds": ".npz", "affinity_labels": ".png", "masks": ".png"}
"""Kind of files -> suffix."""


class MetricEntry(Config):
    """One row of ``metrics.json``. Figures are in per cent, 0..100; None where undefined."""

    data: str
    stage: str
    split: str
    rule: str
    """"alpha 4", "oracle threshold 0.05", "confident pixels" or "masks"."""
    headline: bool = False
    """The figure to quote for this stage (never an oracle)."""
    oracle: bool = False
    """The rule was chosen on the evaluated masks."""
    labels_given: bool
    """Image-level labels were given: absent classes could not be predicted."""
    images: int
    miou: float | None = None
    pixel_accuracy: float | None = None
    iou: dict[str, float | None] = Field(default_factory=dict)
    coverage: float | None = None
    """Affinity labels: share of counted pixels that are confident (not neutral)."""
    foreground_precision: float | None = None
    """Affinity labels: share of the pixels labelled with a class that truly show that class."""
    background_precision: float | None = None
    """Affinity labels: share of the pixels labelled background that truly are background."""
    command: str
    protocol: str
    source: str
    """Fingerprint of the evaluated stage."""


def read_metrics(run: Path) -> list[MetricEntry]:
    """The entries of ``<run>/metrics.json``, none if there is no such file. InputError if it is something else."""
    path = run / "metrics.json"
    if not path.exists():
        return []
    content = read_json(path)
    try:
        return [MetricEntry(**entry) for entry in content["entries"]]
    except ValidationError as error:
        reason = validation_line(error)
    except (TypeError, KeyError):
        reason = "no list of entries"
    raise InputError(f"{path}: not written by wsss evaluate ({reason}); delete it and evaluate again")


def save_metrics(run: Path, entries: Sequence[MetricEntry]) -> None:
    """Merge entries into ``<run>/metrics.json``, atomically.

    An entry replaces the one of the same data, stage, split and rule (of oracle rules there is one); figures of a stage
    that has been made anew with other settings since are dropped.
    """

    def key(entry: MetricEntry) -> tuple:
        return (entry.data, entry.stage, entry.split, "oracle" if entry.oracle else entry.rule)

    new = {key(entry): entry for entry in entries}
    sources = {entry.stage: entry.source for entry in entries}
    led = {key(entry)[:3] for entry in entries if entry.headline}
    order = {stage: place for place, stage in enumerate(STAGES)}
    with locked(run / ".metrics.json.lock"):  # two splits may be evaluated at the same time
        merged: dict[tuple, MetricEntry] = {}
        for old in read_metrics(run):
            if sources.get(old.stage, old.source) == old.source:
                merged[key(old)] = old.model_copy(update={"headline": False}) if key(old)[:3] in led else old
        merged.update(new)
        rows = sorted(
            merged.values(), key=lambda e: (e.data, e.split, order.get(e.stage, 99), e.oracle, not e.headline)
        )
        write_json(run / "metrics.json", {"entries": [entry.model_dump() for entry in rows]})


def stages_of(run: Path, samples: Sequence[Sample]) -> list[str]:
    """The stages of a run that hold a file of at least one of the samples, in the order of the chain."""
    return [
        name
        for name in STAGES
        if (run / name / "manifest.json").is_file() and any(stage_file(run, name, s.id).is_file() for s in samples)
    ]


def stage_file(run: Path, stage: str, image_id: str) -> Path:
    """Where a stage keeps the file of an image."""
    return run / stage / f"{image_id}{SUFFIX[STAGES[stage]]}"
