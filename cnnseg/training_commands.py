"""The commands ``cnnseg train-classifier`` and ``cnnseg train-unrolled``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cnnseg.settings import NetworkConfig, TrainConfig
from wsss.console import Flat, together
from wsss.errors import InputError
from wsss.naming import passing
from wsss.options import Data, Device, ForegroundValue, Readers, Restart, Root, Runs, suggest

if TYPE_CHECKING:
    from wsss.data import Dataset

TrainSplit = Annotated[str, Parameter(help="Split to train on.")]
FormerKind = Annotated[str | None, Parameter(show=False)]
"""``--network``, as ``--kind`` was called: that a line says so, of YAML files too."""
ValSplit = Annotated[
    str | None, Parameter(help="Split that is evaluated while training, and that best.safetensors is chosen on.")
]


@together
def train_classifier(
    *,
    data: Data,
    train_split: TrainSplit = "train",
    val_split: ValSplit = None,
    name: str = "cnn_classifier",
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
    restart: Restart = False,
    network: FormerKind = None,
    net: Annotated[NetworkConfig, Flat] = NetworkConfig(),
    cfg: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> None:
    """Train a convolutional classifier from image-level labels alone: what unrolled networks and U-Nets start from.

    Writes network/last.safetensors into the run, and best.safetensors, which is chosen on the validation split. It has
    an output for the background too, which this training does not touch. A training that was killed goes on and, on
    a CPU, ends with the same classifier.

    Parameters
    ----------
    name
        Name of the run.
    """
    from cnnseg.runs import train_run

    _check_former(network)
    if "kind" in net.model_fields_set and net.kind != "classifier":
        raise InputError(f"--kind {net.kind}: expected classifier; `cnnseg train-unrolled` trains the other kinds")
    if cfg.budget:
        raise InputError(f"--budget {cfg.budget}: a classifier learns from image-level labels alone; leave it out")
    net, cfg = net.model_copy(update={"kind": "classifier"}), cfg.model_copy(update={"budget": 0})
    train_set, val_set = _splits(data, train_split, val_split, root)
    how: dict[str, Any] = {"runs": runs, "device": device, "workers": workers, "restart": restart}
    train_run(runs / name, train_set, val_set, net, cfg, **how)
    suggest("cnnseg", "seeds", "--network", name, data=data, split=train_split, root=root, runs=runs)


@together
def train_unrolled(
    *,
    data: Data,
    train_split: TrainSplit = "train",
    val_split: ValSplit = None,
    name: str | None = None,
    foreground_value: ForegroundValue = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
    restart: Restart = False,
    network: FormerKind = None,
    net: Annotated[NetworkConfig, Flat] = NetworkConfig(),
    cfg: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> None:
    """Train an unrolled network, or one of its baselines, on image-level labels and some masks.

    Writes network/last.safetensors into the run, and best.safetensors, which is chosen on the validation split;
    history.jsonl has the figures of every evaluation. A training that was killed goes on and, on a CPU, ends with the
    same network.

    Parameters
    ----------
    name
        Name of the run; the kind of network unless given.
    """
    from cnnseg.runs import train_run

    _check_former(network)
    if net.kind == "classifier":
        raise InputError("--kind classifier: expected another kind; `cnnseg train-classifier` trains classifiers")
    train_set, val_set = _splits(data, train_split, val_split, root, foreground_value)
    folder = runs / (name or net.kind)
    how: dict[str, Any] = {"runs": runs, "device": device, "workers": workers, "restart": restart}
    train_run(folder, train_set, val_set, net, cfg, **how)


def _check_former(network: str | None) -> None:
    if network is not None:
        raise InputError(f"--network {network}: expected --kind {network}; --network names a checkpoint or a run")


def _splits(
    data: str, train_split: str, val_split: str | None, root: Path | None, foreground_value: int | None = None
) -> tuple[Dataset, Dataset | None]:
    from wsss.data import load_dataset

    with passing(split="train_split"):
        train = load_dataset(data, train_split, root, foreground_value=foreground_value)
    with passing(split="val_split"):
        val = load_dataset(data, val_split, root, foreground_value=foreground_value) if val_split else None
    return train, val
