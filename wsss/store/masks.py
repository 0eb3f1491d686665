"""Masks: palette PNG in the colours of PASCAL VOC, pixel value = class index."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data.files import read_label_image
from wsss.errors import InputError
from wsss.store.atomic import write_bytes
from wsss.store.records import with_record


@cache
def voc_palette() -> np.ndarray:
    """The VOC colour map, uint8 (256, 3): bit k of the index, three bits at a time, becomes bit 7 - k of R, G and B."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for k in range(8):
        for channel in range(3):
            bit = 3 * k + channel
            if bit < 8:
                palette[:, channel] |= (((index >> bit) & 1) << (7 - k)).astype(np.uint8)
    palette.flags.writeable = False  # one array for every caller
    return palette


def write_mask(folder: Path, image_id: str, mask: np.ndarray, made_of: str = "") -> None:
    """Write ``<folder>/<image_id>.png``, atomically: uint8 (H, W), 0 background, 1..254 classes, 255 ignored.

    `made_of` is the record that goes into the file, see `wsss.store.records`.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise InputError(f"mask of image {image_id}: expected uint8 (H, W), got {mask.dtype} {mask.shape}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(folder / f"{image_id}.png", with_record(buffer.getvalue(), made_of))


def read_mask(folder: Path, image_id: str) -> np.ndarray:
    """Read a mask, uint8 (H, W). InputError naming the file if it is missing or damaged."""
    path = folder / f"{image_id}.png"
    try:
        return read_label_image(path)
    except InputError as error:
        again = "delete it and run the command that makes it again"
        raise InputError(f"{error}; {again if path.exists() else 'run the command that makes it'}") from None
