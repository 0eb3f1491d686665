"""Masks that the next network learns from, made by a network that was told which classes each image shows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cnnseg.evaluation import Prediction, check_classes, predict
from cnnseg.models import find_network, load_network
from cnnseg.scores import mask_settings
from cnnseg.segmentation.pseudo_masks import MASKS, SCORES
from cnnseg.segmentation.settings import ViewsConfig
from cnnseg.settings import LAST
from wsss.data import BACKGROUND, Dataset
from wsss.errors import InputError
from wsss.progress import track
from wsss.provenance import command_line
from wsss.store import DATA, Seed, Stage, account, due, file_hash, write_mask, write_seed
from wsss.training import choose_device

STRIDE = 8
"""Pixels between the places of the grid on which the scores are kept, as after the random walk."""


def write_pseudo_masks(
    name_or_path: str,
    dataset: Dataset,
    folder: Path,
    *,
    runs: Path,
    which: str = LAST,
    size: int | None = None,
    views: ViewsConfig = ViewsConfig(),
    device: str = "auto",
    batch_size: int = 4,
    precision: str = "float32",
) -> int:
    """Write stages ``masks`` and ``refined`` into the run `folder`; returns the number of images made.

    A pixel is background or a class that its image is labelled with. The scores are probabilities of class against
    background, p_c / (p_c + p_background), as those of `affinity refine`, so that whatever reads such a run reads this.
    Goes on where it was stopped.

    Args:
        size, views, batch_size, precision: see `cnnseg.evaluation.predict`.

    Raises:
        InputError: no such network, one that does not segment or has other classes, or a folder made otherwise.
    """
    begin = time.monotonic()
    dataset.check_maskable()
    path = find_network(name_or_path, runs, which)
    network = load_network(path)
    check_classes(network, dataset)
    if not network.module.segments:
        raise InputError(f"`network` {name_or_path}: a {network.kind} makes no masks")
    common: dict[str, Any] = {
        "config": mask_settings(network, path, size, precision, views, labels_given=True),
        "class_names": dataset.class_names,
        "inputs": {"network": file_hash(path), "data": dataset.name},
        "sources": {DATA: dataset.root, "network": path},
    }
    with (
        Stage.writing(folder / MASKS, kind="masks", suffix=".png", **common) as masks,
        Stage.writing(folder / SCORES, kind="seeds", suffix=".npz", **common) as scores,
    ):
        todo = due([masks, scores], dataset.samples, "masks")
        found = predict(
            network,
            dataset,
            todo,
            size=size,
            device=choose_device(device),
            batch_size=batch_size,
            precision=precision,
            views=views,
            labels_given=True,
            pixels=True,
        )
        for one in track(found, f"masks of {dataset.split}", total=len(todo)):
            made_of = one.sample.made_of
            write_seed(scores.folder, one.sample.id, seed_of(one), made_of)
            write_mask(masks.folder, one.sample.id, one.mask, made_of)  # last: it says that the image is done
        for stage in (scores, masks):
            made = account(stage, dataset, len(todo), begin, command=command_line("cnnseg"))
    return made


def seed_of(found: Prediction) -> Seed:
    """The probabilities of an image's classes against background, averaged over cells of `STRIDE` pixels."""
    pixels = np.asarray(found.pixels)
    height, width = pixels.shape[1:]
    grid = (-(-width // STRIDE), -(-height // STRIDE))
    shown = [pixels[c] / np.maximum(pixels[c] + pixels[BACKGROUND], 1e-12) for c in found.sample.classes]
    maps = [cv2.resize(one, grid, interpolation=cv2.INTER_AREA) for one in shown]
    stacked = np.stack(maps) if maps else np.zeros((0, *grid[::-1]))
    return Seed(stacked.clip(0, 1).astype(np.float16), np.array(found.sample.classes, np.uint8), (height, width))
