"""Reading one image or one mask, with a line that names the file when it cannot be read.

One policy for orientation: every file is turned upright by its own EXIF orientation. A mask has none as a rule, and is
then taken to be of the upright photograph, as labelling tools and viewers show it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsss.errors import InputError

_UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError)
"""What Pillow raises for a file that it cannot decode."""
_ORIENTATION = 0x0112
_SHRINKABLE = ("RGB", "L", "CMYK", "YCbCr")
"""Modes whose numbers may be averaged before they are made RGB; those of a palette may not."""
_MASK_MODES = ("P", "L", "1", "I;16", "I;16B", "I")
_HEADERS = threading.Lock()


def read_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """The photograph as an upright RGB image, as viewers show it: EXIF orientation applied, on white where it is
    transparent, of an animation the first frame.

    Args:
        at_least: pixels of the longer side that are enough; a larger image is read at one half, a third, ... (a JPEG,
            which then costs a fraction of time and memory, at 1/2, 1/4 or 1/8) of its size, no smaller than that.

    Raises:
        InputError: it cannot be read, has more than 8 bits a channel or more pixels than Pillow decodes
            (twice ``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    with _opened(path, "image") as image:
        _check_depth(image, f"image {path}")
        return as_photograph(image if at_least is None else _reduced(image, at_least))


def as_photograph(image: Image.Image) -> Image.Image:
    """An opened image as `read_image` gives it. InputError for one of more than 8 bits a channel."""
    _check_depth(image, "image")
    return _opaque(_upright(image))


def read_label_image(path: Path) -> np.ndarray:
    """The stored pixel values (H, W) uint8 of a palette or grey-scale mask. InputError if it is neither."""
    with _opened(path, "mask") as image:
        if image.mode not in _MASK_MODES:
            raise InputError(f"mask {path}: expected a palette or grey-scale image, got mode {image.mode}")
        values = np.array(_upright(image))  # a 1-bit mask gives False and True
    stored = values.astype(np.uint8)
    if not np.array_equal(stored, values):
        raise InputError(
            f"mask {path}: pixel values {values.min()} to {values.max()}; expected 0 background, 1 to 254 classes, 255 "
            "ignored"
        )
    return stored


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image from its header alone, without decoding the pixels."""
    with _opened(path, "image") as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)  # 5..8 swap the axes


def orientation(path: Path) -> int:
    """The EXIF orientation of an image, 1 (upright) to 8; 1 where it says none. InputError if it cannot be read."""
    with _opened(path, "image") as image:
        return _orientation(image)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """The image, not decoded yet; whatever Pillow says against it inside is one line that names the file."""
    if Path(path).suffix == ".mat":
        raise InputError(f"{what} {path}: holds many images; give it as a data set of layout imagenet_seg")
    try:
        # Pillow warns of images from half its limit on: up to the limit they are read, and that is said nowhere
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            yield image
    except InputError:  # a ValueError, but one that names the file already
        raise
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{what} {path}: expected at most {most // 10**6} million pixels, it has more; shrink it"
        ) from None
    except _UNREADABLE as error:
        raise InputError(f"{what} {path}: cannot be read ({_reason(path, error)})") from None


def _check_depth(image: Image.Image, name: str) -> None:
    if image.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
        raise InputError(f"{name}: expected 8 bits a channel, got more (mode {image.mode}); convert it to 8 bits")


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _opaque(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def _reduced(image: Image.Image, at_least: int) -> Image.Image:
    """The image at one n-th of its size, its longer side still `at_least` pixels long; as it is where n would be 1."""
    longest = max(image.size)
    if longest < 2 * at_least:
        return image
    turned = _orientation(image)
    width, height = (-(-side * at_least // longest) for side in image.size)
    image.draft(None, (width, height))  # of a JPEG; decodes that much less
    factor = max(image.size) // at_least
    if factor > 1:
        plain = image.mode in _SHRINKABLE and not image.has_transparency_data
        image = (image if plain else _opaque(image)).reduce(factor)
    image.getexif()[_ORIENTATION] = turned
    return image


def _reason(path: Path, error: Exception) -> str:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return " ".join(str(error).split()) or type(error).__name__
