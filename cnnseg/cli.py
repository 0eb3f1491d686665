"""The command ``cnnseg``: unrolled LRP, trained as a segmentation network, beside its baselines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group

from cnnseg.evaluation_commands import perturbation_test, segmentation_test
from cnnseg.explain_commands import explain, list_methods, list_rules
from cnnseg.explorer.commands import explore
from cnnseg.regions.commands import explain_segmentation, list_layers, region_test
from cnnseg.seed_commands import evolution, seeds
from cnnseg.segmentation.commands import export, list_decoders, pseudo_masks, segment, train_segmentation
from cnnseg.segmentation.settings import ViewsConfig
from cnnseg.settings import NETWORKS
from cnnseg.training_commands import train_classifier, train_unrolled
from wsss.console import LISTS, Flat, run, versions
from wsss.errors import InputError
from wsss.options import (
    Data,
    Device,
    ForegroundValue,
    Readers,
    Root,
    Runs,
    Workers,
    check_positive,
    worker_count,
)
from wsss.progress import note
from wsss.settings import MixedPrecision

if TYPE_CHECKING:
    pass

app = App(
    name="cnnseg",
    version=versions,
    help="Explanations of CNNs and the tests that evaluate them; unrolled LRP as a segmentation network; seeds.\n\n"
    "To begin with: cnnseg explain cat.jpg --architecture resnet50 --rules epsilon_plus_flat",
    default_parameter=LISTS,
)


def evaluate(
    *,
    network: str,
    data: Data,
    split: str,
    which: Literal["last", "best"] = "last",
    name: str | None = None,
    size: int | None = None,
    protocol: Literal["voc", "paper"] = "voc",
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: int = 4,
    classes_at_once: int | None = None,
    precision: MixedPrecision = "float32",
    labels_given: bool = False,
    foreground_value: ForegroundValue = None,
    views: Annotated[ViewsConfig, Flat] = ViewsConfig(),
    workers: Workers = None,
) -> None:
    """Segment and classify whole images: masks, mIoU in metrics.json, F1 and average precision in scores.json.

    No image-level labels are given to the network, unless asked for. wsss compare shows the figures beside those of
    other runs.

    Parameters
    ----------
    network
        Checkpoint (.safetensors), or the name of a run that holds one.
    split
        Split to segment.
    which
        last: the end of the training; best: the checkpoint that was chosen on the validation split.
    name
        Run that gets masks and figures; unless given, that of the network (of best: NAME_best; with the labels given:
        NAME_labels).
    size
        Resize images to an area of SIZE x SIZE before the network sees them; native size unless given.
    protocol
        voc: whole images, 255 ignored; paper: Yu et al.'s centre squares, resized to 256 x 256, 255 counted as
        background; writes no masks.
    batch_size
        Images of one size that go through the network together.
    classes_at_once
        Decoder branches of an unrolled network that are held in memory at once; all unless given.
    precision
        bfloat16: autocast to it.
    labels_given
        A pixel can only be background or a class that its image is labelled with.
    workers
        Processes that compare masks; one for each core unless given.
    """
    from cnnseg.scores import evaluate_checkpoint
    from wsss.data import load_dataset

    check_positive(size=size, batch_size=batch_size, classes_at_once=classes_at_once)
    evaluate_checkpoint(
        network,
        load_dataset(data, split, root, foreground_value=foreground_value),
        runs=runs,
        which=f"{which}.safetensors",
        name=name,
        size=size,
        protocol=protocol,
        device=device,
        batch_size=batch_size,
        classes_at_once=classes_at_once,
        precision=precision,
        views=views,
        labels_given=labels_given,
        workers=worker_count(workers),
    )


def run_table(
    table: str,
    /,
    *,
    out: Path | None = None,
    only: list[str] | None = None,
    weights: str | None = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
) -> None:
    """Make a table of trainings: networks x budgets of masks x seeds, each from one classifier for its encoder.

    Trains and evaluates what is not finished yet, one after the other, each into a run of its own, and writes the
    table (.md, .csv, .json) after each. Stopped and started again, it goes on; several processes may share the work if
    each has its own --only, once the classifiers are trained.

    Parameters
    ----------
    table
        YAML of the table: a path, or a name below configs/, such as cnnseg/table1.
    out
        The table to write, .md; RUNS/NAME.md unless given.
    only
        Patterns of names of runs, such as unrolled_*_s0: no other is trained.
    weights
        ImageNet weights that the classifiers start at, where the table names none: a file, or 'pretrained'.
    """
    from cnnseg.table import markdown
    from cnnseg.table import run_table as make
    from cnnseg.table_settings import read_table
    from wsss.data import load_dataset

    path, content = read_table(table)
    if weights is not None:
        given = {row.architecture: weights for row in content.rows}
        content = content.model_copy(update={"weights": given | content.weights})
    train, val = (load_dataset(content.data, split, root) for split in (content.train_split, content.val_split))
    target = out or runs / f"{path.stem}.md"
    if target.suffix != ".md":
        raise InputError(f"--out {target}: expected a name that ends in .md; .csv and .json are written beside it")
    results = make(content, train, val, target, runs=runs, only=only or (), device=device, workers=workers)
    note(markdown(content, results))
    note(f"wrote {target}, {target.with_suffix('.csv')} and {target.with_suffix('.json')}")


def list_networks() -> None:
    """List the kinds of networks that train-unrolled trains."""
    for name, line in NETWORKS.items():
        note(f"{name:20s} {line}")


EXPLAIN = Group("Explain", sort_key=1)
CHAIN = Group("From image-level labels to masks", sort_key=2)
UNROLLED = Group("Unrolled networks, for few masks", sort_key=3)
TESTS = Group("Tests of explanations", sort_key=4)
LISTS_OF = Group("Lists, help", sort_key=5)

COMMANDS = {
    EXPLAIN: (explain, explain_segmentation, explore),
    CHAIN: (train_classifier, seeds, train_segmentation, segment, evaluate, pseudo_masks, export),
    UNROLLED: (train_unrolled, run_table, evolution),
    TESTS: (perturbation_test, segmentation_test, region_test),
    LISTS_OF: (list_methods, list_rules, list_layers, list_decoders, list_networks),
}
for group, commands in COMMANDS.items():
    for command in commands:
        app.command(command, group=group)
for option in ("--help", "--version"):
    app[option].group = LISTS_OF


def main() -> None:
    """Entry point of ``cnnseg``."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
