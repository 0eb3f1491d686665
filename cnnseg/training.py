"""The one training loop of all networks here, and of the classifier that they start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from cnnseg.averaging import MovingAverage
from cnnseg.evaluation import check_classes, evaluate_network, evenly_spread
from cnnseg.examples import Examples, StepBatches, masked_places
from cnnseg.history import Progress, Row, is_better, row_line, write_history
from cnnseg.losses import classification_loss, segmentation_loss
from cnnseg.models import Network, save_network
from cnnseg.optimiser import ENCODERS, make_optimizer, set_lr
from cnnseg.settings import BEST, LAST, STATE, TrainConfig
from cnnseg.snapshots import SNAPSHOTS, pictured_samples, write_snapshot
from wsss.data import Dataset, Sample, check_foreground
from wsss.distributed import OwnBatches, all_sum, part_of, same_start, sum_gradients, whole_batch
from wsss.errors import InputError
from wsss.precision import autocast
from wsss.processes import is_first, size
from wsss.progress import note, track
from wsss.training import loader_errors, read_state, save_state, stable_seed


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
    if workers < 0:
        raise InputError(f"`workers` {workers}: expected 0 or more")
    datasets = (train, *((val,) if val is not None else ()))
    for dataset in datasets:
        check_classes(network, dataset)
    if module.segments and not module.classifies and not masked:
        raise InputError(f"network {network.kind} learns from masks alone: give a `budget`, and data with masks")
    if not masked and not any(sample.classes for sample in train):
        raise InputError(
            f"data set {train.name}/{train.split}: no image shows any of the classes {', '.join(train.class_names)}"
        )
    pictured = pictured_samples(config.snapshots, *datasets) if module.segments else []
    places = masked_places(config, masked, module.classifies) if module.segments else 0
    _check_processes(config.batch_size, places)
    judged = _tested(val, config, segments=module.segments and places > 0) if val is not None else ()
    network = replace(network, crop=config.crop, masks=len(masked) if places else 0)
    module.to(device)
    same_start(module)
    optimizer = make_optimizer(network, config, new_head)
    average = MovingAverage(module, ema) if ema else None
    kept = replace(network, module=average.module) if average else network
    identity = {
        "config": config.identity,
        "network": [network.kind, network.architecture],
        "labels": {sample.id: list(sample.classes) for sample in train},
        "masked": [sample.id for sample in masked],
        "judged": [sample.id for sample in judged],
    }
    done = Progress()
    if state := read_state(folder / STATE, identity):
        module.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average:
            average.module.load_state_dict(state["average"])
        done = Progress(**state["progress"])
        note(f"going on after step {done.step} of {config.steps}")
    start = done.step
    batches = StepBatches(train, masked, config, places, start)
    loader = DataLoader(
        examples(train, masked, config),
        batch_sampler=OwnBatches(batches, places),
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        multiprocessing_context="forkserver" if workers else None,
    )

    own_places = len(part_of(range(places)))

    def save() -> None:
        state = {"network": module.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(done)}
        if average:
            state["average"] = average.module.state_dict()
        save_state(folder / STATE, identity, state)

    def evaluate() -> None:
        how: dict[str, Any] = {"size": config.evaluate_size, "device": device}
        found = None
        if val is not None:  # no mIoU of a network that has seen no mask: best is chosen by what it learns
            found = evaluate_network(kept, val, judged, masks=places > 0, precision=config.precision, **how)
        row = done.row(config, found)
        done.history.append(row)
        for dataset, sample in pictured:
            write_snapshot(kept, dataset, sample, folder / SNAPSHOTS / str(done.step), **how)
        if done.step and is_better(row, done.best):
            done.best = row
            save_network(kept, folder / BEST)
        if done.step:
            save()  # before the checkpoint: one without a state beside it is a finished one
            save_network(kept, folder / LAST)
        write_history(folder, done.history)
        note(f"{network.kind}, step {done.step}/{config.steps}: {row_line(row)}")

    def training() -> Iterator[None]:
        if is_first() and start == 0 and not done.history:
            evaluate()
        for images, masks, labels in loader:
            _mode(module, config)
            torch.manual_seed(stable_seed(config.seed, done.step))  # for layers that draw, such as dropout
            set_lr(optimizer, config, done.step)
            batch = (images.to(device, non_blocking=True), masks[:own_places].to(device), labels.to(device))
            with whole_batch(config.batch_size, places):
                losses = _step(network, optimizer, *batch, own_places, config, done.step + 1)
            done.add(losses)
            if average:
                average.update(module, done.step)
            if is_first() and (done.step % config.evaluate_every == 0 or done.step == config.steps):
                evaluate()
            elif is_first() and done.step % config.save_every == 0:
                save()
            yield

    with loader_errors():
        for _ in track(training(), f"train {network.kind}", total=config.steps - start):
            pass
    module.eval()
    path, best_path = folder / LAST, folder / BEST
    trained = Trained(path, tuple(done.history), best_path if done.best else None, done.best)
    if is_first():
        save_network(kept, path)
        write_history(folder, done.history)
        report(trained)
        (folder / STATE).unlink(missing_ok=True)
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
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    sum_gradients(module.parameters())
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if config.clip is not None:
        nn.utils.clip_grads_with_norm_(module.parameters(), config.clip, norm)
    values = [*all_sum(torch.stack([*parts, loss])).tolist(), norm.item()]
    if not all(map(math.isfinite, values)):  # before the weights take it in
        what = f"loss {values[2]:g}, norm of its gradient {values[3]:g}"
        raise InputError(f"step {step}: {what}: not finite; lower `lr` (now {config.lr:g}) or give `clip`")
    optimizer.step()
    return values[0], values[1]


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
