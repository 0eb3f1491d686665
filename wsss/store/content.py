"""The content of files: a hash of every byte, and a cache that makes the second look cost a stat.

A file is told from another by what is in it: neither by its path nor by its times, so that data and runs can be copied
and moved. The cache is one SQLite file for all data sets and runs of a user; it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss.progress import track, warn

MISSING = 0
"""The content of a file that is not there or cannot be read: whoever reads it names it."""

_RACY = 2_000_000_000  # ns; a file this young may change once more without its times showing it
_SHOWN = 2_000  # files whose reading is shown
_THREADS = 8  # that read; hashing leaves the interpreter to the others
_BATCH = 4_096  # files after which the cache is written
_ASKED = 500  # files that one query asks for; old versions of SQLite take no more than 999
_AT_ONCE = 64  # files that a thread reads without a word
_SMALL = 1 << 20  # bytes


def cache_file() -> Path:
    """Where the contents are kept: in RELSEG_CACHE, else in the user's folder of caches."""
    given = os.environ.get("RELSEG_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relseg"
    return (Path(given) if given else base) / "content.sqlite3"


def as_text(content: int | np.integer) -> str:
    """A content as manifests and records have it: 16 hexadecimal digits."""
    return f"{int(content):016x}"


def contents(paths: Sequence[Path | None], description: str = "look through the files") -> np.ndarray:
    """The content of every file, uint64 (n,): 8 bytes of BLAKE2b, `MISSING` of None and of what cannot be read.

    Files that were read before and have not changed since (path, size, inode, times) are not read again. Where many
    have to be read, it shows progress as `description`.
    """
    found = np.zeros(len(paths), np.uint64)
    with closing(_Cache()) as cache:
        places, keys = _look_up(paths, found, cache)
        if len(places):
            # One file may stand for many images.
            _, first, same = np.unique(keys, return_index=True, return_inverse=True)
            order = np.argsort(first)  # as they were given, which is as they lie
            read = np.empty(len(first), np.uint64)
            read[order] = np.fromiter(_read(paths, places[first[order]], cache, description), np.uint64, len(first))
            found[places] = read[same]
    return found


def _look_up(paths: Sequence[Path | None], found: np.ndarray, cache: _Cache) -> tuple[np.ndarray, np.ndarray]:
    """Fills in what the cache knows; places and keys (`_short` of the path), int64 (m,), of the files to be read."""
    places, keys = array("q"), array("q")  # of a million files lists would take ten times the memory
    for start in range(0, len(paths), _BATCH):
        names = [_absolute(paths[place]) for place in range(start, min(start + _BATCH, len(paths)))]
        known = {name: _short(os.fsencode(name)) for name in names if name is not None}
        contents = cache.look_up(known)
        for place, name in enumerate(names, start):
            if name is None:
                continue
            content = contents.get(known[name])
            if content is None:
                places.append(place)
                keys.append(known[name])
            else:
                found[place] = content
    return np.array(places, np.int64), np.array(keys, np.int64)


def hash_bytes(data: bytes) -> int:
    """8 bytes of BLAKE2b as a number; never `MISSING`."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") or 1


def _absolute(path: Path | None) -> str | None:
    if path is None:
        return None
    name = os.fspath(path)
    return name if name.startswith(os.sep) else os.path.abspath(name)


def _read(paths: Sequence[Path | None], places: np.ndarray, cache: _Cache, description: str) -> Iterator[int]:
    """The content of each of some files, read by several threads and put into the cache as it goes."""
    batches: Iterable[np.ndarray] = [places[start : start + _BATCH] for start in range(0, len(places), _BATCH)]
    if len(places) >= _SHOWN:
        batches = track(batches, description)
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in batches:
            names = [name for place in batch.tolist() if (name := _absolute(paths[place])) is not None]
            parts = [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
            found = [one for part in pool.map(_hash_files, parts) for one in part]
            cache.keep([(name, one.state, one.content) for name, one in zip(names, found, strict=True) if one.settled])
            yield from (one.content for one in found)


class _Found(NamedTuple):
    """State and content of a file, and whether the two belong together for good."""

    state: int
    content: int
    settled: bool


def _hash_files(paths: Sequence[str]) -> list[_Found]:
    return [_hash_file(path) for path in paths]


def _hash_file(path: str) -> _Found:
    try:
        with open(path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if before.st_size <= _SMALL:  # file_digest takes longer to begin than such a file takes
                content = hash_bytes(file.read())
            else:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
                content = int.from_bytes(digest, "big") or 1
            after = os.fstat(file.fileno())
    except OSError:
        return _Found(0, MISSING, False)
    young = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) <= _RACY
    state = _state(after)
    return _Found(state, content, not young and _state(before) == state)


def _state(found: os.stat_result) -> int:
    # The change time gives a file away that was put in the place of another with its times kept (cp -p, rsync).
    return _short(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}".encode())


def _state_of(path: str) -> int | None:
    try:
        return _state(os.stat(path))
    except OSError:
        return None


def _short(data: bytes) -> int:
    """A hash that fits SQLite's integers."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


class _Cache:
    """Contents by path and state. Where there can be none (no home, a read-only disk), nothing is remembered."""

    _warned = False

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        try:
            path = cache_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10)
            self._db.execute("PRAGMA synchronous = OFF")  # losing it costs one more look
            self._db.execute("CREATE TABLE IF NOT EXISTS files (path INTEGER PRIMARY KEY, state INTEGER, content BLOB)")
        except (sqlite3.Error, OSError, RuntimeError) as error:  # RuntimeError: no home
            self._give_up(error)

    def look_up(self, paths: Mapping[str, int]) -> dict[int, int]:
        """Key -> content of those files (path -> key) that have not changed since they were read."""
        if self._db is None:
            return {}
        states = {key: state for path, key in paths.items() if (state := _state_of(path)) is not None}
        found: dict[int, int] = {}
        keys = list(states)
        try:
            for start in range(0, len(keys), _ASKED):
                asked = keys[start : start + _ASKED]
                query = f"SELECT path, state, content FROM files WHERE path IN ({','.join('?' * len(asked))})"
                for key, state, content in self._db.execute(query, asked):
                    if states[key] == state:
                        found[key] = int.from_bytes(content, "big")
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def keep(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """Remember (path, state, content)."""
        if self._db is None or not rows:
            return
        content = [(_short(os.fsencode(path)), state, number.to_bytes(8, "big")) for path, state, number in rows]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", content)
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _give_up(self, error: Exception) -> None:
        self.close()
        self._db = None
        if not _Cache._warned:
            _Cache._warned = True
            try:
                where = str(cache_file())
            except RuntimeError:
                where = "no home folder"
            warn(f"{where}: contents of files are not remembered ({error}); every look reads them (RELSEG_CACHE)")
