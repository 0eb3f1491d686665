"""Anything that a classifier computes, run as it stands, with its inputs in their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from wsss.errors import InputError


@dataclass(frozen=True)
class Place:
    """In the arguments of a `Call`: its input of that number."""

    number: int


@dataclass(frozen=True, eq=False)
class Call(Layer):
    """Anything that a classifier computes, run as it stands. Relevance does not go through it."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def run(self, inputs: tuple[Any, ...]) -> Any:
        """Call it with the inputs in their places."""
        args, kwargs = self.filled(inputs)
        return self.function(*args, **kwargs)

    def filled(self, inputs: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with the inputs in their places."""
        args = [_filled(arg, inputs) for arg in self.args]
        return args, {key: _filled(value, inputs) for key, value in self.kwargs}

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Any, Record]:
        return self.run(inputs), Record(shapes_of(inputs))


def _filled(template: Any, inputs: tuple[Any, ...]) -> Any:
    if isinstance(template, Place):
        return inputs[template.number]
    if isinstance(template, list | tuple):
        return type(template)(_filled(item, inputs) for item in template)
    if isinstance(template, slice):
        return slice(*(_filled(item, inputs) for item in (template.start, template.stop, template.step)))
    return template


def check_batch(x: Tensor, out: Any, what: str) -> None:
    """InputError unless the output has a row for each image, as the input does."""
    if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(x):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"{what} turns {tuple(x.shape)} into {found}: expected a row for each of {len(x)} images")
