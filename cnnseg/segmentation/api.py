"""Segmentation from Python: a network by the name of its run or file, and photographs in any form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image
from pydantic import ValidationError

from cnnseg import models
from cnnseg.models import Network
from cnnseg.segmentation.segmenting import Segmentation, segment_pictures
from cnnseg.segmentation.settings import SegmentConfig
from cnnseg.settings import BEST, LAST
from wsss.data import read_image
from wsss.data.files import as_photograph
from wsss.errors import InputError, did_you_mean
from wsss.settings import validation_line
from wsss.training import choose_device

Photograph = str | Path | Image.Image | np.ndarray
"""A file, a PIL image (turned upright by its EXIF orientation), or uint8 RGB (H, W, 3)."""


def load_network(
    network: str | Path, *, runs: str | Path = "runs", which: str = "last", device: str = "auto"
) -> Network:
    """A trained network, ready to use on a device.

    Args:
        network: name of a run below `runs`, folder of a run, or a checkpoint (.safetensors).
        which: "last", or "best": the checkpoint of a run that was chosen on the validation split.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU if there is one.

    Raises:
        InputError: no such network, or a file that is none.
    """
    names = {"last": LAST, "best": BEST}
    if which not in names:
        raise InputError(f"which {which!r}: {did_you_mean(which, names)}")
    found = models.load_network(models.find_network(str(network), Path(runs), names[which]))
    found.module.to(choose_device(device))
    return found


@overload
def segment(network: Network | str | Path, images: Photograph, **how: Any) -> Segmentation: ...


@overload
def segment(network: Network | str | Path, images: Sequence[Photograph], **how: Any) -> list[Segmentation]: ...


def segment(
    network: Network | str | Path,
    images: Photograph | Sequence[Photograph],
    *,
    classes: Sequence[str] | None = None,
    batch_size: int = 4,
    precision: str = "float32",
    **options: Any,
) -> Segmentation | list[Segmentation]:
    """Which class each pixel of a photograph shows.

    Args:
        network: of `load_network`; or what that takes, loaded for this call.
        images: one photograph, see `Photograph`, or several.
        classes: names of the classes that are known to be shown: a pixel is one of them or background. All if None.
        batch_size: photographs of equal size (or tiles of a large one) that go through the network together.
        precision: "float32", or "bfloat16", which is faster on GPUs and CPUs that have it.
        options: fields of `SegmentConfig`: size, tile, overlap, scales, flip.

    Returns:
        A `Segmentation` of a photograph, a list of several: the mask at the photograph's own size, the share of each
        class, an overlay.

    Raises:
        InputError: a file that is no image, an unknown class or option, a network that does not segment.

    Example:
        >>> import cnnseg
        >>> found = cnnseg.segment("runs/segmentation", "cat.jpg")
        >>> found.mask.shape, found.shares["cat"] > 0.5
        ((300, 451), True)
    """
    model = network if isinstance(network, Network) else load_network(network)
    check_segments(model)
    outputs = None if classes is None else [_output(name, model.class_names) for name in classes]
    config, one = _config(options), not isinstance(images, Iterable) or isinstance(images, str | Path | np.ndarray)
    given: Any = [images] if one else images
    found = segment_pictures(
        model,
        [read_photograph(image) for image in given],
        config,
        classes=outputs,
        device=str(next(model.module.parameters()).device),
        batch_size=batch_size,
        precision=precision,
    )
    results = [Segmentation(mask, model.class_names) for mask in found]
    return results[0] if one else results


def check_segments(network: Network) -> None:
    """InputError if a network makes no masks."""
    if not network.module.segments or network.masks == 0:
        raise InputError(f"`network`: a {network.kind} that was trained without masks does not segment")


def read_photograph(image: Photograph) -> Image.Image:
    """The photograph, upright and in RGB. InputError if it is none."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return as_photograph(image)
    if not isinstance(image, np.ndarray):
        raise InputError(f"images: expected a file, a PIL image, or uint8 RGB (H, W, 3), got a {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"image: expected uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
    return Image.fromarray(image)


def _config(options: dict[str, Any]) -> SegmentConfig:
    known = SegmentConfig.model_fields
    for name in options.keys() - known.keys():
        raise InputError(f"segment: no option {name!r}; {did_you_mean(name, known)}")
    try:
        return SegmentConfig(**options)
    except ValidationError as error:
        raise InputError(f"segment: {validation_line(error)}") from None


def _output(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise InputError(f"class {name!r} is unknown to the network: {did_you_mean(name, names)}")
    return list(names).index(name) + 1
