"""What an explanation method of CNNs is, and where it is found by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from cnnseg.unroll.composites import Composite
from cnnseg.unroll.trace import Trace, Untraceable
from wsss.errors import InputError, check_name, did_you_mean
from wsss.explanation import Targets, class_targets
from wsss.extensions import check_name_is_free


@dataclass(frozen=True)
class Question:
    """What is asked of a method: ``images`` (B, 3, H, W) of ``model``, ``targets`` as the caller gave them.

    ``composite``: of methods that take rules; ``layer``: name of the layer, of methods that look at one, None for the
    usual one.
    """

    model: nn.Module
    images: Tensor
    targets: Targets
    composite: Composite
    layer: str | None

    def chosen(self, logits: Tensor) -> Tensor:
        """Class indices (B, K) of the targets, given the class scores (B, C)."""
        return class_targets(self.targets, logits)[0]


Compute = Callable[[Question], tuple[Tensor, Tensor]]
"""Question -> (maps (B, K, h, w), class scores (B, C))."""


@dataclass(frozen=True)
class Method:
    """A named explanation.

    ``signed``: whether its maps may have negative values. ``needs``: raises
    InputError for a traced classifier that lacks what the method works on.
    """

    name: str
    source: str
    compute: Compute
    takes_rules: bool = False
    takes_layer: bool = False
    signed: bool = False
    class_specific: bool = True
    needs: Callable[[Trace], object] | None = None

    @property
    def needs_trace(self) -> bool:
        """Whether it works on the layers of a model, and not on activations and gradients alone."""
        return self.takes_rules or self.needs is not None

    def maps(self, question: Question) -> tuple[Tensor, Tensor]:
        """What ``compute`` gives, detached. InputError if it is of another shape than said there."""
        found = self.compute(question)
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(one, Tensor) for one in found):
            raise InputError(f"method {self.name}: expected (maps, class scores), two tensors, got {found!r:.60}")
        maps, logits = found
        if logits.ndim != 2 or len(logits) != len(question.images):
            raise InputError(f"method {self.name}: expected class scores (B, C), got shape {tuple(logits.shape)}")
        due = question.chosen(logits).shape
        if maps.ndim != 4 or maps.shape[:2] != due:
            shape = ", ".join(map(str, due))
            raise InputError(f"method {self.name}: expected maps of shape ({shape}, h, w), got {tuple(maps.shape)}")
        return maps.detach(), logits.detach()

    @contextmanager
    def following(self) -> Iterator[None]:
        """What a method's work on a model runs in: one that `torch.fx` cannot follow is one line, with what works."""
        try:
            yield
        except Untraceable as error:
            *others, last = (name for name, method in METHODS.items() if not method.needs_trace)
            raise InputError(
                f"{self.name}: needs a network that torch.fx can follow ({error.kind}: {error.reason}); "
                f"{', '.join(others)} and {last} work"
            ) from None


METHODS: dict[str, Method] = {}


def find_method(name: str) -> Method:
    """The method of that name; InputError with the nearest names if there is none."""
    check_name(name, "method", METHODS)
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown: {did_you_mean(name, METHODS)}")
    return METHODS[name]


def register(
    name: str,
    source: str = "",
    *,
    takes_rules: bool = False,
    takes_layer: bool = False,
    signed: bool = False,
    class_specific: bool = True,
    needs: Callable[[Trace], object] | None = None,
) -> Callable[[Compute], Compute]:
    """Decorator: put a function into the registry, see `Method`; also from code of one's own (docs/howto_method.md).

    Raises InputError for the name of one of this toolkit's methods.
    """

    def add(compute: Compute) -> Compute:
        check_name_is_free(name, METHODS[name].compute if name in METHODS else None, compute)
        METHODS[name] = Method(
            name, source or f"of {compute.__module__}", compute, takes_rules, takes_layer, signed, class_specific, needs
        )
        return compute

    return add
