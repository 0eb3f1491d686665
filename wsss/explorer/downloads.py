"""What a visitor may take along: the picture, the values, the settings."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from wsss.explorer import pictures
from wsss.explorer.explained import ExplainedModel
from wsss.explorer.sessions import Made


@dataclass(frozen=True)
class File:
    """A file to be saved in the visitor's browser."""

    name: str
    kind: str
    content: bytes


def picture_file(explained: ExplainedModel, made: Made, opacity: float) -> File:
    """The colours over the photograph, as large as it is."""
    photograph = made.photograph.look.photograph
    found = pictures.coloured(made.answer, photograph.shape[:2])
    blended = pictures.blended(photograph, found, min(max(opacity, 0.0), 1.0))
    return File(f"{_stem(explained, made)}.png", "image/png", pictures.png(blended, fast=False))


def map_file(explained: ExplainedModel, made: Made) -> File:
    """The values on their own grid as ``maps`` float32 (1, h, w), with ``classes``, ``scores``, the settings and, of a
    region, its pixels, bool (H, W)."""
    buffer = io.BytesIO()
    content: dict[str, Any] = {
        "maps": made.answer.map[None],
        "classes": np.array([explained.class_names[made.answer.target]]),
        "scores": np.array([made.answer.score]),
        "settings": np.array(settings(explained, made)),
    }
    if made.region is not None:
        content["region"] = made.region.area
    np.savez_compressed(buffer, **content)
    return File(f"{_stem(explained, made)}.npz", "application/octet-stream", buffer.getvalue())


def settings_file(explained: ExplainedModel, made: Made) -> File:
    """The settings as JSON, which the command line takes."""
    return File(f"{_stem(explained, made)}.json", "application/json", settings(explained, made).encode())


def settings(explained: ExplainedModel, made: Made) -> str:
    """The settings as JSON."""
    about = made.photograph
    return explained.written(made.setting, made.region, made.answer.target, about.name, about.hash)


def _stem(explained: ExplainedModel, made: Made) -> str:
    setting = made.setting
    photograph = PurePath(made.photograph.name.replace("\\", "/")).stem
    parts = (photograph, explained.class_names[made.answer.target], setting.method, setting.rules, setting.layer)
    return ".".join(re.sub(r"[^\w.-]+", "_", part)[:60] for part in parts if part)
