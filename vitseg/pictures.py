"""Overlays of explanations on photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.models import Classifier
from vitseg.seeds import class_maps
from vitseg.settings import SeedConfig
from wsss import photographs
from wsss.maps import input_size


def explain_photographs(
    classifier: Classifier,
    paths: Sequence[Path],
    out: Path,
    config: SeedConfig,
    *,
    classes: Sequence[str] | None = None,
    top: int = 1,
    full_size: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Write overlays and a sheet of the named classes or the `top` most probable ones, see `wsss.photographs`."""
    precision = getattr(torch, config.dtype)
    model = classifier.model.to(device, precision).eval()

    def look(image: Image.Image) -> tuple[Tensor, Callable[[list[int]], np.ndarray]]:
        size = input_size(image, max(config.sizes), model.patch_embed.feat_ratio(as_scalar=False))
        with torch.inference_mode():
            logits = model(classifier.prepare(image, size)[None].to(device, precision))[0].float().cpu()
        return logits, lambda outputs: class_maps(classifier, [image], [outputs], config, device=device)[0]

    return photographs.explain_photographs(
        look,
        paths,
        out,
        classifier.class_names,
        classes=classes,
        top=top,
        sees=max(config.sizes),
        full_size=full_size,
        comparable=False,
        method=config.method,
    )
