"""What the axes of a tensor stand for: images, channels, rows and columns of the grid that lies over the image.

An axis is a product of factors, outermost first: the N = h w tokens of a transformer are one axis of two factors, and
a window of Swin's is half of the rows' factor and half of the columns'. Changes of shape and order are thus followed
exactly. Factors named neither `IMAGES`, `ROWS` nor `COLUMNS` are channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

IMAGES, ROWS, COLUMNS = "images", "rows", "columns"
_CHANNELS = ""


@dataclass(frozen=True)
class Factor:
    """A part of an axis.

    ``step``: how many values of the whole it goes on with each of its own, more than 1 of a coarse part; ``whole``: the
    size of all parts together. ``behind``: of tokens of which the first lie nowhere (class token, registers), the
    factors of the others.
    """

    of: str
    size: int
    step: int = 1
    whole: int = 0
    behind: tuple[Factor, ...] = ()

    @property
    def is_place(self) -> bool:
        """Whether it says where in the image a value lies."""
        return self.of in (ROWS, COLUMNS) or any(one.is_place for one in self.behind)

    @property
    def is_coarsest(self) -> bool:
        """Whether it runs over all of the image."""
        return self.of in (ROWS, COLUMNS) and self.step * self.size == self.whole


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]

NOWHERE: Axes = ()
"""Of a tensor of which no axis is known to stand for rows or columns, and of which no convolution makes maps."""


def channels(size: int) -> Axis:
    """An axis of channels."""
    return (Factor(_CHANNELS, size),)


def whole(of: str, size: int) -> Axis:
    """An axis of all images, rows or columns."""
    return (Factor(of, size, 1, size),)


def maps_axes(shape: Sequence[int]) -> Axes:
    """Of maps (B, D, h, w)."""
    return whole(IMAGES, shape[0]), channels(shape[1]), whole(ROWS, shape[2]), whole(COLUMNS, shape[3])


def prefixed(axis: Axis, count: int) -> Axis:
    """The axis with `count` values in front that lie nowhere."""
    behind = axis[0].behind or axis
    return (Factor("tokens", count + prod(factor.size for factor in axis), behind=behind),)


def is_channels(axis: Axis) -> bool:
    """Whether an axis says neither which image nor where in it, but for places within the cells of a grid."""
    return not any(factor.of == IMAGES or factor.is_coarsest or factor.behind for factor in axis)


def has_places(axes: Axes) -> bool:
    """Whether anything is known of where in the image the values lie."""
    return any(factor.is_place for axis in axes for factor in axis)


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """The axes after a change of shape; None if it cuts what cannot be cut."""
    left = _joined(tuple(factor for axis in axes for factor in axis))
    found: list[Axis] = []
    for size in shape:
        taken = _taken(left, size)
        if taken is None:
            return None
        axis, left = taken
        found.append(_joined(axis))
    if any(factor.size > 1 for factor in left) or not found:
        return None
    found[-1] += left
    return tuple(found)


def _taken(factors: Axis, size: int) -> tuple[Axis, Axis] | None:
    """As many of the factors as make an axis of a size, and those that are left."""
    if size == 1:
        count = int(bool(factors) and factors[0].size == 1)
        return factors[:count], factors[count:]
    axis: Axis = ()
    while size > 1:
        if not factors:
            return None
        first, factors = factors[0], factors[1:]
        if size % first.size == 0:
            axis, size = (*axis, first), size // first.size
        elif first.size % size == 0 and not first.behind:
            fine = first.size // size
            step = 1 if first.of == _CHANNELS else first.step * fine
            axis, factors = (*axis, replace(first, size=size, step=step)), (replace(first, size=fine), *factors)
            size = 1
        else:
            return None
    return axis, factors


def _joined(factors: Axis) -> Axis:
    """Neighbours that are parts of one whole, joined."""
    found: list[Factor] = []
    for inner in factors:
        outer = found[-1] if found else None
        if outer is None or outer.of != inner.of or outer.behind or outer.whole != inner.whole:
            found.append(inner)
        elif inner.of == _CHANNELS or outer.step == inner.step * inner.size:
            found[-1] = replace(inner, size=outer.size * inner.size)
        else:
            found.append(inner)
    return tuple(found)


def tidied(axes: Axes) -> Axes:
    """The same, where a layer has summed up the places within each cell: the cells are the grid's places now."""
    for of in (ROWS, COLUMNS):
        steps = [factor.step for axis in axes for factor in axis if factor.of == of]
        fine = min(steps, default=1)
        if fine > 1 and all(step % fine == 0 for step in steps):
            axes = tuple(
                tuple(_coarser(factor, fine) if factor.of == of else factor for factor in axis) for axis in axes
            )
    return axes


def _coarser(factor: Factor, fine: int) -> Factor:
    return replace(factor, step=factor.step // fine, whole=factor.whole // fine)


def are_plain(axes: Axes | None) -> bool:
    """Whether they are those of maps (B, D, h, w)."""
    return _order(axes) == (0, 1, 2, 3) and len(axes or ()) == 4


def are_maps(axes: Axes | None) -> bool:
    """Whether `to_maps` can make maps of a tensor with these axes."""
    return _order(axes) is not None


def to_maps(values: Tensor, axes: Axes) -> Tensor:
    """Maps (B, D, h, w) of values whose axes are another order of these, or whose places are tokens; a view."""
    order = _order(axes)
    assert order is not None
    for dim, axis in reversed(list(enumerate(axes))):
        behind = axis[0].behind if axis else ()
        if behind:
            count = prod(factor.size for factor in behind)
            values = values.narrow(dim, values.shape[dim] - count, count)
        spread = behind or axis
        if len(spread) == 2 and all(factor.is_coarsest for factor in spread):
            values = values.unflatten(dim, [factor.size for factor in spread])
    return values.permute(order)


def _order(axes: Axes | None) -> tuple[int, ...] | None:
    """Where images, channels, rows and columns are, tokens counted as two axes; None if that is not all there is."""
    kinds: list[str | None] = []
    for axis in axes or ():
        factors = (axis[0].behind if len(axis) == 1 else ()) or axis
        if factors and all(factor.is_coarsest for factor in factors):
            kinds += [factor.of for factor in factors]
        elif len(factors) == 1 and factors[0].of == IMAGES:
            kinds.append(IMAGES if factors[0].size == factors[0].whole else None)
        else:
            kinds.append(_CHANNELS if is_channels(axis) else None)
    wanted = (IMAGES, _CHANNELS, ROWS, COLUMNS)
    if sorted(map(str, kinds)) != sorted(wanted) or kinds[0] != IMAGES:
        return None
    return tuple(kinds.index(kind) for kind in wanted)
