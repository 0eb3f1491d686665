"""Arguments in messages: by their names in Python, as options where a command runs.

Functions name an argument in backticks: "`batch_size` 0: expected at least 1". A Python program reads just that. Where
a command runs (`wsss.console.run`), arguments that are options of it are shown as such: "--batch-size 0: ...".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from wsss.errors import InputError

_options: Callable[[], Mapping[str, str]] = dict


@contextmanager
def naming(options: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Inside, `named` shows arguments as options: argument -> option, asked for when a message names one."""
    global _options
    before, _options = _options, options
    try:
        yield
    finally:
        _options = before


def named(line: str) -> str:
    """A message with the arguments in backticks as whoever called knows them.

    >>> with naming(lambda: {"batch_size": "--batch-size"}):
    ...     named("`batch_size` 0: expected at least 1; `cnnseg segment` has `overlap`")
    '--batch-size 0: expected at least 1; `cnnseg segment` has `overlap`'
    """
    if "`" not in line:
        return line
    options = _options()
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), line)


@contextmanager
def passing(**names: str) -> Iterator[None]:
    """Inside, an InputError names arguments as whoever passed them on calls them: argument -> name there.

    >>> with passing(split="train_split"):
    ...     raise InputError("`split` trian: no such split")
    Traceback (most recent call last):
    wsss.errors.InputError: `train_split` trian: no such split
    """
    try:
        yield
    except InputError as error:
        line = re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", str(error))
        raise InputError(line) from error
