"""Files that are either whole or absent, however the process ends and whoever else writes into the folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wsss.errors import InputError

TEMPORARY_SUFFIX = ".partial"
_KEPT = 40  # letters of a file's name that its temporary keeps, whose own may be no longer
_ABANDONED_AFTER = 24 * 3600.0  # seconds; only where the file system cannot lock


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path` to write to; it becomes `path` when the block ends well.

    If the block raises, the temporary is removed and `path` stays as it was. An OSError (a full disk) is given the
    name of `path`.
    The temporary's name is unique and the file is locked while it is written, so that several processes can write
    into one folder and `remove_leftovers` tells a dead writer's file from a living one's.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:_KEPT]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise


def remove_leftovers(folder: Path) -> int:
    """Remove temporaries of writers that were killed; those still being written stay. Returns how many went."""
    removed = 0
    for file in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            with file.open("rb") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                except OSError:
                    if time.time() - file.stat().st_mtime < _ABANDONED_AFTER:
                        continue
                file.unlink()
                removed += 1
        except FileNotFoundError:  # its writer finished in the meantime
            continue
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes (flock). It is made if absent, stays, and is free if its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        with suppress(OSError):  # a file system without locks: the atomic replace alone must do
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: Any) -> None:
    """Write JSON (indented, UTF-8), atomically. Paths and the like are written as text."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. InputError naming the file if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256: how a manifest names an input file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
