"""Photographs explained one by one: pictures, maps and settings into a folder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from cnnseg.methods import find_method
from cnnseg.regions.explaining import RegionExplainer, RegionExplanation
from cnnseg.regions.layers import stages
from cnnseg.regions.pictures import draw_classes, draw_layers, draw_one
from cnnseg.regions.seen import Seen
from cnnseg.regions.settings import Mask, PictureFormat, Pixels, SegmentationQuestion
from wsss.errors import InputError
from wsss.processes import gathered, of_shard, share
from wsss.progress import note, track, warn
from wsss.store import atomic, file_hash
from wsss.store.atomic import write_bytes

Shown = Literal["one", "classes", "layers"]
"""What a picture has: one map, those of all classes, or those of all layers."""


@dataclass(frozen=True)
class Explained:
    """What `explain_photographs` has written, and why the other photographs have nothing."""

    written: list[Path]
    failed: dict[str, str]


def explain_photographs(
    explainer: RegionExplainer,
    photographs: Mapping[str, Path],
    question: SegmentationQuestion,
    out: Path,
    shown: Shown = "one",
    *,
    picture: PictureFormat = "png",
) -> Explained:
    """Write picture, maps (npz) and settings (JSON) of each photograph into `out`; prints a line for each map.

    The picture of one map is the bare overlay; NAME.sheet.png has it beside photograph and mask, with score and scale.
    Names are PHOTOGRAPH_CLASS[.REGION].METHOD[.RULES][.LAYER][.margin], with "classes" in place of the class or
    "layers" in place of the layer where a picture has them all. The npz holds ``maps`` float32 (K, h, w), or
    ``map_0``, ``map_1``... of layers, each on its own grid; ``classes``, ``scores`` and ``layers`` of the K maps;
    ``regions`` bool (K, h', w') and ``covers`` (K, 2), see `RegionExplanation`.

    Args:
        photographs: of `cnnseg.segmentation.photographs.find_photographs`.
        question: its network is written down; its image is that of each photograph.

    A photograph that cannot be read, or of which this cannot be asked, is warned about; the others are still explained.
    Several processes share the photographs (`wsss.processes`).
    """
    if shown == "layers" and not find_method(question.method).takes_layer:
        raise InputError(f"`all_layers`: method {question.method} looks at none; lrp, gradcam, layercam do")
    if shown == "layers" and question.layer is not None:
        raise InputError(f"`layer` {question.layer}: `all_layers` shows them all; give one of the two")
    explainer.check(question)
    written: list[Path] = []
    failed: dict[str, str] = {}
    for name, path in track(share(of_shard(list(photographs.items()))), "explain"):
        try:
            seen = explainer.see(path, question.size)
            asked = question.model_copy(update={"image": str(path), "image_hash": file_hash(path)})
            found = _ask(explainer, seen, asked, shown)
        except InputError as error:
            failed[name] = str(error) if str(path) in str(error) else f"image {path}: {error}"
            if len(photographs) > 1:  # the caller says what failed at the end
                warn(failed[name])
            continue
        target = out / f"{name}_{_variant(found[0], shown)}"
        write_picture(_draw(found, shown), target.with_name(f"{target.name}.{picture}"))
        if shown == "one":  # the others are sheets themselves
            write_picture(draw_one(found[0]), target.with_name(f"{target.name}.sheet.{picture}"))
        write_bytes(target.with_name(f"{target.name}.npz"), _arrays(found, shown))
        said = asked if shown == "classes" else found[0].question
        said = said.model_copy(update={"layer": asked.layer}) if shown == "layers" else said
        write_bytes(target.with_name(f"{target.name}.json"), said.json_text().encode())
        for one in found[:1] if shown == "layers" else found:  # which differ in nothing that is said
            area = f"{int(one.region.sum())} of {one.region.size} pixels"
            note(f"{target}.{picture}: {one.class_name}, mean {one.question.score} {one.score:.2f} over {area}")
        written.append(target.with_name(f"{target.name}.{picture}"))
    return Explained(
        [path for one in gathered(written) for path in one],
        {name: why for one in gathered(failed) for name, why in one.items()},
    )


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG or, by the name's end, a JPEG, atomically."""
    with atomic(path) as temporary:
        if path.suffix == ".png":
            picture.save(temporary, format="PNG")
        else:
            picture.save(temporary, format="JPEG", quality=90)


def _ask(
    explainer: RegionExplainer, seen: Seen, question: SegmentationQuestion, shown: Shown
) -> list[RegionExplanation]:
    if shown == "classes":
        return explainer.explain_classes(seen, question)
    if shown == "one":
        return [explainer.explain(seen, question)]
    layers = stages(explainer.layers(seen))
    return [explainer.explain(seen, question.model_copy(update={"layer": layer.name})) for layer in layers]


def _draw(found: list[RegionExplanation], shown: Shown) -> Image.Image:
    if shown == "one":
        return found[0].overlay()
    return draw_classes(found) if shown == "classes" else draw_layers(found)


def _arrays(found: list[RegionExplanation], shown: Shown) -> bytes:
    """The npz."""
    maps = {f"map_{place}": one.map for place, one in enumerate(found)}
    arrays: dict[str, Any] = maps if shown == "layers" else {"maps": np.stack(list(maps.values()))}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **arrays,
        classes=np.array([one.class_name for one in found]),
        scores=np.array([one.score for one in found]),
        layers=np.array([one.question.layer or "" for one in found]),
        regions=np.stack([one.region for one in found]),
        covers=np.array([one.covers for one in found]),
    )
    return buffer.getvalue()


def _variant(one: RegionExplanation, shown: Shown) -> str:
    """What tells a picture from the others of its photograph, for its name."""
    asked = one.question
    region = ""
    if isinstance(asked.region, Pixels):
        (x, y), *more = asked.region.points
        region = f"x{x}y{y}" + f"and{len(more)}" * bool(more)
    elif isinstance(asked.region, Mask):
        region = "region"
    parts = (
        "classes" if shown == "classes" else one.class_name,
        region,
        asked.method,
        asked.rules,
        "layers" if shown == "layers" else asked.layer,
        "margin" if asked.score == "margin" else "",
    )
    return ".".join(part for part in parts if part)
