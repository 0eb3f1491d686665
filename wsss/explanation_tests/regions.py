"""The region test: how the score of a region falls when the pixels that a map calls (un)important are removed.

The perturbation test of Samek et al. (IEEE TNNLS 2017, in the form of `wsss.explanation_tests.perturbation`) for
networks that segment: the region's own score takes the place of the accuracy, and pixels are removed outside of the
region alone, so that the network is asked whether context matters, or inside of it alone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss.errors import InputError
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.perturbation import DIRECTIONS, STEPS, removal_places
from wsss.explanation_tests.tested import ModelUnderTest, stack
from wsss.preparing import at_size

WHERE = ("outside", "inside")
"""Where pixels are removed; of the region, which is what the network predicts as the class in the untouched image."""


class OfRegion(Protocol):
    """A network that segments as a classifier of a region, such as `cnnseg.adapt` makes: a tested's ``model``."""

    region: Tensor | None

    def maps(self, images: Tensor) -> Tensor:
        """Scores (B, C, h, w) of the pixels of images (B, 3, H, W)."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and a class: ``inputs`` (1, 3, H, W) normalised; ``target``: the class's output; ``region`` bool (h, w)
    on the grid of the network's maps, its pixels that are predicted as the class. ``id`` for messages.
    """

    id: str
    inputs: Tensor
    target: int
    region: Tensor

    @property
    def pixels(self) -> Tensor:
        """The region at the image's size, bool (H, W)."""
        size = self.inputs.shape[2:]
        if self.region.shape == size:
            return self.region
        return F.interpolate(self.region[None, None].float(), size, mode="nearest-exact")[0, 0] > 0


@torch.inference_mode()
def find_pair(tested: ModelUnderTest, image: Image.Image, size: int, target: int, name: str) -> Pair:
    """The image at an area of `size` x `size` pixels at most, in its own proportions, with the region of a class.

    Args:
        size: 0: the image as it is.
        target: output of the class. name: of the pair.

    Raises:
        InputError: the network's maps are not finite.
    """
    factor = size / (image.width * image.height) ** 0.5
    if 0 < factor < 1:
        image = at_size(image, (max(1, round(image.height * factor)), max(1, round(image.width * factor))))
    inputs = tested.inputs(stack([np.array(image)]))
    maps = tested.model.maps(inputs)
    if not maps.isfinite().all():
        raise InputError(f"image {name}: the network gives values that are not finite")
    return Pair(name, inputs.clone(), target, maps[0].argmax(0) == target)


def places_among(places: Tensor, chosen: Tensor) -> Tensor:
    """The place of every chosen pixel among those that are chosen.

    Args:
        places: (P, H, W) of `removal_places`. chosen: bool (P, H, W).

    Returns:
        (P, H, W) int64, 0 for the most relevant chosen pixel; -1 for those that are not chosen.
    """
    order = places.flatten(1).argsort(1)
    taken = chosen.flatten(1).gather(1, order)
    among = torch.where(taken, taken.cumsum(1) - 1, -1)
    return torch.empty_like(order).scatter_(1, order, among).unflatten(1, places.shape[1:])


@torch.inference_mode()
def scores_after_removal(
    tested: ModelUnderTest, pair: Pair, places: Tensor, where: Tensor, clean: Tensor, batch_size: int
) -> Tensor:
    """The region's scores while more and more pixels of a part of the image are black.

    Args:
        places: (H, W) of `removal_places`. where: bool (H, W), the pixels that may be removed, n of them.
        clean: (2,), the scores of the untouched image.

    Returns:
        (2, 2, 10): [mean probability of the class over the region, mean logit][negative, positive][tenth removed], on
        the CPU; at tenth t the t n / 10 (rounded down) least (negative) or most (positive) relevant are black. NaN
        where there is nothing to remove.
    """
    count = int(where.sum())
    if count == 0:
        return torch.full((2, len(DIRECTIONS), STEPS), torch.nan)
    among = places_among(places[None], where[None])[0]
    gone = [(among >= 0) & (among >= count - tenth * count // 10) for tenth in range(1, STEPS)]
    gone += [(among >= 0) & (among < tenth * count // 10) for tenth in range(1, STEPS)]
    black = tested.black()
    found = [
        region_scores(tested.model, torch.where(torch.stack(part)[:, None], black, pair.inputs), pair)
        for part in (gone[start : start + batch_size] for start in range(0, len(gone), batch_size))
    ]
    curves = torch.cat(found, dim=1).unflatten(1, (len(DIRECTIONS), STEPS - 1))
    return torch.cat([clean[:, None, None].expand(-1, len(DIRECTIONS), 1), curves], dim=2)


def region_scores(model: OfRegion, inputs: Tensor, pair: Pair) -> Tensor:
    """Mean softmax probability, in [0, 1], and mean logit of the pair's class over its region: (2, B), on the CPU."""
    maps = model.maps(inputs)[:, :, pair.region].double()  # (B, C, pixels)
    scores = maps.softmax(1)[:, pair.target], maps[:, pair.target]
    return torch.stack([score.mean(1) for score in scores]).cpu()


def evaluate_regions(
    tested: ModelUnderTest, pairs: Sequence[Pair], explainer: Explainer, *, least: float = 0.0, batch_size: int = 16
) -> Generator[None, None, dict[str, np.ndarray]]:
    """The test of one explainer on some pairs. Yields once a pair, for the progress; returns the results.

    Args:
        tested: its model is an `OfRegion`, in evaluation mode.
        least: share of an image's pixels that a region has to have to be tested.
        batch_size: images that go through the network at once.

    Returns:
        probability float32 (n, 2, 2, 10) in [0, 1] and logit float32 (n, 2, 2, 10): [outside, inside][negative,
        positive][tenth of the pixels removed]; pixels int64 (n, 2): how many there are outside and inside. NaN of pairs
        whose class no pixel, or fewer than `least`, is predicted as, and where there is nothing to remove.

    Raises:
        InputError: as `Explainer.maps`.
    """
    shape = (len(pairs), len(WHERE), len(DIRECTIONS), STEPS)
    probability, logit = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    pixels = np.zeros((len(pairs), len(WHERE)), np.int64)
    for row, pair in enumerate(pairs):
        inside = pair.pixels
        pixels[row] = int((~inside).sum()), int(inside.sum())
        if bool(pair.region.any()) and pixels[row, 1] >= least * inside.numel():
            tested.model.region = pair.region[None, None]
            target = torch.tensor([[pair.target]], device=pair.inputs.device)
            relevance = explainer.maps(tested.model, pair.inputs, target, [pair.id])[0]
            places = removal_places(relevance, tuple(pair.inputs.shape[2:]))[0]
            with torch.inference_mode():
                clean = region_scores(tested.model, pair.inputs, pair)[:, 0]
            for place, where in enumerate((~inside, inside)):
                found = scores_after_removal(tested, pair, places, where, clean, batch_size)
                probability[row, place], logit[row, place] = found.numpy()
        yield
    return {"probability": probability.clip(0, 1), "logit": logit, "pixels": pixels}
