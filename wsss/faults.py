"""Faults of a command line in one line each: what is wrong, and what would be right."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, get_args, get_origin

import cyclopts
from pydantic import ValidationError

from wsss.errors import near_name
from wsss.settings import renamed, validation_line

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def fault_line(error: cyclopts.CycloptsError) -> str:
    """The line about a command line, or a file of --config, that a command cannot take."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        if not cause.errors()[0]["loc"]:
            return validation_line(cause)  # of several fields, which it names
        field, rest = validation_line(cause).split(":", 1)
        option = re.sub(r"\.\d+$", "", field)  # of a list, which of its values it is shows in the value
        return f"--{option.replace('_', '-')}:{rest}"
    match error:
        case cyclopts.UnknownOptionError():
            return _unknown_option(error)
        case cyclopts.UnusedCliTokensError() if error.unused_tokens:
            return f"{error.unused_tokens[0]}: unexpected; options are --NAME VALUE, and --NAME or --no-NAME switches"
        case cyclopts.MissingArgumentError() if error.argument is not None:
            return _missing(error)
        case cyclopts.CoercionError() if error.token is not None and error.msg is None:
            return _wrong_type(error)
    return " ".join(str(error).split())


def _unknown_option(error: cyclopts.UnknownOptionError) -> str:
    name = error.token.keyword or error.token.value
    options = [option for argument in error.argument_collection for option in argument.names if argument.parse]
    if error.token.source in ("", "cli"):
        similar = difflib.get_close_matches(name, options, n=1)
        return f"{name}: unknown option{f'; did you mean {similar[0]}?' if similar else '; --help lists them'}"
    key = name.strip("[]").replace("][", ".")  # as keys of keys are written here
    near = near_name(key, [option.removeprefix("--").replace("-", "_") for option in options])
    return f"{error.token.source}: {key}: unknown{f'; {near.strip()}' if near else '; --help lists the options'}"


def _missing(error: cyclopts.MissingArgumentError) -> str:
    argument = error.argument
    assert argument is not None
    given = error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    if given is not None:
        return f"{given}: expected a value"
    command = " ".join(error.command_chain or ())
    if argument.index is not None:
        optioned = any(token.startswith("--") for token in error.root_input_tokens or ())
        before = "; give them before the options, as a list option takes every word that follows it"
        return f"{command}: expected {argument.name}{before if optioned else ''}"
    near = difflib.get_close_matches(argument.name, error.unused_tokens or [], n=1)
    return f"{command}: expected {argument.name}{f', got {near[0]}' if near else ''}"


def _wrong_type(error: cyclopts.CoercionError) -> str:
    token, kind = error.token, error.target_type
    assert token is not None
    name = token.keyword or (error.argument.name if error.argument is not None else "argument")
    name = name.strip("[]").replace("][", ".") if token.source not in ("", "cli") else name
    where = f"{token.source}: " if token.source not in ("", "cli") else ""
    hint = renamed(token.value) or _near(kind, token.value)
    return f"{where}{name}: expected {_expected(kind)}, got {token.value!r}{hint}"


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *others, last = (repr(choice) for choice in get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    return _KINDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _near(kind: Any, value: str) -> str:
    near = near_name(value, map(str, get_args(kind))) if get_origin(kind) is Literal else ""
    return f"; {near.strip()}" if near else ""
