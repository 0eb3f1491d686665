"""A question to a network that segments, as it is written down in JSON; importing it costs no torch."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

from wsss.errors import InputError
from wsss.explanation_tests import settings as explanation_tests
from wsss.settings import Config, validation_line
from wsss.store import read_json

VERSION = 1
"""Of the JSON; to be raised where an older reader would make another map of it."""

LARGEST_MASK = 50_000_000
"""Pixels of a mask that is read, at most: a small PNG may say that it is enormous."""

Score = Literal["logit", "margin"]
"""What is explained: the class's own score, or by how much it is above the best other class."""

PictureFormat = Literal["png", "jpg"]

Point = tuple[NonNegativeInt, NonNegativeInt]
"""(x, y): column and row of a pixel of the upright photograph, counted from 0 at its upper left."""


class Predicted(Config):
    """All pixels that the network predicts as the class."""

    kind: Literal["predicted"] = "predicted"


class Pixels(Config):
    """Single pixels."""

    kind: Literal["pixels"] = "pixels"
    points: tuple[Point, ...] = Field(min_length=1)


class Mask(Config):
    """An area that was drawn: whatever is not 0 in a PNG of the upright photograph's size, in base64."""

    kind: Literal["mask"] = "mask"
    png: str

    @classmethod
    def of(cls, mask: np.ndarray) -> Mask:
        """The mask (H, W), bool or numbers, as a PNG of one bit a pixel."""
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(mask) != 0).save(buffer, "PNG", optimize=True)
        return cls(png=base64.b64encode(buffer.getvalue()).decode())

    def array(self) -> np.ndarray:
        """bool (H, W)."""
        with _png(self.png) as image:
            return np.asarray(image) != 0

    @field_validator("png")
    @classmethod
    def _readable(cls, png: str) -> str:
        with _png(png) as image:
            if image.mode not in ("1", "L", "P"):
                raise ValueError(f"expected a PNG of 1 or 8 bits a pixel, got mode {image.mode}")
            if image.width * image.height > LARGEST_MASK:
                raise ValueError(f"expected at most {LARGEST_MASK:,} pixels, got {image.width} x {image.height}")
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"the PNG is damaged ({error})") from None
        return png


Region = Annotated[Predicted | Pixels | Mask, Field(discriminator="kind")]


class RegionMethod(Config):
    """How a region's score is explained."""

    method: str = "gradcam"
    """explanation method, see list-methods"""
    rules: str | None = None
    """composite of propagation rules, of lrp, see list-rules; epsilon_plus unless given"""
    layer: str | None = None
    """layer whose maps are weighed (gradcam, layercam) or whose relevance is shown (lrp), see list-layers; unless given
    the end of the encoder, and of lrp the pixels"""
    score: Score = "logit"
    """what is explained: the class's mean logit over the region, or its mean margin over the best other class"""
    size: int = Field(512, ge=0)
    """photographs of a larger area than SIZE x SIZE are shrunk to it before the network sees them; 0: never"""


class RegionEvaluationConfig(explanation_tests.EvaluationConfig):
    """How explanations of regions are tested."""

    methods: tuple[str, ...] | None = None
    """explainers, ``METHOD[:RULES][@LAYER]`` or random, separated by spaces, such as gradcam@encoder lrp:epsilon_plus;
    gradcam and layercam at the end of the encoder, input_x_gradient, integrated_gradients, lrp, random unless given"""
    score: Score = "logit"
    """what is explained: the class's mean logit over the region, or its mean margin over the best other class"""
    size: int = Field(320, ge=0)
    """images of a larger area than SIZE x SIZE are shrunk to it, in their own proportions; 0: never"""
    least: float = Field(0.005, ge=0, le=1)
    """a region has to have this share of the image's pixels, or it is left out"""


class SegmentationQuestion(RegionMethod):
    """Which score of which region is explained, and how: all that makes a map again.

    In JSON `class_name` is ``class``. `explain_segmentation` takes it, the command ``explain-segmentation`` reads and
    writes it, and the explorer offers it for download.
    """

    model_config = ConfigDict(populate_by_name=True)

    version: Literal[1] = 1
    network: str | None = None
    """name of a run, or a checkpoint"""
    network_hash: str | None = None
    """`wsss.store.file_hash` of that checkpoint"""
    image: str | None = None
    """file of the photograph"""
    image_hash: str | None = None
    """`wsss.store.file_hash` of that file"""
    class_name: str | None = Field(None, alias="class")
    """class whose score it is, "background" too; None: the one that covers most of the region, and for `Predicted` most
    of the photograph beside background"""
    region: Region = Predicted()
    """pixels whose mean score it is"""

    def json_text(self) -> str:
        """What is offered for download."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def question_of(content: Any, source: str) -> SegmentationQuestion:
    """A question of what was read from JSON; InputError naming the source, the key, and what is wrong."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected the settings of an explanation, {{...}}, got {type(content).__name__}")
    if content.get("version", VERSION) != VERSION:
        raise InputError(f"{source}: expected settings of version {VERSION}, got version {content['version']!r}")
    try:
        return SegmentationQuestion.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {validation_line(error)[:300]}") from None


def read_question(path: Path) -> SegmentationQuestion:
    """A question from a JSON file; InputError naming the file, the key, and what is wrong."""
    return question_of(read_json(path), str(path))


def _png(text: str) -> Image.Image:
    """The picture, its pixels not yet decoded. ValueError if it is none."""
    try:
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("expected a PNG in base64") from None
