"""Training of the affinity network; a run that was killed goes on to the very result it would have had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from affinity.augment import Example, Examples
from affinity.checkpoint import save_affinity_network
from affinity.loss import affinity_loss, stride_labels
from affinity.network import AffinityNetwork
from affinity.settings import CHECKPOINT, STATE, STRIDE, TrainConfig
from wsss.data import IGNORE
from wsss.distributed import OwnBatches, all_sum, same_start, sum_gradients, whole_batch
from wsss.errors import InputError
from wsss.precision import autocast
from wsss.processes import is_first, rank
from wsss.progress import note, track
from wsss.training import EpochBatches, loader_errors, read_state, save_state, stable_seed


@dataclass(frozen=True)
class EpochLosses:
    """Means over the steps of an epoch."""

    total: float
    foreground: float
    background: float
    negative: float


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
    if workers < 0:
        raise InputError(f"`workers` {workers}: expected 0 or more")
    if not examples:
        raise InputError("no images to train on")
    device = torch.device(device)
    torch.manual_seed(stable_seed(config.seed))
    # channels_last: a third faster on a CPU, and what a GPU's bfloat16 convolutions want.
    network = AffinityNetwork(config.network).to(device, memory_format=torch.channels_last).train()
    same_start(network)
    optimizer = _optimizer(network, config)
    batches = EpochBatches(len(examples), config.batch_size, config.seed)
    identity = {"config": config.model_dump(mode="json"), "ids": [example.id for example in examples]}
    history: list[EpochLosses] = []
    start = 0
    if (state := read_state(folder / STATE, identity)) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        history = [EpochLosses(*losses) for losses in state["history"]]
        start = len(history)
        note(f"going on after epoch {start} of {config.epochs}")

    loader = DataLoader(
        Examples(examples, config.augment, config.seed),
        batch_sampler=OwnBatches(batches),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        multiprocessing_context="forkserver" if workers else None,
    )
    total_steps = config.epochs * len(batches)

    def steps() -> Iterator[None]:
        for epoch in range(start, config.epochs):
            batches.epoch = epoch
            torch.manual_seed(stable_seed(config.seed, epoch))  # for layers that draw, such as dropout
            sums = np.zeros(4)
            for index, (images, labels) in enumerate(loader):
                _set_lr(optimizer, config, epoch * len(batches) + index, total_steps)
                images, count = images.to(device, memory_format=torch.channels_last), batches.images(index)
                if rank() >= count:
                    labels.fill_(IGNORE)
                with whole_batch(count):
                    sums += _step(network, optimizer, images, labels.to(device), config)
                yield
            history.append(EpochLosses(*(sums / len(batches)).tolist()))
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            state["history"] = [list(vars(past).values()) for past in history]
            if is_first():
                save_state(folder / STATE, identity, state)
            losses = history[-1]
            note(
                f"epoch {epoch + 1}/{config.epochs}: loss {losses.total:.4f} (foreground {losses.foreground:.4f}, "
                f"background {losses.background:.4f}, negative {losses.negative:.4f})"
            )

    with loader_errors():
        for _ in track(steps(), "affinity train", total=total_steps - start * len(batches)):
            pass
    path = folder / CHECKPOINT
    if not is_first():
        return Trained(path, tuple(history))
    info = {
        "config": config.model_dump(mode="json", exclude={"network"}),  # that is in the checkpoint already
        "images": len(examples),
        "losses": [vars(loss) for loss in history],
    }
    save_affinity_network(path, network, dtype=config.export, info=info)
    trained = Trained(path, tuple(history))
    report(trained)
    (folder / STATE).unlink(missing_ok=True)
    return trained


def _step(
    network: AffinityNetwork,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: TrainConfig,
) -> np.ndarray:
    """One step of optimisation; the four losses."""
    with autocast(images.device, config.precision):
        features = network(images)
    loss = affinity_loss(features, stride_labels(labels, STRIDE), config.radius)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    sum_gradients(network.parameters())
    optimizer.step()
    values = all_sum(torch.stack(loss)).cpu().double().numpy()
    if not np.isfinite(values).all():
        raise InputError(f"the loss is {values[0]}: lower `lr` (now {config.lr})")
    return values


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
