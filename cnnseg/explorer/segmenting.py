"""A network that segments, as the explorer's page asks it."""

from __future__ import annotations

import numpy as np

from cnnseg.explorer.methods import method_choices, rule_names
from cnnseg.models import Network
from cnnseg.regions.explaining import RegionExplainer
from cnnseg.regions.seen import Seen
from cnnseg.regions.settings import Mask, Pixels, Predicted, SegmentationQuestion
from cnnseg.regions.settings import Region as WrittenRegion
from wsss.errors import InputError
from wsss.explorer.explained import Answer, LayerChoice, Look, Progress, Region, Setting
from wsss.explorer.watching import Watcher

SIZE = SegmentationQuestion().size

MOST_SIZES = 50
"""Sizes of images whose layers are remembered."""


class ExplainedSegmenter:
    """See `wsss.explorer.explained.ExplainedModel`. ``where``: the checkpoint's name, ``fingerprint``: its hash."""

    segments = True
    scores: tuple[str, ...] = ("logit", "margin")

    def __init__(self, network: Network, title: str, where: str | None = None, fingerprint: str | None = None) -> None:
        self.title = title
        self.class_names = ("background", *network.class_names)
        self._explainer = RegionExplainer(network)
        self.methods = method_choices(self._check, first="gradcam")
        self.rules = rule_names()
        self._watcher = Watcher()
        self._listed: dict[tuple[int, ...], tuple[LayerChoice, ...]] = {}
        self._where, self._fingerprint = where, fingerprint

    def look(self, photograph: np.ndarray) -> Look:
        """One forward pass, and the layers with their sizes for a photograph of this size."""
        seen = self._explainer.see(photograph, SIZE)
        return Look(photograph, tuple(seen.shares.values()), seen.full_mask, self._layers(seen), seen)

    def explain(self, look: Look, setting: Setting, region: Region | None, progress: Progress) -> Answer:
        """The mean score of the region, explained."""
        if region is None:
            raise InputError("Choose a region first.")
        target = self._target(look, setting, region)
        question = self._question(setting, region, target)
        what = (setting.method, setting.rules, setting.layer, look.inner.images.shape)
        found = self._watcher.run(what, lambda: self._explainer.explain(look.inner, question), progress)
        extent = tuple(over / side for over, side in zip(found.covers, look.inner.images.shape[2:], strict=True))
        return Answer(found.map, target, found.score, found.signed, extent)

    def written(self, setting: Setting, region: Region | None, target: int, name: str, digest: str) -> str:
        """The settings of ``cnnseg explain-segmentation --settings FILE``."""
        assert region is not None
        question = self._question(setting, region, target)
        about = {"network": self._where, "network_hash": self._fingerprint, "image": name, "image_hash": digest}
        return question.model_copy(update=about).json_text()

    def _check(self, method: str) -> None:
        self._explainer.check(SegmentationQuestion(method=method))

    def _layers(self, seen: Seen) -> tuple[LayerChoice, ...]:
        """In order; found out once for each size of image, as it takes a pass of its own."""
        size = tuple(seen.images.shape[2:])
        if size not in self._listed:
            if len(self._listed) >= MOST_SIZES:
                self._listed.pop(next(iter(self._listed)))
            inner = [layer for layer in self._explainer.layers(seen) if not layer.scores]
            self._listed[size] = tuple(LayerChoice(layer.name, layer.size) for layer in inner)
        return self._listed[size]

    def _target(self, look: Look, setting: Setting, region: Region) -> int:
        """The class that is asked about, else that of the region: what most of its pixels are predicted as."""
        if setting.target is not None:
            return setting.target
        if region.predicted is not None:
            return region.predicted
        return int(np.bincount(np.asarray(look.mask)[region.area]).argmax())

    def _question(self, setting: Setting, region: Region, target: int) -> SegmentationQuestion:
        return SegmentationQuestion(
            class_name=self.class_names[target],
            region=_written(region, target),
            method=setting.method,
            rules=setting.rules,
            layer=setting.layer,
            score=setting.score,
            size=SIZE,
        )


def _written(region: Region, target: int) -> WrittenRegion:
    """The region as the settings say it; pixels predicted as a class are said so where that class is explained."""
    if region.predicted == target:
        return Predicted()
    if region.pixels is not None:
        return Pixels(points=region.pixels)
    return Mask.of(region.area)
