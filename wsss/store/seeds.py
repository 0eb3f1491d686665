"""Seeds: the soft maps of an image's classes, on the grid of the method that made them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.errors import InputError
from wsss.store.atomic import write_bytes
from wsss.store.records import with_record

_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Seed:
    """Maps of the classes that an image is labelled with.

    ``scores``: float16 (K, h, w) in [0, 1], at the method's own grid. ``classes``: uint8 (K,), class indices in 1..254,
    ascending; uint16, in 1..65534, where one of them needs it (`class_array`). ``size``: (H, W) of the image in
    pixels. K may be 0.
    """

    scores: np.ndarray
    classes: np.ndarray
    size: tuple[int, int]

    def upsample(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The maps at `size` (H, W), the image's own unless given: float32 (K, H, W) in [0, 1].

        Bilinear with pixel centres at half integers and the border value beyond it, as
        ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
        """
        import cv2  # takes as long as all else that `wsss --help` loads: only where maps are resized

        height, width = size or self.size
        maps = np.empty((len(self.scores), height, width), np.float32)
        for source, target in zip(self.scores.astype(np.float32), maps, strict=True):
            cv2.resize(source, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        return maps


def class_array(classes: Sequence[int]) -> np.ndarray:
    """Class indices as seeds keep them: uint8, or uint16 where one is beyond 254, the last that a mask can show."""
    return np.array(classes, np.uint8 if max(classes, default=0) < np.iinfo(np.uint8).max else np.uint16)


def write_seed(folder: Path, image_id: str, seed: Seed, made_of: str = "") -> None:
    """Write ``<folder>/<image_id>.npz``, atomically. InputError naming the image if the seed is not as `Seed` says.

    `made_of` is the record that goes into the file, see `wsss.store.records`.
    """
    fault = _fault(seed)
    if fault:
        raise InputError(f"seed of image {image_id}: {fault}; nothing was written")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, scores=seed.scores, classes=seed.classes, size=np.asarray(seed.size, np.int32))
    write_bytes(folder / f"{image_id}.npz", with_record(buffer.getvalue(), made_of))


def read_seed(folder: Path, image_id: str) -> Seed:
    """Read a seed. InputError naming the file if it is missing, half-written, or no seed."""
    path = folder / f"{image_id}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            height, width = (int(n) for n in arrays["size"])
            seed = Seed(arrays["scores"], arrays["classes"], (height, width))
    except FileNotFoundError:
        raise InputError(f"seed {path}: no such file; run the command that makes the seeds") from None
    except _UNREADABLE as error:
        raise _damaged(path, f"damaged: not a seed, or half-written ({' '.join(str(error).split())})") from None
    fault = _fault(seed)
    if fault:
        raise _damaged(path, fault)
    return seed


def _damaged(path: Path, fault: str) -> InputError:
    return InputError(f"seed {path}: {fault}; delete it and run the command that makes the seeds again")


def _fault(seed: Seed) -> str | None:
    """What is wrong with a seed, or None."""
    scores, classes = seed.scores, seed.classes
    if scores.ndim != 3 or classes.ndim != 1 or len(scores) != len(classes):
        return f"expected scores (K, h, w) and classes (K,), got {scores.shape} and {classes.shape}"
    if scores.dtype != np.float16 or classes.dtype not in (np.uint8, np.uint16):
        return f"expected scores in float16 and classes in uint8 or uint16, got {scores.dtype} and {classes.dtype}"
    if 0 in scores.shape[1:] or len(seed.size) != 2 or min(seed.size) < 1:
        return f"a grid of {scores.shape[1:]} for an image of {seed.size}; both need at least one pixel"
    highest = np.iinfo(classes.dtype).max - 1
    if np.any(classes[1:] <= classes[:-1]) or np.any((classes == 0) | (classes > highest)):
        return f"expected classes as ascending indices in 1..{highest}, got {classes.tolist()}"
    if not np.isfinite(scores).all():
        return f"NaN or infinite values in the map of class index {_first(classes, ~np.isfinite(scores))}"
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        found = f"{scores.min()} to {scores.max()}"
        return f"values outside [0, 1] in the map of class index {_first(classes, outside)} ({found})"
    return None


def _first(classes: np.ndarray, bad: np.ndarray) -> int:
    return int(classes[bad.any(axis=(1, 2))][0])
