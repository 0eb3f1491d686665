"""The commands about networks that segment: their training, and what they are used for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from cnnseg.segmentation.settings import (
    DECODERS,
    SegmentationConfig,
    SegmentationTrainConfig,
    SegmentConfig,
    ViewsConfig,
)
from cnnseg.settings import BEST, LAST
from wsss.console import Flat, together
from wsss.errors import InputError
from wsss.extras import extra
from wsss.naming import passing
from wsss.options import (
    Data,
    Device,
    ForegroundValue,
    OutFolder,
    Readers,
    Restart,
    Root,
    Runs,
    Shard,
    check_positive,
)
from wsss.processes import take_shard
from wsss.progress import note
from wsss.settings import MixedPrecision
from wsss.words import agreeing, counted

if TYPE_CHECKING:
    from PIL import Image

FEW = 8
"""Up to so many photographs, segment prints what each of them shows."""

NetworkOption = Annotated[str, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one.")]
Which = Annotated[
    Literal["last", "best"],
    Parameter(help="last: the end of the training; best: the checkpoint that was chosen on the validation split."),
]
BatchSize = Annotated[int, Parameter(help="Images of one size that go through the network together.")]
Precision = Annotated[MixedPrecision, Parameter(help="bfloat16: autocast to it.")]


@together
def train_segmentation(
    *,
    masks: list[str],
    data: Data,
    split: str,
    val_split: str | None = None,
    name: str = "segmentation",
    foreground_value: ForegroundValue = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
    restart: Restart = False,
    net: Annotated[SegmentationConfig, Flat] = SegmentationConfig(),
    cfg: Annotated[SegmentationTrainConfig, Flat] = SegmentationTrainConfig(),
) -> None:
    """Train a network that segments, on the pseudo-masks of a run and on the image-level labels.

    Writes network/last.safetensors into the run, and best.safetensors, which is chosen on the validation split;
    history.jsonl has the figures of every evaluation. A training that was killed goes on and, on a CPU, ends with the
    same network.

    Parameters
    ----------
    masks
        Runs whose masks are learnt: names below the folder of runs, or paths. Of several, pixels count where they
        agree. Or the word true: the data set's own masks.
    split
        Split to train on.
    val_split
        Split that is evaluated while training, and that best.safetensors is chosen on.
    name
        Name of the run.
    """
    from cnnseg.segmentation.training import train_segmentation as train
    from wsss.data import load_dataset

    train_set = load_dataset(data, split, root, foreground_value=foreground_value)
    with passing(split="val_split"):
        val_set = load_dataset(data, val_split, root, foreground_value=foreground_value) if val_split else None
    how: dict[str, Any] = {"masks": masks, "runs": runs, "device": device, "workers": workers, "restart": restart}
    train(runs / name, train_set, val_set, net, cfg, **how)


@together
def pseudo_masks(
    *,
    network: NetworkOption,
    data: Data,
    split: str,
    name: str,
    which: Which = "last",
    size: int | None = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: BatchSize = 4,
    precision: Precision = "float32",
    shard: Shard = "1/1",
    views: Annotated[ViewsConfig, Flat] = ViewsConfig(),
) -> None:
    """Make masks with a trained network that is told which classes each image shows, for the next one to learn from.

    Writes stages masks and refined into the run, as affinity refine does: `train-segmentation --masks NAME` with
    --ignore-below learns from those pixels that this network is sure of (a round of self-training). Goes on where it
    was stopped.

    Parameters
    ----------
    split
        Split to make masks of.
    name
        Name of the run that gets them.
    size
        Resize images to an area of SIZE x SIZE before the network sees them; native size unless given.
    """
    from cnnseg.segmentation.labelling import write_pseudo_masks
    from wsss.data import load_dataset

    take_shard(shard)
    check_positive(size=size, batch_size=batch_size)
    write_pseudo_masks(
        network,
        load_dataset(data, split, root),
        runs / name,
        runs=runs,
        which={"last": LAST, "best": BEST}[which],
        size=size,
        views=views,
        device=device,
        batch_size=batch_size,
        precision=precision,
    )


@together
def segment(
    images: list[Path],
    /,
    *,
    network: NetworkOption,
    out: OutFolder,
    which: Which = "last",
    overlays: bool = True,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: BatchSize = 4,
    precision: Precision = "float32",
    workers: int = 2,
    shard: Shard = "1/1",
    cfg: Annotated[SegmentConfig, Flat] = SegmentConfig(),
) -> None:
    """Segment new photographs: masks, overlays, and a table of how much of each photograph each class covers.

    Writes masks/NAME.png (palette PNG, pixel value = class index), classes.txt with the name of each index (the
    network's own classes), overlays/NAME.jpg and shares.csv. Masks have the size of the photograph, which is turned
    upright by its EXIF orientation. Goes on where it was stopped; a photograph that cannot be read is reported, and the
    others are still segmented.

    Parameters
    ----------
    images
        Photographs, or folders of them (with all that lies below).
    out
        Folder for the results.
    overlays
        Write overlays.
    workers
        Threads that read photographs and write results beside the network.
    """
    from cnnseg.models import find_network, load_network
    from cnnseg.segmentation.api import check_segments
    from cnnseg.segmentation.photographs import find_photographs, segment_photographs
    from wsss.training import choose_device

    take_shard(shard)
    check_positive(batch_size=batch_size, workers=workers)
    photographs = find_photographs(images, out)
    path = find_network(network, runs, {"last": LAST, "best": BEST}[which])
    model = load_network(path)
    check_segments(model)
    written = segment_photographs(
        model,
        path,
        photographs,
        out,
        cfg,
        overlays=overlays,
        device=choose_device(device),
        batch_size=batch_size,
        precision=precision,
        workers=workers,
    )
    for name, shares in written.shares.items() if len(photographs) <= FEW else ():
        parts = ", ".join(f"{key} {100 * share:.1f} %" for key, share in shares.items() if share)
        note(f"{out / 'masks' / name}.png: {parts}")
    note(f"{out}: {counted(written.made, 'photograph')} segmented now; class shares: {written.table}")
    if written.failed:
        first = next(iter(written.failed.values()))
        left = f"{len(written.failed)} of {len(photographs)} photographs {agreeing(len(written.failed), 'was', 'were')}"
        raise InputError(f"{left} left out; the first: {first}" if len(photographs) > 1 else first)


def export(
    *,
    network: NetworkOption,
    out: Path,
    format: Literal["onnx", "safetensors"] = "onnx",
    which: Which = "last",
    photographs: list[Path] | None = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a network into one file: ONNX, to be used without this toolkit, or a checkpoint of half the size.

    onnx: takes uint8 RGB images of any size and number, normalises them itself, and gives masks and probabilities; it
    is checked with ONNX Runtime against PyTorch before it is written. safetensors: weights in float16, read by all
    commands here.

    Parameters
    ----------
    out
        File to write, .onnx or .safetensors.
    photographs
        Photographs, or folders of them, on which the two networks are compared; three of scikit-image unless given.
    """
    from cnnseg.models import find_network, load_network
    from cnnseg.segmentation.api import check_segments
    from cnnseg.segmentation.export import export_onnx, export_small
    from cnnseg.segmentation.photographs import find_photographs
    from wsss.data import read_image

    if out.suffix != f".{format}":
        raise InputError(f"--out {out}: expected a name that ends in .{format}, as --format {format} wants")
    path = find_network(network, runs, {"last": LAST, "best": BEST}[which])
    if out.exists() and out.samefile(path):
        raise InputError(f"--out {out}: is the network itself; give another file")
    model = load_network(path)
    check_segments(model)
    files = find_photographs(photographs, out) if photographs else {}
    images = [read_image(file) for file in files.values()] or _own_photographs()
    found = (export_onnx if format == "onnx" else export_small)(model, out, images)
    note(
        f"compared on {counted(found.photographs, 'photograph')}: "
        f"probabilities of pixels differ by at most {found.largest:.2g}, "
        f"{100 * found.pixels:.4f} % of the pixels have another class"
    )
    note(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _own_photographs() -> list[Image.Image]:
    """What scikit-image brings: a cat, a person, and a cup, of three sizes."""
    from PIL import Image

    with extra("export"):
        from skimage import data

    return [Image.fromarray(photograph()) for photograph in (data.chelsea, data.astronaut, data.coffee)]


def list_decoders() -> None:
    """List the decoders that train-segmentation puts on an encoder."""
    for name, line in DECODERS.items():
        note(f"{name:20s} {line}")
