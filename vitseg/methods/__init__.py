"""Explanation methods by name: a captured forward pass and targets in, a map for each target out."""

from vitseg.methods import beyond_intuition, ensemble, rollouts, single  # noqa: F401 (they register their methods)
from vitseg.methods.registry import (
    METHODS,
    RULES,
    Formulation,
    Method,
    find_method,
    find_rules,
    last_block,
    lowest_block,
    patch_maps,
    register,
    second_block,
)
from vitseg.relevance.capture import Trace

__all__ = [
    "METHODS",
    "RULES",
    "Formulation",
    "Method",
    "Trace",
    "find_method",
    "find_rules",
    "last_block",
    "lowest_block",
    "patch_maps",
    "register",
    "second_block",
]
