"""Which rule each step of a trace has under a composite, and where the decoder carries R instead of p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from cnnseg.unroll.composites import WEIGHTLESS, Composite
from cnnseg.unroll.layers import Options, Way
from cnnseg.unroll.rules import Pass, Zero
from cnnseg.unroll.steps import Step, Trace
from cnnseg.unroll.weighted import Norm, Weighted
from wsss.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Plan:
    """``ways``: of each step. ``whole``: places of R. ``kept``: places whose activation turns p into R."""

    ways: tuple[Way, ...]
    whole: frozenset[int]
    kept: frozenset[int]

    def at(self, *, keep: int, training: bool, constant: bool, end: int = 0) -> list[Way]:
        """The ways of one pass, whose decoder ends at the place `end`: nothing is recorded of the steps before it.

        Args:
            constant: no weight is going to be trained by it.
        """
        folded: dict | None = {} if constant else None
        return [
            replace(way, keep=keep if index >= end else 0, training=training, folded=folded)
            for index, way in enumerate(self.ways)
        ]


def plan(traced: Trace, composite: Composite, options: Options) -> Plan:
    """Give every step its rule, from the composite, and follow p and R down from the class scores.

    Raises:
        InputError: a name in the composite that fits no layer, or a rule that does not go with a layer of that name.
    """
    steps = traced.steps
    first = _first(steps)
    rules = [
        composite.rule(step.layer.kind, step.names, place in first) if step.layer.kind is not None else None
        for place, step in enumerate(steps)
    ]
    for step, rule in zip(steps, rules, strict=True):
        if isinstance(rule, Pass) and not isinstance(step.layer, Norm):
            raise InputError(f"rules: layer {step.name} mixes its inputs, so that Pass does not go with it")
    _check_names(steps, composite)
    ways: list[Way] = [Way(options)] * len(steps)
    whole: dict[int, list[bool]] = {}
    for index in range(len(steps) - 1, -1, -1):
        step, given = steps[index], whole.get(index + 1, [])
        if not traced.carries[index]:
            continue
        way = Way(options, whole=any(given))
        if (rule := rules[index]) is not None:
            way = replace(way, rule=rule)
        ways[index] = way
        for place in step.inputs:
            whole.setdefault(place, []).append(step.layer.gives_whole(way))
    mixed = frozenset(place for place, given in whole.items() if any(given) and not all(given) and place)
    return Plan(tuple(ways), frozenset(place for place, given in whole.items() if any(given)), mixed)


def _check_names(steps: Sequence[Step], composite: Composite) -> None:
    """InputError if a name in the composite is no layer's, or only those of layers that its rule does not go with."""
    ruled = [step for step in steps if step.layer.kind is not None]
    for key in composite.names:
        fitting = [step for step in ruled if any(fnmatchcase(name, key) for name in step.names)]
        if not fitting:
            known = [name for step in ruled for name in step.names]
            raise InputError(f"rules[{key!r}]: no layer has that name: {did_you_mean(key, known[:60])}")
        rule = composite.rules[key]
        if not isinstance(rule, Zero) and all(step.layer.kind in WEIGHTLESS for step in fitting):
            kind = str(fitting[0].layer.kind).replace("_", " ")
            raise InputError(f"rules[{key!r}]: expected Zero() or Epsilon() of a {kind}, got {type(rule).__name__}()")


def _first(steps: Sequence[Step]) -> set[int]:
    """The convolutions and fully connected layers that read the image through none other."""
    bare, found = {0}, set()
    for place, step in enumerate(steps):
        if not any(source in bare for source in step.inputs):
            continue
        if isinstance(step.layer, Weighted) and not isinstance(step.layer, Norm):
            found.add(place)
        else:
            bare.add(place + 1)
    return found
