"""What a program says while it works: notes, warnings, progress. Importing it loads no library of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from wsss.processes import is_first

T = TypeVar("T")


def printable(line: str) -> str:
    """One line that every terminal takes: names of files may hold line breaks, and bytes that are no UTF-8."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def note(line: str) -> None:
    """A line for the user, on standard output; of several processes the first prints it."""
    if is_first():
        print(line.encode("utf-8", "backslashreplace").decode(), flush=True)


def warn(line: str) -> None:
    """One line of warning, on standard error."""
    print(f"warning: {printable(line)}", file=sys.stderr)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate and show progress with time left; where there is no terminal, about ten plain lines in all."""
    total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
    if not is_first():
        yield from items
        return
    if sys.stdout.isatty():
        yield from _with_bar(items, description, total)
        return
    step = -(-(total or 1000) // 10)
    for count, item in enumerate(items, start=1):
        yield item
        if count % step == 0 or count == total:
            note(f"{description}: {count}/{total if total is not None else '?'}")


def _with_bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        yield from bar.track(items, total=total, description=description)
