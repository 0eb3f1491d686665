"""Configurations, typed and checked, and the line that says which field of one is wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

MixedPrecision = Literal["float32", "bfloat16"]
"""Precision of a network in training and in use. bfloat16: autocast, that is convolutions and products alone are."""

FORMER_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""What older versions called them -> what they are called."""


class Config(BaseModel):
    """Base of every configuration: typed, frozen, and closed to unknown keys.

    On the command line its fields become options (``Annotated[SomeConfig, Flat]``, `wsss.console.Flat`); a docstring
    under a field is the option's help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def validation_line(error: ValidationError) -> str:
    """A pydantic error in one line: the first field at fault, what is wrong, what was given."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or error.title
    given = first["input"]
    return f"{field}: {first['msg'].removeprefix('Value error, ')} (got {given!r}){renamed(given)}"


def renamed(value: object) -> str:
    """A closing clause for a value that older versions had another name for; empty for all others.

    >>> renamed("bf16")
    ' (bf16 is called bfloat16)'
    """
    today = FORMER_PRECISIONS.get(value) if isinstance(value, str) else None
    return "" if today is None else f" ({value} is called {today})"
