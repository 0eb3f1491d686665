"""The one exception a user is meant to see, checks that raise it, and the hint for a mistyped name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """What the user gave is wrong.

    The message is one line: it names the file or, in backticks, the argument, and says what was expected and what it
    got. The command line prints it without a traceback, arguments as its options (`wsss.naming`), and leaves with
    status 2.
    """


def check_name(name: object, what: str, choices: Iterable[str] = ()) -> None:
    """InputError if something that should be a name is of another type."""
    if not isinstance(name, str):
        known = ", ".join(sorted(choices))
        raise InputError(f"{what}: expected a name, got a {type(name).__name__}{known and f'; known: {known}'}")


def check_folder(path: Path, argument: str) -> None:
    """InputError if something else than a folder lies where the folder of an argument is or is to be made."""
    if path.exists() and not path.is_dir():
        raise InputError(f"`{argument}` {path}: expected a folder, or a name that is free, got a file")


LISTED = 40
"""Names that a message lists; of more, only the first."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A closing clause: the valid name that is nearest, if one is near, and the list of them, cut where it is long.

    >>> did_you_mean("rolout", ["rollout", "gradcam"])
    "did you mean 'rollout'? known: gradcam, rollout"
    """
    names = sorted(choices)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{near_name(name, names)}known: {', '.join(names[:LISTED])}{more}"


def near_name(name: str, choices: Iterable[str]) -> str:
    """A question for the valid name that is nearest, with a space behind it; empty if none is near.

    >>> near_name("rolout", ["rollout", "gradcam"])
    "did you mean 'rollout'? "
    """
    found = difflib.get_close_matches(name, list(choices), n=1)
    return f"did you mean {found[0]!r}? " if found else ""


def check_one_of(**given: object) -> None:
    """InputError unless exactly one of two arguments is not None."""
    if sum(value is not None for value in given.values()) != 1:
        raise InputError(f"{' or '.join(f'`{name}`' for name in given)}: expected one of the two")
