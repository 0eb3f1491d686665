"""What the four commands share: how they start, fail, and show progress."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeVar

import cyclopts
from cyclopts import App, Parameter
from cyclopts.config import Yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wsss.configs import find_config
from wsss.errors import InputError
from wsss.extensions import load_extension
from wsss.processes import is_first, lost, processes, size, tells

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True)


class Config(BaseModel):
    """Base of every configuration: typed, frozen, and closed to unknown keys.

    On the command line its fields become options (``Annotated[SomeConfig, Flat]``); a docstring under a field is
    the option's help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Flat = Parameter(name="*")
"""Annotation that spreads a ``Config`` into plain options: ``cfg: Annotated[Cfg, Flat] = Cfg()``."""


Several = Parameter(consume_multiple=True)
"""Annotation of a list option that takes several values at once: ``--sizes 224 384``."""


_TOGETHER = "works_together"

_EXTENSION = "file of your own, or installed module, that registers methods, rules or layouts of data sets; repeatable"

_REMEDIES = {
    errno.EEXIST: "; expected a folder, or a name that is free",
    errno.EISDIR: "; expected a file, or a name that is free",
    errno.ENOTDIR: "; expected a folder above it",
    errno.EACCES: "; give another place, or the right to write or read there",
    errno.EROFS: "; give another place",
    errno.ENAMETOOLONG: "; give a shorter name",
}
"""What would be right after a fault of the file system, for messages."""


def versions() -> str:
    """What `--version` prints: of this package and of PyTorch, on which figures depend."""
    return f"relseg {version('relseg')} (PyTorch {version('torch')})"


def together(command: Callable) -> Callable:
    """Mark a command that torchrun may start in several processes (`wsss.processes`)."""
    setattr(command, _TOGETHER, True)
    return command


def run(app: App, tokens: list[str] | None = None) -> int:
    """Run a command line and return its exit status.

    ``--config FILE.yaml`` (a path, or a name below ``configs/``) gives defaults for the command's options; options
    on the command line win. Bad input ends in one line on standard error and status 2, an interruption in 130.
    Of the processes that torchrun starts the first one to fail says why, and all end.
    """
    try:
        with processes():
            status = _outcome(app, tokens)
            if status and size() > 1:
                raise SystemExit(status)  # the others may be waiting for what this one does not do any more
            return status
    except InputError as error:
        return _fail(str(error))


def _outcome(app: App, tokens: list[str] | None) -> int:
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[str | None, Parameter(help="YAML file with options of the command")] = None,
        extension: Annotated[
            list[str] | None, Parameter(help=_EXTENSION, negative_iterable="", env_var="RELSEG_EXTENSION")
        ] = None,
    ) -> int | None:
        for given in extension or ():
            load_extension(given)
        source = () if config is None else (Yaml(find_config(config), must_exist=True, use_commands_as_keys=False),)
        app.config = source
        if size() > 1 and not getattr(app.parse_args(tokens, exit_on_error=False, print_error=False)[0], _TOGETHER, 0):
            raise InputError(f"{' '.join(tokens[:1])}: works in one process; start it without torchrun")
        return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")

    if app.meta.default_command is None:
        app.meta.default(launch)
    app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False  # it would leave without a word
    try:
        status = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return status if isinstance(status, int) else 0
    except cyclopts.CycloptsError as error:
        return _fail(_cyclopts_line(error))
    except ValidationError as error:
        return _fail(validation_line(error))
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return _fail(
                f"the disk is full{where}: free some space and run the same command again, it goes on from here"
            )
        if error.errno is None or error.filename is None:
            raise  # of no file that somebody could do something about
        return _fail(f"{error.filename}: {os.strerror(error.errno).lower()}{_REMEDIES.get(error.errno, '')}")
    except RuntimeError as error:
        if not lost(error):
            raise
        return _fail("another process was killed: run the same command again, it goes on from here")
    except KeyboardInterrupt:
        if tells():
            print("\ninterrupted: run the same command again, it goes on from here", file=sys.stderr)
        return 130


def validation_line(error: ValidationError) -> str:
    """A pydantic error in one line: the first field at fault, what is wrong, what was given."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or error.title
    return f"{field}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"


def _cyclopts_line(error: cyclopts.CycloptsError) -> str:
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        option = validation_line(cause)
        return f"--{option.replace('_', '-', option.split(':')[0].count('_'))}"
    return " ".join(str(error).split())


def _fail(line: str) -> int:
    if tells():
        print(f"error: {printable(line)}", file=sys.stderr)
    return 2


def printable(line: str) -> str:
    """One line that every terminal takes: names of files may hold line breaks, and bytes that are no UTF-8."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def note(line: str) -> None:
    """A line for the user, on standard output; of several processes the first prints it."""
    if is_first():
        console.print(line.encode("utf-8", "backslashreplace").decode(), markup=False)


def warn(line: str) -> None:
    """One line of warning, on standard error."""
    print(f"warning: {printable(line)}", file=sys.stderr)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate and show progress with time left; where there is no terminal, about ten plain lines in all."""
    total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
    if not is_first():
        yield from items
        return
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            yield from bar.track(items, total=total, description=description)
        return
    step = -(-(total or 1000) // 10)
    for count, item in enumerate(items, start=1):
        yield item
        if count % step == 0 or count == total:
            note(f"{description}: {count}/{total if total is not None else '?'}")


def existing_file(path: Path, option: str) -> Path:
    """Return `path` if it is a file, else raise the line that names the option."""
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file")
    return path
