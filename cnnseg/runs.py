"""Training as a stage of a run: what the commands and the tables share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from cnnseg.history import row_line
from cnnseg.models import UNROLLED, Network, create_network, find_network
from cnnseg.reading import Reading, find_reading
from cnnseg.sampling import check_agreement, sample_masks
from cnnseg.settings import BEST, CHOSEN, LAST, STAGE, STATE, NetworkConfig, TrainConfig
from cnnseg.training import Trained, train_network
from wsss.data import Dataset, Sample, check_foreground
from wsss.errors import InputError
from wsss.extras import need
from wsss.processes import from_first, is_first
from wsss.progress import note, warn
from wsss.provenance import command_line
from wsss.store import DATA, Training, file_hash, inputs_of
from wsss.store.inputs import Inputs
from wsss.training import choose_device, stable_seed
from wsss.words import counted


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
    restart: bool = False,
) -> Path:
    """Train into ``<folder>/network``, unless that is done; returns ``last.safetensors``.

    Raises InputError as `train_network`, or if the folder holds a training with other settings or starting weights.
    """
    start = None
    if net.classifier is not None:
        start = find_network(net.classifier, runs, argument="classifier")
        if (start.parent / STATE).exists():
            raise InputError(f"`classifier` {net.classifier}: its training is not finished; run that command again")
        if net.weights != "pretrained":
            raise InputError(f"`weights` {net.weights}: the encoder starts at `classifier` {net.classifier}; give one")
        net = net.model_copy(update={"classifier": str(start)})
    identity, inputs = _start_of(net)
    return train_stage(
        folder,
        train,
        val,
        config,
        identity=identity,
        inputs=inputs,
        create=lambda: create_network(net, train.class_names),
        masks=net.kind != "classifier",
        sources={} if net.classifier is None else {"classifier": Path(net.classifier)},
        device=device,
        workers=workers,
        restart=restart,
    )


def train_stage(
    folder: Path,
    train: Dataset,
    val: Dataset | None,
    config: TrainConfig,
    *,
    identity: dict[str, Any],
    inputs: dict[str, str],
    create: Callable[[], Network],
    masks: bool = True,
    check: Callable[[Sequence[Sample]], None] | None = None,
    files: Mapping[str, Callable[[str], Path]] | None = None,
    sources: Mapping[str, Path] | None = None,
    device: str = "auto",
    workers: int = 0,
    restart: bool = False,
    **how: Any,
) -> Path:
    """Train any network into ``<folder>/network``, unless that is done; returns ``last.safetensors``.

    Args:
        identity: what the manifest is to say of the network, beside the config. inputs: fingerprints of files.
        create: makes the network; what it draws at random is a function of the seed.
        masks: the network learns from masks, of as many images as the budget says.
        check: looks at these images before the training; unless given, whether their masks show anything and agree
            with the labels.
        files: what stands for the masks of the data set, by name, see `wsss.store.inputs_of`.
        sources: where inputs lie, by name.
        restart: move a training that is there out of the way.
        how: `examples` and `ema` of `train_network`.

    Raises InputError as `train_network`, or if the folder holds a training with other settings, starting weights,
    images, labels or masks.
    """
    import torch

    begin = time.monotonic()
    if val is not None:
        need("wsss")
    where = choose_device(device)
    if masks:
        train.check_maskable()
    masked = sample_masks(train, config.budget, config.budget_seed, rule=config.budget_rule) if masks else ()
    training = Training(
        folder / STAGE,
        LAST,
        STATE,
        identity={
            "kind": "network",
            "config": {
                **identity,
                **config.identity,
                "data": train.name,
                "split": train.split,
                "val_split": val.split if val is not None else None,
            },
            "class_names": train.class_names,
            "formerly": {"kind": "network"},
            "inputs": inputs,
            "sources": {DATA: train.root, **(sources or {})},
        },
        learnt=from_first(lambda: learnt_by(train, masked, files)),
        beside=from_first(lambda: {} if val is None else {"val": inputs_of(val.samples, mask=val.mask_values)}),
    )
    if not restart and training.finished():
        return folder / STAGE / LAST
    torch.manual_seed(stable_seed(config.seed))
    network = create()
    if is_first():
        (check or partial(_check_true_masks, train))(masked)
    if restart:
        training.restart()
    with training.begin() as stage:
        size = f"{parameter_count(network) / 1e6:.2f} M parameters"
        note(f"{network.title}: {size}, {len(masked)} of {counted(len(train), 'image')} with their mask")

        def report(trained: Trained) -> None:
            stage.done(
                command=command_line("cnnseg"),
                split=train.split,
                counts={"images": len(train), "masks": len(masked)},
                seconds=time.monotonic() - begin,
                parameters=parameter_count(network),
                last=trained.history[-1],
                best_chosen_on_validation=trained.best,
            )

        trained = train_network(
            network,
            train,
            masked,
            val,
            stage.folder,
            config,
            new_head=network.new_head,
            device=where,
            workers=workers,
            report=report,
            **how,
        )
    if not is_first():
        return trained.path
    note(f"wrote {trained.path} ({trained.path.stat().st_size / 1e6:.1f} MB)")
    if trained.best is not None:
        note(f"{BEST}: step {trained.best['step']}, {row_line(trained.best)} ({CHOSEN})")
    return trained.path


def learnt_by(
    train: Dataset, masked: Sequence[Sample], files: Mapping[str, Callable[[str], Path]] | None = None
) -> Inputs:
    """What a training learns from: photographs, labels, and the masks of those images whose masks are used."""
    known = {sample.id for sample in masked}
    samples = [sample if sample.id in known else replace(sample, mask_path=None) for sample in train]
    own = train.mask_values if masked and not files else None
    return inputs_of(samples, mask=own, files=files)


_READING = {field.name for field in fields(Reading)}


def _start_of(net: NetworkConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """What a manifest says of the network at its start: its config, without paths, and the fingerprints of files."""
    without = {"classifier", "classes_at_once", *_READING} | (set() if net.kind in UNROLLED else {"baseline"})
    config = net.model_dump(mode="json", exclude=without)  # classes at once are memory alone
    if net.kind in UNROLLED:
        config |= find_reading(net).described()
    if net.classifier is not None:
        del config["weights"]
        return config, {"classifier": file_hash(Path(net.classifier))}
    if net.weights in ("pretrained", "none"):
        return config, {}
    path = Path(net.weights)
    if not path.is_file():
        raise InputError(f"`weights` {path}: no such file (or the word 'pretrained', or 'none')")
    return config | {"weights": "file"}, {"weights": file_hash(path)}


def _check_true_masks(train: Dataset, masked: Sequence[Sample]) -> None:
    check_foreground(train, masked)
    lines = check_agreement(train, masked) if masked else []
    for line in lines[:3]:
        warn(line)
    if len(lines) > 3:
        warn(f"{len(lines) - 3} more masks disagree with the image-level labels")


def parameter_count(network: Network) -> int:
    """Parameters that are trained, each counted once."""
    return sum(parameter.numel() for parameter in network.module.parameters())
