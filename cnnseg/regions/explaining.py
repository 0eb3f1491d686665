"""A photograph, a network that segments, and a question about a region: the map that answers it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import cnnseg
from cnnseg.adapter import RegionClassifier, adapt
from cnnseg.explanation import check_explanation
from cnnseg.methods import METHODS, find_method
from cnnseg.models import Network
from cnnseg.regions.geometry import Size
from cnnseg.regions.layers import LayerMaps, list_layers, usual_layer
from cnnseg.regions.marking import mark_region
from cnnseg.regions.seen import BACKGROUND_NAME, SPECK, Seen, known_output, region_of, usual_class
from cnnseg.regions.settings import Score, SegmentationQuestion, question_of
from cnnseg.segmentation.api import Photograph, check_segments, load_network, read_photograph
from cnnseg.segmentation.segmenting import check_finite, check_stride, seen_size
from cnnseg.segmentation.settings import SegmentConfig
from wsss.colours import OPACITY
from wsss.errors import InputError
from wsss.lettering import ColourBar
from wsss.overlay import colour_limits, overlay, with_words


@dataclass(frozen=True, eq=False)
class RegionExplanation:
    """Why the pixels of a region have the score that they have.

    Attributes:
        map: float32 (h, w), on the method's own grid: the pixels that the network saw, or those of a layer. `full` lays
            it over the photograph.
        covers: (height, width) of what the grid lies over, in pixels of ``seen.images``: those, or a little more where
            the network fills them up to a multiple of its stride.
        score: mean score of the class over the region (of margins: mean of how much it is above the best other class).
        region: bool (h', w'), the cells of the network's output that the mean is over.
        question: what was asked, its class and layer filled in.
        seen: the photograph as it was seen.
    """

    map: np.ndarray
    covers: Size
    score: float
    region: np.ndarray
    question: SegmentationQuestion
    seen: Seen

    @property
    def class_name(self) -> str:
        """The class that was explained."""
        return self.question.class_name or BACKGROUND_NAME

    @property
    def signed(self) -> bool:
        """Whether the method's maps may have negative values."""
        return METHODS[self.question.method].signed

    @property
    def limits(self) -> tuple[float, float]:
        """Values of the first and the last colour, from 0 up if the map is not signed."""
        low, high = colour_limits(self.map, self.signed)
        return low if self.signed else 0.0, high

    @property
    def full(self) -> np.ndarray:
        """The map at the photograph's size, bilinear: float32 (H, W)."""
        height, width = self.seen.images.shape[2:]
        heat = cv2.resize(self.map, self.covers[::-1], interpolation=cv2.INTER_LINEAR)[:height, :width]
        return cv2.resize(heat, self.seen.native[::-1], interpolation=cv2.INTER_LINEAR)

    @property
    def title(self) -> str:
        """Two lines: the class, and its mean score over the region."""
        return f"{self.class_name}\nmean {self.question.score} {self.score:.2f}"

    def colour_bar(self, limits: tuple[float, float] | None = None, label: str = "relevance") -> ColourBar:
        """The scale of `overlay`."""
        return ColourBar(self.limits if limits is None else limits, self.signed, label)

    def overlay(
        self,
        *,
        limits: tuple[float, float] | None = None,
        opacity: float = OPACITY,
        title: str | None = None,
        colour_bar: bool | str = False,
    ) -> Image.Image:
        """The map over the photograph, its region edged: an RGB picture of the photograph's size.

        Args:
            limits: values of the first and the last colour; its own `limits` unless given.
            opacity: share of the strongest colours in the picture, in [0, 1].
            title: as of `wsss.overlay.overlay`.
            colour_bar: likewise.
        """
        limits = self.limits if limits is None else limits
        drawn = overlay(self.seen.photograph, self.full, limits=limits, signed=self.signed, opacity=opacity)
        marked = mark_region(np.asarray(drawn), self.region, self.question.region, self.seen.native)
        return with_words(Image.fromarray(marked), limits, self.signed, opacity, title, colour_bar)


