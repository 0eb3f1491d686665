"""The explanation tests of several runs side by side: figures, paired differences, and what to know about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wsss.entries import TESTS, TestEntry, read_tests
from wsss.explanation_tests.figures import paired_difference, read_results
from wsss.progress import warn
from wsss.store import Stage
from wsss.words import counted

TITLES = {"perturbation": "Perturbation test", "segmentation": "Segmentation test", "region": "Region test"}

UNDEFINED = "\N{EN DASH}"

PER_IMAGE = {
    "perturbation": ("correct",),
    "segmentation": ("confusion", "ap", "f1"),
    "region": ("probability", "logit"),
}
"""Results per image that figures and differences need; the maps, which can be large, are read one by one."""

Interval = tuple[float, float, float]
"""A difference in points, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Column:
    """A figure of a test: its heading, and whether the best is the "higher" or the "lower" ("": neither)."""

    key: str
    heading: str
    better: str = "higher"

    @property
    def title(self) -> str:
        """The heading with the direction, as tables show it."""
        return f"{self.heading} ({self.better} is better)" if self.better else self.heading


COLUMNS = {
    "perturbation": (
        Column("clean_accuracy", "clean accuracy", ""),
        Column("negative_predicted", "negative AUC, predicted class"),
        Column("negative_target", "negative AUC, target class"),
        Column("positive_predicted", "positive AUC, predicted class", "lower"),
        Column("positive_target", "positive AUC, target class", "lower"),
    ),
    "segmentation": (
        Column("pixel_accuracy", "pixel accuracy"),
        Column("map", "mAP"),
        Column("miou", "mIoU"),
        Column("mf1", "mF1"),
    ),
    "region": (
        Column("clean_probability", "clean probability", ""),
        Column("outside_negative", "negative AUC, outside"),
        Column("outside_positive", "positive AUC, outside", "lower"),
        Column("inside_negative", "negative AUC, inside"),
        Column("inside_positive", "positive AUC, inside", "lower"),
    ),
}


@dataclass(frozen=True)
class TestRow:
    """One run in a table: its figures, the names of those that are the best, what it differs from the first run by."""

    __test__ = False  # no test, whatever pytest makes of the name

    run: str
    label: str
    """What tells it from the other rows in few words: the method, or the run where methods repeat or models differ."""
    entry: TestEntry
    results: Path
    """Folder of the results per image."""
    best: frozenset[str] = frozenset()
    differences: dict[str, Interval] | None = None


@dataclass(frozen=True)
class TestSection:
    """All runs of one test on one split, with the notes that a reader needs."""

    __test__ = False

    test: str
    data: str
    split: str
    rows: tuple[TestRow, ...]
    notes: tuple[str, ...] = ()
    baseline: str = ""
    """Label of the row that the others are compared with; empty where none could be."""
    results: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    """Run -> its results per image, where they are there and belong to the figures."""

    @property
    def title(self) -> str:
        """ "Segmentation test on voc12 / val"."""
        return f"{TITLES[self.test]} on {self.data} / {self.split}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The figures that at least one row has."""
        return tuple(c for c in COLUMNS[self.test] if any(c.key in row.entry.figures for row in self.rows))

    @property
    def compared(self) -> tuple[Column, ...]:
        """Those whose differences are worth a column: the clean accuracy is one and the same for one model."""
        models = {row.entry.model for row in self.rows}
        return tuple(column for column in self.columns if column.better or len(models) > 1)


def test_sections(
    runs: dict[str, Path], only: tuple[str, str] | None = None, test: str | None = None
) -> list[TestSection]:
    """The tests of the runs, those of the same test, data and split together, in the order of the runs.

    Args:
        runs: name -> folder.
        only: (data, split) to leave the others out.
        test: "perturbation", "segmentation" or "region", likewise; the results of the others are not looked at.

    Raises:
        InputError: a ``metrics.json`` or a file of results that is damaged.
    """
    groups: dict[tuple[str, str, str], list[TestRow]] = {}
    for run, folder in runs.items():
        for entry in read_tests(folder):
            if only in (None, (entry.data, entry.split)) and test in (None, entry.test):
                row = TestRow(run, entry.method, entry, folder / entry.folder)
                groups.setdefault(entry.key, []).append(row)
    return [_section(key, groups[key]) for key in sorted(groups, key=lambda key: TESTS.index(key[0]))]


