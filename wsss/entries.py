"""``metrics.json``, the figures of a run, and the stages that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import Field, ValidationError

from wsss.data import Sample
from wsss.errors import InputError
from wsss.settings import Config, validation_line
from wsss.store import locked, read_json, write_json
from wsss.store.atomic import remove_leftovers

STAGES: dict[str, str] = {"seeds": "seeds", "refined": "seeds", "affinity_labels": "affinity_labels", "masks": "masks"}
"""Stage folder of a run, in the order of the chain -> kind of files that lie there."""

ALPHAS = (8.0, 4.0, 32.0)
"""Exponents that seeds are evaluated with: the headline, and the two of the affinity labels that lie about it."""

READING_ALPHA: dict[str, float] = {"refined": 1}
"""Stages whose scores are to be read with one alpha: after the walk a class has beaten the background above 1/2."""

SUFFIX: dict[str, str] = {"seeds": ".npz", "affinity_labels": ".png", "masks": ".png"}
"""Kind of files -> suffix."""

TRUE_MASKS = "true masks"
"""What `MetricEntry.learnt_from` says of a network that has learnt a data set's own masks."""

TestName = Literal["perturbation", "segmentation", "region"]
"""The tests of an explanation; also the folder of a run that holds their results."""

TESTS: tuple[TestName, ...] = get_args(TestName)

METRICS = "metrics.json"

E = TypeVar("E", bound=Config)


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
    network: str | None = None
    """The network that masks and scores come from; None where they were made of explanations."""
    learnt_from: str | None = None
    """Whose masks that network has learnt: "true masks", "masks of lrp_vit"; None where nobody says."""
    command: str
    protocol: str
    source: str
    """Fingerprint of the evaluated stage."""
    content: str | None = None
    """Content of its files and of the ground truth (`wsss.evaluate.content_of_figures`); older ones do not say."""


class TestEntry(Config):
    """One test of one method on one model: a row of "tests" in ``metrics.json``. Figures are in per cent, 0..100."""

    __test__: ClassVar[bool] = False  # or pytest takes the name for a test

    test: TestName
    data: str
    split: str
    images: int
    model: str
    method: str
    figures: dict[str, float | None]
    """As ``wsss.explanation_tests.figures`` names them, e.g. negative_predicted or miou; None where undefined. Those of
    the region test that end in _logit are mean logits, not per cent."""
    intervals: dict[str, tuple[float, float] | None]
    """Figure -> its 95 % interval, None where undefined."""
    curves: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Perturbation and region test: figure -> accuracy, or score, at the fractions 0, 0.1, ... 0.9."""
    settings: str
    """What sets it apart from the published method: "rules robust, first block 1" and the like."""
    folder: str
    """Folder of the results per image, relative to the run."""
    command: str
    protocol: str
    source: str
    """Fingerprint of that folder's stage."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a run has one entry of: (test, data, split)."""
        return (self.test, self.data, self.split)


def read_metrics(run: Path) -> list[MetricEntry]:
    """The entries of ``<run>/metrics.json``, none if there is no such file. InputError if it is something else."""
    return _parse(run, "entries", MetricEntry)


def read_tests(run: Path) -> list[TestEntry]:
    """The tests in ``<run>/metrics.json``, none if there is no such file. InputError if it is something else."""
    return _parse(run, "tests", TestEntry)


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
    with locked(run / f".{METRICS}.lock"):  # two splits may be evaluated at the same time
        merged: dict[tuple, MetricEntry] = {}
        for old in read_metrics(run):
            if sources.get(old.stage, old.source) == old.source:
                merged[key(old)] = old.model_copy(update={"headline": False}) if key(old)[:3] in led else old
        merged.update(new)
        rows = sorted(
            merged.values(), key=lambda e: (e.data, e.split, order.get(e.stage, 99), e.oracle, not e.headline)
        )
        write_json(run / METRICS, {**_content(run), "entries": [entry.model_dump() for entry in rows]})
        remove_leftovers(run)


def save_tests(run: Path, entries: Sequence[TestEntry]) -> None:
    """Merge tests into ``<run>/metrics.json``, atomically: an entry replaces that of the same test, data and split."""
    with locked(run / f".{METRICS}.lock"):
        merged = {entry.key: entry for entry in (*read_tests(run), *entries)}
        rows = sorted(merged.values(), key=lambda e: (TESTS.index(e.test), e.data, e.split))
        write_json(run / METRICS, {**_content(run), "tests": [entry.model_dump() for entry in rows]})
        remove_leftovers(run)


def _content(run: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds, or would hold of an empty run."""
    path = run / METRICS
    return read_json(path) if path.exists() else {"entries": []}


def _parse(run: Path, key: str, kind: type[E]) -> list[E]:
    content = _content(run)
    try:
        rows = content["entries"] if key == "entries" else content.get(key, [])
        return [kind(**row) for row in rows]
    except ValidationError as error:
        reason = validation_line(error)
    except (TypeError, KeyError, AttributeError):
        reason = f"no list of {key}"
    maker = "wsss evaluate" if key == "entries" else "the explanation tests"
    raise InputError(f"{run / METRICS}: not written by {maker} ({reason}); delete it and make the figures again")


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