class RegionExplainer:
    """A network that segments, ready to be asked about regions; several threads may ask at once.

    Example:
        >>> import cnnseg
        >>> explainer = RegionExplainer(cnnseg.load_network("runs/segmentation"))
        >>> seen = explainer.see("cat.jpg")  # one forward pass for all questions
        >>> explainer.explain(seen, SegmentationQuestion(class_name="cat", method="layercam")).map.shape
        (10, 15)
    """

    def __init__(self, network: Network) -> None:
        check_segments(network)
        self.network = network
        self._layer: str | None = None
        self._adapted: dict[str, RegionClassifier] = {}
        self._lock = threading.Lock()  # the region is set on the adapted network, and then explained

    @torch.inference_mode(False)
    @torch.no_grad()
    def see(self, photograph: Photograph, size: int = 512) -> Seen:
        """Let the network look at a photograph.

        Args:
            photograph: a file, a PIL image, or uint8 RGB (H, W, 3).
            size: photographs of a larger area than this, squared, are shrunk to it; 0: never.

        Raises:
            InputError: no image, one smaller than the network's stride, or a network that gives NaN.
        """
        picture = read_photograph(photograph)
        native = (picture.height, picture.width)
        check_stride(self.network, native)
        module = self.network.module.eval()
        prepared = self.network.prepare(picture, seen_size(native, SegmentConfig(size=size)))
        images = prepared[None].to(next(module.parameters()).device)
        maps = check_finite(module(images)[1])
        return Seen(picture, images, maps, (BACKGROUND_NAME, *self.network.class_names))

    def explain(self, seen: Seen, question: SegmentationQuestion) -> RegionExplanation:
        """The map of one class.

        Raises:
            InputError: an unknown class, one that no pixel is predicted as, a region outside of the photograph or of
                another size, or what `cnnseg.explain` refuses: method, rules, layer.
        """
        name = question.class_name or usual_class(seen, question.region)
        return self._explain(seen, question, (name,))[0]

    def explain_classes(
        self, seen: Seen, question: SegmentationQuestion, names: Sequence[str] | None = None
    ) -> list[RegionExplanation]:
        """The maps of several classes, from one forward pass; for predicted pixels each has a region of its own.

        Args:
            names: classes; unless given those that a share of the photograph is predicted as which is no speck
                (`SPECK`), background last.
        """
        if names is None:
            shown = [name for name in seen.found if seen.shares[name] >= SPECK]
            names = sorted(shown, key=lambda name: name == BACKGROUND_NAME)
        return self._explain(seen, question, tuple(names))

    def adapted(self, score: Score = "logit") -> RegionClassifier:
        """The network as a classifier of its region, see `cnnseg.adapt`; one and the same for each kind of score."""
        if score not in self._adapted:
            self._adapted[score] = adapt(self.network, score=score)
        return self._adapted[score]

    def check(self, question: SegmentationQuestion) -> None:
        """Raise what every photograph would raise: an unknown class, or a method, rules or layer that cannot be had."""
        if question.class_name is not None:
            known_output(question.class_name, (BACKGROUND_NAME, *self.network.class_names))
        check_explanation(self.adapted(question.score), question.method, rules=question.rules, layer=question.layer)

    def layers(self, seen: Seen, *, every: bool = False) -> list[LayerMaps]:
        """The layers that a method may look at, with the sizes of their maps for this photograph."""
        return list_layers(self.adapted(), seen.images, every=every)

    def _explain(self, seen: Seen, question: SegmentationQuestion, names: tuple[str, ...]) -> list[RegionExplanation]:
        method = find_method(question.method)
        outputs = [known_output(name, seen.names) for name in names]
        regions = [region_of(seen, question.region, name) for name in names]
        if question.layer is None and method.takes_layer and not method.takes_rules:
            question = question.model_copy(update={"layer": self._usual_layer(seen)})
        options = {key: getattr(question, key) for key in ("method", "rules", "layer")}
        with self._lock:
            adapted = self.adapted(question.score)
            adapted.region = _planes(seen, outputs, regions)
            found = cnnseg.explain(adapted, seen.images, [outputs], **options)
        maps, scores = found.maps[0].float().cpu().numpy(), found.logits[0, outputs].tolist()
        if not np.isfinite(maps).all():
            raise InputError(f"the {question.method} map is not finite; try other `rules`, or another `method`")
        covers = self._covered(maps.shape[1:], tuple(seen.images.shape[2:]))
        return [
            RegionExplanation(heat, covers, score, region, question.model_copy(update={"class_name": name}), seen)
            for heat, score, region, name in zip(maps, scores, regions, names, strict=True)
        ]

    def _usual_layer(self, seen: Seen) -> str:
        if self._layer is None:
            self._layer = usual_layer(self.layers(seen)).name
        return self._layer

    def _covered(self, grid: Size, size: Size) -> Size:
        """What a grid lies over: the image, or that filled up to a multiple of the network's stride."""
        if grid == size:
            return size
        multiple = getattr(self.network.module, "multiple", 1)
        height, width = (-(-side // multiple) * multiple for side in size)
        return height, width


def explain_segmentation(
    network: Network | str | Path,
    photograph: Photograph,
    question: SegmentationQuestion | None = None,
    **options: Any,
) -> RegionExplanation:
    """Why a network that segments gives a region of a photograph its class.

    The scores of the class are averaged over the region (Humer et al., EuroVis 2022, section 3.1), and that mean is
    explained as a classifier's score would be. `RegionExplainer` does the same for many questions about one photograph.

    Args:
        network: of `cnnseg.load_network`; or what that takes, loaded for this call.
        photograph: a file, a PIL image, or uint8 RGB (H, W, 3).
        question: what is asked; its network and image are not looked at.
        options: fields of `SegmentationQuestion`, in place of a question.

    Raises:
        InputError: see `RegionExplainer`.

    Example:
        >>> import cnnseg
        >>> found = cnnseg.explain_segmentation("runs/segmentation", "cat.jpg", class_name="cat")
        >>> found.overlay().save("why.png")
    """
    explainer = RegionExplainer(network if isinstance(network, Network) else load_network(network))
    if question is None:
        question = question_of(options, "explain_segmentation")
    elif options:
        raise InputError(f"explain_segmentation: {', '.join(options)} beside a question; give one of the two")
    return explainer.explain(explainer.see(photograph, question.size), question)


def _planes(seen: Seen, outputs: Sequence[int], regions: Sequence[np.ndarray]) -> Tensor:
    """Regions as the adapter takes them: (1, C + 1, h', w'), each for its output."""
    planes = seen.maps.new_empty(seen.maps.shape)
    planes[:] = torch.from_numpy(regions[0])  # of outputs that nobody asks for; an empty one has no mean
    for output, region in zip(outputs, regions, strict=True):
        planes[0, output] = torch.from_numpy(region)
    return planes
