"""Multi-label fine-tuning of a ViT on image-level labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data
from torchvision.transforms import v2

from vitseg.hybrid import freeze_levels, split_name, trunk_of
from vitseg.models import HEAD, Classifier, create_classifier, save_classifier
from vitseg.settings import CHECKPOINT, STATE, ClassifierConfig
from wsss.classification import ClassificationScores, classification_scores
from wsss.data import Dataset, Sample
from wsss.distributed import all_sum, same_start
from wsss.epochs import EpochBatches, train_epochs
from wsss.errors import InputError
from wsss.precision import autocast
from wsss.processes import is_first
from wsss.progress import track
from wsss.training import descend, parameter_groups, stable_seed

UNKNOWN = -1
"""In the place of a label, 0 or 1, that takes no part in the loss."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A finished training: checkpoint, mean loss of every epoch, and scores on the validation split, if any."""

    path: Path
    losses: tuple[float, ...]
    scores: ClassificationScores | None


class _Crops(data.Dataset):
    """(epoch, index, size) -> (image (3, size, size) in [0, 1], label (C,)); the crop hangs on (seed, epoch, index)."""

    def __init__(self, samples: tuple[Sample, ...], labels: np.ndarray, config: ClassifierConfig) -> None:
        self.samples, self.labels, self.config = samples, torch.from_numpy(labels), config
        change: list[v2.Transform] = [v2.RandomHorizontalFlip()] if config.flip else []
        if strength := config.colour_jitter:
            change.append(v2.ColorJitter(strength, strength, strength, strength / 6))
        self.change = v2.Compose([*change, v2.ToDtype(torch.float32, scale=True)])

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        epoch, index, size = key
        image = v2.functional.pil_to_tensor(self.samples[index].load_image())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(self.config.seed, epoch, index))
            if self.config.crop_min < 1:
                cut = v2.RandomResizedCrop(size, scale=(self.config.crop_min, 1.0), antialias=True)
            else:
                cut = v2.Resize((size, size), antialias=True)
            return self.change(cut(image)), self.labels[index]


class _SizedBatches(EpochBatches):
    """Batches of (epoch, index, size): the size is drawn for a whole batch, from (seed, epoch, step)."""

    def __init__(self, count: int, config: ClassifierConfig) -> None:
        super().__init__(count, config.batch_size, config.seed, config.epochs)
        self.sizes = config.sizes

    def of_epoch(self, epoch: int) -> Iterator[list[tuple[int, int, int]]]:
        for step, batch in enumerate(super().of_epoch(epoch)):
            size = self.sizes[stable_seed(self.seed, epoch, step, 1) % len(self.sizes)]
            yield [(epoch, index, size) for epoch, index in batch]


def train_classifier(
    train: Dataset,
    val: Dataset | None,
    folder: Path,
    config: ClassifierConfig = ClassifierConfig(),
    *,
    device: str = "cpu",
    workers: int = 0,
    report: Callable[[TrainedClassifier], None] = lambda trained: None,
) -> TrainedClassifier:
    """Fine-tune with binary cross-entropy for each class and write ``<folder>/classifier.safetensors``.

    After every epoch the whole state goes to ``<folder>/resume.pt``; a run that was killed goes on from it to the
    same result, as all randomness is a function of (seed, epoch, index). The last epoch is the result: nothing is
    chosen on `val`. That file is removed at the end, after `report` has been called: what that keeps is not lost either
    if the process is killed. Several processes (`wsss.processes`) share each batch; the first of them writes, reports,
    and alone knows the scores.

    Raises:
        InputError: no labelled image, unreadable files, weights of another model, a loss that is not finite.
    """
    train.check_labelled()
    classifier = _start(train, config, device)
    model = classifier.model
    optimizer = _optimizer(classifier, config)
    batches = _SizedBatches(len(train), config)
    identity = {
        "config": config.model_dump(mode="json"),
        "labels": {sample.id: list(sample.classes) for sample in train},
    }
    steps = config.epochs * batches.steps

    def step(images: Tensor, labels: Tensor, number: int) -> list[float]:
        _set_lr(optimizer, config, number, steps)
        return _step(classifier, optimizer, images, labels, config, number + 1)

    history = train_epochs(
        model,
        optimizer,
        _Crops(train.samples, train.labels(), config),
        batches,
        step,
        state=folder / STATE,
        identity=identity,
        unknown=UNKNOWN,
        line=lambda losses: f"loss {losses[0]:.4f}",
        title="train classifier",
        device=device,
        workers=workers,
    )
    losses = tuple(loss for (loss,) in history)
    model.eval()
    path = folder / CHECKPOINT
    if not is_first():
        return TrainedClassifier(path, losses, None)
    scores = None
    if val is not None:
        predicted = predict(classifier, val, config.sizes[-1], device=device, precision=config.precision)
        scores = classification_scores(predicted, val.labels())
    save_classifier(classifier, path, getattr(torch, config.export))
    trained = TrainedClassifier(path, losses, scores)
    report(trained)
    (folder / STATE).unlink(missing_ok=True)  # last: without it the training is finished
    return trained


