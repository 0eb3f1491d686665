"""Layers of a traced classifier by name."""

from __future__ import annotations

from collections.abc import Sequence

from cnnseg.unroll.region import OverRegion
from cnnseg.unroll.trace import Trace
from cnnseg.unroll.weighted import Weighted
from wsss.errors import InputError, check_name, did_you_mean

INPUT = "input"
"""The name of the image among the places where relevance can be read."""

ENCODERS = ("encoder", "backbone")
"""What the part of a segmentation network that makes features of the image is called."""


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


def usual_place(traced: Trace) -> int | None:
    """The place whose maps are weighed unless a layer is named; None: the last one with maps.

    Of a segmentation network the last one of its encoder (``encoder``, or ``backbone`` as torchvision has it); without
    such a part, what the layer that makes the class maps is given; InputError if that is the image.
    """
    steps = traced.steps
    if not steps or not isinstance(steps[-1].layer, OverRegion):
        return None
    known = layer_names(traced)
    for part in ENCODERS:
        if part in known:
            return find_layer(traced, part)
    place = steps[-1].inputs[0]
    made = False
    while place and not made:
        step = steps[place - 1]
        sources = [source for source in step.inputs if source == 0 or traced.carries[source - 1]]
        place, made = max(sources), isinstance(step.layer, Weighted) or len(sources) > 1
    if not place:
        raise InputError("layer: the class maps are made of the image itself, by no layer whose maps could be weighed")
    return place


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


def narrow_places(traced: Trace, passing: Sequence[bool] | None = None) -> list[int]:
    """The places that all relevance passes through, in order: no later layer takes anything from before.

    ``passing``: for each step whether what is looked for goes through it; None: relevance, which gates do not get.
    """
    passing = traced.carries if passing is None else passing
    found: list[int] = []
    least = len(traced.steps)
    for index in range(len(traced.steps) - 1, -1, -1):
        if passing[index]:
            if least >= index + 1:
                found.append(index + 1)
            carrying = [place for place in traced.steps[index].inputs if place == 0 or passing[place - 1]]
            least = min(least, *carrying)
    return found[::-1]


def name_of(traced: Trace, place: int) -> str:
    """The shortest name by which `find_layer` finds a place."""
    step = traced.steps[place - 1]
    parts = step.name.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    known = [name for name in names if any(_belongs((s.name, s.scope, *s.names), name) for s in traced.steps)]
    return next((name for name in known if find_layer(traced, name) == place), step.name)
