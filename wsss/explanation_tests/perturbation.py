"""The perturbation test: how fast a model's accuracy falls when the pixels that a map calls (un)important are removed.

Samek et al., IEEE TNNLS 2017, in the form of Chefer, Gur and Wolf, CVPR 2021, section 4 and table 2.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.maps import upsample
from wsss.explanation_tests.tested import ModelUnderTest, Photographs
from wsss.statistics import FRACTIONS

STEPS = len(FRACTIONS)  # tenths of the pixels, 0 to 9
DIRECTIONS = ("negative", "positive")
EXPLAINED = ("predicted", "target")


def removal_places(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The place of every pixel in the order of relevance: one sort an image serves every step of both directions.

    Args:
        maps: (P, h, w) relevance on the method's own grid, finite, of any sign and scale.
        size: (H, W) of the image; the maps are enlarged to it (bilinear, pixel centres at half integers).

    Returns:
        (P, H, W) int64, each a permutation of 0 .. H W - 1; 0 is the most relevant pixel. Among equals the upper left
        one comes first.
    """
    order = upsample(maps, size).flatten(1).argsort(dim=1, descending=True, stable=True)
    counted = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, counted).unflatten(1, size)


@torch.inference_mode()
def correct_after_removal(
    tested: ModelUnderTest, inputs: Tensor, places: Tensor, targets: Tensor, clean: Tensor
) -> Tensor:
    """Whether the model still names the target when a share of the pixels is black.

    Args:
        tested: its model in evaluation mode.
        inputs: (P, 3, H, W), normalised.
        places: (P, H, W), of `removal_places`.
        targets: (P,) outputs that are right.
        clean: (P,) bool, whether the untouched image was right.

    Returns:
        bool (P, 2, 10): [negative, positive][tenth of the pixels removed], on the CPU. At tenth t the t H W / 10
        (rounded down) least (negative) or most (positive) relevant pixels are black.
    """
    pixels, black = places[0].numel(), tested.black()
    correct = torch.empty(len(inputs), len(DIRECTIONS), STEPS, dtype=torch.bool)
    correct[:, :, 0] = clean.cpu()[:, None]
    for tenth in range(1, STEPS):
        count = tenth * pixels // 10
        for direction, gone in enumerate((places >= pixels - count, places < count)):
            found = tested.predict(torch.where(gone[:, None], black, inputs))
            correct[:, direction, tenth] = (found == targets).cpu()
    return correct


def perturb(
    tested: ModelUnderTest, photographs: Photographs, targets: Tensor, explainer: Explainer, *, batch_size: int = 16
) -> Generator[None, None, dict[str, np.ndarray]]:
    """The test of one explainer on a part of the images. Yields once an image, for the progress; returns the results.

    What is the same is computed once: one map serves both explained classes where the prediction is right, and for
    every image if the explainer gives the same map for every class.

    Args:
        targets: int64 (n,), outputs of the model that are right.

    Returns:
        predicted and target int64 (n,), outputs of the model; correct bool (n, 2, 2, 10): [explained class: predicted,
        target][negative, positive][tenth of the pixels removed].

    Raises:
        InputError: a map is not finite, or as `Explainer.maps`.
    """
    predicted = photographs.predicted
    right = predicted == targets
    correct = torch.empty(len(targets), len(EXPLAINED), len(DIRECTIONS), STEPS, dtype=torch.bool)
    one = right if explainer.class_specific else torch.ones_like(right)
    classes = torch.stack([predicted, targets], dim=1)
    # pairs of image and class go in batches of one size, whether an image has one class to explain or two
    groups = [(part, 1) for part in one.nonzero()[:, 0].split(batch_size)]
    groups += [(part, 2) for part in (~one).nonzero()[:, 0].split(max(1, batch_size // 2))]
    for part, maps_each in groups:
        if len(part) == 0:
            continue
        inputs = tested.inputs(photographs.pixels[part])
        wanted = classes[part, :maps_each].to(inputs.device)
        maps = explainer.maps(tested.model, inputs, wanted, [photographs.ids[place] for place in part])
        found = correct_after_removal(
            tested,
            inputs.repeat_interleave(maps_each, 0) if maps_each > 1 else inputs,
            removal_places(maps.flatten(0, 1), inputs.shape[2:]),
            targets[part].to(inputs.device).repeat_interleave(maps_each, 0),
            right[part].repeat_interleave(maps_each, 0),
        )
        correct[part] = found.unflatten(0, (len(part), maps_each))  # a single map stands for both classes
        for _ in part:
            yield
    return {"predicted": predicted.numpy(), "target": targets.numpy(), "correct": correct.numpy()}
