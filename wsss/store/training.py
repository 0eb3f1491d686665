"""A training as a stage: what it learns from, whether it is finished, and how it is begun anew."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss.errors import InputError
from wsss.processes import from_first, is_first
from wsss.progress import note
from wsss.store.inputs import Inputs, differing
from wsss.store.locks import holding, writing
from wsss.store.manifest import MANIFEST
from wsss.store.stage import Stage

OTHERWISE = "write into another run, or give `restart` to train anew"


@dataclass(frozen=True)
class Training:
    """A training of a run.

    ``folder`` of the stage; ``checkpoint`` and ``state``: names of the file that it ends with, and of the one that a
    killed one goes on from. ``identity``: kind, config, class_names, inputs and sources, see `Stage.open`. ``learnt``:
    the images and what else is learnt from. ``beside``: contents of other things that count, such as a validation
    split, by name.
    """

    folder: Path
    checkpoint: str
    state: str
    identity: Mapping[str, Any]
    learnt: Inputs
    beside: Mapping[str, Inputs] = field(default_factory=dict)

    def finished(self) -> bool:
        """Whether it is finished already, with these settings and inputs.

        Raises InputError saying what has changed since it was begun.
        """
        return from_first(self._finished)

    def _finished(self) -> bool:
        if not (self.folder / MANIFEST).is_file() or not (self.folder / self.checkpoint).is_file():
            return False
        stage = self._open()
        if (self.folder / self.state).exists():
            if not stage.manifest["history"]:
                return False
            (self.folder / self.state).unlink(missing_ok=True)  # killed after its account, before this
        note(f"{self.folder / self.checkpoint}: trained already")
        return True

    @contextmanager
    def begin(self) -> Iterator[Stage]:
        """Its stage, to begin it or to go on, as the only one who writes it.

        Raises InputError saying what has changed since it was begun, or who else is training into this stage.
        """
        with writing(self.folder):
            stage = self._open()
            kept = Inputs.read(self.folder)
            if is_first() and (kept is None or kept.digests != self.learnt.digests):
                self.learnt.save(self.folder)
            yield stage

    def restart(self) -> None:
        """Move what is there out of the way, to ``<stage>.old``, ``.old2`` and so on."""
        from_first(self._move)

    def _move(self) -> None:
        if not self.folder.exists():
            return
        with holding(self.folder):
            number = 1
            while (target := self.folder.with_name(f"{self.folder.name}.old{number if number > 1 else ''}")).exists():
                number += 1
            os.rename(self.folder, target)
        note(f"{target}: the training that was there")

    def _open(self) -> Stage:
        digests = self.learnt.digests
        for name, inputs in self.beside.items():
            digests |= {f"{name} {key}": value for key, value in inputs.digests.items()}
        stage = Stage.open(
            self.folder, suffix=Path(self.checkpoint).suffix, content=digests, otherwise=OTHERWISE, **self.identity
        )
        begun = stage.manifest.get("content")
        if begun is None:
            note(
                f"{self.folder}: does not say what it learnt from (an older version's); taken over as trained on what "
                "is there now: give `restart` if it is not"
            )
            stage.note(content=digests)
        elif names := differing(begun, digests):
            raise InputError(f"{self.folder}: begun with other inputs: {self._changes(names)}; {OTHERWISE}")
        return stage

    def _changes(self, names: list[str]) -> str:
        old = Inputs.read(self.folder)
        changes = self.learnt.changes(old) if old is not None else ""
        return changes or ", ".join(f"{name} changed" for name in names)
