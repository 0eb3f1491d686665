"""Photographs explained one by one: what the commands ``explain`` of both families share.

Each photograph has an overlay for each class, and a sheet that shows them all beside it, with names, scores and scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from wsss.data import read_image
from wsss.data.wordnet import describe, is_imagenet_head, place_of
from wsss.errors import InputError, check_folder
from wsss.lettering import ColourBar
from wsss.overlay import overlay
from wsss.processes import gathered, of_shard, share
from wsss.progress import note
from wsss.sheet import common_limits, sheet, weighted
from wsss.store import atomic, write_json
from wsss.words import agreeing

LONGEST = 1600
"""Pixels of the longer side of an overlay, unless it is to have the full size of its photograph."""

LETTERS = 60
"""Of the name of a class that its overlay's file is named after."""

NAMED = 20
"""Photographs without an overlay that the closing line names."""

Look = Callable[[Image.Image], tuple[Tensor, Callable[[list[int]], np.ndarray]]]
"""Photograph -> (class scores (C,), function of outputs (K) that gives their maps (K, h, w))."""


@dataclass(frozen=True)
class Claim:
    """What a classifier says of one class of a photograph, and where the overlay of its map lies."""

    name: str
    described: str
    logit: float
    probability: float
    predicted: bool
    overlay: str

    @property
    def score(self) -> str:
        """ "logit 7.02, probability 99.9 %"."""
        return f"logit {self.logit:.2f}, probability {percent(self.probability)}"

    @property
    def title(self) -> str:
        """Two lines: the class, with a word about one that the classifier does not see at all, and its score."""
        return f"{self.described}{'' if self.predicted else ' (not predicted)'}\n{self.score}"


@dataclass(frozen=True)
class Scaled:
    """The maps of the classes of a photograph on one scale."""

    maps: Sequence[np.ndarray] | np.ndarray
    bar: ColourBar


def percent(probability: float) -> str:
    """ "99.9 %", "0.3 %"; what would round to 0 or 100 is said as less or more.

    >>> percent(0.99987), percent(0.25), percent(0.0002)
    ('> 99.9 %', '25.0 %', '< 0.1 %')
    """
    if probability > 0.9995:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "< 0.1 %"


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
    comparable: bool = True,
    method: str = "",
    variant: str = "",
) -> list[Path]:
    """Explain the named classes, or the `top` most probable of each photograph.

    Writes ``<out>/IMAGE_CLASS[.VARIANT].png``, the overlays, and ``IMAGE.sheet[.VARIANT].png`` with all of them beside
    the photograph, names, scores and the scale that they share; ``.json`` says the same in figures. Prints one line an
    overlay with the class's logit and probability. A photograph that cannot be read or explained costs the others
    nothing. Large ones are not decoded in full (`wsss.data.read_image`) unless their overlays are wanted so. Several
    processes share the photographs (`wsss.processes`).

    Args:
        sees: side in pixels of the square of the area that the model sees a photograph at.
        full_size: overlays as large as their photographs; else no longer than `LONGEST`.
        class_names: ``class_names[c]`` belongs to output ``first + c``; outputs before stand for no class.
        comparable: the values of maps of different classes have one unit. Else the maps, in [0, 1], are shares of each
            class's own largest value, and where there are several of a classifier that says of each class whether it
            is there, are weighted by its probability.
        method: its name, for messages. variant: tells pictures of one class from each other.

    Returns:
        The overlays.

    Raises:
        InputError: an unknown class, two photographs of one name; and, when all others are made, the files that are no
            image or whose map is not finite.
    """
    check_folder(out, "out")
    fixed = [place_of(name, class_names) for name in classes or ()]
    if len(set(fixed)) < len(fixed):
        raise InputError(f"`classes` {', '.join(classes or ())}: expected each class once")
    if top < 1 or top > len(class_names):
        raise InputError(f"`top` {top}: expected 1 to {len(class_names)}, the number of classes")
    twice = {path.stem for path in paths if sum(other.stem == path.stem for other in paths) > 1}
    if twice:
        raise InputError(f"images: two files are named {min(twice)}; their overlays would overwrite each other")
    written: list[Path] = []
    failed: list[str] = []
    wanted = of_shard(paths)
    suffix = f".{variant}" if variant else ""
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
        claims = _claims(logits[first:], chosen, class_names, path.stem, suffix)
        scaled = on_one_scale(maps, None if comparable else _weights(claims, class_names))
        photograph = image if full_size else _fitting(image, LONGEST)
        written += _write_overlays(photograph, claims, scaled, out)
        target = out / f"{path.stem}.sheet{suffix}"
        _write_sheet(photograph, claims, scaled, target, heading=f"{path.name}, {variant or method}")
        note(f"{target}.png: the photograph and its {agreeing(len(claims), 'map', 'maps')}")
    _tell([line for one in gathered(failed) for line in one], len(wanted))
    return written


