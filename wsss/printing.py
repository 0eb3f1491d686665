"""Tables on the console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from wsss.console import console


def print_table(table: Table) -> None:
    """As wide as it needs to be: a file or a pipe has no width, and a cut figure is no figure."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    Console(file=console.file, width=max(needed, console.width), highlight=False).print(table)
