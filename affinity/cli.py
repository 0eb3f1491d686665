"""The command ``affinity``: anybody's seeds to confident labels, to an affinity network, to masks."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from affinity.labels import LabelsConfig
from affinity.refine import RefineConfig
from affinity.settings import CHECKPOINT, TrainConfig
from wsss.console import Flat, existing_file, note, run, warn
from wsss.errors import InputError
from wsss.options import Data, Device, Root, Runs, SeedRun, Workers, check_positive, command_line, worker_count

if TYPE_CHECKING:
    from wsss.data import Dataset, Sample
    from wsss.store import Stage

app = App(
    name="affinity",
    help="Seeds of any method to pseudo-masks: dense CRF, affinity network, random walk.",
    default_parameter=Parameter(negative_iterable=""),
)

FEW_FOREGROUND = 0.02
"""Share of confident foreground below which the network has too little to learn from."""


@app.command
def labels(
    *,
    seeds: SeedRun,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    workers: Workers = None,
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
    """
    from affinity.labels import label_images
    from wsss.store import Stage

    begin = time.monotonic()
    folder, dataset, stage = _open(seeds, data, split, root, runs)
    _require(stage, dataset, "seed", "make the seeds of this split first")
    output = Stage.open(
        folder / "affinity_labels",
        kind="affinity_labels",
        config=cfg.model_dump(mode="json"),
        class_names=dataset.class_names,
        suffix=".png",
        inputs={"seeds": stage.fingerprint},
    )
    todo = _pending(dataset, stage, output)
    counts = label_images(todo, stage.folder, output.folder, cfg, workers=worker_count(workers))
    if todo:
        note(f"confident labels: {counts.line()}")
        known = counts.background + counts.foreground + counts.neutral
        if counts.foreground < FEW_FOREGROUND * known:
            warn("hardly any confident foreground: raise --alpha-low, or check the scale of the seeds")
    if counts.images_without_classes:
        note(f"{counts.images_without_classes} images show no class of the list: background throughout")
    extra = {key: value for key, value in vars(counts).items() if key != "images"}
    _done(output, dataset, len(todo), begin, pixels=extra)


@app.command
def train(
    *,
    seeds: SeedRun,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: int = 0,
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
    from affinity.training import train_affinity_network
    from wsss.store import Stage
    from wsss.training import choose_device

    begin = time.monotonic()
    folder, dataset, source = _open(seeds, data, split, root, runs, stage="affinity_labels")
    _require(source, dataset, "affinity label", "run `affinity labels` on this split first")
    where = choose_device(device)
    AffinityNetwork(cfg.network)  # a mistake in its settings or weights comes out before a folder is made for them
    output = Stage.open(
        folder / "affinity_net",
        kind="affinity_net",
        config=cfg.model_dump(mode="json") | {"data": dataset.name, "split": dataset.split},
        class_names=dataset.class_names,
        suffix=".safetensors",
        inputs={"affinity_labels": source.fingerprint},
    )
    if (output.folder / CHECKPOINT).exists():
        note(f"{output.folder / CHECKPOINT}: already trained with these settings")
        return
    examples = [Example(s.id, s.image_path, source.folder / f"{s.id}.png") for s in dataset]
    trained = train_affinity_network(examples, output.folder, cfg, device=where, workers=workers)
    _done(output, dataset, len(examples), begin, losses=[vars(losses) for losses in trained.losses])
    note(f"wrote {trained.path} ({trained.path.stat().st_size / 1e6:.1f} MB)")


@app.command
def refine(
    *,
    seeds: SeedRun,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    network: Path | None = None,
    into: str | None = None,
    device: Device = "auto",
    batch_size: int = 1,
    workers: Workers = None,
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
    from wsss.store import Stage, file_hash
    from wsss.training import choose_device

    begin = time.monotonic()
    check_positive("--batch-size", batch_size)
    folder, dataset, stage = _open(seeds, data, split, root, runs)
    _require(stage, dataset, "seed", "make the seeds of this split first")
    where = choose_device(device)
    path = network or folder / "affinity_net" / CHECKPOINT
    if network is None and not path.is_file():
        raise InputError(f"{path}: no such file; run `affinity train` first, or give --network FILE")
    model = load_affinity_network(existing_file(path, "--network"), where)
    target = folder if into is None else runs / into
    inputs = {"seeds": stage.fingerprint, "network": file_hash(path)}
    common = {"config": cfg.identity(), "class_names": dataset.class_names, "inputs": inputs}
    masks = Stage.open(target / "masks", kind="masks", suffix=".png", **common)
    refined = Stage.open(target / "refined", kind="seeds", suffix=".npz", **common)
    todo = _pending(dataset, stage, masks, refined)
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
        _done(output, dataset, count, begin)


def _open(
    seeds: str,
    data: Data,
    split: str,
    root: Path | None,
    runs: Path,
    stage: str = "seeds",
) -> tuple[Path, Dataset, Stage]:
    """Run folder, data set and the run's stage that the command starts from."""
    from wsss.data import load_dataset
    from wsss.store import Stage, resolve_run

    folder = resolve_run(seeds, runs)
    dataset = load_dataset(data, split, root)
    if not len(dataset):
        raise InputError(f"--split {split}: data set {dataset.name} has no images in it")
    return folder, dataset, Stage.read(folder / stage, kind=stage, class_names=dataset.class_names)


def _require(stage: Stage, dataset: Dataset, what: str, remedy: str) -> None:
    """InputError if an image of the split is missing in a stage that is read."""
    missing = stage.pending([sample.id for sample in dataset])
    if missing:
        raise InputError(
            f"{stage.folder}: {len(missing)} of {len(dataset)} images of split {dataset.split} have no {what} "
            f"({missing[0]} is the first); {remedy}"
        )


def _pending(dataset: Dataset, source: Stage, *outputs: Stage) -> list[Sample]:
    """The images that lack a result, or whose result is older than the seed it was made from."""
    ids = [sample.id for sample in dataset]
    todo = {image_id for output in outputs for image_id in output.pending(ids)}
    for image_id in set(ids) - todo:
        if min(output.written(image_id) for output in outputs) < source.written(image_id):
            todo.add(image_id)
    if len(todo) < len(dataset):
        note(f"{len(dataset) - len(todo)} of {len(dataset)} images are done already")
    return [sample for sample in dataset if sample.id in todo]


def _done(stage: Stage, dataset: Dataset, count: int, begin: float, **extra: object) -> None:
    if count:  # a run that finds nothing to do leaves the account to the one that did it
        stage.done(
            command=command_line("affinity"),
            split=dataset.split,
            counts={"images": len(dataset), "made": count},
            seconds=time.monotonic() - begin,
            **extra,
        )
    note(f"{stage.folder}: {count} of {len(dataset)} images made now")


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(app))