test_sections.__test__ = False  # type: ignore[attr-defined]


def _section(key: tuple[str, str, str], rows: Sequence[TestRow]) -> TestSection:
    test, data, split = key
    several = len({row.entry.model for row in rows}) > 1
    if several or len({row.entry.method for row in rows}) < len(rows):
        rows = [replace(row, label=row.run) for row in rows]
    rows = [replace(row, best=best) for row, best in zip(rows, _best(test, rows), strict=True)]
    notes: list[str] = []
    results = {}
    for row in rows:
        found, note = _results(row)
        if found is not None:
            results[row.run] = found
        if note:
            notes.append(note)
            warn(note)
    if len({row.entry.images for row in rows}) > 1:
        notes.append("Rows differ in their number of images and do not compare with each other.")
    if several:
        notes.append("Rows differ in their model: a difference between them is not that of the methods alone.")
    known = [row for row in rows if row.run in results]
    if len(known) < 2:
        return TestSection(test, data, split, tuple(rows), tuple(notes), results=results)
    first, differing = known[0], {}
    for row in known[1:]:
        if _same_images(results[first.run], results[row.run]):
            differing[row.run] = paired_difference(test, results[first.run], results[row.run])
        else:
            notes.append(f"{row.run} was tested on other images than {first.run}: no paired difference.")
    rows = [replace(row, differences=differing.get(row.run)) for row in rows]
    baseline = first.label if differing else ""
    return TestSection(test, data, split, tuple(rows), tuple(notes), baseline, results)


def _best(test: str, rows: Sequence[TestRow]) -> list[frozenset[str]]:
    """For each row the figures that are the best of their column, as far as the printed digits tell."""
    best: list[set[str]] = [set() for _ in rows]
    for column in COLUMNS[test]:
        values = {i: row.entry.figures.get(column.key) for i, row in enumerate(rows)}
        known = {i: round(v, 2) for i, v in values.items() if v is not None and math.isfinite(v)}
        if len(known) > 1 and column.better:
            top = (max if column.better == "higher" else min)(known.values())
            for i, value in known.items():
                if value == top:
                    best[i].add(column.key)
    return [frozenset(names) for names in best]


def _results(row: TestRow) -> tuple[dict[str, np.ndarray] | None, str]:
    """The results per image that a row's figures were taken from, or None and a note that says why not."""
    entry, title = row.entry, TITLES[row.entry.test].lower()
    if not any(row.results.glob("part-*.npz")):
        return None, f"{row.run}: no results per image of the {title} in {row.results}: no paired difference."
    if Stage.read(row.results, kind=f"{entry.test}_test").fingerprint != entry.source:
        return None, f"{row.run}: the {title} was run anew since these figures were taken; run it to its end."
    results = read_results(row.results, PER_IMAGE[entry.test])
    if len(results["ids"]) != entry.images:
        there = len(results["ids"])
        return (
            None,
            f"{row.run}: {there} of {counted(entry.images, 'image')} of the {title} are there; run it again.",
        )
    return results, ""


def _same_images(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return sorted(a["ids"].tolist()) == sorted(b["ids"].tolist())


def show(value: float | None) -> str:
    """A figure as text, two decimals; a dash where it is undefined."""
    return f"{value:.2f}" if value is not None and math.isfinite(value) else UNDEFINED


def show_interval(interval: Sequence[float] | None) -> str:
    """ "41.20 to 46.91"; nothing where it is undefined."""
    if interval is None or not all(map(math.isfinite, interval)):
        return ""
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def show_difference(difference: Interval) -> str:
    """ "+1.23"."""
    return f"{difference[0]:+.2f}" if math.isfinite(difference[0]) else UNDEFINED


def verdict(column: Column, difference: Interval) -> str:
    """ "better" or "worse" where the interval leaves out 0, "" where it does not or the figure has no direction."""
    _, low, high = difference
    if not column.better or not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (column.better == "higher") else "worse"
