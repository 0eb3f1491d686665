"""What an explanation method is, and where it is found by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from vitseg.relevance.capture import Trace
from vitseg.relevance.rules import EXACT, PLAIN, ROBUST, Exact
from wsss.errors import InputError, check_name, did_you_mean
from wsss.extensions import check_name_is_free


@dataclass(frozen=True)
class Formulation:
    """The rules of propagation: of transformer attribution, and of the two LRP baselines."""

    attribution: Exact
    baseline: Exact


RULES: dict[str, Formulation] = {"robust": Formulation(ROBUST, ROBUST), "exact": Formulation(EXACT, PLAIN)}
"""``robust``: the same map in single and double precision (docs/conditioning.md); ``exact``: the published code's."""

Compute = Callable[[Trace, Tensor, int, Formulation], Tensor]


@dataclass(frozen=True)
class Method:
    """A named explanation.

    ``compute(trace, targets (B, K), first, rules)`` returns maps (K * B, h, w), class-major. ``start`` gives the block
    at which the published method begins, from the model's number of blocks; where ``rolls_out`` it may begin at
    another one. ``class_specific`` methods give another map for each target, ``relevance`` methods another for each
    formulation of the rules; ``gradients`` says whether a graph is needed.
    """

    name: str
    source: str
    class_specific: bool
    gradients: bool
    relevance: bool
    rolls_out: bool
    start: Callable[[int], int]
    compute: Compute

    def first_block(self, depth: int, wanted: int | None = None) -> int:
        """The first block that the method looks at in a model of `depth` blocks; `wanted` where that can be chosen."""
        return self.start(depth) if wanted is None or not self.rolls_out else wanted

    def maps(self, trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
        """What ``compute`` gives, detached. InputError if it is of another shape than said here."""
        found = self.compute(trace, targets, first, rules)
        count = targets.numel()
        if not isinstance(found, Tensor) or found.ndim != 3 or len(found) != count:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(f"method {self.name}: expected maps of shape ({count}, h, w), got {got}")
        return found.detach()


METHODS: dict[str, Method] = {}


def find_method(name: str) -> Method:
    """The method of that name; InputError with the nearest names if there is none."""
    check_name(name, "method", METHODS)
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown: {did_you_mean(name, METHODS)}")
    return METHODS[name]


def find_rules(name: str) -> Formulation:
    """The formulation of that name; InputError with the known ones if there is none."""
    check_name(name, "rules", RULES)
    if name not in RULES:
        raise InputError(f"rules {name!r} are unknown: {did_you_mean(name, RULES)}")
    return RULES[name]


def lowest_block(depth: int) -> int:
    """All blocks."""
    return 0


def register(
    name: str,
    source: str = "",
    *,
    start: Callable[[int], int] = lowest_block,
    class_specific: bool = True,
    gradients: bool = True,
    relevance: bool = False,
    rolls_out: bool = True,
) -> Callable[[Compute], Compute]:
    """Decorator: put a function into the registry, see `Method`; also from code of one's own (docs/howto_method.md).

    Raises InputError for the name of one of this toolkit's methods.
    """

    def add(compute: Compute) -> Compute:
        check_name_is_free(name, METHODS[name].compute if name in METHODS else None, compute)
        METHODS[name] = Method(
            name, source or f"of {compute.__module__}", class_specific, gradients, relevance, rolls_out, start, compute
        )
        return compute

    return add


def patch_maps(trace: Trace, tokens: Tensor) -> Tensor:
    """(P, N) over all tokens, or (P, N - prefix) over the patch tokens, as maps (P, h, w)."""
    height, width = trace.grid
    return rearrange(tokens[:, -height * width :], "p (h w) -> p h w", h=height, w=width)


def second_block(depth: int) -> int:
    """The published ``start_layer = 1``: attention of the first block mixes tokens that carry no class yet."""
    return min(1, depth - 1)


def last_block(depth: int) -> int:
    """The last block alone."""
    return depth - 1
