"""Overlays of a CNN's explanations on photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import cnnseg
from cnnseg.settings import ExplainConfig
from wsss import photographs
from wsss.explanation_tests.tested import ModelUnderTest, stack
from wsss.maps import input_size
from wsss.preparing import at_size


def explain_photographs(
    tested: ModelUnderTest,
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
    tested.to(device, config.precision)
    side = round((tested.size[0] * tested.size[1]) ** 0.5)
    options = {"rules": config.rules, "layer": config.layer}

    def look(image: Image.Image) -> tuple[Tensor, Callable[[list[int]], np.ndarray]]:
        inputs = tested.inputs(stack([np.array(at_size(image, input_size(image, side, (32, 32))))]))
        with torch.inference_mode():
            logits = tested.logits(inputs)[0].float().cpu()

        def maps(outputs: list[int]) -> np.ndarray:
            found = cnnseg.explain(tested.model, inputs, [outputs], config.method, **options)
            return found.maps[0].float().cpu().numpy()

        return logits, maps

    return photographs.explain_photographs(
        look,
        paths,
        out,
        tested.class_names,
        classes=classes,
        top=top,
        first=tested.first_class,
        sees=side,
        full_size=full_size,
        method=config.method,
        variant=".".join(filter(None, (config.method, config.rules, config.layer))),
    )
