"""The commands about networks that segment: their training, and what they are used for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cnnseg.segmentation.settings import DECODERS, SegmentationConfig, SegmentationTrainConfig
from wsss.console import Flat, Several, note
from wsss.options import Data, Device, Root, Runs

Readers = Annotated[int, Parameter(help="Processes that read images; 0 reads in the main process.")]


def train_segmentation(
    *,
    masks: Annotated[list[str], Several],
    data: Data,
    split: str,
    val_split: str | None = None,
    name: str = "segmentation",
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
    net: Annotated[SegmentationConfig, Flat] = SegmentationConfig(),
    cfg: Annotated[SegmentationTrainConfig, Flat] = SegmentationTrainConfig(),
) -> None:
    """Train a network that segments, on the pseudo-masks of a run and on the image-level labels.

    Writes network/last.safetensors into the run, and best.safetensors, which is chosen on the validation split;
    history.jsonl has the figures of every evaluation. A training that was killed goes on and, on a CPU, ends with the
    same network.

    Parameters
    ----------
    masks
        Runs whose masks are learnt: names below the folder of runs, or paths. Of several, pixels count where they
        agree. Or the word true: the data set's own masks.
    split
        Split to train on.
    val_split
        Split that is evaluated while training, and that best.safetensors is chosen on.
    name
        Name of the run.
    """
    from cnnseg.segmentation.training import train_segmentation as train
    from wsss.data import load_dataset

    train_set = load_dataset(data, split, root)
    val_set = load_dataset(data, val_split, root) if val_split else None
    train(runs / name, train_set, val_set, net, cfg, masks=masks, runs=runs, device=device, workers=workers)


def list_decoders() -> None:
    """List the decoders that train-segmentation puts on an encoder."""
    for name, line in DECODERS.items():
        note(f"{name:20s} {line}")
