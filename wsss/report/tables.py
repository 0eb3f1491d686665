"""The stage-by-stage table of several runs, and its Markdown and CSV forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsss.entries import STAGES, MetricEntry

STAGE_TITLES = {
    "seeds": "seeds",
    "refined": "seeds after the random walk",
    "affinity_labels": "affinity labels",
    "masks": "masks",
}

NETWORK_TITLES = {"refined": "scores of the network", "masks": "masks of the network"}
"""What those stages are called where a network made them."""

COLUMNS = {
    "miou": "mIoU",
    "gain": "gain",
    "total_gain": "since seeds",
    "pixel_accuracy": "pixel accuracy",
    "coverage": "coverage",
    "foreground_precision": "foreground precision",
    "background_precision": "background precision",
}
"""Figure -> heading. Best per column is the highest."""


@dataclass(frozen=True)
class FigureRow:
    """One row of the table: a run, a stage, a rule.

    ``gain`` is the mIoU above the run's previous stage, ``total_gain`` above its seeds, in points; None where there is
    none. ``best`` holds the names of the figures that are the highest of all rows that are no oracle.
    """

    run: str
    entry: MetricEntry
    gain: float | None = None
    total_gain: float | None = None
    best: frozenset[str] = frozenset()

    def figure(self, name: str) -> float | None:
        """A figure of ``COLUMNS`` by name."""
        return getattr(self, name) if name in ("gain", "total_gain") else getattr(self.entry, name)


def figure_rows(metrics: Mapping[str, Sequence[MetricEntry]]) -> list[FigureRow]:
    """Rows of all runs in the order of the chain, with gains and the best of each column marked.

    Args:
        metrics: run name -> its entries of one data set and split.
    """
    rows = [row for run, entries in metrics.items() for row in _run_rows(run, entries)]
    best: list[set[str]] = [set() for _ in rows]
    for name in COLUMNS:
        values = {i: row.figure(name) for i, row in enumerate(rows) if not row.entry.oracle}
        known = {i: round(value, 1) for i, value in values.items() if value is not None}
        if len(known) > 1:
            for i, value in known.items():
                if value == max(known.values()):
                    best[i].add(name)
    return [
        FigureRow(row.run, row.entry, row.gain, row.total_gain, frozenset(marks))
        for row, marks in zip(rows, best, strict=True)
    ]


def _run_rows(run: str, entries: Sequence[MetricEntry]) -> list[FigureRow]:
    """A headline is compared with the headline of the stage before it, any other rule with the same rule."""
    rows: list[FigureRow] = []
    stages = [stage for stage in STAGES if any(e.stage == stage for e in entries)]
    scored = [stage for stage in stages if any(e.stage == stage and e.miou is not None for e in entries)]
    for stage in stages:
        place = scored.index(stage) if stage in scored else 0
        mine = [entry for entry in entries if entry.stage == stage]
        for entry in sorted(mine, key=lambda e: (e.oracle, not e.headline)):
            previous = _counterpart(entries, scored[place - 1], entry) if place else None
            first = _counterpart(entries, "seeds", entry) if place and scored[0] == "seeds" else None
            rows.append(FigureRow(run, entry, _minus(entry, previous), _minus(entry, first)))
    return rows


def _counterpart(entries: Sequence[MetricEntry], stage: str, entry: MetricEntry) -> MetricEntry | None:
    others = [other for other in entries if other.stage == stage]
    if entry.headline:
        return next((other for other in others if other.headline), None)
    return next((o for o in others if (entry.oracle and o.oracle) or o.rule == entry.rule), None)


def _minus(entry: MetricEntry, other: MetricEntry | None) -> float | None:
    if other is None or entry.miou is None or other.miou is None:
        return None
    return entry.miou - other.miou


def columns_of(rows: Sequence[FigureRow]) -> list[str]:
    """The figures that at least one row has; "since seeds" only where it says more than the gain."""
    used = [name for name in COLUMNS if any(row.figure(name) is not None for row in rows)]
    if all(row.total_gain == row.gain for row in rows):
        used = [name for name in used if name != "total_gain"]
    return used


def outcomes(rows: Sequence[FigureRow]) -> list[FigureRow]:
    """What came out of each run: its last headline figure."""
    last = {row.run: row for row in rows if row.entry.headline and row.entry.miou is not None}
    return list(last.values())


def shared_facts(rows: Sequence[FigureRow]) -> str:
    """What all rows have in common: "9 images of split val, image-level labels given"; "" where they differ."""
    facts = {(row.entry.images, row.entry.split, row.entry.labels_given) for row in rows}
    if len(facts) != 1:
        return ""
    images, split, given = facts.pop()
    counted = f"{images} image{'' if images == 1 else 's'} of split {split}"
    return f"{counted}, {'image-level labels given' if given else 'no labels given'}"


def show(name: str, value: float | None) -> str:
    """A figure as text: one decimal, gains with their sign, nothing for None."""
    if value is None:
        return ""
    return f"{value:+.1f}" if name in ("gain", "total_gain") else f"{value:.1f}"


def stage_title(entry: MetricEntry) -> str:
    """What tables call the stage of an entry."""
    titles = STAGE_TITLES if entry.network is None else STAGE_TITLES | NETWORK_TITLES
    return titles[entry.stage]


def rule_text(entry: MetricEntry) -> str:
    """The rule as tables show it: an oracle is called one; of a network's masks, what it was taught by."""
    if STAGES[entry.stage] == "masks":
        return "as written" if entry.learnt_from is None else f"learnt from {entry.learnt_from}"
    return entry.rule


