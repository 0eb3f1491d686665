"""The commands about regions of networks that segment: ``explain-segmentation``, ``list-layers``, ``region-test``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cnnseg.evaluation_commands import Name
from cnnseg.regions.settings import (
    Mask,
    PictureFormat,
    Pixels,
    Predicted,
    Region,
    RegionEvaluationConfig,
    RegionMethod,
    SegmentationQuestion,
    read_question,
)
from cnnseg.segmentation.commands import Which
from cnnseg.settings import BEST, LAST
from wsss.console import Flat, together
from wsss.errors import InputError
from wsss.explanation_tests.options import Split
from wsss.options import Data, Device, OutFolder, Root, Runs, Shard, check_positive
from wsss.processes import take_shard
from wsss.progress import note, warn
from wsss.words import agreeing

if TYPE_CHECKING:
    from cnnseg.regions.photographs import Shown

NetworkOption = Annotated[
    str | None, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one; of --settings its own.")
]


@together
def explain_segmentation(
    images: list[Path] | None = None,
    /,
    *,
    network: NetworkOption = None,
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    pixel: list[str] | None = None,
    region: Path | None = None,
    all_classes: bool = False,
    all_layers: bool = False,
    settings: Path | None = None,
    out: OutFolder = Path("explanations"),
    format: PictureFormat = "png",
    which: Which = "last",
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[RegionMethod, Flat] = RegionMethod(),
) -> None:
    """Explain why a network that segments gives a region of a photograph its class.

    The region is what --pixel or --region says, else all pixels that are predicted as the class. Writes for each
    photograph a picture, the maps on the network's own grid (.npz), and the settings (.json), which make it again.

    Parameters
    ----------
    images
        Photographs, or folders of them (with all that lies below).
    class_name
        Class whose score is explained, "background" too; unless given the one that covers most of the region, or most
        of the photograph beside background.
    pixel
        Pixels of the photograph, each X,Y from its upper left, as the region.
    region
        PNG of the photograph's size as the region: what is not 0.
    all_classes
        One picture of the photograph with its mask and a map for each class that is predicted, on one scale.
    all_layers
        One picture of the map at layer after layer, the last one of each resolution, each on its own scale.
    settings
        JSON of an explanation, as this command and the explorer write them: makes that map again.
    out
        Folder for the results.
    format
        Of pictures.
    """
    from cnnseg.models import find_network, load_network
    from cnnseg.regions.explaining import RegionExplainer
    from cnnseg.regions.photographs import explain_photographs
    from cnnseg.segmentation.photographs import find_photographs
    from wsss.store import file_hash
    from wsss.training import choose_device

    take_shard(shard)
    if all_classes and all_layers:
        raise InputError("--all-classes, --all-layers: expected one of the two, got both")
    given: dict[str, object] = {"--class": class_name, "--pixel": pixel, "--region": region}
    given |= {f"--{name}": True for name in sorted(cfg.model_fields_set)}
    if settings is None:
        area = _region(pixel, region)
        question = SegmentationQuestion(**cfg.model_dump(), network=network, class_name=class_name, region=area)
    else:
        question = _again(settings, given)
    if all_classes and question.class_name is not None:
        raise InputError(f"--class {question.class_name}: --all-classes explains all that are predicted; give one")
    if question.network is None and network is None:
        raise InputError("--network: expected a checkpoint or the name of a run, got none")
    paths = images or ([Path(question.image)] if question.image else [])
    if not paths:
        raise InputError("images: expected a photograph, or a folder of them, got none")
    photographs = find_photographs(paths, out)
    path = find_network(network or question.network or "", runs, {"last": LAST, "best": BEST}[which])
    fingerprint = file_hash(path)
    if settings is not None:
        _warn_of_others(settings, question, fingerprint, list(photographs.values()))
    model = load_network(path)
    model.module.to(choose_device(device))
    question = question.model_copy(update={"network": str(path), "network_hash": fingerprint})
    shown: Shown = "classes" if all_classes else "layers" if all_layers else "one"
    found = explain_photographs(RegionExplainer(model), photographs, question, out, shown, picture=format)
    if found.failed:
        first = next(iter(found.failed.values()))
        if len(photographs) == 1:
            raise InputError(first)
        were = agreeing(len(found.failed), "was", "were")
        names = ", ".join(str(photographs[name]) for name in found.failed)
        raise InputError(f"{len(found.failed)} of {len(photographs)} photographs {were} left out ({names}): {first}")


def list_layers(
    *,
    network: Annotated[str, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one.")],
    size: int = 320,
    every: bool = False,
    which: Which = "last",
    runs: Runs = Path("runs"),
) -> None:
    """List the layers of a network that segments, encoder and decoder, in order, with the size of their maps.

    Parameters
    ----------
    size
        Side of the square image that the maps are of.
    every
        All layers; else the end of each block.
    """
    import torch

    from cnnseg.models import find_network, load_network
    from cnnseg.regions import layers
    from cnnseg.regions.explaining import RegionExplainer
    from cnnseg.segmentation.segmenting import check_stride

    check_positive(size=size)
    model = load_network(find_network(network, runs, {"last": LAST, "best": BEST}[which]))
    explainer = RegionExplainer(model)
    check_stride(model, (size, size))
    found = layers.list_layers(explainer.adapted(), torch.zeros(1, 3, size, size), every=every)
    usual, width = layers.usual_layer(found).name, max(len(layer.name) for layer in found)
    note(f"{'layer':{width}}  channels     maps  stride")
    for layer in found:
        said = "  the network's answer" if layer.scores else "  unless --layer is given" if layer.name == usual else ""
        maps = f"{layer.height} x {layer.width}"
        note(f"{layer.name:{width}}  {layer.channels:8d}  {maps:>9}  {layer.stride:6g}{said}")


@together
def region_test(
    *,
    network: Annotated[str, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one.")],
    data: Data,
    split: Split,
    name: Name = None,
    root: Root = None,
    which: Which = "last",
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[RegionEvaluationConfig, Flat] = RegionEvaluationConfig(),
) -> None:
    """Remove the most or the least relevant pixels and see how fast the score of a region falls.

    The region is what the network predicts as a class that the image shows; pixels are removed outside of it, to see
    whether context matters, and inside of it. Prints the area under the region's mean probability with 95 % intervals
    and each explainer's difference to the first one, pair by pair; results for each pair of image and class stay in
    RUNS/NETWORK.METHOD.../region, where a test that was stopped goes on. Several runs compare: wsss compare.
    """
    from cnnseg.regions.tested import find_explainers, find_model
    from wsss.explanation_tests.commands import Order, RegionRule, evaluate_by_regions

    take_shard(shard)

    def find():
        tested = find_model(network, runs, cfg, {"last": LAST, "best": BEST}[which])
        return tested, find_explainers(tested, cfg)

    order = Order("cnnseg", find, cfg, runs, name, device)
    evaluate_by_regions(order, RegionRule(cfg.size, cfg.least, cfg.score), data, split, root)


def _region(pixels: list[str] | None, mask: Path | None) -> Region:
    """The region that the options say."""
    if pixels and mask is not None:
        raise InputError("--pixel, --region: expected one of the two, got both")
    if mask is not None:
        from wsss.data import read_label_image

        return Mask.of(read_label_image(mask))
    return Pixels(points=tuple(_point(text) for text in pixels)) if pixels else Predicted()


def _point(text: str) -> tuple[int, int]:
    x, comma, y = text.partition(",")
    if not (comma and x.strip().isdecimal() and y.strip().isdecimal()):
        raise InputError(f"--pixel {text}: expected X,Y, column and row from the upper left, such as 120,80")
    return int(x), int(y)


def _again(settings: Path, given: dict[str, object]) -> SegmentationQuestion:
    """The question of a file; InputError for an option that it answers already."""
    for option, value in given.items():
        if value:
            raise InputError(f"{option}: --settings {settings} says it already; leave out one of the two")
    return read_question(settings)


def _warn_of_others(settings: Path, question: SegmentationQuestion, network: str, images: list[Path]) -> None:
    from wsss.store import file_hash

    if question.network_hash not in (None, network):
        warn(f"{settings}: was made with another network ({question.network_hash}, this one is {network})")
    for path in images:
        if question.image_hash not in (None, file_hash(path)):
            warn(f"{settings}: was made of another photograph than {path}")