def _start(train: Dataset, config: ClassifierConfig, device: str) -> Classifier:
    """The classifier as it is before the first step, in the mode that it is trained in."""
    torch.manual_seed(stable_seed(config.seed))
    classifier = create_classifier(config.architecture, train.class_names, config.weights, config.trunk_weights)
    model = classifier.model.to(device)
    trunk = trunk_of(model)
    if trunk is not None:
        model.to(memory_format=torch.channels_last)  # in bfloat16 a step takes a seventh less time
    elif config.trunk_lr_factor != 1:
        raise InputError(f"`trunk_lr_factor` {config.trunk_lr_factor}: {config.architecture} has no trunk")
    if split_name(config.architecture) is not None:
        freeze_levels(model, config.frozen_levels)
    elif config.frozen_levels:
        raise InputError(f"`frozen_levels` {config.frozen_levels}: {config.architecture} is no TRUNK+VIT")
    for size in config.sizes:
        check_side(classifier, size, "sizes")
    same_start(model)
    model.train()
    if trunk is not None:
        trunk.eval()  # batches are too small and too varied in size for statistics of their own
    return classifier


def check_side(classifier: Classifier, size: int, argument: str) -> None:
    """InputError if a square of that side is no whole number of the model's patches."""
    step = classifier.model.patch_embed.feat_ratio()
    if size < 1 or size % step:
        raise InputError(
            f"`{argument}` {size}: expected a multiple of {step}, as sides of inputs are of a {classifier.architecture}"
        )


@torch.inference_mode()
def predict(
    classifier: Classifier,
    dataset: Dataset,
    size: int,
    *,
    device: str = "cpu",
    batch_size: int = 32,
    precision: str = "float32",
) -> np.ndarray:
    """Class probabilities (N, C) float32 of every image, squeezed to a square of side `size`."""
    check_side(classifier, size, "size")
    model = classifier.model.to(device).eval()
    rows: list[Tensor] = []
    samples = dataset.samples
    for start in track(range(0, len(samples), batch_size), f"classify {dataset.split}"):
        chunk = samples[start : start + batch_size]
        images = torch.stack([classifier.prepare(sample.load_image(), (size, size)) for sample in chunk])
        with autocast(device, precision):
            rows.append(model(images.to(device)).float().sigmoid().cpu())
    probabilities = torch.cat(rows).numpy()
    if not np.isfinite(probabilities).all():
        raise InputError("the classifier gives NaN or infinite scores: train it again, at a lower learning rate")
    return probabilities


def _step(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: ClassifierConfig,
    number: int,
) -> list[float]:
    with autocast(images.device, config.precision):
        logits = classifier.model(classifier.normalise(images))
    known = labels != UNKNOWN
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    loss = torch.where(known, losses, 0).sum() / all_sum(known.sum())
    remedy = f"lower `lr` (now {config.lr:g})" + (" or give `clip`" if config.clip is None else "")
    return descend(classifier.model, optimizer, [loss], step=number, clip=config.clip, remedy=remedy)


def _optimizer(classifier: Classifier, config: ClassifierConfig) -> torch.optim.Optimizer:
    new = HEAD if split_name(classifier.architecture) is None else (*HEAD, "patch_embed.proj.")

    def factor(name: str) -> float:
        if name.startswith("patch_embed.backbone."):
            return config.trunk_lr_factor
        return config.head_lr_factor if name.startswith(new) else 1.0

    options = parameter_groups(classifier.model, factor)
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(options, config.lr, weight_decay=config.weight_decay)


def _set_lr(optimizer: torch.optim.Optimizer, config: ClassifierConfig, step: int, steps: int) -> None:
    done = step / steps
    falling = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else (1 - done) ** 0.9
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.lr * falling * rising * group["factor"]
