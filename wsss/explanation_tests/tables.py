"""The figures of the two tests on the console."""

from __future__ import annotations

from rich import box
from rich.table import Table

from wsss.printing import print_table
from wsss.progress import note
from wsss.report.explanation import Column, TestSection, show, show_difference, show_interval, verdict


def print_section(section: TestSection) -> None:
    """Print the methods one below the other, best figures bold, and what each differs from the first by."""
    table = _table(f"{section.title}, {section.rows[0].entry.model}", ("method", "settings"), section.columns)
    for row in section.rows:
        figures, intervals = row.entry.figures, row.entry.intervals
        cells = [
            _cell(show(figures.get(c.key)), show_interval(intervals.get(c.key)), c.key in row.best)
            for c in section.columns
        ]
        table.add_row(row.label, row.entry.settings, *cells)
    print_table(table)
    if section.baseline:
        title = f"minus {section.baseline}, image by image (bold: the interval leaves out 0)"
        table = _table(title, ("method",), section.compared)
        for row in section.rows:
            if row.differences is not None:
                found = [(column, row.differences[column.key]) for column in section.compared]
                cells = [_cell(show_difference(d), show_interval(d[1:]), bool(verdict(c, d))) for c, d in found]
                table.add_row(row.label, *cells)
        print_table(table)
    for line in section.notes:
        note(f"note: {line}")


def _table(title: str, names: tuple[str, ...], columns: tuple[Column, ...]) -> Table:
    table = Table(*names, box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in columns:
        better = f"\n({column.better} is better)" if column.better else ""
        table.add_column(column.heading.replace(", ", "\n") + better, justify="right")
    return table


def _cell(figure: str, interval: str, bold: bool) -> str:
    return f"{f'[bold]{figure}[/]' if bold else figure}\n[dim]{interval}[/]"
