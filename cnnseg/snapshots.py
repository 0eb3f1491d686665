"""Snapshots: what a network says of some images at each evaluation of its training, kept for pictures."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cnnseg.evaluation import seen_size
from cnnseg.models import Network
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.store import atomic
from wsss.store.atomic import remove_leftovers
from wsss.words import counted

SNAPSHOTS = "snapshots"
"""Folder of a training that holds them: ``<step>/<id>.npz``."""


def pictured_samples(ids: Sequence[str], *datasets: Dataset) -> list[tuple[Dataset, Sample]]:
    """The images of these ids and the data set of each. InputError naming the first that is in none."""
    places = {sample.id: (dataset, sample) for dataset in datasets for sample in dataset}
    for image_id in ids:
        if image_id not in places:
            raise InputError(f"`snapshots` {image_id}: no such image in the training or the validation split")
    return [places[image_id] for image_id in ids]


@torch.inference_mode()
def write_snapshot(
    network: Network, dataset: Dataset, sample: Sample, folder: Path, *, size: int | None, device: str
) -> None:
    """Write ``<folder>/<id>.npz``: ``maps`` float16 (C + 1, h, w), and ``strength``, see `Network.strength`.

    Args:
        size: the network sees the image resized to an area of `size`^2; native size if None.
    """
    module, image = network.module.eval(), dataset.load_image(sample)
    seen = seen_size((image.height, image.width), size)
    _, maps = module(network.prepare(image, seen)[None].to(device))
    limit = np.finfo(np.float16).max
    stored = maps[0].float().cpu().numpy().clip(-limit, limit).astype(np.float16)
    with atomic(folder / f"{sample.id}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, maps=stored, strength=np.float32(network.strength(seen)))
    remove_leftovers(folder)


def read_snapshot(path: Path, outputs: int) -> tuple[np.ndarray, float]:
    """The class scores of an image's pixels, float32 (outputs, h, w), and what to multiply them by before a softmax.

    Args:
        outputs: number of classes, background included.

    Raises InputError naming the file if it is no snapshot.
    """
    again = "delete it and train again, or take another `images`"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            maps = arrays["maps"].astype(np.float32)
            strength = float(arrays["strength"]) if "strength" in arrays else 1.0  # older ones do not say
    except (ValueError, TypeError, KeyError, IndexError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        fault = " ".join(str(error).split())
        raise InputError(f"{path}: no snapshot of a training, or half-written ({fault}); {again}") from None
    if maps.ndim != 3 or 0 in maps.shape or not np.isfinite(maps).all():
        raise InputError(f"{path}: expected finite scores (classes, h, w), got {maps.shape}; {again}")
    if len(maps) != outputs:
        raise InputError(
            f"{path}: expected scores of {counted(outputs, 'class')}, background included, as in this data set, got "
            f"{len(maps)}"
        )
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(f"{path}: expected a strength above 0, got {strength:g}; {again}")
    return maps, strength
