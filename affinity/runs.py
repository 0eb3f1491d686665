"""What the commands share: the run they start from, what is left to do, the account of what was done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from affinity.combine import CombineConfig, combine_images
from wsss.console import note
from wsss.errors import InputError
from wsss.options import command_line
from wsss.processes import all_done, due, gathered, of_shard

if TYPE_CHECKING:
    from wsss.data import Dataset, Sample
    from wsss.store import Stage

KINDS = {"refined": "seeds"}
"""Stages that hold another kind of files than they are called."""


def open_data(data: str, split: str, root: Path | None) -> Dataset:
    """The split of a data set that a command works on."""
    from wsss.data import load_dataset

    dataset = load_dataset(data, split, root)
    if not len(dataset):
        raise InputError(f"--split {split}: data set {dataset.name} has no images in it")
    return dataset


def open_run(
    seeds: Sequence[str], dataset: Dataset, runs: Path, stage: str = "seeds", *, workers: int = 1
) -> tuple[Path, Stage]:
    """Run folder, and its stage that a command starts from; seeds of several runs are joined first."""
    from wsss.store import Stage, resolve_run

    folder = resolve_run(seeds[0], runs) if len(seeds) == 1 else runs / joint_name(seeds, runs)
    if len(seeds) > 1 and stage == "seeds":
        join_seeds(seeds, dataset, runs, folder.name, CombineConfig(), workers=workers)
    if stage == "refined" and not (folder / stage).is_dir():
        raise InputError(f"{folder / stage}: no walked scores there; `affinity refine` makes them")
    return folder, Stage.read(folder / stage, kind=KINDS.get(stage, stage), class_names=dataset.class_names)


def joint_name(seeds: Sequence[str], runs: Path) -> str:
    """What the run of joined seeds is called unless told otherwise: the names of its sources with + between."""
    from wsss.store import resolve_run

    return "+".join(resolve_run(run, runs).name for run in seeds)


def join_seeds(
    seeds: Sequence[str], dataset: Dataset, runs: Path, name: str, config: CombineConfig, *, workers: int = 1
) -> Path:
    """The seeds stage of the run `name`, made of those of several runs; what is there already is kept.

    Returns:
        The folder of the stage.

    Raises:
        InputError: fewer than two runs, one of them twice, seeds that are missing, or that were joined otherwise.
    """
    from wsss.store import Stage, resolve_run

    begin = time.monotonic()
    folders = {folder.name: folder for folder in (resolve_run(run, runs) for run in seeds)}
    if len(folders) < 2 or len(folders) < len(seeds):
        raise InputError(f"--seeds {' '.join(seeds)}: expected two or more runs of different names")
    config.check(len(seeds))
    sources = {
        run: Stage.read(folder / "seeds", kind="seeds", class_names=dataset.class_names)
        for run, folder in folders.items()
    }
    for source in sources.values():
        require(source, dataset, "seed", "make the seeds of this split first")
    walks = [source.manifest["config"].get("attention_walk", 0) for source in sources.values()]
    output = Stage.open(
        runs / name / "seeds",
        kind="seeds",
        config={**config.model_dump(mode="json"), "sources": list(sources), "attention_walk": min(walks)},
        class_names=dataset.class_names,
        suffix=".npz",
        inputs={f"seeds of {run}": source.fingerprint for run, source in sources.items()},
    )
    todo = pending(dataset, list(sources.values()), [output])
    combine_images(todo, [source.folder for source in sources.values()], output.folder, config, workers=workers)
    done([output], dataset, len(todo), begin)
    return output.folder


def require(stage: Stage, dataset: Dataset, what: str, remedy: str) -> None:
    """InputError if an image of the split, or of this process's shard of it, is missing in a stage that is read."""
    wanted = of_shard([sample.id for sample in dataset])
    missing = stage.pending(wanted)
    if missing:
        raise InputError(
            f"{stage.folder}: {len(missing)} of {len(wanted)} images of split {dataset.split} have no {what} "
            f"({missing[0]} is the first); {remedy}"
        )


def pending(dataset: Dataset, sources: Sequence[Stage], outputs: Sequence[Stage]) -> Sequence[Sample]:
    """This process's part of the images that lack a result, or whose result is older than what it was made from."""
    return due(dataset.samples, lambda samples: _missing(samples, sources, outputs))


def _missing(samples: Sequence[Sample], sources: Sequence[Stage], outputs: Sequence[Stage]) -> list[Sample]:
    ids = [sample.id for sample in samples]
    todo = {image_id for output in outputs for image_id in output.pending(ids)}
    for image_id in set(ids) - todo:
        newest = max(source.written(image_id) for source in sources)
        if min(output.written(image_id) for output in outputs) < newest:
            todo.add(image_id)
    if len(todo) < len(samples):
        note(f"{len(samples) - len(todo)} of {len(samples)} images are done already")
    return [sample for sample in samples if sample.id in todo]


def done(stages: Sequence[Stage], dataset: Dataset, count: int, begin: float, **extra: object) -> None:
    """Keep account of what a command made in all processes, and say it; `count`: images made in this one."""
    count = sum(gathered(count))
    if not all_done([sample.id for sample in dataset], stages[-1].pending):
        return
    for stage in stages:
        if count:  # a run that finds nothing to do leaves the account to the one that did it
            stage.done(
                command=command_line("affinity"),
                split=dataset.split,
                counts={"images": len(dataset), "made": count},
                seconds=time.monotonic() - begin,
                **extra,
            )
        note(f"{stage.folder}: {count} of {len(dataset)} images made now")
