"""The commands ``affinity train`` and ``affinity refine``: the network, and the masks that it makes of seeds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from affinity.runs import files_of, older_than, open_data, open_run
from affinity.settings import CHECKPOINT, STATE, RefineConfig, TrainConfig
from wsss.console import Flat, existing_file, together
from wsss.errors import InputError
from wsss.options import (
    Data,
    Device,
    Restart,
    Root,
    Runs,
    SeedRuns,
    Shard,
    Workers,
    check_positive,
    suggest,
    worker_count,
)
from wsss.processes import from_first, is_first, take_shard
from wsss.progress import note
from wsss.provenance import command_line


@together
def train(
    *,
    seeds: SeedRuns,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: int = 0,
    restart: Restart = False,
    cfg: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> None:
    """Train the affinity network on the confident labels of a run.

    Writes affinity_net/affinity_net.safetensors into the run. The state is kept after every epoch: a training
    that was killed goes on from there and, on a CPU, ends with the same network.

    Parameters
    ----------
    seeds
        Run with the labels: a name below the folder of runs, or a path.
    split
        Split to train on.
    workers
        Processes that read and augment images; 0: none beside the training itself.
    """
    from affinity.augment import Example
    from affinity.network import AffinityNetwork
    from affinity.training import Trained, train_affinity_network
    from wsss.store import DATA, Training, inputs_of, require
    from wsss.training import choose_device

    begin = time.monotonic()
    dataset = open_data(data, split, root)
    folder, source = open_run(seeds, dataset, runs, "affinity_labels")
    require(source, dataset, "affinity label", "run `affinity labels` on this split first")
    where = choose_device(device)
    training = Training(
        folder / "affinity_net",
        CHECKPOINT,
        STATE,
        identity={
            "kind": "affinity_net",
            "config": cfg.model_dump(mode="json") | {"data": dataset.name, "split": dataset.split},
            "class_names": dataset.class_names,
            "inputs": {"affinity_labels": source.fingerprint},
            "sources": {DATA: dataset.root, "affinity_labels": source.folder},
        },
        learnt=from_first(lambda: inputs_of(dataset.samples, files={"affinity_labels": files_of(source)})),
    )
    if not restart and training.finished():
        return
    AffinityNetwork(cfg.network)  # a mistake in its settings or weights comes out before a folder is made for them
    if restart:
        training.restart()
    examples = [Example(sample, source.folder / f"{sample.id}.png") for sample in dataset]
    with training.begin() as output:

        def report(trained: Trained) -> None:
            losses = [vars(one) for one in trained.losses]
            output.done(
                command=command_line("affinity"),
                split=dataset.split,
                counts={"images": len(dataset)},
                seconds=time.monotonic() - begin,
                losses=losses,
            )

        trained = train_affinity_network(examples, output.folder, cfg, device=where, workers=workers, report=report)
    if is_first():
        note(f"wrote {trained.path} ({trained.path.stat().st_size / 1e6:.1f} MB)")
    suggest("affinity", "refine", "--crf", "--seeds", *seeds, data=data, split=split, root=root, runs=runs)


@together
def refine(
    *,
    seeds: SeedRuns,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    network: Path | None = None,
    into: str | None = None,
    device: Device = "auto",
    batch_size: int = 1,
    workers: Workers = None,
    shard: Shard = "1/1",
    cfg: Annotated[RefineConfig, Flat] = RefineConfig(),
) -> None:
    """Make masks from seeds: random walk along the affinities, upsampling, argmax, and a dense CRF if asked for.

    Writes masks/ and refined/ into the run: palette PNGs, and the walked scores as seeds on the grid of stride 8,
    to be read with alpha 1. Goes on where it was stopped.

    Parameters
    ----------
    split
        Split to refine.
    network
        Checkpoint of the affinity network; that of the run unless given.
    into
        Run that gets the masks, made if it is not there; the run of the seeds unless given. Keeps masks of several
        settings side by side.
    batch_size
        Images of one size that go through the network together.
    workers
        Processes for walk and CRF; one for each core unless given.
    """
    from affinity.checkpoint import load_affinity_network
    from affinity.refine import refine_images
    from wsss.store import DATA, Stage, account, due, file_hash, require
    from wsss.training import choose_device

    begin = time.monotonic()
    check_positive(batch_size=batch_size)
    take_shard(shard)
    dataset = open_data(data, split, root)
    folder, stage = open_run(seeds, dataset, runs, workers=worker_count(workers))
    require(stage, dataset, "seed", "make the seeds of this split first")
    cfg = cfg.settled(stage.manifest["config"])
    where = choose_device(device)
    path = network or folder / "affinity_net" / CHECKPOINT
    if network is None and not path.is_file():
        raise InputError(f"{path}: no such file; run `affinity train` first, or give --network FILE")
    model = load_affinity_network(existing_file(path, "--network"), where)
    target = folder if into is None else runs / into
    common: dict[str, Any] = {
        "config": cfg.identity(),
        "class_names": dataset.class_names,
        "inputs": {"seeds": stage.fingerprint, "network": file_hash(path)},
        "sources": {DATA: dataset.root, "seeds": stage.folder, "network": path},
    }
    with (
        Stage.writing(target / "masks", kind="masks", suffix=".png", **common) as masks,
        Stage.writing(target / "refined", kind="seeds", suffix=".npz", **common) as refined,
    ):
        outputs = [masks, refined]
        outdated = older_than([stage], outputs)
        todo = due(outputs, dataset.samples, "masks", files={"seeds": files_of(stage)}, outdated=outdated)
        count = refine_images(
            todo,
            stage.folder,
            model,
            masks.folder,
            refined.folder,
            cfg,
            batch_size=batch_size,
            workers=worker_count(workers),
        )
        for output in (refined, masks):
            account(output, dataset, count, begin, command=command_line("affinity"))
    suggest(
        "cnnseg", "train-segmentation", "--masks", into or folder.name, data=data, split=split, root=root, runs=runs
    )
