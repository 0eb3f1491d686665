"""Options that several commands share, each said once."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wsss.errors import InputError, check_folder
from wsss.processes import is_first, is_sharded, local_size


def _folder(argument: str) -> Callable[[type, Path], None]:
    return lambda kind, path: check_folder(path, argument)


Data = Annotated[str, Parameter(help="Data set: a YAML file, or a name below configs/data.")]
Root = Annotated[
    Path | None, Parameter(help="Folder of the data, if neither the YAML nor its environment variable gives it.")
]
Runs = Annotated[Path, Parameter(help="Folder of runs.", validator=_folder("runs"))]
FullSize = Annotated[
    bool, Parameter(help="Overlays as large as their photographs; else no larger than 1600 pixels on the longer side.")
]
OutFolder = Annotated[Path, Parameter(validator=_folder("out"))]
ForegroundValue = Annotated[
    int | None,
    Parameter(
        help="Pixel value of the masks that stands for the one class which the image is labelled with, such as 255 in "
        "masks of 0 and 255; 0 is background, all else ignored. As foreground_value in the YAML of the data set."
    ),
]
SeedRuns = Annotated[
    list[str],
    Parameter(
        help="Run with the seeds: a name below the folder of runs, or a path. Several: their seeds are joined "
        "(`affinity combine`), and the results go to the run A+B."
    ),
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")]
Readers = Annotated[int, Parameter(help="Processes that read images; 0 reads in the main process.")]
Shard = Annotated[
    str,
    Parameter(
        help="i/n: this process makes the i-th of n parts; the others run beside it, on other devices or machines. "
        "What one that died has left, the same command makes with its shard, or without any."
    ),
]
Restart = Annotated[
    bool,
    Parameter(negative="", help="Train anew: a training that is there is moved to STAGE.old in the run."),
]
Workers = Annotated[int | None, Parameter(help="Processes; one for each core unless given.")]


def check_positive(**values: int | None) -> None:
    """InputError naming the first argument that is given and below 1."""
    for argument, value in values.items():
        if value is not None and value < 1:
            raise InputError(f"`{argument}` {value}: expected at least 1")


def worker_count(given: int | None) -> int:
    """Number of processes: as given, else one for each core this process may use; torchrun's divide the cores up."""
    check_positive(workers=given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return given or max(1, cores // local_size())


def suggest(*command: str, data: str, split: str, root: Path | None, runs: Path) -> None:
    """Tell somebody at a terminal which command usually comes next, on the same data; a file is told nothing."""
    if not is_first() or is_sharded() or not sys.stdout.isatty():
        return
    words = [*command, "--data", data, "--split", split]
    words += ["--root", str(root)] if root is not None else []
    words += ["--runs", str(runs)] if runs != Path("runs") else []
    print(f"next: {shlex.join(words)}")
