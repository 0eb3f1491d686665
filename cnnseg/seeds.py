"""Seeds of a convolutional classifier: heat-maps of the unrolled network (`lrp`), or maps of another explanation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cnnseg.explanation import check_explanation, explain
from cnnseg.methods import find_method
from cnnseg.methods.running import layer_at_stride
from cnnseg.models import Network, PlainClassifier
from cnnseg.reading import AT_THE_PIXELS
from cnnseg.settings import BACKGROUND_CLASS, LRP_STRIDE, PIXELS, RULES, SeedConfig
from cnnseg.unroll import UnrolledNetwork, unroll
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.maps import SeedCounts, average_sizes, input_size, match_classes, scale_maps, usual_batch_size, write_seeds

STRIDE = 32
"""Sides of the inputs are multiples of at least this: what the CNNs here shrink an image by."""

Explain = Callable[[Tensor, Sequence[int]], Tensor]
"""Normalised images (B, 3, H, W), outputs (K) -> maps (B, K, h, w), not scaled; see `explanation`."""


def outputs_for(network: Network, dataset: Dataset) -> dict[int, int]:
    """Class index of the data set (1..C) -> output of the network, matched by name; the background's is never one.

    Raises InputError if the network does not know a class of the data set.
    """
    first = BACKGROUND_CLASS + 1
    return {index: first + place for index, place in match_classes(network.class_names, dataset).items()}


def make_seeds(
    network: Network,
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
        outputs: class index -> output of the network, see `outputs_for`.
        batch_size: maps made at once, `usual_batch_size` unless given; bounds the memory. Images are read in groups of
            that size, on a GPU of four times as many, so that those of equal shape and classes can go through the
            network together.

    An image that cannot be read or whose map is not finite is reported in the result, and the others are still made.

    Raises:
        InputError: the method does not go with this network.
    """
    config = settle(network, config)
    explain = explanation(network, config)
    network.module.to(device).eval()
    at_once = usual_batch_size(device) if batch_size is None else batch_size

    def maps_of(images: Sequence[Image.Image], shown: Sequence[Sample]) -> list[np.ndarray]:
        wanted = [[outputs[c] for c in sample.classes] for sample in shown]
        return class_maps(network, explain, images, wanted, config, device=device, batch_size=at_once)

    group = at_once if device == "cpu" else 4 * at_once
    remedy = "look at the network's training: its weights or its scores are out of bounds"
    return write_seeds(samples, folder, maps_of, group=group, method=config.method, remedy=remedy)


def settle(network: Network, config: SeedConfig) -> SeedConfig:
    """The settings with what lrp of a classifier has unless given filled in: `RULES`, and the layer at `LRP_STRIDE`.

    Raises:
        InputError: rules for a network that has its own.
    """
    if isinstance(network.module, UnrolledNetwork) and config.rules is not None:
        raise InputError(
            f"`rules` {config.rules}: this {network.kind} keeps the rules that it was trained with; rules are of "
            "`method` lrp on a classifier of `cnnseg train-classifier`"
        )
    if config.method != "lrp" or not isinstance(network.module, PlainClassifier):
        return config
    layer = config.layer or layer_at_stride(network.module.model, LRP_STRIDE) or PIXELS
    return config.model_copy(update={"rules": config.rules or RULES, "layer": layer})


def identity(network: Network, config: SeedConfig) -> dict[str, object]:
    """What a manifest says of the settings; that pixels are asked for only of a network that is read elsewhere."""
    elsewhere = network.reading not in (None, AT_THE_PIXELS)
    return config.identity | ({"layer": PIXELS} if elsewhere and config.layer == PIXELS else {})


