"""The methods and composites of `cnnseg.explain`, for the lists of the page."""

from __future__ import annotations

from collections.abc import Callable

from cnnseg.explanation import RULES
from cnnseg.methods import METHODS
from cnnseg.rules import COMPOSITES
from wsss.errors import InputError
from wsss.explorer.explained import MethodChoice


def method_choices(check: Callable[[str], None], first: str) -> tuple[MethodChoice, ...]:
    """The methods that a model can be explained by, `first` ahead of the others.

    Args:
        check: raises InputError for a method that the model cannot be explained by.

    Raises:
        InputError: there is none.
    """
    found, reason = [], None
    for name in (first, *(name for name in METHODS if name != first)):
        method = METHODS[name]
        try:
            check(name)
        except InputError as error:
            reason = reason or error
            continue
        found.append(MethodChoice(name, method.source, method.takes_rules, method.takes_layer, method.signed))
    if not found:
        raise InputError(str(reason))
    return tuple(found)


def rule_names() -> tuple[str, ...]:
    """All composites, the usual one first."""
    return (RULES, *(name for name in COMPOSITES if name != RULES))
