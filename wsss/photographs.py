"""Photographs explained one by one, an overlay for each class: what the commands ``explain`` of both families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from wsss.console import note
from wsss.data import read_image
from wsss.data.wordnet import describe
from wsss.errors import InputError, did_you_mean
from wsss.overlay import overlay
from wsss.processes import of_shard, share
from wsss.store import atomic

Look = Callable[[Image.Image], tuple[Tensor, Callable[[list[int]], np.ndarray]]]
"""Photograph -> (class scores (C,), function of outputs (K) that gives their maps (K, h, w))."""


def explain_photographs(
    look: Look,
    paths: Sequence[Path],
    out: Path,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    top: int = 1,
    first: int = 0,
    limits: tuple[float, float] | None = None,
    method: str = "",
    variant: str = "",
) -> list[Path]:
    """Write ``<out>/IMAGE_CLASS[.VARIANT].png`` for the named classes, or the `top` most probable of each photograph.

    Prints one line a picture with the class's logit. Several processes share the photographs (`wsss.processes`).

    Args:
        class_names: ``class_names[c]`` belongs to output ``first + c``; outputs before stand for no class.
        limits: of the colours, see `wsss.overlay.overlay`. method: its name, for messages.
        variant: tells pictures of one class from each other.

    Raises:
        InputError: a file that is no image, an unknown class, two photographs of one name, a map that is not finite.
    """
    fixed = [_output(name, class_names) for name in classes or ()]
    if top < 1 or top > len(class_names):
        raise InputError(f"--top {top}: the classifier has 1 to {len(class_names)} classes")
    twice = {path.stem for path in paths if sum(other.stem == path.stem for other in paths) > 1}
    if twice:
        raise InputError(f"images: two files are named {min(twice)}; their overlays would overwrite each other")
    written = []
    for path in share(of_shard(paths)):
        image = read_image(path)
        logits, maps_of = look(image)
        chosen = fixed or logits[first:].topk(top).indices.tolist()
        for place, heat in zip(chosen, maps_of([first + place for place in chosen]), strict=True):
            if not np.isfinite(heat).all():
                raise InputError(f"image {path}: the {method} map is not finite; try --precision float64")
            target = out / f"{path.stem}_{class_names[place]}{variant and f'.{variant}'}.png"
            picture = overlay(image, heat, limits=limits)
            with atomic(target) as temporary:
                picture.save(temporary, format="PNG")
            note(f"{target}: {describe(class_names, place)}, logit {logits[first + place]:.2f}")
            written.append(target)
    return written


def _output(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise InputError(f"class {name!r} is unknown to the classifier: {did_you_mean(name, names[:50])}")
    return list(names).index(name)