def explanation(network: Network, config: SeedConfig) -> Explain:
    """The function that makes the maps of a method, before they are scaled and averaged over sizes.

    lrp, relevance: the positive part of the relevance of pixels, or of each channel of a layer, the channels then
    summed; of a classifier with the rules and at the layer of `settle`, of an unrolled network the positive part of its
    heat-maps as it was trained (where it is read, its baseline). lrp, softmax: probabilities among background and the
    outputs asked for, of heat-maps as strong as in training (`Network.strength`). Others: the positive part. All are
    averaged over cells of ``config.cell`` pixels, but for cam.

    Raises:
        InputError: an unknown method or rules, a network without the layers that the method needs, or options that the
            method does not have.
    """
    model, config = _classifier(network), settle(network, config)
    method, cell = find_method(config.method), config.cell
    if config.scores != "relevance" and method.name != "lrp":
        raise InputError(
            f"`scores` {config.scores}: of `method` lrp alone; {method.name} has no background to compare with"
        )
    layer = None if config.layer == PIXELS and method.name == "lrp" else config.layer
    check_explanation(model, method.name, rules=config.rules, layer=layer)
    if method.name != "lrp":
        return lambda images, outputs: averaged(
            explain(model, images, [list(outputs)] * len(images), method.name, layer=layer).maps.clamp(min=0),
            images,
            1 if method.name == "cam" else cell,
        )
    plain = isinstance(network.module, PlainClassifier)
    if config.scores == "softmax":
        if plain or network.masks == 0:
            what = f"{network.kind} was trained without masks and" if network.masks == 0 else "classifier"
            raise InputError(f"`scores` softmax: this {what} has not learnt what background is; relevance works on it")
        if layer is not None:
            raise InputError(f"`layer` {layer}: `scores` softmax is of pixels")
    if plain:
        unrolled = unroll(model, rules=config.rules, classes_at_once=network.module.classes_at_once)
    else:
        unrolled = network.module

    def relevance(images: Tensor, outputs: Sequence[int]) -> Tensor:
        if config.layer is None and not plain:
            maps = unrolled.read(images, outputs)
        else:
            maps = unrolled.heatmaps(images, outputs, layer, positive=layer is not None)[1]
        return averaged(maps.clamp(min=0), images, cell)

    def probability(images: Tensor, outputs: Sequence[int]) -> Tensor:
        maps = unrolled.read(images, [BACKGROUND_CLASS, *outputs]) * network.strength(images.shape[-2:])
        return averaged(maps.softmax(1)[:, 1:], images, cell)

    return relevance if config.scores == "relevance" else probability


def averaged(maps: Tensor, images: Tensor, cell: int) -> Tensor:
    """Maps (B, K, h, w) averaged over cells of `cell` pixels of the images (B, 3, H, W); coarser maps as they are.

    A layer's relevance lies on every other place only, where the next convolution has a kernel of 1 and a stride of 2.
    """
    sides = [max(1, round(cell * of / pixels)) for of, pixels in zip(maps.shape[2:], images.shape[2:], strict=True)]
    return F.avg_pool2d(maps, sides, ceil_mode=True, count_include_pad=False)


@torch.inference_mode()
def class_maps(
    network: Network,
    explain: Explain,
    images: Sequence[Image.Image],
    wanted: Sequence[Sequence[int]],
    config: SeedConfig,
    *,
    device: str = "cpu",
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Maps (K, h, w) float32 in [0, 1] of each image for the outputs in `wanted`, averaged over sizes.

    Each size's map is scaled by itself (probabilities keep their scale) and raised to ``config.exponent``. The grid is
    that of the largest size; the maps of the others are enlarged to it (bilinear).
    """
    config = settle(network, config)

    def maps_of(size: int) -> list[Tensor]:
        found = _maps_of_size(network, explain, images, wanted, size, config, device, batch_size)
        if config.scores == "softmax":
            return [maps.clamp(0, 1).pow(config.exponent) for maps in found]
        return [scale_maps(maps, config.percentile, config.exponent) for maps in found]

    return average_sizes(len(images), config.sizes, maps_of)


def _classifier(network: Network) -> nn.Module:
    """The CNN inside, the same whether it is unrolled or not. InputError for a network that is not made of one."""
    if not isinstance(network.module, (PlainClassifier, UnrolledNetwork)):
        raise InputError(
            f"`network`: a {network.kind} is no classifier that could be explained; seeds are made of the networks of "
            "`cnnseg train-classifier` and of unrolled ones"
        )
    return network.module.model


def _maps_of_size(
    network: Network,
    explain: Explain,
    images: Sequence[Image.Image],
    wanted: Sequence[Sequence[int]],
    size: int,
    config: SeedConfig,
    device: str,
    batch_size: int,
) -> list[Tensor]:
    """Maps (K, h, w) of each image at one size, on the CPU; images of one shape and the same classes in batches."""
    step = -(-STRIDE // config.cell) * config.cell  # whole cells
    alike: dict[tuple[tuple[int, int], tuple[int, ...]], list[int]] = defaultdict(list)
    for index, (image, outputs) in enumerate(zip(images, wanted, strict=True)):
        if outputs:
            alike[input_size(image, size, (step, step)), tuple(outputs)].append(index)
    found = [torch.zeros(0, 1, 1) for _ in images]
    for (shape, outputs), places in alike.items():
        at_once = max(1, batch_size // (len(outputs) * (1 + config.flip)))
        for start in range(0, len(places), at_once):
            chunk = places[start : start + at_once]
            inputs = torch.stack([network.prepare(images[index], shape) for index in chunk]).to(device)
            maps = explain(torch.cat([inputs, inputs.flip(-1)]) if config.flip else inputs, outputs)
            if config.flip:
                upright, mirrored = maps.chunk(2)
                maps = (upright + mirrored.flip(-1)) / 2
            for index, of_image in zip(chunk, maps.float().cpu(), strict=True):
                found[index] = of_image
    return found
