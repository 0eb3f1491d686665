"""Bytes from anybody to a photograph, or a line that says why not."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsss.data.files import as_photograph
from wsss.errors import InputError

LARGEST_FILE = 20_000_000
"""Bytes."""

LARGEST_PHOTOGRAPH = 25_000_000
"""Pixels."""

LONGEST_SIDE = 12_000
SMALLEST_SIDE = 32
_MOST = f"{LARGEST_PHOTOGRAPH / 1e6:.0f} million pixels and {LONGEST_SIDE:,} along a side"

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What Pillow decodes itself. Others may start programs (EPS), or hold what no photograph needs."""

_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for files that are made to harm as well as for those that are merely broken."""


def decoded(sent: Any) -> tuple[str, bytes]:
    """Name and content of a file sent as ``{"name": ..., "data": base64}``. InputError for anything else."""
    try:
        name, data = str(sent["name"]), sent["data"]
        return name, base64.b64decode(data, validate=True)
    except (TypeError, KeyError, ValueError):
        raise InputError("That is no file.") from None


def read_photograph(content: bytes) -> np.ndarray:
    """The photograph in a file, upright, uint8 (H, W, 3); of an animation the first picture.

    The size is known before any pixel is decoded.

    Raises:
        InputError: too many bytes or pixels, too small, no image, a format that is not read, or a broken file.
    """
    if len(content) > LARGEST_FILE:
        raise InputError(f"The file has {len(content) / 1e6:.0f} MB; at most {LARGEST_FILE / 1e6:.0f} MB are taken.")
    if not content:
        raise InputError("The file is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(*image.size)
                if image.mode.startswith(("I", "F")):
                    raise InputError("The picture has more than 8 bits a channel; save it with 8 bits first.")
                return np.asarray(as_photograph(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"The picture has far too many pixels; at most {_MOST} are taken.") from None
    except _UNREADABLE:
        kinds = ", ".join(FORMATS)
        raise InputError(f"This file cannot be read as a photograph; whole {kinds} files can.") from None


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_PHOTOGRAPH or max(width, height) > LONGEST_SIDE:
        raise InputError(f"The picture has {width:,} x {height:,} pixels; at most {_MOST} are taken.")
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(
            f"The picture has {width} x {height} pixels; at least {SMALLEST_SIDE} along a side are needed."
        )