def to_csv(rows: Sequence[FigureRow], tests: Sequence[dict[str, str]] = ()) -> str:
    """The table as CSV, with all digits, the IoU of every class (``iou:<class>``), protocol and command.

    Args:
        tests: records of explanation tests, for rows of their own beneath: what is no figure of theirs stays empty.
    """
    classes = list(dict.fromkeys(name for row in rows for name in row.entry.iou))
    head = ["run", "data", "split", "stage", "rule", "headline", "oracle", "labels_given", "images"]
    head += [name for name in ("network", "learnt_from") if any(getattr(row.entry, name) for row in rows)]
    stages = [*head, *COLUMNS, *(f"iou:{name}" for name in classes)] if rows or not tests else []
    last = ("protocol", "command")
    fields = dict.fromkeys([*stages, *(key for record in tests for key in record)])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(f for f in fields if f not in last), *last], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        figures = {name: _digits(row.figure(name)) for name in COLUMNS}
        ious = {f"iou:{name}": _digits(row.entry.iou.get(name)) for name in classes}
        plain = {name: getattr(row.entry, name) for name in (*head[1:], *last)}
        writer.writerow({"run": row.run} | plain | figures | ious)
    writer.writerows(tests)
    return text.getvalue()


def to_markdown(rows: Sequence[FigureRow], title: str, notes: Sequence[str]) -> str:
    """The table as Markdown: best in bold, oracle rows in italics, notes beneath."""
    lines = [f"# {title}", ""]
    if rows:
        columns = columns_of(rows)
        head = ["run", "stage", "rule", *(f"{COLUMNS[c]}" for c in columns), "images", "split", "labels given"]
        left = 3
        lines += [cells(head), cells([*["---"] * left, *["---:"] * (len(columns) + 1), "---", "---"])]
        for row in rows:
            entry = row.entry
            rule = f"*{rule_text(entry)}*" if entry.oracle else rule_text(entry)
            figures = [show(c, row.figure(c)) for c in columns]
            marked = [
                f"**{text}**" if c in row.best else (f"*{text}*" if entry.oracle and text else text)
                for c, text in zip(columns, figures, strict=True)
            ]
            tail = [str(entry.images), entry.split, "yes" if entry.labels_given else "no"]
            lines.append(cells([row.run, stage_title(entry), rule, *marked, *tail]))
        lines += ["", "Figures in per cent, gains in points of mIoU; bold: best of the column, oracles left out.", ""]
        lines += _iou_markdown(rows)
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def iou_columns(rows: Sequence[FigureRow]) -> list[FigureRow]:
    """The rows whose IoU by class is shown: the headline of each run and stage."""
    return [row for row in rows if row.entry.headline and row.entry.iou]


def best_of_class(rows: Sequence[FigureRow], name: str) -> float | None:
    """The highest IoU of a class among rows, to one decimal; None if fewer than two rows have one."""
    values = [row.entry.iou.get(name) for row in rows]
    known = [round(value, 1) for value in values if value is not None]
    return max(known) if len(known) > 1 else None


def _iou_markdown(rows: Sequence[FigureRow]) -> list[str]:
    chosen = iou_columns(rows)
    if not chosen:
        return []
    head = ["IoU by class", *(f"{row.run} {stage_title(row.entry)} ({rule_text(row.entry)})" for row in chosen)]
    lines = [cells(head), cells(["---", *["---:"] * len(chosen)])]
    for name in dict.fromkeys(key for row in chosen for key in row.entry.iou):
        best = best_of_class(chosen, name)
        texts = [(show("iou", row.entry.iou.get(name)), row.entry.iou.get(name)) for row in chosen]
        marked = [f"**{t}**" if v is not None and best is not None and round(v, 1) == best else t for t, v in texts]
        lines.append(cells([name, *marked]))
    return [*lines, ""]


def cells(values: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
