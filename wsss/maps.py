"""What all makers of seeds share: the size of inputs, the scale of maps, averages over sizes, the loop to files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss.data import Dataset, Sample
from wsss.errors import InputError, did_you_mean
from wsss.processes import gathered
from wsss.progress import note, track
from wsss.store import DATA, Seed, Stage, class_array, due, file_hash, read_seed, write_seed
from wsss.store.work import all_done
from wsss.words import agreeing, counted

MapsOf = Callable[[Sequence[Image.Image], Sequence[Sample]], list[np.ndarray]]
"""Images with their samples -> (K, h, w) maps in [0, 1] of each, for the classes of its sample."""


@dataclass(frozen=True)
class SeedCounts:
    """What `write_seeds` did; `failed` holds one line for each image that has no seed."""

    images: int
    maps: int
    failed: tuple[str, ...]


def match_classes(known: Sequence[str], dataset: Dataset) -> dict[int, int]:
    """Class index of the data set (1..C) -> place in `known`, a classifier's class names, matched by name.

    Raises InputError if the classifier does not know a class of the data set.
    """
    places = {name: place for place, name in enumerate(known)}
    for name in dataset.class_names:
        if name not in places:
            raise InputError(
                f"class {name!r} of data set {dataset.name} is not one of the classifier's: "
                f"{did_you_mean(name, places)}"
            )
    return {index: places[name] for index, name in enumerate(dataset.class_names, start=1)}


def input_size(image: Image.Image, size: int, step: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of about `size`^2 pixels in the image's own proportions, in whole multiples of `step`."""
    factor = size / (image.width * image.height) ** 0.5
    return tuple(
        max(1, round(side * factor / unit)) * unit for side, unit in zip((image.height, image.width), step, strict=True)
    )


def scale_maps(maps: Tensor, percentile: float = 100, power: float = 1) -> Tensor:
    """Min-max scale each map, the upper end at a percentile, clip to [0, 1], and raise to `power`.

    Args:
        maps: (K, h, w). A constant map becomes 0, one with NaN or infinity NaN throughout.

    Returns:
        (K, h, w) float32 in [0, 1].
    """
    if maps.numel() == 0:
        return maps.float()
    flat = maps.flatten(1).double()
    low = flat.amin(1)[:, None, None]
    high = (flat.amax(1) if percentile == 100 else flat.quantile(percentile / 100, dim=1))[:, None, None]
    span = high - low
    scaled = torch.where(span > 0, (maps.double() - low) / torch.where(span > 0, span, 1.0), 0.0)
    finite = flat.isfinite().all(1)[:, None, None]
    return torch.where(finite, scaled.clamp(0, 1).pow(power), torch.nan).float()


def compete(maps: Tensor) -> Tensor:
    """Divide the evidence at each place among the classes of an image, by how much of its own each class has there.

    m'_c = m_c p_c / sum_k p_k with p_c = m_c / sum m_c over the image, m counted from its minimum. A map that lies on
    several objects gives way where one that lies on a single object has all it has: a classifier sees a person in the
    dog beside as well, not a dog in the person. One step of expectation maximisation of a mixture with a component for
    each class; more take too much (docs/better_masks.md).

    Args:
        maps: (K, h, w). Nothing changes with K = 1 but the minimum, which becomes 0.

    Returns:
        (K, h, w) float64, at least 0; NaN throughout if one of the maps is not finite.
    """
    if maps.numel() == 0:
        return maps.double()
    evidence = maps.double() - maps.double().amin((1, 2), keepdim=True)
    density = _shares(evidence, (1, 2))
    return evidence * _shares(density, (0,))


