"""What the four commands share: how they start, how they read their options, how they fail."""

from __future__ import annotations

import errno
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Group, Parameter
from cyclopts.config import Yaml
from pydantic import ValidationError
from rich.console import Console

from wsss.configs import find_config, read_yaml
from wsss.errors import InputError
from wsss.extensions import load_extension
from wsss.faults import fault_line
from wsss.naming import named, naming
from wsss.processes import lost, processes, size, tells
from wsss.progress import printable
from wsss.settings import validation_line

console = Console(highlight=False, soft_wrap=True)


Flat = Parameter(name="*")
"""Annotation that spreads a `wsss.settings.Config` into plain options: ``cfg: Annotated[Cfg, Flat] = Cfg()``."""


def _as_typed(value: object) -> object:
    """A default in --help as one would type it: "224 384"; yes and no for switches."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else value


LISTS = Parameter(consume_multiple=True, negative_iterable="", show_default=_as_typed)
"""Default of every command's parameters: a list option takes ``--sizes 224 384`` and ``--sizes 224 --sizes 384``."""

EVERYWHERE = Group("Options of every command", sort_key=99)


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
        config: Annotated[
            str | None, Parameter(help="YAML file with options of the command.", group=EVERYWHERE)
        ] = None,
        extension: Annotated[
            list[str] | None,
            Parameter(help=_EXTENSION, negative_iterable="", env_var="RELSEG_EXTENSION", group=EVERYWHERE),
        ] = None,
    ) -> int | None:
        with _naming_options(app, tokens):
            for given in extension or ():
                load_extension(given)
            app.config = () if config is None else (_config_source(config),)
            called = app.parse_args(tokens, exit_on_error=False, print_error=False)[0] if size() > 1 else None
            if called is not None and not getattr(called, _TOGETHER, False):
                raise InputError(f"{' '.join(tokens[:1])}: works in one process; start it without torchrun")
            return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")

    if app.meta.default_command is None:
        app.meta.default(launch)
    app.config = ()
    _arrange(app, sys.argv[1:] if tokens is None else tokens)
    app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False  # it would leave without a word
    try:
        status = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return status if isinstance(status, int) else 0
    except cyclopts.CycloptsError as error:
        return _fail(fault_line(error))
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


def _arrange(app: App, tokens: Sequence[str]) -> None:
    """Help lists commands as they were registered, which is as they are used, and arguments before the options."""
    for place, name in enumerate(app):
        app[name].sort_key = (name.startswith("-"), place)
    named = next((token for token in tokens if token in app and not token.startswith("-")), None)
    if named is None or not {"--help", "-h"} & set(tokens):
        return
    needed = [one for one in app[named].assemble_argument_collection() if one.required]
    first = [f"{one.name}{'...' * (typing.get_origin(one.hint) is list)}" for one in needed if one.index is not None]
    then = [f"{one.name} {one.name.strip('-').upper()}" for one in needed if one.index is None]
    app[named].usage = f"Usage: {' '.join([app.name[0], named, *first, *then])} [OPTIONS]"


def _config_source(config: str) -> Yaml:
    path = find_config(config)
    read_yaml(path, "the options of the command")  # cyclopts would not name a file that it cannot read
    return Yaml(path, must_exist=True, use_commands_as_keys=False)


@contextmanager
def _naming_options(app: App, tokens: Sequence[str]) -> Iterator[None]:
    """Inside, messages show arguments as the options that they are of the command which the tokens call."""
    with naming(lambda: _options(app, tokens)):
        try:
            yield
        except (InputError, cyclopts.ValidationError) as error:
            fault = error if isinstance(error, InputError) else error.__cause__  # of an option's validator
            if not isinstance(fault, InputError):
                raise
            raise InputError(named(str(fault))) from error


def _options(app: App, tokens: Sequence[str]) -> dict[str, str]:
    """Argument -> option, those of nested settings by their own names."""
    found = {"config": "--config", "extension": "--extension"}
    command = app.parse_commands(tokens)[1][-1]
    for argument in command.assemble_argument_collection() if command.default_command else ():
        option = next((name for name in argument.names if name.startswith("--")), None)
        if option is not None and argument.show:
            found.setdefault(argument.keys[-1] if argument.keys else argument.field_info.name, option)
    return found


def _fail(line: str) -> int:
    if tells():
        print(f"error: {printable(line)}", file=sys.stderr)
    return 2


def existing_file(path: Path, option: str) -> Path:
    """Return `path` if it is a file, else raise the line that names the option."""
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file")
    return path
