"""What a program says while it works: notes, warnings, progress. Importing it loads no library of the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from wsss.naming import named
from wsss.processes import is_first

T = TypeVar("T")

LONG = 10.0
"""Seconds after which a few items are counted one by one."""


def printable(line: str) -> str:
    """One line that every terminal takes: names of files may hold line breaks, and bytes that are no UTF-8."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def note(line: str) -> None:
    """A line for the user, on standard output; of several processes the first prints it."""
    if is_first():
        print(named(line).encode("utf-8", "backslashreplace").decode(), flush=True)


def warn(line: str) -> None:
    """One line of warning, on standard error."""
    print(f"warning: {printable(named(line))}", file=sys.stderr)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate and show progress: a bar with time left; where there is no terminal, a line per tenth and the last.

    Less than ten items get a line before the last only where one takes long, and a single one gets none.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
    if not is_first():
        yield from items
    elif sys.stdout.isatty():
        yield from _with_bar(items, description, total)
    else:
        yield from _with_lines(items, description, total)


def _with_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    step = -(-(total or 1000) // 10)
    count, told = 0, time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        due = count % step == 0 and (total is None or total >= 10 or time.monotonic() - told > LONG)
        if due and count != total:
            note(f"{description}: {count}/{total if total is not None else '?'}")
            told = time.monotonic()
    if count > 1:
        note(f"{description}: {count}/{total if total is not None else count}")


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
