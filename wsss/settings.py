"""Configurations, typed and checked, and the line that says which field of one is wrong."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


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
    return f"{field}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
