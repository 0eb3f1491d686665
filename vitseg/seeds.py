"""Seeds: class maps for the classes that each image is labelled with, several sizes and the mirror image averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vitseg.explain import explain
from vitseg.hybrid import trunk_of
from vitseg.methods import find_method
from vitseg.models import Classifier
from vitseg.settings import SeedConfig
from wsss.console import track
from wsss.data import Dataset, Sample, read_image
from wsss.errors import InputError, did_you_mean
from wsss.store import Seed, read_seed, write_seed

NAMES = {"transformer_attribution": "lrp", "lrp": "full_lrp"}
"""What seeds of a method are called where it is not the method's own name."""


@dataclass(frozen=True)
class SeedCounts:
    """What `make_seeds` did; `failed` holds one line for each image that has no seed."""

    images: int
    maps: int
    failed: tuple[str, ...]


def seed_name(method: str, classifier: Classifier) -> str:
    """The usual name of the seeds of a method: lrp_vit, rollout_vit, ..., or of a Hybrid-ViT lrp_hybrid, ..."""
    return f"{NAMES.get(method, method)}_{'vit' if trunk_of(classifier.model) is None else 'hybrid'}"


def outputs_for(classifier: Classifier, dataset: Dataset) -> dict[int, int]:
    """Class index of the data set (1..C) -> output of the classifier, matched by name.

    Raises InputError if the classifier does not know a class of the data set.
    """
    known = {name: output for output, name in enumerate(classifier.class_names)}
    for name in dataset.class_names:
        if name not in known:
            raise InputError(
                f"class {name!r} of data set {dataset.name} is not one of the classifier's: {did_you_mean(name, known)}"
            )
    return {index: known[name] for index, name in enumerate(dataset.class_names, start=1)}


def relabelled(folder: Path, samples: Sequence[Sample]) -> set[str]:
    """Ids of finished seeds that show other classes than their images are labelled with by now."""
    return {sample.id for sample in samples if tuple(read_seed(folder, sample.id).classes.tolist()) != sample.classes}


def make_seeds(
    classifier: Classifier,
    samples: Sequence[Sample],
    outputs: dict[int, int],
    folder: Path,
    config: SeedConfig = SeedConfig(),
    *,
    device: str = "cpu",
    batch_size: int = 8,
) -> SeedCounts:
    """Write the seed of every sample into `folder`; an image without a class gets one without maps.

    Args:
        outputs: class index -> output of the classifier, see `outputs_for`.
        batch_size: maps made at once; bounds the memory. Images are read in groups of that size, on a GPU four times
            as many, so that those of equal shape can go through the model together.

    An image that cannot be read or whose map is not finite is reported in the result, and the others are still made.
    """
    classifier.model.to(device, getattr(torch, config.precision))
    failed: list[str] = []
    images_done = maps = 0

    def finished() -> Iterator[None]:
        nonlocal images_done, maps
        # Images of one shape go in batches: a GPU wants a large group to find them in, a CPU would only seem to hang.
        for group in _groups(samples, batch_size if device == "cpu" else 4 * batch_size):
            images: dict[str, Image.Image] = {}
            for sample in group:
                try:
                    images[sample.id] = read_image(sample.image_path)
                except InputError as error:
                    failed.append(str(error))
            readable = [sample for sample in group if sample.id in images]
            wanted = [[outputs[c] for c in sample.classes] for sample in readable]
            scores = class_maps(classifier, list(images.values()), wanted, config, device=device, batch_size=batch_size)
            for sample, score in zip(readable, scores, strict=True):
                image = images[sample.id]
                if np.isfinite(score).all():
                    classes = np.array(sample.classes, np.uint8)
                    write_seed(folder, sample.id, Seed(score.astype(np.float16), classes, (image.height, image.width)))
                    images_done += 1
                    maps += len(sample.classes)
                else:
                    failed.append(
                        f"image {sample.image_path}: the {config.method} map is not finite; try --precision float64"
                    )
            for _ in group:
                yield

    for _ in track(finished(), f"seeds ({config.method})", total=len(samples)):
        pass
    return SeedCounts(images_done, maps, tuple(failed))


