"""The fenced blocks of README and docs, for the tests that run and parse them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n`]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its text without the indentation of a list."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    content = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, content.count("\n", 0, found.start()) + 1, found["language"], textwrap.dedent(found["text"]))
        for found in FENCE.finditer(content)
    ]


def prose_of(page: str) -> str:
    """The page without its blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


ALL = [block for page in PAGES for block in blocks_of(page)]
