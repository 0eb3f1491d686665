"""The one training loop of all networks here, and of the classifier that they start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnseg.averaging import MovingAverage
from cnnseg.evaluation import check_classes, evaluate_network
from cnnseg.examples import Examples, StepBatches, masked_places
from cnnseg.history import Progress, Row, is_better, row_line, write_history
from cnnseg.losses import classification_loss, segmentation_loss
from cnnseg.models import Network, save_network
from cnnseg.optimiser import ENCODERS, make_optimizer, set_lr
from cnnseg.settings import BEST, LAST, STATE, TrainConfig
from cnnseg.snapshots import SNAPSHOTS, pictured_samples, write_snapshot
from wsss.data import Dataset, Sample, check_foreground, evenly_spread
from wsss.distributed import part_of, same_start, whole_batch
from wsss.errors import InputError
from wsss.precision import autocast
from wsss.processes import is_first, size
from wsss.progress import note, track
from wsss.training import descend, loader_errors, read_batches, read_state, save_state, stable_seed


@dataclass(frozen=True)
class Trained:
    """A finished training. `history` has a row for each evaluation, the first before any step; figures in per cent."""

    path: Path
    history: tuple[Row, ...]
    best_path: Path | None
    """The checkpoint with the highest figure on the validation split, that is chosen on it; None without that split."""
    best: Row | None
    """Its row of the history."""


def train_network(
    network: Network,
    train: Dataset,
    masked: Sequence[Sample],
    val: Dataset | None,
    folder: Path,
    config: TrainConfig = TrainConfig(),
    *,
    new_head: bool = True,
    examples: type[Examples] = Examples,
    ema: float | None = None,
    device: str = "cpu",
    workers: int = 0,
    report: Callable[[Trained], None] = lambda trained: None,
) -> Trained:
    """Train on image-level labels and the masks of `masked`; write ``last.safetensors`` and, with `val`, ``best``.

    Loss: sigmoid cross-entropy of the class scores, and pixel-wise softmax cross-entropy of the maps of the masked
    images (Yu et al. 2024, section 2.3); the one alone where a network gives nothing else, or no image has a mask.

    State and figures: ``resume.pt`` every `save_every` steps, from which a killed training goes on; all randomness is
    a function of (seed, step, place), so that on a CPU the result is the same bit for bit. ``history.jsonl`` has a line
    for each evaluation on `val`, step 0 included. ``last`` is the result; ``best`` is chosen on `val`.
    ``snapshots/<step>/<id>.npz`` hold the maps of the images named in the config (`cnnseg.snapshots`). mIoU is measured
    where masks are learnt from.

    Several processes (`wsss.processes`) share each batch; the first of them evaluates, writes, and alone knows the
    history.

    Args:
        network: trained in place.
        masked: images of `train` whose masks are used; none: image-level labels alone.
        new_head: the last layer of the classifier starts at random, so that its learning rate is that of new layers.
        examples: what reads images and targets of `train`.
        ema: decay of the running average of the weights (`MovingAverage`), which is then what is evaluated and written;
            None or 0: the weights themselves.
        report: called at the end, before ``resume.pt`` is removed: what it keeps is not lost if the process is killed.

    Raises:
        InputError: nothing to learn from, unknown snapshot ids, unreadable files, a loss that is not finite (the
            files of the last evaluation stay).
    """
    module = network.module
    datasets = (train, *((val,) if val is not None else ()))
    _check_learnable(network, masked, datasets)
    pictured = pictured_samples(config.snapshots, *datasets) if module.segments else []
    places = masked_places(config, masked, module.classifies) if module.segments else 0
    _check_processes(config.batch_size, places)
    judged = _tested(val, config, segments=module.segments and places > 0) if val is not None else ()
    network = replace(network, crop=config.crop, masks=len(masked) if places else 0)
    module.to(device)
    same_start(module)
    optimizer = make_optimizer(network, config, new_head)
    identity = {
        "config": config.identity,
        "network": [network.kind, network.architecture],
        "labels": {sample.id: list(sample.classes) for sample in train},
        "masked": [sample.id for sample in masked],
        "judged": [sample.id for sample in judged],
    }
    average = MovingAverage(module, ema) if ema else None
    course = _Course(network, optimizer, average, folder, config, identity, val, judged, pictured, places > 0, device)
    done = course.resume()
    batches = StepBatches(train, masked, config, places, done.step)
    loader = read_batches(examples(train, masked, config), batches, workers=workers, device=device, first=places)
    own_places = len(part_of(range(places)))
    with loader_errors():
        if is_first() and done.step == 0 and not done.history:
            course.evaluate()
        for images, masks, labels in track(loader, f"train {network.kind}"):
            _mode(module, config)
            torch.manual_seed(stable_seed(config.seed, done.step))  # for layers that draw, such as dropout
            set_lr(optimizer, config, done.step)
            batch = (images.to(device, non_blocking=True), masks[:own_places].to(device), labels.to(device))
            with whole_batch(config.batch_size, places):
                losses = _step(network, optimizer, *batch, own_places, config, done.step + 1)
            course.keep(losses)
    module.eval()
    return course.end(report)


@dataclass(frozen=True)
class _Course:
    """A training on its way, and what it leaves in its folder."""

    network: Network
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    folder: Path
    config: TrainConfig
    identity: dict[str, Any]
    val: Dataset | None
    judged: tuple[Sample, ...]
    pictured: list[tuple[Dataset, Sample]]
    with_masks: bool
    device: str
    done: Progress = field(default_factory=Progress)

    @property
    def result(self) -> Network:
        """What is evaluated and written."""
        return replace(self.network, module=self.average.module) if self.average else self.network

    def resume(self) -> Progress:
        """How far it has come, from the state that a killed one has left if there is one."""
        if state := read_state(self.folder / STATE, self.identity):
            self.network.module.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.module.load_state_dict(state["average"])
            vars(self.done).update(state["progress"])
            note(f"going on after step {self.done.step} of {self.config.steps}")
        return self.done

    def keep(self, losses: tuple[float, float]) -> None:
        """Take in a step, and evaluate or save when it is time to."""
        done, config = self.done, self.config
        done.add(losses)
        if self.average:
            self.average.update(self.network.module, done.step)
        if not is_first():
            return
        if done.step % config.evaluate_every == 0 or done.step == config.steps:
            self.evaluate()
        elif done.step % config.save_every == 0:
            self.save()

    def save(self) -> None:
        """Write the state."""
        state = {"network": self.network.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["progress"] = vars(self.done)
        if self.average:
            state["average"] = self.average.module.state_dict()
        save_state(self.folder / STATE, self.identity, state)

    def evaluate(self) -> None:
        """Add a row to the history, and write the checkpoints and pictures of this moment."""
        done, config, result = self.done, self.config, self.result
        how: dict[str, Any] = {"size": config.evaluate_size, "device": self.device}
        found = None
        if self.val is not None:  # no mIoU of a network that has seen no mask: best is chosen by what it learns
            found = evaluate_network(
                result, self.val, self.judged, masks=self.with_masks, precision=config.precision, **how
            )
        row = done.row(config, found)
        done.history.append(row)
        for dataset, sample in self.pictured:
            write_snapshot(result, dataset, sample, self.folder / SNAPSHOTS / str(done.step), **how)
        if done.step and is_better(row, done.best):
            done.best = row
            save_network(result, self.folder / BEST)
        if done.step:
            self.save()  # before the checkpoint: one without a state beside it is a finished one
            save_network(result, self.folder / LAST)
        write_history(self.folder, done.history)
        note(f"{self.network.kind}, step {done.step}/{config.steps}: {row_line(row)}")

    def end(self, report: Callable[[Trained], None]) -> Trained:
        """Write the result; without a state beside it the training is finished."""
        done, path = self.done, self.folder / LAST
        trained = Trained(path, tuple(done.history), self.folder / BEST if done.best else None, done.best)
        if is_first():
            save_network(self.result, path)
            write_history(self.folder, done.history)
            report(trained)
            (self.folder / STATE).unlink(missing_ok=True)
        return trained


def is_finished(folder: Path) -> bool:
    """Whether a training ended in this folder; one that goes on has its state beside the checkpoint."""
    return (folder / LAST).is_file() and not (folder / STATE).exists()


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    places: int,
    config: TrainConfig,
    step: int,
) -> tuple[float, float]:
    """One step of optimisation; classification and segmentation loss, 0 for one that plays no part."""
    module = network.module
    with autocast(images.device, config.precision):
        logits, maps = module(network.normalise(images), decode=places)
    parts = [images.new_zeros(()), images.new_zeros(())]
    if logits is not None and module.classifies:
        parts[0] = classification_loss(logits.float(), labels)
    if places and maps is not None:
        parts[1] = segmentation_loss(maps.float(), masks)
    loss = config.classification_weight * parts[0] + config.segmentation_weight * parts[1]
    remedy = f"lower `lr` (now {config.lr:g})" + (" or give `clip`" if config.clip is None else "")
    _, *values = descend(module, optimizer, [loss, *parts], step=step, clip=config.clip, remedy=remedy)
    return values[0], values[1]


def _check_learnable(network: Network, masked: Sequence[Sample], datasets: Sequence[Dataset]) -> None:
    """InputError if a network has other classes than the data sets, or there is nothing to learn in the first."""
    module, train = network.module, datasets[0]
    for dataset in datasets:
        check_classes(network, dataset)
    if module.segments and not module.classifies and not masked:
        raise InputError(f"network {network.kind} learns from masks alone: give a `budget`, and data with masks")
    if not masked:
        train.check_labelled()


def _check_processes(batch_size: int, places: int) -> None:
    """InputError if a process would be left without an image, or without one of those with masks or of the others."""
    least = min(count for count in (batch_size, places, batch_size - places) if count)
    if size() > least:
        what = f"a batch of {batch_size}, {places} of them with masks, can be shared by at most {least}"
        raise InputError(f"{size()} processes: {what}; start fewer, or raise `batch_size`")


def _mode(module: nn.Module, config: TrainConfig) -> None:
    module.train()
    if config.frozen_statistics:
        for name, part in module.named_modules():
            if isinstance(part, _BatchNorm) and name.startswith(ENCODERS):
                part.eval()


def _tested(val: Dataset, config: TrainConfig, *, segments: bool) -> tuple[Sample, ...]:
    """The images that are evaluated while training: such as have a mask, if masks are judged."""
    with_mask = [sample for sample in val if sample.mask_path is not None]
    if segments and not with_mask:
        raise InputError(f"data set {val.name}, split {val.split}: no image has a mask to evaluate against")
    if segments:
        check_foreground(val, with_mask)
    return evenly_spread(with_mask if segments else val.samples, config.evaluate_images)
