"""A stage of a run: a folder of results with a manifest that says how they were made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsss.errors import InputError, did_you_mean
from wsss.progress import warn
from wsss.provenance import commit, versions
from wsss.store.atomic import locked, remove_leftovers, write_json
from wsss.store.locks import holders, writing
from wsss.store.manifest import IDENTITY, MANIFEST, check_same, read_manifest, relative_sources
from wsss.store.records import Record, inspect
from wsss.store.spelling import respelt

PROTOCOLS: dict[str, int] = {}
"""Kind of stage -> number of the way its results are made, 1 unless it stands here; raised whenever that changes other
results than the settings say. No run goes on with results of another."""

OTHERWISE = "write into another run or delete the folder"
"""What to do about a stage that was made otherwise."""


@dataclass(frozen=True)
class Stage:
    """A stage folder with its manifest. Made by `open` (to write) or `read` (to read), not by hand."""

    folder: Path
    manifest: dict[str, Any]
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Where its inputs lie now."""

    @classmethod
    @contextmanager
    def writing(cls, folder: Path, *, shared: bool = False, **identity: Any) -> Iterator[Stage]:
        """`open` as the one who writes it, or one of several (`shared`); others are refused meanwhile.

        Raises InputError as `open`, and saying who else is writing the stage.
        """
        with writing(folder, shared=shared) as lock:
            yield cls.open(folder, alone=lock.alone, **identity)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        kind: str,
        config: dict[str, Any],
        class_names: tuple[str, ...],
        suffix: str,
        inputs: dict[str, str] | None = None,
        content: Mapping[str, str] | None = None,
        sources: Mapping[str, Path] | None = None,
        otherwise: str = OTHERWISE,
        formerly: Mapping[str, str] | None = None,
        alone: Callable[[], bool] = lambda: True,
    ) -> Stage:
        """Open a stage to write into: a new folder, or one that was made with the same settings, to go on there.

        `config` is everything that changes the results (not the split: several may share the folder). `inputs` maps
        the name of each input to its fingerprint. `suffix` is that of the image files, such as ".npz". `content` is
        what a training learns from (`wsss.store.training`); `sources` says where the inputs lie, for `wsss status`
        alone. `otherwise` is the remedy that a refusal names, `formerly` what older versions
        called settings (`respelt`), `alone` whether no other process writes here.
        Temporaries of killed writers are removed. Raises InputError saying which setting differs from the manifest's.
        """
        folder = Path(folder)
        sources = dict(sources or {})
        new = {
            "kind": kind,
            "protocol": PROTOCOLS.get(kind, 1),
            "config": config,
            "class_names": list(class_names),
            "inputs": inputs or {},
            **({} if content is None else {"content": dict(content)}),
            "sources": relative_sources(folder, sources),
            "suffix": suffix,
            "versions": versions(),
            "commit": commit(),
            "history": [],
        }
        new = json.loads(json.dumps(new, default=str))  # as it will be read back: tuples are lists, paths text
        path = folder / MANIFEST
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, or a name that is free, got a file; write into another run")
        with locked(folder / f".{MANIFEST}.lock"):
            others = [entry.name for entry in os.scandir(folder) if entry.name[0] != "." and entry.name != MANIFEST]
            if path.exists() and (others or read_manifest(folder)["history"]):
                manifest = read_manifest(folder)
                for key in ("protocol", *IDENTITY):
                    old = respelt(manifest[key], formerly) if key == "config" else manifest[key]
                    check_same(folder, key, old, new[key], otherwise)
            elif others:
                raise InputError(
                    f"{folder}: holds files but no {MANIFEST}; write into another run or delete the folder"
                )
            else:  # new, or left by a start that failed before its first result: that binds nobody
                there = read_manifest(folder) if path.exists() else None
                manifest = there or new
                if there is None or any(there.get(key) != new.get(key) for key in (*IDENTITY, "content")):
                    if there is not None and not alone():
                        raise InputError(
                            f"{folder}: is being written with other settings by {holders(folder)}; {otherwise}"
                        )
                    manifest = new
                    write_json(path, manifest)
        remove_leftovers(folder)
        return cls(folder, manifest, sources)

    @classmethod
    def read(
        cls, folder: Path, *, kind: str | None, class_names: tuple[str, ...] | None = None, maker: str | None = None
    ) -> Stage:
        """Open a stage that another command made, to read it; `maker` is that command, for the message.

        Raises InputError if it is not there, is of another kind (any if None), or was made for other classes than
        `class_names`.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            hint = f"; `{maker}` makes it" if maker else ""
            what = "stage" if kind is None else kind.replace("_", " ")
            raise InputError(f"{folder}: no {what} there (no {MANIFEST}){hint}")
        manifest = read_manifest(folder)
        if kind not in (None, manifest["kind"]):
            raise InputError(f"{folder}: expected {kind}, got {manifest['kind']}")
        if class_names is not None and tuple(manifest["class_names"]) != tuple(class_names):
            theirs, ours = ", ".join(manifest["class_names"]), ", ".join(class_names)
            raise InputError(f"{folder}: {kind} made for other classes: {theirs}; this data set has: {ours}")
        return cls(folder, manifest)

    @property
    def fingerprint(self) -> str:
        """Hash of what all results depend on (kind, config, classes, inputs); the next stage records it as an input."""
        identity = {key: self.manifest[key] for key in IDENTITY}
        if self.manifest["protocol"] != 1:
            identity["protocol"] = self.manifest["protocol"]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def class_names(self) -> tuple[str, ...]:
        """``class_names[c - 1]`` is the name of class index ``c``."""
        return tuple(self.manifest["class_names"])

    def pending(self, ids: Iterable[str]) -> list[str]:
        """The ids without a complete file ``<id><suffix>``, in the order given. A file cut short is named in a warning.

        Looks at the ends of a file only, so that ten thousand images take a fraction of a second.
        """
        ids = list(ids)
        found = self.records(ids)
        return [image_id for image_id in ids if image_id not in found]

    def records(self, ids: Iterable[str]) -> dict[str, Record | None]:
        """The ids with a complete file -> what it was made of, None where it does not say; others as in `pending`."""
        ids = list(ids)
        return {image_id: record for image_id, (whole, record) in zip(ids, self.inspected(ids), strict=True) if whole}

    def inspected(self, ids: Iterable[str]) -> Iterator[tuple[bool, Record | None]]:
        """For each of the ids in turn whether it has a complete file, and what `records` says of that.

        Holds none of them, as those of a million images would take more than a gigabyte.
        """
        there = self._names()
        folder, suffix = os.fspath(self.folder), self.manifest["suffix"]
        damaged = []
        for image_id in ids:
            name = f"{image_id}{suffix}"
            whole, record = inspect(os.path.join(folder, name)) if name in there else (False, None)
            if not whole and name in there:
                damaged.append(name)
            yield whole, record
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            warn(f"{self.folder / damaged[0]}{more}: half-written or not of this kind, to be made again")

    def absent(self, ids: Iterable[str]) -> list[str]:
        """The ids without a file, whole or not; a look at the folder alone."""
        there, suffix = self._names(), self.manifest["suffix"]
        return [image_id for image_id in ids if f"{image_id}{suffix}" not in there]

    def _names(self) -> set[str]:
        return {name for name in os.listdir(self.folder) if name.endswith(self.manifest["suffix"])}

    def written(self, image_id: str) -> int:
        """When the file of a finished image was written, in nanoseconds: all that old results say of themselves."""
        return (self.folder / f"{image_id}{self.manifest['suffix']}").stat().st_mtime_ns

    @property
    def splits(self) -> set[str | None]:
        """The splits that the history has an account of."""
        return {past.get("split") for past in self.manifest["history"]}

    def done(self, *, command: str, split: str, counts: dict[str, int], seconds: float, **extra: Any) -> None:
        """Append an entry to the manifest's history. Safe beside other processes that finish at the same time."""
        entry = {
            "command": command,
            "split": split,
            "counts": counts,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "commit": commit(),
            **extra,
        }
        path = self.folder / MANIFEST
        with locked(self.folder / f".{MANIFEST}.lock"):
            manifest = read_manifest(self.folder) if path.exists() else self.manifest
            manifest = {**manifest, "history": [*manifest["history"], entry], "sources": self._sources(manifest)}
            write_json(path, manifest)
        self.manifest.update(json.loads(json.dumps(manifest, default=str)))

    def done_if(self, made: object, *, split: str, **entry: Any) -> None:
        """As `done`, but one that finds nothing to make leaves that to the one who made it.

        Unless that one was killed between its last file and its account.
        """
        if made or split not in self.splits:
            self.done(split=split, **entry)

    def note(self, **changes: Any) -> None:
        """Change what the manifest says beside the identity of the results."""
        with locked(self.folder / f".{MANIFEST}.lock"):
            manifest = {**read_manifest(self.folder), **changes}
            write_json(self.folder / MANIFEST, {**manifest, "sources": self._sources(manifest)})
        self.manifest.update(json.loads(json.dumps(manifest, default=str)))

    def source(self, name: str) -> Path | None:
        """Where an input lay when the stage was last written; None if the manifest does not say."""
        found = self.manifest["sources"].get(name)
        return None if found is None else Path(os.path.normpath(self.folder.resolve() / found))

    def _sources(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        return {**manifest["sources"], **relative_sources(self.folder, self.sources)}


def config_of(folder: Path) -> dict[str, Any] | None:
    """The settings that the results in a stage folder were made with; None where there is no stage yet."""
    return read_manifest(folder)["config"] if (folder / MANIFEST).is_file() else None


def resolve_run(name_or_path: str | Path, runs: Path) -> Path:
    """The folder of a run: a name below `runs`, or a path (of the run, or of the ``seeds`` folder in it).

    Raises InputError that lists the known runs.
    """
    runs = Path(runs)
    is_name = os.sep not in str(name_or_path) and str(name_or_path) not in ("", ".", "..")
    if is_name and (runs / name_or_path).is_dir():
        return runs / name_or_path
    path = Path(name_or_path)
    if str(name_or_path) and path.is_dir():
        if not (path / MANIFEST).is_file():
            return path
        if path.name == "seeds":
            return path.parent
        of_test = read_manifest(path)["kind"].endswith("_test")  # lies below a folder of its test
        raise InputError(f"{path}: is one stage of a run; give the run's folder, {path.parents[of_test]}")
    found = [file for depth in ("*/*", "*/*/*") for file in runs.glob(f"{depth}/{MANIFEST}")]
    known = sorted({file.relative_to(runs).parts[0] for file in found})
    hint = did_you_mean(str(name_or_path), known) if known else "there are none yet"
    raise InputError(f"{name_or_path}: no such run in {runs} and no such folder; {hint}")
