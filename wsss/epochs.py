"""A training that passes over all images again and again, and keeps its state after each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from wsss.distributed import whole_batch
from wsss.processes import is_first, rank
from wsss.progress import note, track
from wsss.training import loader_errors, read_batches, read_state, save_state, stable_seed

_FORMERLY = {"model": "network", "losses": "history"}
"""Names in the states of `vitseg train-classifier` before they were those of all."""


class EpochBatches(data.Sampler):
    """Batches of keys (epoch, index), epoch after epoch from `start`, in an order that depends on (seed, epoch) alone.

    ``steps``: batches of an epoch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, epochs: int) -> None:
        self.count, self.batch_size, self.seed, self.epochs, self.start = count, batch_size, seed, epochs, 0
        self.steps = -(-count // batch_size)

    def __len__(self) -> int:
        return (self.epochs - self.start) * self.steps

    def __iter__(self) -> Iterator[list[Any]]:
        for epoch in range(self.start, self.epochs):
            yield from self.of_epoch(epoch)

    def of_epoch(self, epoch: int) -> Iterator[list[Any]]:
        """The batches of one epoch."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count).tolist()
        for start in range(0, self.count, self.batch_size):
            yield [(epoch, index) for index in order[start : start + self.batch_size]]

    def images(self, step: int) -> int:
        """How many images the batch of that number in an epoch has: the last one may have fewer than the others."""
        return min(self.batch_size, self.count - step * self.batch_size)


def train_epochs(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: data.Dataset,
    batches: EpochBatches,
    step: Callable[[Tensor, Tensor, int], list[float]],
    *,
    state: Path,
    identity: dict[str, Any],
    unknown: int,
    line: Callable[[list[float]], str],
    title: str,
    device: str | torch.device,
    workers: int,
) -> list[list[float]]:
    """Train to the last epoch, from where a training that was killed has kept its state, or from the start.

    Several processes (`wsss.processes`) share each batch; the first of them keeps the state.

    Args:
        network: in the mode that it is to be trained in.
        examples: what reads images and labels, by the keys of `batches`.
        step: images, labels and the number of a step in the whole training, from 0 -> losses of the whole batch.
        state: file of the state, and `identity`: what it is of, see `save_state`.
        unknown: the label of what takes no part in the loss.
        line: an epoch's losses in words, and `title`: the training's name, for the console.

    Returns:
        The mean losses of each epoch.

    Raises:
        InputError: an image that cannot be read, the state of another training, or as `step`.
    """
    history: list[list[float]] = []
    if found := read_state(state, identity):
        found = {_FORMERLY.get(key, key): value for key, value in found.items()}
        network.load_state_dict(found["network"])
        optimizer.load_state_dict(found["optimizer"])
        history = [row if isinstance(row, list) else [row] for row in found["history"]]
        note(f"going on after epoch {len(history)} of {batches.epochs}")
    batches.start = len(history)
    loader = read_batches(examples, batches, workers=workers, device=device)
    with loader_errors():
        for number, (images, labels) in enumerate(track(loader, title), len(history) * batches.steps):
            epoch, place = divmod(number, batches.steps)
            if place == 0:
                torch.manual_seed(stable_seed(batches.seed, epoch))  # for layers that draw, such as stochastic depth
                sums: list[float] = []
            count = batches.images(place)
            if rank() >= count:
                labels.fill_(unknown)
            with whole_batch(count):
                losses = step(images.to(device), labels.to(device), number)
            sums = [total + loss for total, loss in zip(sums or [0.0] * len(losses), losses, strict=True)]
            if place < batches.steps - 1:
                continue
            history.append([total / batches.steps for total in sums])
            if is_first():
                kept = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
                save_state(state, identity, kept)
            note(f"epoch {epoch + 1}/{batches.epochs}: {line(history[-1])}")
    return history
