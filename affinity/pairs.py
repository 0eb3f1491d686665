"""Which pixels are neighbours: the half disk of offsets, and the slices that pair a grid with itself."""

from __future__ import annotations

Offset = tuple[int, int]
Slices = tuple[slice, slice]


def half_disk(radius: int) -> tuple[Offset, ...]:
    """Offsets (dy, dx) to every neighbour strictly closer than `radius`, one of each opposite pair.

    AffinityNet's search disk: dy >= 0, dx > 0 where dy == 0, and dy^2 + dx^2 < radius^2. Radius 5 gives 34
    offsets. The other half of the disk follows by symmetry, so every unordered pair of a grid is met exactly
    once.

    Raises ValueError if `radius` < 2, which has no neighbour.
    """
    if radius < 2:
        raise ValueError(f"radius {radius}: expected at least 2")
    return tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


def pair_slices(offset: Offset, height: int, width: int) -> tuple[Slices, Slices]:
    """Slices of the last two axes of a (..., height, width) grid that hold the two ends of every pair at `offset`.

    ``grid[..., *first]`` and ``grid[..., *second]`` have the same shape, and element by element the second is the
    first's neighbour at (dy, dx). All pairs inside the grid are met, those at its border as well (AffinityNet's
    code drops the pairs that start within radius - 1 of the left, right or lower border). Empty where the grid is
    smaller than the offset.
    """
    dy, dx = offset
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    first = (slice(0, rows), slice(left, left + columns))
    second = (slice(dy, dy + rows), slice(right, right + columns))
    return first, second
