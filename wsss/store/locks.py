"""A stage has one writer, or several that share it on purpose: locks between processes, and who holds them."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from wsss.errors import InputError
from wsss.processes import is_first, is_sharded, wait
from wsss.progress import warn


@dataclass(frozen=True)
class StageLock:
    """A lock that this process holds on a stage."""

    folder: Path
    file: IO[str] | None
    """None where the file system has no locks."""
    shared: bool

    def alone(self) -> bool:
        """Whether no other process writes the stage; while this is asked nobody else can begin."""
        if self.file is None or not self.shared:
            return True
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self.file, fcntl.LOCK_SH)  # a failed change of a lock has given the old one up
            return False
        fcntl.flock(self.file, fcntl.LOCK_SH)
        return True

    def holders(self) -> str:
        """Who writes the stage beside this process, in words."""
        return holders(self.folder)


@contextmanager
def writing(folder: Path, *, shared: bool = False) -> Iterator[StageLock]:
    """Hold a stage as its writer; a process that dies gives it back by itself.

    The lock file ``.<stage>.lock`` lies beside the stage's folder, which may be moved away and made anew, and says who
    holds it. On a file system without locks a warning says so once, and nothing is held.

    Processes that talk (`wsss.processes`) hold it as one, by the first of them; such as have a shard hold it together.

    Args:
        shared: beside other writers with `shared`, each of a part of the images.

    Raises InputError saying who holds the stage.
    """
    if not is_first():
        wait()
        yield StageLock(folder, None, shared)
        return
    with holding(folder, shared or is_sharded()) as lock:
        wait()
        yield lock


@contextmanager
def holding(folder: Path, shared: bool = False) -> Iterator[StageLock]:
    """`writing`, for one process without the others that it talks with."""
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _join(folder, file, shared)
        except OSError as error:
            _warn_once(folder, error)
            yield StageLock(folder, None, shared)
            return
        else:
            file.truncate(0)  # lines of the dead
            if shared:
                fcntl.flock(file, fcntl.LOCK_SH)
        file.write(_myself())
        file.flush()
        yield StageLock(folder, file, shared)


def lock_path(folder: Path) -> Path:
    """The lock file of a stage."""
    return folder.parent / f".{folder.name}.lock"


def holders(folder: Path) -> str:
    """Who holds a stage, in words; of a process of this machine that is gone nothing is said."""
    found = []
    try:
        lines = lock_path(folder).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            one = json.loads(line)
            if _may_live(one):
                found.append(f"`{one['command']}` (process {one['process']} on {one['host']}, since {one['since']})")
        except (ValueError, KeyError, TypeError):
            continue
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else "another process"


def is_held(folder: Path) -> bool:
    """Whether a process is writing a stage now."""
    path = lock_path(folder)
    if not path.is_file():
        return False
    try:
        with path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks, or somebody else's file
        return False
    return False


def _join(folder: Path, file: IO[str], shared: bool) -> None:
    """Take a lock that others hold, if they share it."""
    if shared:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
    raise InputError(
        f"{folder}: is being written by {holders(folder)}; wait for it or stop it, or write into another run"
    )


def _myself() -> str:
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    since = datetime.now(UTC).isoformat(timespec="seconds")
    mine = {"host": socket.gethostname(), "process": os.getpid(), "command": command, "since": since}
    return json.dumps(mine, ensure_ascii=False) + "\n"


def _may_live(holder: dict[str, object]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(str(holder["process"])), 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


_warned: set[str] = set()


def _warn_once(folder: Path, error: OSError) -> None:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    if reason not in _warned:
        _warned.add(reason)
        warn(f"{folder}: this file system has no locks ({reason}): take care that no two processes write one stage")