def _shares(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Values divided by their sum over `dims`; 0 where that is 0."""
    total = values.sum(dims, keepdim=True)
    return torch.where(total == 0, 0.0, values / total)


def average_sizes(count: int, sizes: Sequence[int], maps_of: Callable[[int], Sequence[Tensor]]) -> list[np.ndarray]:
    """Maps (K, h, w) float32 of `count` images, each averaged over sizes.

    Args:
        maps_of: size -> scaled maps (K, h, w) of every image, K = 0 for an image without a class.

    The grid is that of the largest size; the maps of the others are enlarged to it (bilinear).
    """
    sums: list[Tensor] = [torch.zeros(0, 1, 1) for _ in range(count)]
    for size in sorted(sizes, reverse=True):
        for index, scaled in enumerate(maps_of(size)):
            if len(scaled) == 0:
                continue
            grid = sums[index].shape[1:] if len(sums[index]) else scaled.shape[1:]
            resized = F.interpolate(scaled[None], grid, mode="bilinear", align_corners=False)[0]
            sums[index] = resized if len(sums[index]) == 0 else sums[index] + resized
    return [(total / len(sizes)).numpy() for total in sums]


def usual_batch_size(device: str) -> int:
    """Maps made at once unless a number is given. More are no faster on a CPU, where a kill then costs one image."""
    return 1 if device == "cpu" else 8


def workload(images: int, sizes: Sequence[int], flip: bool) -> str:
    """What seeds take, for the line before a long silence.

    >>> workload(8, (224, 320, 448), flip=True), workload(1, (224,), flip=False)
    ('8 images, each at 3 sizes and mirrored', '1 image, at 1 size')
    """
    each = agreeing(images, "", "each ")
    return f"{counted(images, 'image')}, {each}at {counted(len(sizes), 'size')}{' and mirrored' if flip else ''}"


def write_seeds(
    samples: Sequence[Sample], folder: Path, maps_of: MapsOf, *, group: int, method: str, remedy: str
) -> SeedCounts:
    """Write the seed of every sample into `folder`; an image without a class gets one without maps.

    Args:
        group: images read at once, so that `maps_of` can batch those of equal shape.
        method: its name, for the progress and for messages.
        remedy: what to do about a map that is not finite.

    An image that cannot be read or whose map is not finite is reported in the result, and the others are still made.
    """
    failed: list[str] = []
    images_done = maps = 0

    def finished() -> Iterator[None]:
        nonlocal images_done, maps
        for start in range(0, len(samples), group):
            images: dict[str, Image.Image] = {}
            for sample in samples[start : start + group]:
                try:
                    images[sample.id] = sample.load_image()
                except InputError as error:
                    failed.append(str(error))
            readable = [sample for sample in samples[start : start + group] if sample.id in images]
            for sample, score in zip(readable, maps_of(list(images.values()), readable), strict=True):
                image = images[sample.id]
                if np.isfinite(score).all():
                    seed = Seed(score.astype(np.float16), class_array(sample.classes), (image.height, image.width))
                    write_seed(folder, sample.id, seed, sample.made_of)
                    images_done += 1
                    maps += len(sample.classes)
                else:
                    failed.append(f"image {sample.image_path}: the {method} map is not finite; {remedy}")
            for _ in samples[start : start + group]:
                yield

    for _ in track(finished(), f"seeds ({method})", total=len(samples)):
        pass
    return SeedCounts(images_done, maps, tuple(failed))


def run_seeds(
    dataset: Dataset,
    folder: Path,
    make: Callable[[list[Sample], Path], SeedCounts],
    *,
    config: Mapping[str, Any],
    inputs: dict[str, str],
    sources: Mapping[str, Path] | None = None,
    code: Path | None = None,
    command: str,
) -> None:
    """The seeds stage of a run: what is there and up to date is kept, the rest is made, and the manifest says how.

    Several processes share the work (`wsss.processes`).

    Args:
        folder: of the stage, ``<run>/seeds``. make: (samples, folder) -> counts.
        config: all that changes the maps. inputs: fingerprints of what they are made from, see `Stage.open`.
        sources: where these lie.
        code: file of a method that is not this toolkit's, another input.

    Raises:
        InputError: made with other settings before, being made by another process, or, after all others are made, an
            image that has no seed.
    """
    begin = time.monotonic()
    stage_of = Stage.writing(
        folder,
        kind="seeds",
        config=dict(config),
        class_names=dataset.class_names,
        suffix=".npz",
        inputs={**inputs, **({} if code is None else {"method": file_hash(code)})},
        sources={DATA: dataset.root, **(sources or {}), **({} if code is None else {"method": code})},
    )
    with stage_of as stage:

        def relabelled(sample: Sample) -> bool:
            return tuple(read_seed(stage.folder, sample.id).classes.tolist()) != sample.classes

        counts = gathered(make(due(stage, dataset.samples, "seeds", outdated=relabelled), stage.folder))
        images, maps = sum(found.images for found in counts), sum(found.maps for found in counts)
        failed = [line for found in counts for line in found.failed]
        complete = all_done(dataset.samples, lambda samples: stage.pending([sample.id for sample in samples]))
        if complete:
            made = {"images": images, "maps": maps, "failed": len(failed)}
            seconds = time.monotonic() - begin
            stage.done_if(images or failed, command=command, split=dataset.split, counts=made, seconds=seconds)
    if failed:
        more = f" ({len(failed)} images have no seed; the others are made)" if len(failed) > 1 else ""
        raise InputError(f"{failed[0]}{more}")
    if complete:
        every = f"{agreeing(len(dataset), '', 'all ')}{counted(len(dataset), 'image')}"
        note(f"{stage.folder}: seeds of {every} of {dataset.name}/{dataset.split}")