def on_one_scale(maps: np.ndarray, weights: Sequence[float] | None) -> Scaled:
    """Maps (K, h, w) in the same colours for the same values; see `explain_photographs` on weights."""
    if weights is None:
        signed = bool(maps.min() < 0)
        return Scaled(maps, ColourBar(common_limits(maps, signed), signed, "relevance"))
    largest = max(weights)
    if len(maps) == 1 or largest == 0:
        return Scaled(maps, ColourBar((0, 1), False, "relevance: share of the largest"))
    if min(weights) == 1:
        return Scaled(maps, ColourBar((0, 1), False, "relevance: share of each class's largest"))
    bar = ColourBar((0, largest), False, "relevance: share of the class's largest, times probability")
    return Scaled(weighted(list(maps), weights), bar)


def _weights(claims: Sequence[Claim], class_names: Sequence[str]) -> list[float]:
    """What each class's map counts for; of classes that share one hundred per cent a small part says little."""
    return [1.0] * len(claims) if is_imagenet_head(class_names) else [claim.probability for claim in claims]


def _claims(logits: Tensor, chosen: Sequence[int], class_names: Sequence[str], stem: str, suffix: str) -> list[Claim]:
    one_of_all = is_imagenet_head(class_names)
    probabilities = logits.softmax(0) if one_of_all else logits.sigmoid()
    short = [class_names[place].replace(os.sep, "_")[:LETTERS] for place in chosen]
    files = [
        f"{name}_{place + 1}" if short.count(name) > 1 else name  # of "a/b" and "a_b"
        for name, place in zip(short, chosen, strict=True)
    ]
    return [
        Claim(
            class_names[place],
            describe(class_names, place),
            float(logits[place]),
            float(probabilities[place]),
            bool(logits[place] == logits.max() if one_of_all else logits[place] > 0),
            f"{stem}_{file}{suffix}.png",
        )
        for place, file in zip(chosen, files, strict=True)
    ]


def _write_overlays(photograph: Image.Image, claims: Sequence[Claim], scaled: Scaled, out: Path) -> list[Path]:
    for claim, heat in zip(claims, scaled.maps, strict=True):
        _write(overlay(photograph, heat, limits=scaled.bar.limits, signed=scaled.bar.signed), out / claim.overlay)
        note(f"{out / claim.overlay}: {claim.described}, {claim.score}{'' if claim.predicted else ': not predicted'}")
    return [out / claim.overlay for claim in claims]


def _write_sheet(
    photograph: Image.Image, claims: Sequence[Claim], scaled: Scaled, target: Path, *, heading: str
) -> None:
    titles, bar = [claim.title for claim in claims], scaled.bar
    drawn = sheet(
        photograph, scaled.maps, titles, limits=bar.limits, signed=bar.signed, heading=heading, label=bar.label
    )
    _write(drawn, target.with_name(f"{target.name}.png"))
    said = [asdict(claim) | {"overlay": _text(claim.overlay)} for claim in claims]
    about = {"limits": bar.limits, "values": bar.label, "classes": said}
    write_json(target.with_name(f"{target.name}.json"), about)


def _text(name: str) -> str:
    """The name of a file as text, which it need not be."""
    return name.encode("utf-8", "replace").decode()


def _write(picture: Image.Image, target: Path) -> None:
    with atomic(target) as temporary:
        picture.save(temporary, format="PNG")


def _fitting(image: Image.Image, longest: int) -> Image.Image:
    """The image with its longer side at most `longest` pixels long."""
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _tell(failed: Sequence[str], count: int) -> None:
    """Raise the closing line about the photographs that have no overlay, if there are any."""
    if not failed:
        return
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    named = "; ".join(failed[:NAMED]) + more
    have = agreeing(len(failed), "has", "have")
    raise InputError(named if count == 1 else f"{len(failed)} of {count} photographs {have} no overlay: {named}")
