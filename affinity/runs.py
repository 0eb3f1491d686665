"""What the commands share: the data, the run they start from, and what they know of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from affinity.combine import CombineConfig, combine_images
from wsss.errors import InputError
from wsss.provenance import command_line

if TYPE_CHECKING:
    from wsss.data import Dataset, Sample
    from wsss.store import Stage

KINDS = {"refined": "seeds"}
"""Stages that hold another kind of files than they are called."""

MAKERS = {
    "seeds": "vitseg seeds (or cnnseg seeds)",
    "refined": "affinity refine",
    "affinity_labels": "affinity labels",
}
"""Stage -> the command that makes it, for messages."""


def open_data(data: str, split: str, root: Path | None, *, masks: bool = True) -> Dataset:
    """The split of a data set that a command works on, and which it makes masks of."""
    from wsss.data import load_dataset

    dataset = load_dataset(data, split, root)
    if not len(dataset):
        raise InputError(f"`split` {split}: data set {dataset.name} has no images in it")
    if masks:
        dataset.check_maskable()
    return dataset


def open_run(
    seeds: Sequence[str], dataset: Dataset, runs: Path, stage: str = "seeds", *, workers: int = 1
) -> tuple[Path, Stage]:
    """Run folder, and its stage that a command starts from; seeds of several runs are joined first."""
    from wsss.store import Stage, resolve_run

    folder = resolve_run(seeds[0], runs) if len(seeds) == 1 else runs / joint_name(seeds, runs)
    if len(seeds) > 1 and stage == "seeds":
        join_seeds(seeds, dataset, runs, folder.name, CombineConfig(), workers=workers)
    kind, names = KINDS.get(stage, stage), dataset.class_names
    return folder, Stage.read(folder / stage, kind=kind, class_names=names, maker=MAKERS[stage])


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
    from wsss.store import DATA, Stage, account, due, require, resolve_run

    begin = time.monotonic()
    folders = {folder.name: folder for folder in (resolve_run(run, runs) for run in seeds)}
    if len(folders) < 2 or len(folders) < len(seeds):
        raise InputError(f"`seeds` {' '.join(seeds)}: expected two or more runs of different names")
    config.check(len(seeds))
    sources = {
        run: Stage.read(folder / "seeds", kind="seeds", class_names=dataset.class_names, maker=MAKERS["seeds"])
        for run, folder in folders.items()
    }
    for source in sources.values():
        require(source, dataset, "seed", "make the seeds of this split first")
    walks = [source.manifest["config"].get("attention_walk", 0) for source in sources.values()]
    files = {f"seeds of {run}": source for run, source in sources.items()}
    stage_of = Stage.writing(
        runs / name / "seeds",
        kind="seeds",
        config={**config.model_dump(mode="json"), "sources": list(sources), "attention_walk": min(walks)},
        class_names=dataset.class_names,
        suffix=".npz",
        inputs={key: source.fingerprint for key, source in files.items()},
        sources={DATA: dataset.root} | {key: source.folder for key, source in files.items()},
    )
    with stage_of as output:
        from_seeds = {key: files_of(source) for key, source in files.items()}
        outdated = older_than(list(sources.values()), [output])
        todo = due(output, dataset.samples, "seeds", image=False, labels=False, files=from_seeds, outdated=outdated)
        combine_images(todo, [source.folder for source in sources.values()], output.folder, config, workers=workers)
        account(output, dataset, len(todo), begin, command=command_line("affinity"))
    return output.folder


def files_of(stage: Stage) -> Callable[[str], Path]:
    """Where a stage keeps the file of an image, by its id."""
    return lambda image_id: stage.folder / f"{image_id}{stage.manifest['suffix']}"


def older_than(sources: Sequence[Stage], outputs: Sequence[Stage]) -> Callable[[Sample], bool]:
    """Whether the result of an image was written before what it was made from: how older versions told."""

    def outdated(sample: Sample) -> bool:
        newest = max(source.written(sample.id) for source in sources)
        return min(output.written(sample.id) for output in outputs) < newest

    return outdated
