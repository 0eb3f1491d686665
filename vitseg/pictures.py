"""Overlays of explanations on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from vitseg.models import Classifier
from vitseg.seeds import class_maps
from vitseg.settings import SeedConfig
from wsss.console import note
from wsss.data import read_image
from wsss.errors import InputError, did_you_mean
from wsss.maps import input_size
from wsss.overlay import heat_overlay
from wsss.store import atomic


def explain_photographs(
    classifier: Classifier,
    paths: Sequence[Path],
    out: Path,
    config: SeedConfig,
    *,
    classes: Sequence[str] | None = None,
    top: int = 1,
    device: str = "cpu",
) -> list[Path]:
    """Write ``<out>/IMAGE_CLASS.png`` for the named classes, or for the `top` most probable ones of each photograph.

    Prints one line a picture with the class's logit. Raises InputError for a file that is no image, an unknown class,
    or two photographs of one name.
    """
    names = classifier.class_names
    fixed = [_output(name, names) for name in classes or ()]
    if top < 1 or top > len(names):
        raise InputError(f"--top {top}: the classifier has 1 to {len(names)} classes")
    twice = {path.stem for path in paths if sum(other.stem == path.stem for other in paths) > 1}
    if twice:
        raise InputError(f"images: two files are named {min(twice)}; their overlays would overwrite each other")
    model = classifier.model.to(device, getattr(torch, config.precision)).eval()
    written = []
    for path in paths:
        image = read_image(path)
        size = input_size(image, max(config.sizes), model.patch_embed.feat_ratio(as_scalar=False))
        with torch.inference_mode():
            inputs = classifier.prepare(image, size)[None].to(device, getattr(torch, config.precision))
            logits = model(inputs)[0].float().cpu()
        outputs = fixed or logits.topk(top).indices.tolist()
        maps = class_maps(classifier, [image], [outputs], config, device=device)[0]
        if not np.isfinite(maps).all():
            raise InputError(f"image {path}: the {config.method} map is not finite; try --precision float64")
        for output, heat in zip(outputs, maps, strict=True):
            target = out / f"{path.stem}_{names[output]}.png"
            _write_overlay(target, image, heat)
            note(f"{target}: {_describe(classifier, output)}, logit {logits[output]:.2f}")
            written.append(target)
    return written


def _write_overlay(path: Path, image: Image.Image, heat: np.ndarray) -> None:
    full = F.interpolate(torch.from_numpy(heat)[None, None], (image.height, image.width), mode="bilinear")[0, 0]
    with atomic(path) as temporary:
        Image.fromarray(heat_overlay(np.asarray(image), full.numpy())).save(temporary, format="PNG")


def _output(name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise InputError(f"class {name!r} is unknown to the classifier: {did_you_mean(name, names[:50])}")
    return names.index(name)


def _describe(classifier: Classifier, output: int) -> str:
    """The class's name; of an ImageNet head, whose classes are named by index, with its words."""
    name = classifier.class_names[output]
    if len(classifier.class_names) != 1000 or not name.isdigit():
        return name
    from timm.data import ImageNetInfo

    return f"{name} ({ImageNetInfo().index_to_description(output)})"
