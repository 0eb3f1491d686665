"""The commands ``vitseg explain``, ``vitseg explore`` and ``vitseg list-methods``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vitseg.checkpoints import checkpoint_name, find_checkpoint
from vitseg.settings import ExplainConfig
from wsss.console import Flat, together
from wsss.errors import check_one_of
from wsss.explorer.options import Host, Port
from wsss.options import Device, FullSize, OutFolder, Runs, Shard
from wsss.processes import take_shard
from wsss.progress import note


@together
def explain(
    images: list[Path],
    /,
    *,
    classifier: str | None = None,
    architecture: str | None = None,
    weights: str = "pretrained",
    classes: list[str] | None = None,
    top: int = 1,
    out: OutFolder = Path("explanations"),
    full_size: FullSize = False,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[ExplainConfig, Flat] = ExplainConfig(),
) -> None:
    """Explain photographs: an overlay for each of the top or the named classes, and a sheet with their scores.

    Either with a classifier of train-classifier (--classifier), or with any ImageNet ViT of timm (--architecture,
    --weights). The map is that of vitseg.explain for the photograph at the model's own size (--preset plain), or the
    smoother one that vitseg seeds makes (--preset seed); in Python: vitseg.explain_photograph.

    Parameters
    ----------
    images
        Photographs.
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    architecture
        timm's name of a ViT with its ImageNet head, instead of --classifier.
    weights
        Weights of --architecture: 'pretrained' (fetched by timm) or a file.
    classes
        Classes to explain, by name; of an ImageNet model by index or name (281, 'tabby cat').
    top
        Number of most probable classes to explain where none is named.
    out
        Folder of overlays, ``IMAGE_CLASS[.METHOD][.PRESET].png`` (where they are not the usual ones), and of sheets,
        which have them all beside the photograph, ``IMAGE.sheet[...].png``.
    """
    from vitseg.methods import find_method
    from vitseg.models import load_classifier, load_imagenet_vit
    from vitseg.photographs import settings_for
    from vitseg.pictures import explain_photographs
    from wsss.training import choose_device

    find_method(cfg.method)
    take_shard(shard)
    check_one_of(classifier=classifier, architecture=architecture)
    if classifier is not None:
        model = load_classifier(find_checkpoint(classifier, runs))
    else:
        model = load_imagenet_vit(str(architecture), weights)
    where = choose_device(device, settings_for(model, cfg).dtype)
    explain_photographs(model, images, out, cfg, classes=classes, top=top, full_size=full_size, device=where)


def explore(
    *,
    classifier: str | None = None,
    architecture: str | None = None,
    weights: str = "pretrained",
    port: Port = 7860,
    host: Host = "127.0.0.1",
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Ask a ViT with the mouse why it says what it says: a page in the browser.

    Either a classifier of train-classifier (--classifier), or any ImageNet ViT of timm (--architecture, --weights).
    Needs the extra: pip install 'relseg[explorer]'.

    Parameters
    ----------
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    architecture
        timm's name of a ViT with its ImageNet head, instead of --classifier.
    weights
        Weights of --architecture: 'pretrained' (fetched by timm) or a file.
    """
    from vitseg.explorer import ExplainedClassifier
    from vitseg.models import load_classifier, load_imagenet_vit
    from wsss.explorer.serving import serve
    from wsss.training import choose_device

    check_one_of(classifier=classifier, architecture=architecture)
    if classifier is not None:
        path = find_checkpoint(classifier, runs)
        model, title = load_classifier(path), f"{checkpoint_name(path)}: ViT classifier"
        named = {"classifier": classifier}
    else:
        model, title = load_imagenet_vit(str(architecture), weights), f"{architecture}, ImageNet"
        named = {"architecture": str(architecture), "weights": weights}
    serve(ExplainedClassifier(model, title, named, device=choose_device(device)), host=host, port=port)


def list_methods() -> None:
    """List the explanation methods, and where each comes from."""
    # not called "methods": a configuration's key of that name would be taken for the command
    from vitseg.methods import METHODS

    for name, method in METHODS.items():
        kind = "one map for each class" if method.class_specific else "one map for all classes"
        note(f"{name:24s} {kind}; {method.source}")
