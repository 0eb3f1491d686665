"""The explanation tests as Markdown and as records for the CSV, and how their figures came about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wsss.report.explanation import (
    Column,
    TestRow,
    TestSection,
    show,
    show_difference,
    show_interval,
    verdict,
)
from wsss.report.tables import cells

READING = "Figures in per cent with their 95 % interval (bootstrap over the images)"
DIFFERENCES = (
    "Differences are paired, image by image, in points; bold: the 95 % interval leaves out 0. Intervals of single "
    "figures may overlap where a difference is sure."
)


def to_markdown(sections: Sequence[TestSection]) -> str:
    """A heading, a table, the paired differences and the protocol of each test; "" where there are none."""
    return "".join("\n" + "\n".join(_markdown(section)) + "\n" for section in sections)


def _markdown(section: TestSection) -> list[str]:
    columns = section.columns
    head = ["method", "run", "model", "settings", *(c.title for c in columns), "images"]
    lines = [f"## {section.title}", "", *(f"- {note}" for note in section.notes), *([""] if section.notes else [])]
    lines += [cells(head), cells([*["---"] * 4, *["---:"] * (len(columns) + 1)])]
    for row in section.rows:
        entry = row.entry
        figures = [_figure(row, column) for column in columns]
        lines.append(cells([entry.method, row.run, entry.model, entry.settings, *figures, str(entry.images)]))
    lines += ["", f"{READING}; bold: best of the column.", ""]
    if section.baseline:
        lines += [cells([f"minus {section.baseline}", *(c.title for c in section.compared)])]
        lines += [cells(["---", *["---:"] * len(section.compared)])]
        for row in section.rows:
            if row.differences is not None:
                lines.append(cells([row.label, *(_difference(row, column) for column in section.compared)]))
        lines += ["", DIFFERENCES, ""]
    lines += [f"- {line}" for line in protocols(section)]
    return lines + [f"- figures of {who}: `{command}`" for who, command in commands(section)]


def _figure(row: TestRow, column: Column) -> str:
    value = row.entry.figures.get(column.key)
    text = f"**{show(value)}**" if column.key in row.best else show(value)
    interval = show_interval(row.entry.intervals.get(column.key))
    return f"{text} ({interval})" if interval else text


def _difference(row: TestRow, column: Column) -> str:
    difference = (row.differences or {}).get(column.key)
    if difference is None:
        return ""
    text, interval = show_difference(difference), show_interval(difference[1:])
    text = f"**{text}**" if verdict(column, difference) else text
    return f"{text} ({interval})" if interval else text


def protocols(section: TestSection) -> list[str]:
    """How the figures were computed: once where all rows agree, else with the names of the rows."""
    return [
        f"{'Every row' if len(who) == len(section.rows) else ', '.join(who)}: {protocol.rstrip('.')}."
        for protocol, who in _grouped([(row.entry.protocol, row.label) for row in section.rows])
    ]


def commands(section: TestSection) -> list[tuple[str, str]]:
    """(labels of rows, the command that made them)."""
    pairs = [(row.entry.command, row.label) for row in section.rows if row.entry.command]
    return [(", ".join(who), command) for command, who in _grouped(pairs)]


def _grouped(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for text, who in pairs:
        groups.setdefault(text, []).append(who)
    return list(groups.items())


def records(sections: Sequence[TestSection]) -> list[dict[str, str]]:
    """A CSV record for each run and test, all digits: ``<figure>``, ``<figure>:low``, ``<figure>:difference``, ..."""
    found = []
    for section in sections:
        for row in section.rows:
            entry = row.entry
            named = ("data", "split", "test", "model", "method", "settings")
            record = {name: str(getattr(entry, name)) for name in named}
            record = {"run": row.run, **record, "images": str(entry.images)}
            for column in section.columns:
                key = column.key
                record[key] = _digits(entry.figures.get(key))
                record |= _span(key, entry.intervals.get(key))
                if row.differences is not None and key in row.differences:
                    difference, low, high = row.differences[key]
                    record[f"{key}:difference"] = _digits(difference)
                    record |= _span(f"{key}:difference", (low, high))
            if row.differences is not None:
                record["baseline"] = section.baseline
            for key, curve in entry.curves.items():
                record[f"{key}:curve"] = " ".join(_digits(value) for value in curve)
            found.append(record | {"protocol": entry.protocol, "command": entry.command})
    return found


def _span(key: str, interval: Sequence[float] | None) -> dict[str, str]:
    return {f"{key}:low": _digits(interval[0]), f"{key}:high": _digits(interval[1])} if interval is not None else {}


def _digits(value: float | None) -> str:
    return f"{value:.4f}" if value is not None and math.isfinite(value) else ""
