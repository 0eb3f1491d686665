"""Files of one's own beside this toolkit: what they register, its commands know (docs/howto_method.md)."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsss.errors import InputError

OWN = ("wsss", "vitseg", "cnnseg", "affinity")
"""The packages of this toolkit."""


def load_extension(given: str) -> None:
    """Import a file or a module, which registers methods, rules or layouts of data sets as it is imported.

    It is imported by its own name, with its folder on the path, so that worker processes find it too.

    Args:
        given: path of a .py file, or the name of a module that is installed.

    Raises:
        InputError: no such file or module, one of a name that is taken, or what goes wrong inside.
    """
    name = _on_path(given) if given.endswith(".py") else given
    try:
        importlib.import_module(name)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise _broken(given, error) from None
        raise InputError(
            f"`extension` {given}: expected a file that ends in .py or an installed module; there is none"
        ) from None
    except (Exception, SystemExit) as error:  # a script that leaves would end the command without a word
        raise _broken(given, error) from None


def is_own(thing: Callable[..., Any] | type) -> bool:
    """Whether a function or class is this toolkit's."""
    return thing.__module__.split(".")[0] in OWN


def source_file(thing: Callable[..., Any] | type) -> Path | None:
    """The file of a function or class that is not this toolkit's; None of one that is, or that no file holds.

    Results are made of it as of any other input: where it changes, they are another's.
    """
    file = None if is_own(thing) else getattr(sys.modules.get(thing.__module__), "__file__", None)
    return None if file is None else Path(file)


def check_name_is_free(name: str, known: Callable[..., Any] | type | None, thing: Callable[..., Any] | type) -> None:
    """InputError if `thing` would take the place of what this toolkit knows by a name; one's own may be replaced."""
    if known is not None and is_own(known) and not is_own(thing):
        raise InputError(f"{name!r}: is one of this toolkit's; register yours under another name")


def _on_path(given: str) -> str:
    """The name that a file is imported by, once its folder is on the path."""
    path = Path(given).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"`extension` {given}: no such file")
    name = path.stem
    if not name.isidentifier():
        raise InputError(f"`extension` {given}: expected a name of letters, digits and _, such as my_method.py")
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None) if loaded is not None else getattr(find_spec(name), "origin", None)
    if (loaded is not None or origin is not None) and (origin is None or Path(origin).resolve() != path):
        raise InputError(f"`extension` {given}: there is another module of that name; call the file otherwise")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return name


def _broken(given: str, error: BaseException) -> InputError:
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f", line {frame.lineno}" for frame in reversed(frames) if frame.filename.endswith(given)), "")
    if isinstance(error, SyntaxError) and error.lineno:
        where = f", line {error.lineno}"
    return InputError(f"`extension` {given}{where}: cannot be imported: {type(error).__name__}: {error}")
