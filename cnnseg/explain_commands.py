"""The commands ``cnnseg explain``, ``list-methods`` and ``list-rules``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cnnseg.evaluation_commands import Architecture
from cnnseg.settings import ExplainConfig
from wsss.console import Flat, together
from wsss.explanation_tests.options import Classifier, Weights
from wsss.options import Device, FullSize, OutFolder, Runs, Shard
from wsss.processes import take_shard
from wsss.progress import note


@together
def explain(
    images: list[Path],
    /,
    *,
    classifier: Classifier = None,
    architecture: Architecture = None,
    weights: Weights = "pretrained",
    classes: list[str] | None = None,
    top: int = 1,
    out: OutFolder = Path("explanations"),
    full_size: FullSize = False,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[ExplainConfig, Flat] = ExplainConfig(),
) -> None:
    """Explain photographs by a CNN: an overlay for each of the top or the named classes, and a sheet with their scores.

    Either with a classifier of train-classifier (--classifier), or with an ImageNet CNN of timm or torchvision
    (--architecture, --weights). Maps with negative values are drawn blue and red, others purple to yellow, all maps of
    a photograph on one scale.

    Parameters
    ----------
    images
        Photographs.
    classes
        Classes to explain, by name; of an ImageNet model by index or name (281, 'tabby cat').
    top
        Number of most probable classes to explain where none is named.
    out
        Folder of overlays, ``IMAGE_CLASS.METHOD[.RULES][.LAYER].png``, and of sheets, which have them all beside the
        photograph, ``IMAGE.sheet.METHOD[.RULES][.LAYER].png``.
    """
    from cnnseg.photographs import explain_photographs
    from cnnseg.tested import find_model
    from wsss.training import choose_device

    take_shard(shard)
    tested = find_model(classifier, architecture, weights, runs, cfg.size)
    where = choose_device(device, cfg.precision)
    explain_photographs(tested, images, out, cfg, classes=classes, top=top, full_size=full_size, device=where)


def list_methods() -> None:
    """List the explanation methods, and where each comes from."""
    from cnnseg.methods import METHODS

    for name, method in METHODS.items():
        takes = "takes --rules; " if method.takes_rules else "takes --layer; " if method.takes_layer else ""
        note(f"{name:24s} {takes}{method.source}")


def list_rules() -> None:
    """List the composites of LRP: which rule each kind of layer gets."""
    from cnnseg.rules import COMPOSITES

    for name, composite in COMPOSITES.items():
        rules = ", ".join(f"{key} {rule}" for key, rule in composite.rules.items())
        note(f"{name:26s} {rules}")
