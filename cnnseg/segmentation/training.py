"""A segmentation network trained as a stage of a run, on pseudo-masks or on a data set's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnnseg.models import create_segmentation
from cnnseg.runs import train_stage
from cnnseg.segmentation.network import POOLING
from cnnseg.segmentation.pseudo_masks import (
    PseudoMasks,
    check_masks,
    examples_for,
    files_of,
    fingerprints,
    sources_of,
    with_masks_of,
)
from cnnseg.segmentation.settings import SEGMENTATION, TRUE_MASKS, SegmentationConfig, SegmentationTrainConfig
from wsss.backbones import PACKAGE
from wsss.data import Dataset
from wsss.entries import TRUE_MASKS as LEARNT_TRUE
from wsss.errors import InputError
from wsss.store import file_hash


def train_segmentation(
    folder: Path,
    train: Dataset,
    val: Dataset | None = None,
    net: SegmentationConfig = SegmentationConfig(),
    config: SegmentationTrainConfig = SegmentationTrainConfig(),
    *,
    masks: Sequence[str] = (TRUE_MASKS,),
    runs: Path = Path("runs"),
    device: str = "auto",
    workers: int = 0,
    restart: bool = False,
) -> Path:
    """Train into ``<folder>/network``, unless that is done; returns ``last.safetensors``.

    Args:
        masks: runs whose masks are learnt (names below `runs`, or paths); or ``("true",)``, the data set's own.

    Raises:
        InputError: masks that are missing or do not fit, nothing to learn from, an encoder that does not fit, or a
            folder that holds a training with other settings or inputs.
    """
    _check_batch(net, config)
    learnt = targets(train, masks, runs, config)
    identity, inputs = _start_of(net)
    return train_stage(
        folder,
        learnt,
        val,
        config,
        identity={"kind": SEGMENTATION, **identity, "masks": "true" if learnt is train else "pseudo"},
        inputs=inputs | fingerprints(learnt),
        files=files_of(learnt),
        sources=sources_of(learnt),
        create=lambda: create_segmentation(net, train.class_names, source_of(learnt)),
        check=(lambda _: check_masks(learnt, workers=workers)) if isinstance(learnt, PseudoMasks) else None,
        examples=examples_for(learnt, soft=config.soft),
        ema=config.ema,
        device=device,
        workers=workers,
        restart=restart,
    )


def _check_batch(net: SegmentationConfig, config: SegmentationTrainConfig) -> None:
    if config.budget == 0:
        raise InputError(
            "`budget` 0: a segmentation network learns from masks; give more, or `cnnseg train-classifier`"
        )
    decoded = max(1, round(config.batch_size * config.mask_share))
    if decoded == 1 and net.decoder in POOLING:
        raise InputError(
            f"`batch_size` {config.batch_size}: `decoder` {net.decoder} normalises one value for each image; at least "
            "2 images of each batch must have masks"
        )


def targets(train: Dataset, masks: Sequence[str], runs: Path, config: SegmentationTrainConfig) -> Dataset:
    """The data set with the masks that are to be learnt. InputError if they are missing or do not go together."""
    if TRUE_MASKS not in masks:
        if not masks:
            raise InputError(f"`masks`: expected a run that holds masks, or the word {TRUE_MASKS}, got nothing")
        return with_masks_of(train, masks, runs, ignore_below=config.ignore_below, scores=config.soft)
    if len(masks) > 1:
        raise InputError(
            f"`masks` {' '.join(masks)}: expected the data set's own masks ({TRUE_MASKS}) or runs, got both"
        )
    if all(sample.mask_path is None for sample in train):
        raise InputError(f"`masks` {TRUE_MASKS}: data set {train.name}, split {train.split}: no image has a mask")
    return train


def source_of(learnt: Dataset) -> str:
    """Whose masks are learnt, in words."""
    if not isinstance(learnt, PseudoMasks):
        return LEARNT_TRUE
    return f"masks of {', '.join(path.parent.name for path in learnt.masks)}"


def _start_of(net: SegmentationConfig) -> tuple[dict[str, object], dict[str, str]]:
    """What a manifest says of the network at its start: its config, without paths, and the fingerprints of files."""
    config = net.identity
    if net.weights in ("pretrained", "none") or net.weights.startswith(PACKAGE):
        return config, {}
    path = Path(net.weights)
    if not path.is_file():
        raise InputError(f"`weights` {path}: no such file (or 'pretrained', 'none', {PACKAGE}NAME)")
    return config | {"weights": "file"}, {"weights": file_hash(path)}
