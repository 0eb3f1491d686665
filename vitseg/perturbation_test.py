"""The perturbation test: how fast a model's accuracy falls when the pixels that a map calls (un)important are removed.

Samek et al., IEEE TNNLS 2017, in the form of Chefer, Gur and Wolf, CVPR 2021, section 4 and table 2.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.explain import explain
from vitseg.methods import find_method
from vitseg.models import Classifier
from vitseg.trial import model_input
from wsss.data import Dataset
from wsss.data.imagenet import class_hint
from wsss.data.wordnet import wordnet_ids
from wsss.errors import InputError
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
    full = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    order = full.flatten(1).argsort(dim=1, descending=True, stable=True)
    counted = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, counted).unflatten(1, size)


@torch.inference_mode()
def correct_after_removal(
    model: nn.Module, inputs: Tensor, black: Tensor, places: Tensor, targets: Tensor, clean: Tensor
) -> Tensor:
    """Whether the model still names the target when a share of the pixels is black.

    Args:
        model: inputs to logits (P, C); in evaluation mode.
        inputs: (P, 3, H, W), normalised.
        black: (1, 3, 1, 1), what 0 in [0, 1] is after normalisation.
        places: (P, H, W), of `removal_places`.
        targets: (P,) outputs that are right.
        clean: (P,) bool, whether the untouched image was right.

    Returns:
        bool (P, 2, 10): [negative, positive][tenth of the pixels removed], on the CPU. At tenth t the t H W / 10
        (rounded down) least (negative) or most (positive) relevant pixels are black.
    """
    pixels = places[0].numel()
    correct = torch.empty(len(inputs), len(DIRECTIONS), STEPS, dtype=torch.bool)
    correct[:, :, 0] = clean.cpu()[:, None]
    for tenth in range(1, STEPS):
        count = tenth * pixels // 10
        for direction, gone in enumerate((places >= pixels - count, places < count)):
            logits = model(torch.where(gone[:, None], black, inputs))
            correct[:, direction, tenth] = (logits.argmax(1) == targets).cpu()
    return correct


@dataclass(frozen=True, eq=False)
class Photographs:
    """Images of one part of the test and what the model makes of them untouched.

    ``ids`` n names for messages; ``pixels`` uint8 (n, 3, H, W), small enough to keep; ``predicted``, ``targets``
    int64 (n,) outputs of the model. All on the CPU.
    """

    ids: tuple[str, ...]
    pixels: Tensor
    predicted: Tensor
    targets: Tensor


def classify(
    classifier: Classifier,
    pixels: Tensor,
    ids: Sequence[str],
    targets: Sequence[int],
    *,
    device: str = "cpu",
    batch_size: int = 16,
) -> Photographs:
    """Classify uint8 (n, 3, H, W) untouched, once for all methods."""
    with torch.inference_mode():
        chunks = [classifier.model(model_input(classifier, chunk, device)) for chunk in pixels.split(batch_size)]
        predicted = torch.cat([logits.argmax(1).cpu() for logits in chunks])
    return Photographs(tuple(ids), pixels, predicted.clone(), torch.as_tensor(targets))


def perturb(
    classifier: Classifier,
    photographs: Photographs,
    method: str,
    *,
    device: str = "cpu",
    batch_size: int = 16,
    **options: object,
) -> Generator[None, None, dict[str, np.ndarray]]:
    """The test of one method on a part of the images. Yields once an image, for the progress; returns the results.

    What is the same is computed once: one map serves both explained classes where the prediction is right, and for
    every image if the method gives the same map for every class.

    Args:
        options: of `explain` (first_block, rules).

    Returns:
        predicted and target int64 (n,), outputs of the model; correct bool (n, 2, 2, 10): [explained class: predicted,
        target][negative, positive][tenth of the pixels removed].

    Raises:
        InputError: a map is not finite, or as `explain`.
    """
    predicted, targets = photographs.predicted, photographs.targets
    right = predicted == targets
    correct = torch.empty(len(targets), len(EXPLAINED), len(DIRECTIONS), STEPS, dtype=torch.bool)
    one = right if find_method(method).class_specific else torch.ones_like(right)
    classes = torch.stack([predicted, targets], dim=1)
    # pairs of image and class go in batches of one size, whether an image has one class to explain or two
    groups = [(part, 1) for part in one.nonzero()[:, 0].split(batch_size)]
    groups += [(part, 2) for part in (~one).nonzero()[:, 0].split(max(1, batch_size // 2))]
    black = model_input(classifier, torch.zeros(1, 3, 1, 1), device)
    for part, maps_each in groups:
        if len(part) == 0:
            continue
        inputs = model_input(classifier, photographs.pixels[part], device)
        wanted = classes[part, :maps_each].to(device)
        maps = explain(classifier.model, inputs, wanted, method, **options).maps.flatten(0, 1)
        finite = maps.isfinite().flatten(1).all(1).unflatten(0, wanted.shape).all(1).cpu()
        if not finite.all():
            image_id = photographs.ids[part[~finite][0]]
            raise InputError(f"image {image_id}: the {method} map is not finite; try --precision float64")
        found = correct_after_removal(
            classifier.model,
            inputs.repeat_interleave(maps_each, 0) if maps_each > 1 else inputs,
            black,
            removal_places(maps, inputs.shape[2:]),
            targets[part].to(device).repeat_interleave(maps_each, 0),
            right[part].repeat_interleave(maps_each, 0),
        )
        correct[part] = found.unflatten(0, (len(part), maps_each))  # a single map stands for both classes
        for _ in part:
            yield
    return {"predicted": predicted.numpy(), "target": targets.numpy(), "correct": correct.numpy()}


def target_outputs(classifier: Classifier, dataset: Dataset) -> list[int]:
    """The output of the classifier that each image's class means.

    Classes are matched by name; the WordNet ids of ImageNet-1k also with an ImageNet head of timm, whose 1,000 outputs
    are named "0" to "999" in the order of the ids.

    Raises:
        InputError: an image without exactly one class, or a class that the classifier does not know.
    """
    for sample in dataset:
        if len(sample.classes) != 1:
            raise InputError(f"image {sample.id}: shows {len(sample.classes)} classes; the test needs images of one")
    shown = sorted({sample.classes[0] for sample in dataset})
    names = [dataset.class_names[index - 1] for index in shown]
    if classifier.class_names == tuple(str(output) for output in range(1000)) and not names[0].isdigit():
        order = {name: output for output, name in enumerate(wordnet_ids())}
        strangers = [name for name in names if name not in order]
        if strangers:
            raise InputError(
                f"class {strangers[0]!r} of data set {dataset.name} is no WordNet id of ImageNet-1k (such as "
                "n02123045), the only classes that the model knows; give a --classifier trained on these classes"
            )
        known = {index: order[name] for index, name in zip(shown, names, strict=True)}
    else:
        order = {name: output for output, name in enumerate(classifier.class_names)}
        for name in names:
            if name not in order:
                raise InputError(
                    f"class {name!r} of data set {dataset.name} is not one of the model's: {class_hint(name, order)}"
                )
        known = {index: order[name] for index, name in zip(shown, names, strict=True)}
    return [known[sample.classes[0]] for sample in dataset]
