"""Training of the affinity network; a run that was killed goes on to the very result it would have had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from affinity.augment import Example, Examples
from affinity.checkpoint import save_affinity_network
from affinity.loss import affinity_loss, stride_labels
from affinity.network import AffinityNetwork
from affinity.settings import CHECKPOINT, STATE, STRIDE, TrainConfig
from wsss.data import IGNORE
from wsss.distributed import same_start
from wsss.epochs import EpochBatches, train_epochs
from wsss.errors import InputError
from wsss.precision import autocast
from wsss.processes import is_first
from wsss.training import descend, stable_seed


@dataclass(frozen=True)
class EpochLosses:
    """Means over the steps of an epoch."""

    total: float
    foreground: float
    background: float
    negative: float

    def line(self) -> str:
        """For the console."""
        parts = f"foreground {self.foreground:.4f}, background {self.background:.4f}, negative {self.negative:.4f}"
        return f"loss {self.total:.4f} ({parts})"


@dataclass(frozen=True)
class Trained:
    """A finished training: the checkpoint, and the losses of every epoch."""

    path: Path
    losses: tuple[EpochLosses, ...]


def train_affinity_network(
    examples: Sequence[Example],
    folder: Path,
    config: TrainConfig = TrainConfig(),
    *,
    device: str | torch.device = "cpu",
    workers: int = 0,
    report: Callable[[Trained], None] = lambda trained: None,
) -> Trained:
    """Train on affinity labels and write ``<folder>/affinity_net.safetensors``.

    After every epoch the whole state goes to ``<folder>/resume.pt`` (atomically); if that file is there at the
    start, the training goes on from it. All randomness is a function of (seed, epoch, index), so on a CPU the
    result is the same bit for bit. The file is removed at the end, after `report` has been called: what that keeps
    is not lost either if the process is killed. Several processes (`wsss.processes`) share each batch, and the first
    of them writes and reports.

    Raises InputError if there is no example, a file cannot be read, the loss is not finite, or the state is of
    other settings.
    """
    if not examples:
        raise InputError("no images to train on")
    device = torch.device(device)
    torch.manual_seed(stable_seed(config.seed))
    # channels_last: a third faster on a CPU, and what a GPU's bfloat16 convolutions want.
    network = AffinityNetwork(config.network).to(device, memory_format=torch.channels_last).train()
    same_start(network)
    optimizer = _optimizer(network, config)
    batches = EpochBatches(len(examples), config.batch_size, config.seed, config.epochs)
    steps = config.epochs * batches.steps

    def step(images: Tensor, labels: Tensor, number: int) -> list[float]:
        _set_lr(optimizer, config, number, steps)
        return _step(network, optimizer, images, labels, config, number + 1)

    rows = train_epochs(
        network,
        optimizer,
        Examples(examples, config.augment, config.seed),
        batches,
        step,
        state=folder / STATE,
        identity={"config": config.model_dump(mode="json"), "ids": [example.id for example in examples]},
        unknown=IGNORE,
        line=lambda row: EpochLosses(*row).line(),
        title="affinity train",
        device=device,
        workers=workers,
    )
    history = tuple(EpochLosses(*row) for row in rows)
    path = folder / CHECKPOINT
    if not is_first():
        return Trained(path, history)
    info = {
        "config": config.model_dump(mode="json", exclude={"network"}),  # that is in the checkpoint already
        "images": len(examples),
        "losses": [vars(loss) for loss in history],
    }
    save_affinity_network(path, network, dtype=config.export, info=info)
    trained = Trained(path, history)
    report(trained)
    (folder / STATE).unlink(missing_ok=True)
    return trained


def _step(
    network: AffinityNetwork,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    number: int,
) -> list[float]:
    """One step of optimisation; the four losses."""
    with autocast(images.device, config.precision):
        features = network(images.to(memory_format=torch.channels_last))
    losses = affinity_loss(features, stride_labels(labels, STRIDE), config.radius)
    return descend(network, optimizer, losses, step=number, remedy=f"lower `lr` (now {config.lr:g})")


def _optimizer(network: AffinityNetwork, config: TrainConfig) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": network.head_parameters(), "factor": config.head_lr_factor}]
    if trunk := network.trunk_parameters():
        groups.append({"params": trunk, "factor": 1.0})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)


def _set_lr(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps: int) -> None:
    decay = (1 - step / steps) ** config.poly_power
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["factor"] * decay
