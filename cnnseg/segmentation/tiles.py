"""A large image cut into tiles that overlap, each of which decides on its own part."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Rows (or columns) that a tile sees, from `start` to `end`, and those of them that it decides on."""

    start: int
    end: int
    first: int
    last: int


def cut(extent: int, side: int, overlap: int, multiple: int = 1) -> list[Tile]:
    """Tiles of at most about `side` along an axis; the parts that they decide on follow each other without gap.

    The inner border between two tiles lies in the middle of what they share. Tiles begin at multiples of `multiple`, so
    that a convolutional network of that stride sees each pixel on the same grid as in the whole image; where the
    overlap is twice its reach, tiling changes nothing.

    >>> cut(100, 64, 16)
    [Tile(start=0, end=64, first=0, last=56), Tile(start=48, end=100, first=56, last=100)]
    >>> cut(60, 64, 16)
    [Tile(start=0, end=60, first=0, last=60)]
    """
    if extent <= side:
        return [Tile(0, extent, 0, extent)]
    step = max(multiple, (side - overlap) // multiple * multiple)
    starts = [start for start in range(0, extent, step) if start == 0 or start < extent - overlap]
    length = max(step, side // multiple * multiple)
    ends = [*(min(extent, start + length) for start in starts[:-1]), extent]
    middles = [(following + end) // 2 for following, end in zip(starts[1:], ends[:-1], strict=True)]
    return [Tile(*part) for part in zip(starts, ends, [0, *middles], [*middles, extent], strict=True)]
