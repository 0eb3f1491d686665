"""Configurations, typed and checked, and the line that says which field of one is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from wsss.errors import did_you_mean, near_name

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

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: Any) -> Any:
        """An unknown key is told with the nearest one that there is."""
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for key in values if isinstance(values, Mapping) else ():
            if key not in known and key not in cls.model_fields:
                hint = did_you_mean(str(key), known)
                raise PydanticCustomError(_UNKNOWN, "unknown; {hint}", {"key": str(key), "hint": hint})
        return values


_UNKNOWN = "unknown_key"

_EXPECTED = {
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "a list of at least {min_length}",
}
"""Kinds of pydantic's errors -> what to give, in the words of those who write YAML or a command line."""


def validation_line(error: ValidationError) -> str:
    """A pydantic error in one line: the first field at fault, what is expected, what was given."""
    first = error.errors()[0]
    place, given, context = [str(part) for part in first["loc"]], first["input"], first.get("ctx", {})
    if first["type"] == _UNKNOWN:
        return f"{'.'.join([*place, context['key']])}: {first['msg']}"
    field = f"{'.'.join(place)}: " if place else ""
    if first["type"] in _EXPECTED:
        expected = _EXPECTED[first["type"]].format(**context)
        return f"{field}expected {expected}, got {_shown(given)}{renamed(given) or _nearest(given, expected)}"
    said = first["msg"].removeprefix("Value error, ")
    given_too = "" if isinstance(given, Mapping | BaseModel) else f" (got {_shown(given)})"
    return f"{field}{said}{given_too}{renamed(given)}"


def _shown(value: object) -> str:
    """A value as it is written in YAML."""
    match value:
        case bool():
            return str(value).lower()
        case None:
            return "nothing"
        case tuple():
            return repr(list(value))
        case str() if re.fullmatch(r"[-+]?[\d.]+", value):
            return value  # a number, as typed
    return repr(value)


def _nearest(given: object, expected: str) -> str:
    """A closing question for a word that is near to one of those expected, which stand in quotation marks."""
    near = near_name(given, re.findall("'([^']*)'", expected)) if isinstance(given, str) else ""
    return f"; {near.strip()}" if near else ""


def renamed(value: object) -> str:
    """A closing clause for a value that older versions had another name for; empty for all others.

    >>> renamed("bf16")
    ' (bf16 is called bfloat16)'
    """
    today = FORMER_PRECISIONS.get(value) if isinstance(value, str) else None
    return "" if today is None else f" ({value} is called {today})"
