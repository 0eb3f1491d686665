"""What the page has to know of a model, and what passes between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Progress = Callable[[float | None], None]
"""Told from time to time how far a map is, 0 to 1, None where nobody knows. Raises `Cancelled` to end the work."""


class Cancelled(Exception):
    """The visitor does not want this map any more."""


@dataclass(frozen=True)
class MethodChoice:
    """A method that can be chosen: what else can be chosen with it, and where it comes from."""

    name: str
    source: str
    takes_rules: bool = False
    takes_layer: bool = False
    signed: bool = False


@dataclass(frozen=True)
class LayerChoice:
    """A layer whose output can be looked at, with the (height, width) of its maps."""

    name: str
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels whose score is explained.

    ``area``: bool (H, W) of the photograph's size. ``predicted``: the class whose predicted pixels these are, all of
    them; ``pixels``: (x, y) of each if they were clicked one by one; both None of an area that was drawn.
    """

    area: np.ndarray
    predicted: int | None = None
    pixels: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Setting:
    """How a map is made. ``target``: class index; None: the class that the region is mostly predicted as."""

    method: str
    rules: str | None = None
    layer: str | None = None
    target: int | None = None
    score: str = "logit"


@dataclass(frozen=True, eq=False)
class Look:
    """What a model says of a photograph, before any explanation.

    ``photograph``: uint8 (H, W, 3). ``shares``: of each class, 0 to 1: of the area, or its probability. ``mask``:
    class of each pixel, uint8 (H, W), of models that segment. ``inner`` belongs to the explained.
    """

    photograph: np.ndarray
    shares: tuple[float, ...]
    mask: np.ndarray | None
    layers: tuple[LayerChoice, ...]
    inner: Any = None


@dataclass(frozen=True, eq=False)
class Answer:
    """A map: float32 (h, w) on its own grid, of the class `target`, whose score is `score`.

    ``extent``: (rows, columns) that the grid lies over, 1 being the photograph; more where a network fills it up.
    """

    map: np.ndarray
    target: int
    score: float
    signed: bool
    extent: tuple[float, float] = (1.0, 1.0)


class ExplainedModel(Protocol):
    """A model that can be asked. One thread at a time calls `look` and `explain`.

    Attributes:
        title: what it is, in a few words. class_names: of its outputs, background first if it has one.
        segments: whether there are masks, and a region is explained; else a class of the whole photograph.
        rules: composites, of methods that take them, the usual one first. scores: what can be explained of a class,
            the usual one first.
    """

    title: str
    class_names: tuple[str, ...]
    segments: bool
    methods: tuple[MethodChoice, ...]
    rules: tuple[str, ...]
    scores: tuple[str, ...]

    def look(self, photograph: np.ndarray) -> Look:
        """One forward pass. InputError for a photograph that the model cannot take."""

    def explain(self, look: Look, setting: Setting, region: Region | None, progress: Progress) -> Answer:
        """One map. InputError for options that do not go together."""

    def written(self, setting: Setting, region: Region | None, target: int, name: str, digest: str) -> str:
        """JSON that the command line takes to make the same map again, of the photograph with that name and hash."""
