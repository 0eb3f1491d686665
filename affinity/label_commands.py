"""The commands ``affinity combine`` and ``affinity labels``: from seeds to what the network learns from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from affinity.combine import CombineConfig
from affinity.labels import LabelsConfig
from affinity.runs import files_of, join_seeds, joint_name, older_than, open_data, open_run
from wsss.console import Flat, together
from wsss.options import Data, Root, Runs, SeedRuns, Shard, Workers, suggest, worker_count
from wsss.processes import gathered, is_first, take_shard
from wsss.progress import note, warn
from wsss.provenance import command_line
from wsss.words import agreeing, counted

FEW_FOREGROUND = 0.02
"""Share of confident foreground below which the network has too little to learn from."""


@together
def combine(
    *,
    seeds: SeedRuns,
    data: Data,
    split: str,
    name: str | None = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    workers: Workers = None,
    shard: Shard = "1/1",
    cfg: Annotated[CombineConfig, Flat] = CombineConfig(),
) -> None:
    """Make one run of the seeds of several: other methods or classifiers make other mistakes.

    Writes seeds/ into the run; the other commands then take it like any other. They also take several runs themselves
    (--seeds A B), and then do this with equal weights. Goes on where it was stopped.

    Parameters
    ----------
    split
        Split whose seeds are joined.
    name
        Name of the new run; the names of the others with + between unless given.
    """
    take_shard(shard)
    dataset = open_data(data, split, root, masks=False)
    join_seeds(seeds, dataset, runs, name or joint_name(seeds, runs), cfg, workers=worker_count(workers))


@together
def labels(
    *,
    seeds: SeedRuns,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    workers: Workers = None,
    from_: Annotated[Literal["seeds", "refined"], Parameter(name="--from")] = "seeds",
    into: str | None = None,
    shard: Shard = "1/1",
    cfg: Annotated[LabelsConfig, Flat] = LabelsConfig(),
) -> None:
    """Make confident labels from seeds: a dense CRF with a strong and with a weak background.

    What is a class even against the strong background (alpha_low) is confident foreground; what is background
    even against the weak one (alpha_high) is confident background; the rest is neutral, 255. An image that shows
    no class of the list is background throughout. Goes on where it was stopped.

    Parameters
    ----------
    split
        Split to label.
    from_
        seeds, or refined: the walked scores of `affinity refine`, for a second round of training.
    into
        Run that gets the labels, made if it is not there; the run of the seeds unless given.
    """
    from affinity.labels import label_images
    from wsss.store import DATA, Stage, account, due, require

    begin = time.monotonic()
    take_shard(shard)
    dataset = open_data(data, split, root)
    folder, stage = open_run(seeds, dataset, runs, from_, workers=worker_count(workers))
    require(stage, dataset, "seed" if from_ == "seeds" else "walked seed", "make those of this split first")
    cfg = cfg if from_ == "seeds" else cfg.for_refined()
    stage_of = Stage.writing(
        (folder if into is None else runs / into) / "affinity_labels",
        kind="affinity_labels",
        config=cfg.model_dump(mode="json"),
        class_names=dataset.class_names,
        suffix=".png",
        inputs={from_: stage.fingerprint},
        sources={DATA: dataset.root, from_: stage.folder},
    )
    with stage_of as output:
        todo = due(
            output,
            dataset.samples,
            "labels",
            files={from_: files_of(stage)},
            outdated=older_than([stage], [output]),
        )
        mine = label_images(todo, stage.folder, output.folder, cfg, workers=worker_count(workers))
        first, *others = gathered(mine)
        counts = sum(others, first)
        if counts.images and is_first():
            note(f"confident labels: {counts.line()}")
            known = counts.background + counts.foreground + counts.neutral
            if counts.foreground < FEW_FOREGROUND * known:
                warn("hardly any confident foreground: raise --alpha-low, or check the scale of the seeds")
        if counts.images_without_classes:
            number = counts.images_without_classes
            shows = f"{counted(number, 'image')} {agreeing(number, 'shows', 'show')}"
            note(f"{shows} no class of the list: background throughout")
        extra = {key: value for key, value in vars(counts).items() if key != "images"}
        account(output, dataset, len(todo), begin, command=command_line("affinity"), pixels=extra)
    suggest("affinity", "train", "--seeds", into or folder.name, data=data, split=split, root=root, runs=runs)
