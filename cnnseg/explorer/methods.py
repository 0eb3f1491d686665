"""The methods and composites of `cnnseg.explain`, for the lists of the page."""

from __future__ import annotations

from cnnseg.explanation import RULES
from cnnseg.methods import METHODS
from cnnseg.rules import COMPOSITES
from wsss.explorer.subject import MethodChoice


def method_choices(first: str, *, without: tuple[str, ...] = ()) -> tuple[MethodChoice, ...]:
    """All methods, `first` ahead of the others."""
    names = [first, *(name for name in METHODS if name != first and name not in without)]
    return tuple(
        MethodChoice(name, method.source, method.takes_rules, method.takes_layer, method.signed)
        for name, method in ((name, METHODS[name]) for name in names)
    )


def rule_names() -> tuple[str, ...]:
    """All composites, the usual one first."""
    return (RULES, *(name for name in COMPOSITES if name != RULES))
