"""The command ``cnnseg explore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cnnseg.settings import BEST, LAST
from wsss.errors import InputError
from wsss.explorer.options import Host, Port
from wsss.options import Device, Runs
from wsss.words import counted

if TYPE_CHECKING:
    from wsss.explorer.explained import ExplainedModel


def explore(
    *,
    network: str | None = None,
    classifier: str | None = None,
    model: str | None = None,
    port: Port = 7860,
    host: Host = "127.0.0.1",
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Ask a network with the mouse why it says what it says: a page in the browser.

    One of --network, --classifier and --model is given. Vision transformers are asked on the page of `vitseg explore`.
    Needs the extra: pip install 'relseg[explorer]'.

    Parameters
    ----------
    network
        A network that segments: a checkpoint (.safetensors), or the name of a run that holds one.
    classifier
        A CNN of train-classifier: likewise.
    model
        MODULE:FUNCTION of your own, which is called without arguments and gives a network that segments: a
        torch.nn.Module, images (B, 3, H, W) to maps (B, C, H, W), or (module, names of the C classes, the background's
        first). Images are normalised by the statistics of ImageNet.
    """
    from wsss.explorer.serving import serve

    given = [option for option in (network, classifier, model) if option is not None]
    if len(given) != 1:
        raise InputError("--network, --classifier or --model: expected one of the three")
    serve(_explained(network, classifier, model, runs, device), host=host, port=port)


def _explained(
    network: str | None, classifier: str | None, model: str | None, runs: Path, device: str
) -> ExplainedModel:
    from cnnseg.models import find_network, load_network
    from wsss.store import file_hash
    from wsss.training import choose_device

    if classifier is not None:
        from cnnseg.explorer.classifying import ExplainedClassifier
        from cnnseg.tested import find_model

        return ExplainedClassifier(find_model(classifier, None, "pretrained", runs), classifier)
    from cnnseg.explorer.segmenting import ExplainedSegmenter

    if model is not None:
        from cnnseg.explorer.foreign import foreign_network

        found = foreign_network(model)
        found.module.to(choose_device(device))
        return ExplainedSegmenter(found, f"{model}, {counted(len(found.class_names), 'class')}")
    path = find_network(network or "", runs, LAST)
    found = load_network(path)
    found.module.to(choose_device(device))
    title = f"{path.stem if path.name not in (LAST, BEST) else path.parents[1].name}: {found.title}"
    return ExplainedSegmenter(found, title, str(path), file_hash(path))
