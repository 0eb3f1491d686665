"""The segmentation test: a map of the predicted class, cut at its mean, against the mask of the object.

Chefer, Gur and Wolf, CVPR 2021, section 4 and table 3 (ImageNet-segmentation).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss.data import IGNORE, Dataset, Sample, foreground_truth
from wsss.errors import InputError
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.figures import foreground
from wsss.explanation_tests.maps import upsample
from wsss.explanation_tests.tested import ModelUnderTest, Photographs, squeeze
from wsss.maps import scale_maps
from wsss.statistics import average_precision


@dataclass(frozen=True, eq=False)
class ImageScore:
    """What one image adds: ``confusion`` int64 (2, 2) [truth][prediction], 0 background, 1 foreground, without ignored
    pixels; ``ap`` average precision and ``f1`` of the foreground, both in [0, 1], NaN where there is nothing to count.
    """

    confusion: np.ndarray
    ap: float
    f1: float


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (P, h, w) at `size` (H, W), bilinear, then each min-max scaled: (P, H, W) float32 in [0, 1].

    A constant map becomes 0 throughout, one with NaN or infinity NaN.
    """
    return scale_maps(upsample(maps.float(), size))


def score_image(heat: np.ndarray, truth: np.ndarray) -> ImageScore:
    """Compare a map (H, W) in [0, 1] with the truth (H, W), 0 background, 1 foreground, 255 ignored.

    Ignored pixels take part in the map's mean, as the model sees them too, and in nothing else. A constant map is 0
    throughout: all is background.
    """
    kept = truth != IGNORE
    pairs = 2 * truth[kept].astype(np.int64) + foreground(heat)[kept]
    confusion = np.bincount(pairs, minlength=4).reshape(2, 2)
    (_, false), (missed, found) = confusion.tolist()
    due = 2 * found + false + missed
    return ImageScore(confusion, average_precision(heat, truth), 2 * found / due if due else float("nan"))


def load_pair(dataset: Dataset, sample: Sample, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Photograph uint8 (h, w, 3) and truth uint8 (h, w) of a sample at `size` (h, w): bilinear and nearest pixel (PIL).

    The truth is 1 where the sample's class is, 0 in the background, 255 ignored. InputError if either cannot be read or
    they differ in size.
    """
    image, mask = dataset.load_image(sample), dataset.load_mask(sample)
    if clash := sample.size_clash((image.height, image.width), mask.shape):
        raise InputError(clash)
    truth = Image.fromarray(foreground_truth(mask, sample.classes[0]))
    return squeeze(image, size), np.array(truth.resize((size[1], size[0]), Image.Resampling.NEAREST))


def segment(
    tested: ModelUnderTest, photographs: Photographs, truths: np.ndarray, explainer: Explainer, *, batch_size: int = 16
) -> Generator[None, None, dict[str, np.ndarray]]:
    """The test of one explainer on a part of the images. Yields once an image, for the progress; returns the results.

    Args:
        truths: uint8 (n, H, W), 0 background, 1 foreground, 255 ignored.

    Returns:
        predicted int64 (n,), confusion int64 (n, 2, 2), ap and f1 float64 (n,), maps float16 (n, h, w) on the
        explainer's own grid, min-max scaled.

    Raises:
        InputError: a map is not finite, or as `Explainer.maps`.
    """
    scores: list[ImageScore] = []
    grids: list[Tensor] = []
    for start in range(0, len(photographs.pixels), batch_size):
        chunk = slice(start, start + batch_size)
        inputs = tested.inputs(photographs.pixels[chunk])
        predicted = photographs.predicted[chunk, None].to(inputs.device)
        maps = explainer.maps(tested.model, inputs, predicted, photographs.ids[chunk])[:, 0]
        grids.append(scale_maps(maps).half().cpu())
        heats = enlarge(maps, tuple(inputs.shape[2:])).cpu().numpy()
        for heat, truth in zip(heats, truths[chunk], strict=True):
            scores.append(score_image(heat, truth))
            yield
    return {
        "predicted": photographs.predicted.numpy(),
        "confusion": np.stack([score.confusion for score in scores]),
        "ap": np.array([score.ap for score in scores]),
        "f1": np.array([score.f1 for score in scores]),
        "maps": torch.cat(grids).numpy(),
    }
