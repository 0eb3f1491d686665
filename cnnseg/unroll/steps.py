"""What a traced classifier is: its layers in the order of their computation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cnnseg.unroll.call import Call
from cnnseg.unroll.layers import Layer
from wsss.errors import InputError


class Untraceable(InputError):
    """`torch.fx` cannot follow a model's code. ``kind``: the class that the code is of; ``reason``: what stops it."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind} cannot be unrolled: {reason}")
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Step:
    """A layer: its name in the classifier, what it computes, and the steps whose outputs it takes (0 is the image).

    ``scope``: the module that it belongs to, for functions the one whose code calls them. ``names``: of the modules
    that it stands for, a convolution's and its batch norm's. ``fault``: why relevance cannot go through it, None if it
    can.
    """

    name: str
    layer: Layer
    inputs: tuple[int, ...]
    scope: str = ""
    names: tuple[str, ...] = ()
    fault: str | None = None

    def named_in(self, part: str) -> Step:
        """The same with the names that its modules have in a part of the model."""
        front = f"{part}."
        name, scope = (own.removeprefix(front) for own in (self.name, self.scope))
        fault = None if self.fault is None else self.fault.replace(f"layer {front}", "layer ")
        names = tuple(own.removeprefix(front) for own in self.names)
        return replace(self, name=name.replace(f" with {front}", " with "), scope=scope, names=names, fault=fault)


@dataclass(frozen=True)
class Trace:
    """A traced classifier. ``steps`` in the order of their computation; the last yields the class scores.

    ``carries``: for each step whether relevance goes through it; the others make gates, constants and shapes.
    """

    steps: tuple[Step, ...]
    carries: tuple[bool, ...]

    @property
    def calls(self) -> tuple[Step, ...]:
        """The steps that are run as they stand."""
        return tuple(step for step in self.steps if isinstance(step.layer, Call))

    def named_in(self, part: str) -> Trace:
        """The same with the names that layers have in a part of the model."""
        return Trace(tuple(step.named_in(part) for step in self.steps), self.carries)

    def check(self) -> None:
        """InputError, naming the layer, if relevance would have to go through one that has no rule."""
        for step, carries in zip(self.steps, self.carries, strict=True):
            if carries and step.fault is not None:
                raise InputError(step.fault)
