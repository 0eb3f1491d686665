"""A page of pictures that is no comparison of runs: the same template pieces, a table of a few figures, rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss.data import Dataset
from wsss.errors import InputError
from wsss.report.page import class_colours, template, today
from wsss.report.pictures import ImageBlock
from wsss.store.atomic import write_bytes


def write_gallery(
    out: Path,
    dataset: Dataset,
    blocks: Sequence[ImageBlock],
    columns: Sequence[str],
    *,
    title: str,
    lines: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
    ramps: Sequence[tuple[str, str, str]] = (),
    width: int,
    palette: np.ndarray,
    command: str = "",
) -> None:
    """Write a self-contained HTML page, atomically.

    Args:
        blocks: images; the pictures of each of their rows stand under `columns`.
        lines: paragraphs under the title. table: rows of text, the first cell of each its heading.
        ramps: colour scales, (text at its lower end, CSS background, text at its upper end).
        width: of the pictures, in pixels. palette: their colours of classes, uint8 (256, 3).

    Raises:
        InputError: `out` is not the name of a web page.
    """
    check_page(out)
    page = template("gallery.html.j2").render(
        title=title,
        subtitle=f"{dataset.name} / {dataset.split}",
        date=today(),
        lines=lines,
        table=table,
        legend=class_colours(dataset, blocks, palette),
        ramps=ramps,
        blocks=blocks,
        columns=columns,
        width=width,
        command=command,
    )
    write_bytes(out, page.encode())


def check_page(out: Path) -> None:
    """InputError unless the name is that of a web page."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"`out` {out}: expected a name that ends in .html, as the report is a web page")
