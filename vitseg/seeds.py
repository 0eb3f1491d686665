"""Seeds: class maps for the classes that each image is labelled with, several sizes and the mirror image averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.explanation import explain
from vitseg.hybrid import trunk_of
from vitseg.methods import find_method
from vitseg.models import Classifier
from vitseg.settings import SeedConfig
from wsss.data import Dataset, Sample
from wsss.maps import (
    SeedCounts,
    average_sizes,
    compete,
    input_size,
    match_classes,
    scale_maps,
    usual_batch_size,
    write_seeds,
)

NAMES = {"transformer_attribution": "lrp", "lrp": "full_lrp"}
"""What seeds of a method are called where it is not the method's own name."""


def seed_name(method: str, classifier: Classifier) -> str:
    """The usual name of the seeds of a method: lrp_vit, rollout_vit, ..., or of a Hybrid-ViT lrp_hybrid, ..."""
    return f"{NAMES.get(method, method)}_{'vit' if trunk_of(classifier.model) is None else 'hybrid'}"


def outputs_for(classifier: Classifier, dataset: Dataset) -> dict[int, int]:
    """Class index of the data set (1..C) -> output of the classifier, matched by name.

    Raises InputError if the classifier does not know a class of the data set.
    """
    return match_classes(classifier.class_names, dataset)


def make_seeds(
    classifier: Classifier,
    samples: Sequence[Sample],
    outputs: dict[int, int],
    folder: Path,
    config: SeedConfig = SeedConfig(),
    *,
    device: str = "cpu",
    batch_size: int | None = None,
) -> SeedCounts:
    """Write the seed of every sample into `folder`; an image without a class gets one without maps.

    Args:
        outputs: class index -> output of the classifier, see `outputs_for`.
        batch_size: maps made at once, `usual_batch_size` unless given; bounds the memory. Images are read in groups of
            that size, on a GPU of four times as many, so that those of equal shape can go through the model together.

    An image that cannot be read or whose map is not finite is reported in the result, and the others are still made.
    """
    classifier.model.to(device, getattr(torch, config.dtype))
    at_once = usual_batch_size(device) if batch_size is None else batch_size

    def maps_of(images: Sequence[Image.Image], shown: Sequence[Sample]) -> list[np.ndarray]:
        wanted = [[outputs[c] for c in sample.classes] for sample in shown]
        return class_maps(classifier, images, wanted, config, device=device, batch_size=at_once)

    # Images of one shape go in batches: a GPU wants a large group to find them in, a CPU would only seem to hang.
    group = at_once if device == "cpu" else 4 * at_once
    return write_seeds(samples, folder, maps_of, group=group, method=config.method, remedy="try `precision` float64")


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
    scaled by itself, after the competition of the classes, if there is one (`wsss.maps.compete`).
    """

    def maps_of(size: int) -> list[Tensor]:
        maps = _maps_of_size(classifier, images, wanted, size, config, device, batch_size)
        if config.competes:
            maps = [compete(found) for found in maps]
        return [scale_maps(found, config.percentile, config.exponent) for found in maps]

    return average_sizes(len(images), config.sizes, maps_of)


def first_block(classifier: Classifier, config: SeedConfig) -> int:
    """First block of the rollout: the configured one, else where the last third of the blocks begins.

    The published code takes 1. Measured on images with masks (docs/results.md), seeds from the upper blocks alone
    cover objects better.
    """
    return len(classifier.model.blocks) * 2 // 3 if config.first_block is None else config.first_block


def _maps_of_size(
    classifier: Classifier,
    images: Sequence[Image.Image],
    wanted: Sequence[Sequence[int]],
    size: int,
    config: SeedConfig,
    device: str,
    batch_size: int,
) -> list[Tensor]:
    """Unscaled maps (K, h, w) of each image at one size, on the CPU.

    Images of one shape and as many classes go in batches, all classes of an image from one forward pass.
    """
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    specific = find_method(config.method).class_specific
    alike: dict[tuple[tuple[int, int], int], list[int]] = defaultdict(list)
    for index, (image, outputs) in enumerate(zip(images, wanted, strict=True)):
        if outputs:
            alike[input_size(image, size, patch), len(outputs) if specific else 1].append(index)
    found = [torch.zeros(0, 1, 1) for _ in images]
    for (shape, classes), places in alike.items():
        at_once = max(1, batch_size // (classes * (1 + config.flip)))
        for start in range(0, len(places), at_once):
            chunk = places[start : start + at_once]
            inputs = torch.stack([classifier.prepare(images[index], shape) for index in chunk])
            maps = _explained(classifier, inputs.to(device), [wanted[index][:classes] for index in chunk], config)
            for index, of_image in zip(chunk, maps.cpu(), strict=True):
                found[index] = of_image.expand(len(wanted[index]), *of_image.shape[1:])
    return found


def _explained(classifier: Classifier, inputs: Tensor, targets: list[Sequence[int]], config: SeedConfig) -> Tensor:
    """Maps (B, K, h, w) of images (B, 3, H, W) for targets (B, K), the mean of image and mirror image if so set."""
    inputs = inputs.to(getattr(torch, config.dtype))
    if config.flip:
        inputs, targets = torch.cat([inputs, inputs.flip(-1)]), targets * 2
    maps = explain(
        classifier.model,
        inputs,
        targets,
        config.method,
        first_block=first_block(classifier, config),
        rules=config.rules,
        attention_walk=config.walk_steps,
        attention_blocks=config.attention_blocks,
    ).maps
    if not config.flip:
        return maps
    upright, mirrored = maps.chunk(2)
    return (upright + mirrored.flip(-1)) / 2
