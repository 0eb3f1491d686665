"""Layers of a traced classifier by name."""

from __future__ import annotations

from collections.abc import Sequence

from cnnseg.unroll.trace import Trace
from wsss.errors import InputError, check_name, did_you_mean

INPUT = "input"
"""The name of the image among the places where relevance can be read."""


def find_end(traced: Trace, name: str) -> int:
    """The place of a layer, as `find_layer`, or 0 for `INPUT`."""
    return 0 if name == INPUT else find_layer(traced, name)


def find_layer(traced: Trace, name: str) -> int:
    """The place of what a layer gives; of a module that holds others, what the last of them gives (``layer4``).

    InputError, with the nearest name, if there is no such layer.
    """
    check_name(name, "layer")
    inside = [
        index + 1
        for index, step in enumerate(traced.steps)
        if traced.carries[index] and _belongs((step.name, step.scope, *step.names), name)
    ]
    if not inside:
        raise InputError(f"layer {name!r} is unknown to the model: {did_you_mean(name, layer_names(traced))[:600]}")
    return inside[-1]


def layer_names(traced: Trace) -> list[str]:
    """Names of the layers that relevance goes through, in order, each with the modules that it lies in."""
    found: dict[str, None] = {}
    for step, carries in zip(traced.steps, traced.carries, strict=True):
        if carries:
            parts = (step.names[-1] if step.names else step.name).split(".")
            found |= dict.fromkeys(".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return list(found)


def _belongs(names: Sequence[str], name: str) -> bool:
    return any(own == name or own.startswith(f"{name}.") for own in names)


def narrow_places(traced: Trace) -> list[int]:
    """The places that all relevance passes through, in order: no later layer takes anything from before."""
    found: list[int] = []
    least = len(traced.steps)
    for index in range(len(traced.steps) - 1, -1, -1):
        if traced.carries[index]:
            if least >= index + 1:
                found.append(index + 1)
            carrying = [place for place in traced.steps[index].inputs if place == 0 or traced.carries[place - 1]]
            least = min(least, *carrying)
    return found[::-1]


def name_of(traced: Trace, place: int) -> str:
    """The shortest name by which `find_layer` finds a place."""
    step = traced.steps[place - 1]
    parts = step.name.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    known = [name for name in names if any(_belongs((s.name, s.scope, *s.names), name) for s in traced.steps)]
    return next((name for name in known if find_layer(traced, name) == place), step.name)