def class_maps(
    classifier: Classifier,
    images: Sequence[Image.Image],
    wanted: Sequence[Sequence[int]],
    config: SeedConfig,
    *,
    device: str = "cpu",
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Scaled maps (K, h, w) float32 in [0, 1] of each image for the classifier's outputs in `wanted`.

    The grid is that of the largest size; the maps of the others are enlarged to it (bilinear). Each size's map is
    scaled by itself.
    """
    sums: list[Tensor] = [torch.zeros(0, 1, 1) for _ in images]
    for size in sorted(config.sizes, reverse=True):
        maps = _maps_of_size(classifier, images, wanted, size, config, device, batch_size)
        for index, found in enumerate(maps):
            scaled = scale_maps(found, config.percentile, config.power)
            if len(scaled) == 0:
                continue
            grid = sums[index].shape[1:] if len(sums[index]) else scaled.shape[1:]
            resized = F.interpolate(scaled[None], grid, mode="bilinear", align_corners=False)[0]
            sums[index] = resized if len(sums[index]) == 0 else sums[index] + resized
    return [(total / len(config.sizes)).numpy() for total in sums]


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


def first_block(classifier: Classifier, config: SeedConfig) -> int:
    """First block of the rollout: the configured one, else where the last third of the blocks begins.

    The peers take 1. Measured on images with masks (README), seeds from the upper blocks alone cover objects better.
    """
    return len(classifier.model.blocks) * 2 // 3 if config.first_block is None else config.first_block


def input_size(image: Image.Image, size: int, patch: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of about `size`^2 pixels in the image's own proportions, in whole patches."""
    factor = size / (image.width * image.height) ** 0.5
    return tuple(
        max(1, round(side * factor / step)) * step
        for side, step in zip((image.height, image.width), patch, strict=True)
    )


def _maps_of_size(
    classifier: Classifier,
    images: Sequence[Image.Image],
    wanted: Sequence[Sequence[int]],
    size: int,
    config: SeedConfig,
    device: str,
    batch_size: int,
) -> list[Tensor]:
    """Unscaled maps (K, h, w) of each image at one size, on the CPU; pairs (image, class) of one shape in batches."""
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    specific = find_method(config.method).class_specific
    first = first_block(classifier, config)
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for index, (image, outputs) in enumerate(zip(images, wanted, strict=True)):
        for output in outputs if specific else outputs[:1]:
            pairs[input_size(image, size, patch)].append((index, output))
    found: dict[int, list[Tensor]] = defaultdict(list)
    dtype = getattr(torch, config.precision)
    step = max(1, batch_size // 2 if config.flip else batch_size)
    for shape, of_shape in pairs.items():
        for start in range(0, len(of_shape), step):
            chunk = of_shape[start : start + step]
            inputs = torch.stack([classifier.prepare(images[index], shape) for index, _ in chunk]).to(device, dtype)
            targets = [output for _, output in chunk]
            if config.flip:
                inputs, targets = torch.cat([inputs, inputs.flip(-1)]), targets * 2
            maps = explain(classifier.model, inputs, targets, config.method, first_block=first, rules=config.rules).maps
            if config.flip:
                upright, mirrored = maps.chunk(2)
                maps = (upright + mirrored.flip(-1)) / 2
            for (index, _), found_map in zip(chunk, maps.cpu(), strict=True):
                found[index].append(found_map)
    stacked = [torch.stack(found[index]) if found[index] else torch.zeros(0, 1, 1) for index in range(len(images))]
    if specific:
        return stacked
    return [
        maps.expand(len(outputs), *maps.shape[1:]) if outputs else maps
        for maps, outputs in zip(stacked, wanted, strict=True)
    ]


def _groups(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
