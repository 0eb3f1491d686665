"""The commands ``cnnseg seeds`` and ``cnnseg evolution``: what heat-maps are good for, and how they came about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cnnseg.settings import BEST, LAST, SeedConfig
from wsss.console import Flat, together
from wsss.extensions import source_file
from wsss.options import Data, Device, ForegroundValue, Root, Runs, Shard, check_positive, suggest
from wsss.processes import take_shard
from wsss.progress import note
from wsss.provenance import command_line
from wsss.words import counted

if TYPE_CHECKING:
    from wsss.data import Sample
    from wsss.maps import SeedCounts


@together
def seeds(
    *,
    network: str,
    data: Data,
    split: str,
    name: str | None = None,
    which: Literal["last", "best"] = "last",
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: int | None = None,
    classes_at_once: int | None = None,
    shard: Shard = "1/1",
    cfg: Annotated[SeedConfig, Flat] = SeedConfig(),
) -> None:
    """Make seeds of a classifier or an unrolled network: soft maps of the classes each image is labelled with.

    Writes seeds/IMAGE.npz into the run, for `affinity` to refine. Goes on where it was stopped.

    Parameters
    ----------
    network
        Checkpoint (.safetensors), or the name of a run that holds one.
    split
        Split to explain.
    name
        Name of the run; METHOD_cnn unless given: lrp_cnn, cam_cnn, ...
    which
        Checkpoint of a run: last, or best, which was chosen on the validation split.
    batch_size
        Maps made at once: memory and speed change with it. Unless given, 1 on a CPU, else 8.
    classes_at_once
        Decoder branches held in memory at once; all that are asked for unless given.
    """
    from cnnseg.methods import find_method
    from cnnseg.models import find_network, load_network
    from cnnseg.seeds import explanation, identity, make_seeds, outputs_for, settle
    from wsss.data import load_dataset
    from wsss.maps import run_seeds, workload
    from wsss.store import file_hash
    from wsss.training import choose_device

    take_shard(shard)
    check_positive(batch_size=batch_size, classes_at_once=classes_at_once)
    dataset = load_dataset(data, split, root)
    path = find_network(network, runs, {"last": LAST, "best": BEST}[which])
    model = load_network(path, classes_at_once=classes_at_once)
    outputs = outputs_for(model, dataset)
    cfg = settle(model, cfg)
    explanation(model, cfg)  # refuses what does not go together before the run exists
    where = choose_device(device)

    def make(samples: list[Sample], folder: Path) -> SeedCounts:
        if samples:
            note(f"seeds of {workload(len(samples), cfg.sizes, cfg.flip)}")
        return make_seeds(model, samples, outputs, folder, cfg, device=where, batch_size=batch_size)

    run = name or f"{cfg.method}_cnn"
    run_seeds(
        dataset,
        runs / run / "seeds",
        make,
        config=identity(model, cfg),
        inputs={"network": file_hash(path), "data": dataset.name},
        sources={"network": path},
        code=source_file(find_method(cfg.method).compute),
        command=command_line("cnnseg"),
    )
    suggest("affinity", "labels", "--seeds", run, data=data, split=split, root=root, runs=runs)


def evolution(
    *,
    network: str,
    data: Data,
    split: str,
    out: Path = Path("evolution.html"),
    images: list[str] | None = None,
    columns: int = 6,
    foreground_value: ForegroundValue = None,
    root: Root = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show how heat-maps and segmentations came about over a training (figures 2 and 3 of the paper), as a web page.

    From the pictures that the training kept (--snapshots of train-unrolled): before the first step, as signed relevance
    in blue, white and red; then after softmax, up to the step of the highest mIoU on the validation split.

    Parameters
    ----------
    network
        Run of the training: its name, or its folder.
    split
        Split that the images are of.
    out
        Web page to write; everything is inside the one file.
    images
        Ids of images to show; all that the training kept of this split unless given.
    columns
        Steps shown, spread evenly over the logarithm of the step: most happens early.
    """
    from cnnseg.pictures import write_evolution
    from wsss.data import load_dataset
    from wsss.store import resolve_run

    dataset = load_dataset(data, split, root, foreground_value=foreground_value)
    folder = resolve_run(network, runs)
    shown = write_evolution(folder, dataset, out, images=images, columns=columns, command=command_line("cnnseg"))
    note(f"wrote {out}: {counted(shown, 'image')}")
