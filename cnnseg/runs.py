"""Training and evaluation as stages of a run: what the commands and the tables share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnseg.evaluation import PROTOCOLS, check_classes, evaluate_network, percent, predict_masks, save_scores
from cnnseg.history import row_line
from cnnseg.models import Network, create_network, find_network, load_network
from cnnseg.sampling import check_agreement, sample_masks
from cnnseg.settings import BEST, LAST, NetworkConfig, TrainConfig
from cnnseg.training import STATE, is_finished, train_network
from wsss.console import note, warn
from wsss.data import Dataset, Sample
from wsss.entries import save_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.metrics import ClassificationScores
from wsss.options import command_line
from wsss.store import Stage, file_hash
from wsss.training import choose_device, stable_seed

STAGE = "network"
CHOSEN = "chosen on the validation split, so optimistic there; the headline is last"


def train_run(
    folder: Path,
    train: Dataset,
    val: Dataset | None,
    net: NetworkConfig,
    config: TrainConfig,
    *,
    runs: Path,
    device: str = "auto",
    workers: int = 0,
) -> Path:
    """Train into ``<folder>/network``, unless that is done; returns ``last.safetensors``.

    Raises InputError as `train_network`, or if the folder holds a training with other settings.
    """
    import torch

    begin = time.monotonic()
    where = choose_device(device)
    start = None
    if net.classifier is not None:
        start = find_network(net.classifier, runs, option="--classifier")
        if (start.parent / STATE).exists():
            raise InputError(f"--classifier {net.classifier}: its training is not finished; run that command again")
        net = net.model_copy(update={"classifier": str(start)})

    def open_stage() -> Stage:
        return Stage.open(
            folder / STAGE,
            kind="network",
            config={
                **net.model_dump(mode="json", exclude={"classifier"}),
                **config.model_dump(mode="json", exclude={"save_every"}),
                "data": train.name,
                "split": train.split,
                "val_split": val.split if val is not None else None,
            },
            class_names=train.class_names,
            suffix=".safetensors",
            inputs={"classifier": file_hash(start)} if start is not None else None,
        )

    path = folder / STAGE / LAST
    if is_finished(path.parent):
        open_stage()  # refuses other settings
        note(f"{path}: trained already")
        return path
    masked = sample_masks(train, config.budget, config.budget_seed) if net.network != "classifier" else ()
    _warn_of_disagreement(train, masked)
    torch.manual_seed(stable_seed(config.seed))
    network = create_network(net, train.class_names)
    stage = open_stage()
    size = f"{parameter_count(network) / 1e6:.2f} M parameters"
    note(f"{net.network} {net.architecture}: {size}, {len(masked)} of {len(train)} images with their mask")
    trained = train_network(
        network,
        train,
        masked,
        val,
        stage.folder,
        config,
        new_head=start is None,
        device=where,
        workers=workers,
    )
    stage.done(
        command=command_line("cnnseg"),
        split=train.split,
        counts={"images": len(train), "masks": len(masked)},
        seconds=time.monotonic() - begin,
        parameters=parameter_count(network),
        last=trained.history[-1],
        best_chosen_on_validation=trained.best,
    )
    note(f"wrote {trained.path} ({trained.path.stat().st_size / 1e6:.1f} MB)")
    if trained.best is not None:
        note(f"{BEST}: step {trained.best['step']}, {row_line(trained.best)} ({CHOSEN})")
    return path


def evaluate_checkpoint(
    name_or_path: str,
    dataset: Dataset,
    *,
    runs: Path,
    which: str = LAST,
    name: str | None = None,
    size: int | None = None,
    protocol: str = "voc",
    device: str = "auto",
    batch_size: int = 4,
    precision: str = "fp32",
    workers: int = 1,
) -> dict[str, Any]:
    """Masks and figures of a finished network on a split, kept in its run (those of best: in the run NAME_best).

    Returns:
        The entry of ``scores.json``: "miou" and the classification figures in per cent, None where undefined.
    """
    begin = time.monotonic()
    path = find_network(name_or_path, runs, which)
    network = load_network(path)
    check_classes(network, dataset)
    if (path.parent / STATE).exists():
        warn(f"{path}: its training is not finished")
    best = path.name == BEST
    folder = runs / name if name is not None else _run_of(path, runs, best)
    how = {"size": size, "device": choose_device(device), "batch_size": batch_size, "precision": precision}
    title = f" (best: {CHOSEN})" if best else ""
    entry: dict[str, Any] = {
        "data": dataset.name,
        "split": dataset.split,
        "checkpoint": f"best: {CHOSEN}" if best else path.stem,
        "network": file_hash(path),
        "images": len(dataset),
        "size": size,
        "precision": precision,
        "protocol": PROTOCOLS[protocol],
        "miou": None,
        "command": command_line("cnnseg"),
    }
    if protocol == "paper" or not network.module.segments:
        found = evaluate_network(
            network, dataset, protocol=protocol, description=f"evaluate {network.kind} on {dataset.split}", **how
        )
        entry["miou"], scores = found.miou, found.scores
        if found.miou is not None:
            note(f"mIoU {found.miou:.2f}{title}; protocol: {PROTOCOLS[protocol]}")
    else:
        stage = Stage.open(
            folder / "masks",
            kind="masks",
            config={
                "labels_given": False,
                "network": network.kind,
                "checkpoint": path.stem,
                "size": size,
                "precision": precision,
            },
            class_names=dataset.class_names,
            suffix=".png",
            inputs={"network": file_hash(path)},
        )
        todo = stage.pending([sample.id for sample in dataset])
        if len(todo) < len(dataset):
            note(f"{len(dataset) - len(todo)} of {len(dataset)} masks are there already")
        scores = predict_masks(network, dataset, stage.folder, todo, **how)
        if todo:
            stage.done(
                command=command_line("cnnseg"),
                split=dataset.split,
                counts={"images": len(dataset), "made": len(todo)},
                seconds=time.monotonic() - begin,
            )
        entry["miou"] = _score_masks(folder, dataset, workers, title)
    _print_scores(scores, dataset, title)
    return save_scores(folder / STAGE, entry, scores, dataset.class_names)


def is_evaluation_of(
    entry: dict[str, Any], path: Path, dataset: Dataset, *, size: int | None, protocol: str, precision: str
) -> bool:
    """Whether an entry of ``scores.json`` is about this checkpoint, these images, and this rule."""
    due = {"data": dataset.name, "split": dataset.split, "images": len(dataset)}
    due |= {"size": size, "precision": precision, "protocol": PROTOCOLS[protocol]}
    return all(entry.get(key) == value for key, value in due.items()) and entry.get("network") == file_hash(path)


def _score_masks(folder: Path, dataset: Dataset, workers: int, title: str) -> float | None:
    """mIoU of a run's masks in per cent, kept in its metrics.json; None if the split has no ground truth."""
    if not any(sample.mask_path is not None for sample in dataset):
        note(f"{dataset.name}/{dataset.split} has no masks to compare with: no mIoU")
        return None
    entries = evaluate_run(folder, dataset, stages=["masks"], workers=workers, command=command_line("cnnseg"))
    save_metrics(folder, entries)
    (entry,) = entries
    by_class = ", ".join(f"{key} {value:.1f}" for key, value in entry.iou.items() if value is not None)
    note(f"{folder.name} on {dataset.name}/{dataset.split}: mIoU {_show(entry.miou)}{title}")
    note(f"IoU by class: {by_class}")
    note(f"protocol: {entry.protocol}")
    return entry.miou


