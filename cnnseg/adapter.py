"""A segmentation network as a classifier: class scores of a region, so that explanations of classifiers explain it.

Humer, Elharty, Hinterreiter and Streit, "Interactive attribution-based explanations for image segmentation", EuroVis
2022, section 3.1: the maps times a mask, averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.unroll.heatmaps import trace_heatmaps
from cnnseg.unroll.network import UnrolledNetwork
from cnnseg.unroll.region import RegionMean, Score
from cnnseg.unroll.trace import Trace
from wsss.errors import InputError
from wsss.explanation import unwrap
from wsss.words import counted


class RegionClassifier(nn.Module):
    """Class scores (B, C) of a region of a segmentation network's maps; made by `adapt`.

    ``network``: the segmentation network, whose layers keep their names (``encoder.layer4``).
    """

    layers_of = "network"
    """the part whose names the layers go by"""

    def __init__(self, network: nn.Module, region: Tensor | None = None, score: Score = "logit") -> None:
        super().__init__()
        self.network = network
        self.pool = RegionMean(score)
        self.region = region
        self.training = network.training

    @property
    def region(self) -> Tensor | None:
        """See `adapt`; None: all pixels. Another one costs nothing: the network is not traced again."""
        return None if self.pool.is_everywhere else self.pool.region

    @region.setter
    def region(self, region: Tensor | None) -> None:
        self.pool.put(region)

    @property
    def score(self) -> Score:
        """What is averaged over the region, see `adapt`."""
        return self.pool.score

    def maps(self, images: Tensor) -> Tensor:
        """The network's maps (B, C, H, W) of images (B, 3, H, W)."""
        return maps_of(self.network(images), second=getattr(self.network, "segments", False))

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.maps(images))

    def check(self, images: Tensor) -> None:
        """Raise InputError if the network takes no images of this size, or the regions are of another batch."""
        regions = len(self.pool.region)
        if regions not in (1, len(images)):
            raise InputError(f"region: expected 1 or {len(images)} for {counted(len(images), 'image')}, got {regions}")
        check = getattr(self.network, "check_input_shape", None)  # of segmentation-models-pytorch
        if check is not None:
            try:
                check(images)
            except RuntimeError as error:
                raise InputError(f"images: {' '.join(str(error).split())}") from None


class UnrolledRegionClassifier(RegionClassifier):
    """Of an unrolled network, whose maps are relevance; its layers are those of its classifier."""

    network: UnrolledNetwork

    def make_trace(self) -> Trace:
        """Its layers, which `torch.fx` could not follow."""
        return trace_heatmaps(self.network, self.pool)


def adapt(network: nn.Module, region: Tensor | None = None, score: Score = "logit") -> RegionClassifier:
    """Turn a segmentation network into a classifier of a region: its maps times the region, averaged over it.

    Args:
        network: images (B, 3, H, W) to class maps (B, C, H, W): a network of segmentation-models-pytorch, of
            torchvision.models.segmentation (the output "out"), of this toolkit (`cnnseg.load_network`), or any other
            module that gives maps, alone or as the first of several outputs. Left as it is, and used, not copied.
        region: (1 or B, 1 or C, H, W) of 0 to 1, or bool, of the maps' size: what each pixel counts for; one for all
            images or one each, one for all classes or one each. None: all pixels, which is global average pooling.
            `predicted_region` and `pixel_region` make some. May be replaced: ``adapted.region = another``.
        score: what is averaged over the region. "logit": the class's map. "margin": at each pixel the class's logit
            minus the greatest logit of the other classes there. Which class is the greatest is found for each pixel
            and class and then held constant, so that the score is differentiable and linear in the logits: LRP starts
            with the class's logits and, with a minus sign, with those of the runners-up.

    Returns:
        A module, images to scores (B, C), for `cnnseg.explain`.

    Raises:
        InputError: a network without maps, or a region that is empty or has values outside of 0 to 1 (now), or that
            does not have the maps' size (as soon as there are images).

    Example:
        >>> import cnnseg, torch
        >>> adapted = cnnseg.adapt(cnnseg.load_network("runs/segmentation"), pixel_region((320, 320), [(80, 120)]))
        >>> images = torch.randn(1, 3, 320, 320)  # yours, normalised
        >>> cnnseg.explain(adapted, images, targets=3, method="gradcam").maps.shape
        torch.Size([1, 10, 10])
    """
    module = network if isinstance(network, nn.Module) else getattr(network, "module", network)
    unwrapped = unwrap(module)
    if unwrapped.front:
        raise InputError(
            "network: a Sequential that prepares the images; adapt what stands behind it, and prepare the images first"
        )
    if not getattr(unwrapped.model, "segments", True) or getattr(network, "masks", None) == 0:
        raise InputError(f"network {type(unwrapped.model).__name__}: gives no maps; cnnseg.explain takes a classifier")
    kind = UnrolledRegionClassifier if isinstance(unwrapped.model, UnrolledNetwork) else RegionClassifier
    return kind(unwrapped.model, region, score)


def maps_of(output: Any, *, second: bool = False) -> Tensor:
    """The class maps among what a segmentation network gives.

    Args:
        output: maps, a mapping that has them as "out" (torchvision), or several outputs.
        second: of several the second are the maps (this toolkit), not the first (segmentation-models-pytorch).
    """
    if isinstance(output, Mapping):
        if "out" not in output:
            raise InputError(f"network: expected class maps by the name 'out', got {', '.join(map(str, output))}")
        return output["out"]
    if isinstance(output, list | tuple):
        return output[1 if second else 0]
    return output


def predicted_region(maps: Tensor, class_index: int) -> Tensor:
    """The pixels that are predicted as a class: (B, 1, H, W) of 0 and 1, of maps (B, C, H, W).

    Of one class alone (C = 1) those with a positive logit.

    Raises:
        InputError: no maps, or no such class.
    """
    if maps.ndim != 4:
        raise InputError(f"maps: expected (B, C, H, W), got {tuple(maps.shape)}")
    classes = maps.shape[1]
    if not 0 <= class_index < classes:
        raise InputError(f"class {class_index}: expected 0 to {classes - 1}, the classes of the maps")
    found = maps > 0 if classes == 1 else maps.argmax(1, keepdim=True) == class_index
    return found.to(maps.dtype)


def pixel_region(size: tuple[int, int], points: Iterable[tuple[int, int]]) -> Tensor:
    """A region (1, 1, H, W) of one or more pixels.

    Args:
        size: (height, width) of the maps.
        points: (row, column) of each pixel, from the upper left corner; at least one.

    Raises:
        InputError: no point, or one that lies outside.
    """
    region = torch.zeros(1, 1, *size)
    given = [tuple(point) for point in points]
    if not given:
        raise InputError("region: expected at least one (row, column), got no pixel")
    for point in given:
        if len(point) != 2 or not all(0 <= place < side for place, side in zip(point, size, strict=False)):
            raise InputError(f"region: expected (row, column) within {size[0]} x {size[1]}, got {point}")
        region[0, 0, point[0], point[1]] = 1
    return region
