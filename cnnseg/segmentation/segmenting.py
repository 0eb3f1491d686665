"""Photographs of any size to masks of their size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnseg.evaluation import seen_size as seen_at
from cnnseg.models import Network
from cnnseg.segmentation.settings import SegmentConfig
from cnnseg.segmentation.tiles import Tile, cut
from cnnseg.views import check_finite, likely_outputs, look
from wsss.data import BACKGROUND
from wsss.errors import InputError
from wsss.overlay import mask_overlay
from wsss.preparing import at_size
from wsss.store import voc_palette, write_mask


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The mask of a photograph: uint8 (H, W), 0 background, c for ``class_names[c - 1]``."""

    mask: np.ndarray
    class_names: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the photograph's area that is background, and of each class; they sum to 1."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names) + 1)
        return {
            name: float(n / self.mask.size) for name, n in zip(("background", *self.class_names), counts, strict=True)
        }

    def overlay(self, photograph: Image.Image, opacity: float = 0.55) -> Image.Image:
        """The classes' colours over the photograph, an RGB picture of its size. InputError for another size."""
        if photograph.size != self.mask.shape[::-1]:
            height, width = self.mask.shape
            raise InputError(
                f"overlay: expected a photograph of {(width, height)} (width, height), got {photograph.size}"
            )
        return Image.fromarray(mask_overlay(np.asarray(photograph.convert("RGB")), self.mask, voc_palette(), opacity))

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG in the colours of PASCAL VOC: pixel value = class index."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise InputError(f"{path}: expected a name that ends in .png, as masks are PNGs")
        write_mask(path.parent, path.stem, self.mask)


def stride_of(network: Network) -> int:
    """Pixels that the sides of a network's inputs are filled up to a multiple of, as far as it says; 32 of others."""
    return int(getattr(network.module, "multiple", 32))


def check_stride(network: Network, size: tuple[int, int]) -> None:
    """InputError if a photograph of (height, width) `size` is smaller than a network's stride."""
    stride = stride_of(network)
    if min(size) < stride:
        raise InputError(
            f"{size[1]} x {size[0]} pixels (width x height) are less than the network's stride of {stride}; "
            "enlarge the photograph first"
        )


def seen_size(size: tuple[int, int], config: SegmentConfig) -> tuple[int, int]:
    """(height, width) at which the network sees a photograph of (height, width) `size`: shrunk, never enlarged."""
    shrinks = config.size and size[0] * size[1] > config.size**2
    return seen_at(size, config.size) if shrinks else size


@torch.inference_mode()
def segment_pictures(
    network: Network,
    pictures: Sequence[Image.Image],
    config: SegmentConfig = SegmentConfig(),
    *,
    classes: Sequence[int] | None = None,
    device: str = "cpu",
    batch_size: int = 4,
    precision: str = "float32",
) -> Iterator[np.ndarray]:
    """Masks, uint8 (H, W), of upright RGB pictures, in their order; neighbours of equal size go through together.

    Args:
        classes: outputs that pixels may be beside background; all if None.
        batch_size: pictures, or tiles of one picture, in a pass. precision: "float32" or "bfloat16".

    Raises:
        InputError: a picture smaller than the network's stride, or a network that gives NaN or infinite values.
    """
    network.module.to(device).eval()
    stride = stride_of(network)
    told = None if classes is None else [BACKGROUND, *classes]

    def best(shown: Sequence[Image.Image], size: tuple[int, int], allowed: list[int] | None = told) -> list[np.ndarray]:
        logits, maps = look(network, shown, _size(shown[0]), config, device=device, precision=precision)
        scores = [None] * len(shown) if logits is None else logits
        own = [allowed or likely_outputs(network, score, config.gate) for score in scores]
        return [strongest(of_one, size, outputs) for of_one, outputs in zip(check_finite(maps), own, strict=True)]

    def shown_by(picture: Image.Image) -> list[int] | None:
        """Outputs of a picture that goes through in tiles: what it shows is seen when it is looked at as a whole."""
        if told or not config.gate:
            return told
        whole = seen_size(_size(picture), SegmentConfig())
        shown = [at_size(picture, whole)]
        logits, _ = look(network, shown, whole, config, masks=False, device=device, precision=precision)
        return likely_outputs(network, None if logits is None else logits[0], config.gate)

    for size, group in groupby(pictures, key=_size):
        check_stride(network, size)
        seen, alike = seen_size(size, config), list(group)
        if max(seen) <= config.tile:
            for start in range(0, len(alike), batch_size):
                yield from best([at_size(picture, seen) for picture in alike[start : start + batch_size]], size)
            continue
        rows, columns = (cut(extent, config.tile, config.overlap, stride) for extent in seen)
        for picture in alike:
            small, mask, outputs = at_size(picture, seen), np.empty(seen, np.uint8), shown_by(picture)
            tiles = sorted(((row, column) for row in rows for column in columns), key=_shape)
            for shape, same in groupby(tiles, key=_shape):
                places = list(same)
                for start in range(0, len(places), batch_size):
                    part = places[start : start + batch_size]
                    shown = [small.crop((c.start, r.start, c.end, r.end)) for r, c in part]
                    for (r, c), found in zip(part, best(shown, shape, outputs), strict=True):
                        inner = found[r.first - r.start : r.last - r.start, c.first - c.start : c.last - c.start]
                        mask[r.first : r.last, c.first : c.last] = inner
            yield mask if seen == size else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def strongest(maps: Tensor, size: tuple[int, int], allowed: Sequence[int] | None = None) -> np.ndarray:
    """Index of the strongest of maps (C + 1, h, w), enlarged to `size` (bilinear): uint8 (H, W).

    One map is enlarged at a time, so that a large photograph takes two maps of its size, however many classes.
    """
    found, best = np.zeros(size, np.uint8), None
    for output in allowed if allowed is not None else range(len(maps)):
        scores = maps[output].float().cpu().numpy()
        if scores.shape != tuple(size):
            scores = cv2.resize(scores, size[::-1], interpolation=cv2.INTER_LINEAR)
        if best is None:
            best = scores
            found[:] = output
            continue
        wins = scores > best
        found[wins], best = output, np.maximum(best, scores)
    return found


def _size(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


def _shape(tile: tuple[Tile, Tile]) -> tuple[int, int]:
    return tile[0].end - tile[0].start, tile[1].end - tile[1].start
