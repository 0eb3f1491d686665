"""Overlays of explanations on photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.models import Classifier
from vitseg.photographs import class_scores, settings_for
from vitseg.seeds import class_maps
from vitseg.settings import ExplainConfig
from wsss import photographs


def explain_photographs(
    classifier: Classifier,
    paths: Sequence[Path],
    out: Path,
    config: ExplainConfig,
    *,
    classes: Sequence[str] | None = None,
    top: int = 1,
    full_size: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Write overlays and a sheet of the named classes or the `top` most probable ones, see `wsss.photographs`."""
    settings = settings_for(classifier, config)
    classifier.model.to(device, getattr(torch, settings.dtype)).eval()

    def look(image: Image.Image) -> tuple[Tensor, Callable[[list[int]], np.ndarray]]:
        logits = class_scores(classifier, image, settings, device=device)
        return logits, lambda outputs: class_maps(classifier, [image], [outputs], settings, device=device)[0]

    return photographs.explain_photographs(
        look,
        paths,
        out,
        classifier.class_names,
        classes=classes,
        top=top,
        sees=max(settings.sizes),
        full_size=full_size,
        comparable=False,
        method=settings.method,
        variant=".".join(_variant(config)),
    )


def _variant(config: ExplainConfig) -> list[str]:
    """What tells pictures from those of the usual method and preset, lest one takes the other's place."""
    usual = ExplainConfig()
    if (config.method, config.preset) == (usual.method, usual.preset):
        return []
    return [config.method] if config.preset == usual.preset else [config.method, config.preset]