def _print_scores(scores: ClassificationScores | None, dataset: Dataset, title: str) -> None:
    if scores is None:
        return
    for class_name, f1, precision in zip(dataset.class_names, scores.f1, scores.average_precision, strict=True):
        note(f"{class_name:>16s}  F1 {_show(percent(f1)):>6s}  AP {_show(percent(precision)):>6s}")
    macro, average = percent(scores.macro_f1), percent(scores.mean_average_precision)
    note(
        f"{'mean':>16s}  F1 {_show(macro):>6s}  AP {_show(average):>6s}  ({len(dataset)} images of "
        f"{dataset.name}/{dataset.split}, threshold {scores.threshold}){title}"
    )


def _run_of(path: Path, runs: Path, best: bool) -> Path:
    """The run that a checkpoint lies in, else one named like the file."""
    if path.resolve().parent.name == STAGE:
        run = path.resolve().parents[1]
        return run.with_name(f"{run.name}_best") if best else run
    return runs / path.stem


def _warn_of_disagreement(train: Dataset, masked: Sequence[Sample]) -> None:
    lines = check_agreement(train, masked) if masked else []
    for line in lines[:3]:
        warn(line)
    if len(lines) > 3:
        warn(f"{len(lines) - 3} more masks disagree with the image-level labels")


def parameter_count(network: Network) -> int:
    """Parameters that are trained, each counted once."""
    return sum(parameter.numel() for parameter in network.module.parameters())


def _show(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
