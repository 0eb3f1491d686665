"""Reading one image or one mask, with a line that names the file when it cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsss.errors import InputError

_UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)
"""What Pillow raises for a file that it cannot or will not decode."""


def read_image(path: Path) -> Image.Image:
    """The photograph as an upright RGB image (EXIF orientation applied). InputError if it cannot be read."""
    _refuse_matlab(path)
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"image {path}: more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"image {path}: no such file") from None
    except _UNREADABLE as error:
        raise InputError(f"image {path}: cannot be read ({_reason(path, error)})") from None


def read_label_image(path: Path) -> np.ndarray:
    """The stored pixel values (H, W) uint8 of a palette or grey-scale mask. InputError if it is neither."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise InputError(f"mask {path}: mode {image.mode}; a mask is a palette or 8-bit grey-scale image")
            return np.array(image, dtype=np.uint8)  # a 1-bit mask gives 0 and 1
    except FileNotFoundError:
        raise InputError(f"mask {path}: no such file") from None
    except _UNREADABLE as error:
        raise InputError(f"mask {path}: cannot be read ({_reason(path, error)})") from None


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image from its header alone, without decoding the pixels."""
    _refuse_matlab(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5..8 swap the axes
            return (width, height) if turned else (height, width)
    except FileNotFoundError:
        raise InputError(f"image {path}: no such file") from None
    except _UNREADABLE as error:
        raise InputError(f"image {path}: cannot be read ({_reason(path, error)})") from None


def _refuse_matlab(path: Path) -> None:
    """Many images lie in one such file: a caller that asks for a path is not made for that layout."""
    if path.suffix == ".mat":
        raise InputError(f"image {path}: images of ImageNet-segmentation are read by `segmentation-test` alone")


def _reason(path: Path, error: Exception) -> str:
    if path.exists() and path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error).replace("\n", " ")
