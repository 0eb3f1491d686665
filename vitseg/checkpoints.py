"""Where a classifier of the command line lies."""

from __future__ import annotations

from pathlib import Path

from vitseg.settings import CHECKPOINT
from wsss.errors import InputError


def find_checkpoint(name: str, runs: Path) -> Path:
    """The checkpoint of that path, or of the run of that name. InputError if there is neither."""
    path = Path(name)
    if path.is_file():
        return path
    of_run = runs / name / "classifier" / CHECKPOINT
    if of_run.is_file():
        return of_run
    raise InputError(
        f"`classifier` {name}: no such file, and no run {of_run.parent}; `vitseg train-classifier` makes one"
    )


def checkpoint_name(path: Path) -> str:
    """What a checkpoint is called in names of runs: the run that trained it, else the file's stem."""
    in_run = path.name == CHECKPOINT and path.parent.name == "classifier"
    return path.resolve().parents[1].name if in_run else path.stem
