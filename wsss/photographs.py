"""Photographs explained one by one, an overlay for each class: what the commands ``explain`` of both families share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from wsss.data import read_image
from wsss.data.wordnet import describe
from wsss.errors import InputError, check_folder, did_you_mean
from wsss.overlay import overlay
from wsss.processes import gathered, of_shard, share
from wsss.progress import note
from wsss.store import atomic
from wsss.words import agreeing

LONGEST = 1600
"""Pixels of the longer side of an overlay, unless it is to have the full size of its photograph."""

NAMED = 20
"""Photographs without an overlay that the closing line names."""

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
    sees: int = 0,
    full_size: bool = False,
    limits: tuple[float, float] | None = None,
    method: str = "",
    variant: str = "",
) -> list[Path]:
    """Write ``<out>/IMAGE_CLASS[.VARIANT].png`` for the named classes, or the `top` most probable of each photograph.

    Prints one line a picture with the class's logit. A photograph that cannot be read or explained costs the others
    nothing. Large ones are not decoded in full (`wsss.data.read_image`) unless their overlays are wanted so. Several
    processes share the photographs (`wsss.processes`).

    Args:
        sees: side in pixels of the square of the area that the model sees a photograph at.
        full_size: overlays as large as their photographs; else no longer than `LONGEST`.
        class_names: ``class_names[c]`` belongs to output ``first + c``; outputs before stand for no class.
        limits: of the colours, see `wsss.overlay.overlay`. method: its name, for messages.
        variant: tells pictures of one class from each other.

    Raises:
        InputError: an unknown class, two photographs of one name; and, when all others are made, the files that are no
            image or whose map is not finite.
    """
    check_folder(out, "out")
    fixed = [_output(name, class_names) for name in classes or ()]
    if top < 1 or top > len(class_names):
        raise InputError(f"`top` {top}: expected 1 to {len(class_names)}, the number of classes")
    twice = {path.stem for path in paths if sum(other.stem == path.stem for other in paths) > 1}
    if twice:
        raise InputError(f"images: two files are named {min(twice)}; their overlays would overwrite each other")
    written: list[Path] = []
    failed: list[str] = []
    wanted = of_shard(paths)
    for path in share(wanted):
        try:
            # four times what the model sees, so that it sees a long strip no less sharp than it would
            image = read_image(path, at_least=None if full_size else max(LONGEST, 4 * sees))
        except InputError as error:
            failed.append(str(error))
            continue
        logits, maps_of = look(image)
        chosen = fixed or logits[first:].topk(top).indices.tolist()
        maps = maps_of([first + place for place in chosen])
        if not np.isfinite(maps).all():
            failed.append(f"image {path}: the {method} map is not finite; try `precision` float64")
            continue
        photograph = image if full_size else _fitting(image, LONGEST)
        for place, heat in zip(chosen, maps, strict=True):
            name = class_names[place].replace(os.sep, "_")
            target = out / f"{path.stem}_{name}{variant and f'.{variant}'}.png"
            _write(overlay(photograph, heat, limits=limits), target)
            note(f"{target}: {describe(class_names, place)}, logit {logits[first + place]:.2f}")
            written.append(target)
    _tell([line for one in gathered(failed) for line in one], len(wanted))
    return written


def _write(picture: Image.Image, target: Path) -> None:
    with atomic(target) as temporary:
        picture.save(temporary, format="PNG")


def _fitting(image: Image.Image, longest: int) -> Image.Image:
    """The image with its longer side at most `longest` pixels long."""
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    return image.resize(tuple(max(1, round(side * factor)) for side in image.size), Image.Resampling.BOX)


def _tell(failed: Sequence[str], count: int) -> None:
    """Raise the closing line about the photographs that have no overlay, if there are any."""
    if not failed:
        return
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    named = "; ".join(failed[:NAMED]) + more
    have = agreeing(len(failed), "has", "have")
    raise InputError(named if count == 1 else f"{len(failed)} of {count} photographs {have} no overlay: {named}")


def _output(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise InputError(f"class {name!r} is unknown to the classifier: {did_you_mean(name, names[:50])}")
    return list(names).index(name)
