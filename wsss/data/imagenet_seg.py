"""ImageNet-segmentation (Guillaumin et al., IJCV 2014): 4,276 images with a mask of one object, in one MATLAB file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wsss.data.config import DataConfig
from wsss.data.sample import Sample
from wsss.errors import InputError
from wsss.extras import extra

if TYPE_CHECKING:
    import h5py

FILE_NAME = "gtsegs_ijcv.mat"


@dataclass(frozen=True)
class MatlabSample(Sample):
    """An image and its mask in ``gtsegs_ijcv.mat``; ``image_path`` and ``mask_path`` are that file.

    The file is MATLAB v7.3, that is HDF5, in column-major order: ``/value/img[i, 0]`` refers to an image (3, W, H),
    ``/value/gt[i, 0]`` to a cell whose first element refers to its mask (W, H). It is opened anew for each read (a
    millisecond), so the sample travels between processes.
    """

    def load_image(self) -> Image.Image:
        """The image as RGB. InputError if it cannot be read."""
        with self._entry() as (file, place):
            pixels = file[file["/value/img"][place, 0]][()]
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and len(pixels) != 3):
            raise InputError(
                f"{self.image_path}: image {self.id}: expected uint8 (3, W, H), got {pixels.dtype} {pixels.shape}"
            )
        return Image.fromarray(np.ascontiguousarray(pixels.T)).convert("RGB")

    def image_size(self) -> tuple[int, int]:
        """(height, width) without reading the pixels."""
        with self._entry() as (file, place):
            height, width = file[file["/value/img"][place, 0]].shape[:-3:-1]
        return int(height), int(width)

    def stored_mask(self) -> np.ndarray:
        """The mask's stored values (H, W) uint8. InputError if it cannot be read."""
        with self._entry() as (file, place):
            cell = file[file["/value/gt"][place, 0]]
            stored = file[cell[0, 0]][()]
        values = stored.astype(np.uint8)
        if stored.ndim != 2 or not np.array_equal(values, stored):
            raise InputError(
                f"{self.image_path}: mask {self.id}: expected whole numbers 0 to 255 in (W, H), got "
                f"{stored.dtype} {stored.shape}"
            )
        return np.ascontiguousarray(values.T)

    @property
    def orientation(self) -> int:
        """1: arrays are as they are."""
        return 1

    @property
    def mask_name(self) -> str:
        """The mask, for messages."""
        return f"{self.mask_path}: mask {self.id}"

    @contextmanager
    def _entry(self) -> Iterator[tuple[h5py.File, int]]:
        with _open(self.image_path) as file:
            yield file, int(self.id) - 1


def read_samples(config: DataConfig, root: Path, split: str, report: Callable[[str], None]) -> list[Sample]:
    """One sample an image, ids "0001", "0002", ... in the order of the file. There is one split, "all"."""
    if split != "all":
        raise InputError(f"`split` {split}: expected all, as {FILE_NAME} has no splits")
    path = find_file(root)
    with _open(path) as file:
        images, masks = (file[f"/value/{name}"].shape for name in ("img", "gt"))
    if images != masks or len(images) != 2 or 0 in images:
        raise InputError(f"{path}: expected one mask an image, (n, 1), got /value/img {images} and /value/gt {masks}")
    digits = max(4, len(str(images[0])))
    ids = (f"{number:0{digits}d}" for number in range(1, images[0] + 1))
    return [MatlabSample(image_id, path, (1,), path) for image_id in ids]


def list_splits(config: DataConfig, root: Path) -> tuple[str, ...]:
    """("all",): the file is one set."""
    return ("all",)


def find_file(root: Path) -> Path:
    """The .mat file: `root` itself, or ``gtsegs_ijcv.mat`` in that folder."""
    path = root if root.is_file() else root / FILE_NAME
    if not path.is_file():
        raise InputError(f"root {root}: no {FILE_NAME} there; give that file or the folder that holds it")
    return path


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    with extra("wsss"):
        import h5py  # a quarter of a second: only where a file is read

    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:  # of whoever reads what is in it
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not {FILE_NAME} (MATLAB v7.3 with /value/img and /value/gt) or damaged: {reason}"
        ) from None
