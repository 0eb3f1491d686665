"""The command ``wsss``: look through a data set, evaluate a run, compare runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich import box
from rich.table import Table
from rich.text import Text

from wsss.console import LISTS, console, run, versions
from wsss.entries import ALPHAS, MetricEntry, save_metrics
from wsss.errors import InputError
from wsss.naming import named
from wsss.options import Data, ForegroundValue, Root, Runs, Workers, worker_count
from wsss.printing import print_table
from wsss.progress import note
from wsss.words import agreeing, counted

app = App(
    name="wsss",
    version=versions,
    help="Images, labels and numbers of weakly supervised segmentation.\n\n"
    "To begin with: wsss data-check --data my_data.yaml",
    default_parameter=LISTS,
)

OptionalData = Annotated[
    str | None,
    Parameter(help="Data set: a YAML file, or a name below configs/data. Without it: tests alone."),
]


@app.command(name="data-check")
def data_check(
    *,
    data: Data,
    split: list[str] | None = None,
    foreground_value: ForegroundValue = None,
    root: Root = None,
    workers: Workers = None,
) -> int:
    """Read a data set as the other commands would and tell what is wrong with it.

    Prints counts by split and class, then a line for each problem: unreadable images, missing masks, masks of another
    size than their image, unknown labels. Exit status 2 if there are problems.

    Parameters
    ----------
    split
        Splits to check. All splits unless given.
    """
    from wsss.data.check import check_dataset

    report = check_dataset(data, split, root, worker_count(workers), foreground_value)
    table = Table("split", box=box.SIMPLE_HEAD, title=f"{report.name} in {report.root}", title_justify="left")
    for heading in ("images", "masks", *report.splits[0].columns, "no class"):
        table.add_column(heading, justify="right")
    for counts in report.splits:
        figures = (counts.images, counts.masks, *counts.columns.values(), counts.unlabelled)
        table.add_row(counts.split, *map(str, figures))
    print_table(table)
    for line in report.notes:
        note(f"note: {line}")
    for line in report.problems:
        print(f"problem: {named(line)}", file=sys.stderr)
    if report.problems:
        print(
            f"error: data set {report.name}: {counted(len(report.problems), 'problem')}, listed above", file=sys.stderr
        )
        return 2
    note("no problems found")
    return 0


@app.command
def evaluate(
    name: str,
    /,
    *,
    data: Data,
    split: str,
    root: Root = None,
    runs: Runs = Path("runs"),
    stage: list[str] | None = None,
    alpha: list[float] | None = None,
    foreground_value: ForegroundValue = None,
    workers: Workers = None,
) -> None:
    """Score the stages of a run against ground truth, and keep the figures in the run's metrics.json.

    mIoU from one confusion matrix over all images at native size, background included, 255 ignored. Seeds are scored by
    the alpha rule, background = (1 - strongest score)^alpha, which reads no mask, and by the best fixed threshold on
    these very masks: an oracle, printed as such. Affinity labels leave pixels out, so they get coverage and precision.

    Parameters
    ----------
    name
        Run: a name below the folder of runs, or a path.
    split
        Split to evaluate; its images without a mask are left out.
    stage
        Stages to evaluate: seeds, refined, affinity_labels, masks. All that exist unless given.
    alpha
        Exponents of the alpha rule, the first is the headline. 8, 4 and 32 unless given.
    """
    from wsss.data import load_dataset
    from wsss.evaluate import evaluate_run
    from wsss.store import resolve_run

    folder = resolve_run(name, runs)
    options = _options(data=data, split=split, root=root, runs=runs if runs != Path("runs") else None)
    options += ["--foreground-value", str(foreground_value)] if foreground_value is not None else []
    command = shlex.join(["wsss", "evaluate", name, *options, *_options(stage=stage, alpha=alpha)])
    entries = evaluate_run(
        folder,
        load_dataset(data, split, root, foreground_value=foreground_value),
        stages=stage,
        alphas=alpha or ALPHAS,
        workers=worker_count(workers),
        command=command,
    )
    save_metrics(folder, entries)
    _print_figures(folder.name, entries)
    note(f"wrote {folder / 'metrics.json'}")


@app.command
def compare(
    names: list[str],
    /,
    *,
    data: OptionalData = None,
    split: str | None = None,
    out: Path = Path("report.html"),
    root: Root = None,
    runs: Runs = Path("runs"),
    images: list[str] | None = None,
    pictures: int = 8,
    alpha: float = ALPHAS[0],
    foreground_value: ForegroundValue = None,
    workers: Workers = None,
) -> None:
    """Put finished runs side by side in one self-contained web page: figures by stage and class, and pictures.

    Figures are those of wsss evaluate, and of the perturbation and segmentation tests of explanations: with 95 %
    intervals, paired differences to the first run, curves, and the maps of the same images. The tables are written as
    Markdown and CSV beside the page too. Without ground truth the page shows the pictures alone. Without --data it
    shows all explanation tests of the runs and nothing else, no photographs.

    Parameters
    ----------
    names
        Runs: names below the folder of runs, or paths.
    split
        Split to show.
    out
        The page to write, .html; the tables go beside it as .md and .csv.
    images
        Ids of the images to show. Unless given, images from the worst to the best.
    pictures
        How many images to choose.
    alpha
        Exponent of the alpha rule for the outline on a seed.
    """
    from wsss.data import load_dataset
    from wsss.report import write_report
    from wsss.store import resolve_run

    if (data is None) != (split is None):
        given, due = ("--split", "--data") if data is None else ("--data", "--split")
        raise InputError(f"{given}: give {due} with it, or neither to show explanation tests alone")
    if data is None and root is not None:
        raise InputError(f"--root {root}: give --data and --split with it")
    dataset = None
    if data is not None and split is not None:
        dataset = load_dataset(data, split, root, foreground_value=foreground_value)
    ids = [part.strip() for word in images for part in word.split(",") if part.strip()] if images else None
    options = _options(data=data, split=split, root=root, runs=runs if runs != Path("runs") else None, out=out)
    options += ["--foreground-value", str(foreground_value)] if foreground_value is not None else []
    chosen = {"images": ids} if ids else {"pictures": pictures}
    report = write_report(
        [resolve_run(name, runs) for name in names],
        dataset,
        out,
        images=ids,
        pictures=pictures,
        alpha=alpha,
        workers=worker_count(workers),
        command=shlex.join(["wsss", "compare", *names, *options, *_options(**chosen, alpha=alpha)]),
    )
    size = report.html.stat().st_size / 1e6
    note(f"wrote {report.html} ({size:.1f} MB, needs no network), {report.markdown} and {report.csv}")


@app.command
def status(
    name: str,
    /,
    *,
    data: Annotated[
        str | None, Parameter(help="Data set: a YAML file, or a name below configs/data. Without it: runs alone.")
    ] = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    foreground_value: ForegroundValue = None,
    check: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Print the chain of a run: what each stage was made of, and whether it is up to date, or stale and why.

    Stages of other runs that these were made of are looked at, too. Images, labels and masks are compared if --data is
    given. Nothing is changed.

    Parameters
    ----------
    name
        Run: a name below the folder of runs, or a path.
    check
        Exit status 1 if anything is stale.
    """
    from wsss.status import chain_of
    from wsss.store import resolve_run

    for option, value in (("--root", root), ("--foreground-value", foreground_value)):
        if data is None and value is not None:
            raise InputError(f"{option} {value}: give --data with it")
    folder = resolve_run(name, runs)
    states = chain_of(folder, data, root, foreground_value)
    table = Table("stage", "holds", "state", box=box.SIMPLE_HEAD, title=str(folder), title_justify="left")
    table.columns[0].overflow = "fold"
    for state in states:
        sources = f"made of {', '.join(state.sources)}" if state.sources else ""
        words = Text(state.words, "yellow" if state.stale else "")
        name = state.name.removeprefix(f"{folder.resolve().name}/")
        table.add_row(name, "\n".join(filter(None, (state.made, sources))), words)
    console.print(table)
    stale = [state for state in states if state.stale]
    if data is None:
        note("images, labels and masks were not looked at: give --data")
    are = agreeing(len(stale), "is", "are")
    note(f"{len(stale)} of {len(states)} {are} stale" if stale else "everything is up to date")
    return int(check and bool(stale))


def _print_figures(name: str, entries: Sequence[MetricEntry]) -> None:
    from wsss.report.tables import COLUMNS, columns_of, figure_rows, rule_text, show

    rows = figure_rows({name: entries})
    columns = columns_of(rows)
    title = f"{name} on {entries[0].data} / {entries[0].split}, {counted(entries[0].images, 'image')}"
    table = Table("stage", "rule", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in columns:
        table.add_column(COLUMNS[column], justify="right")
    for row in rows:
        style = "bold" if row.entry.headline else "dim"
        table.add_row(row.entry.stage, rule_text(row.entry), *(show(c, row.figure(c)) for c in columns), style=style)
    print_table(table)
    for entry in entries:
        if entry.headline and entry.iou:
            known = ", ".join(f"{key} {value:.1f}" for key, value in entry.iou.items() if value is not None)
            note(f"IoU by class, {entry.stage} ({rule_text(entry)}): {known}")
    for protocol in dict.fromkeys(entry.protocol.split("; ", 1)[1] for entry in entries):
        note(f"protocol: {protocol}")
    if any(entry.oracle for entry in entries):
        note("oracle: the threshold was chosen on these very masks, an upper bound and no result")


def _options(**values: object) -> list[str]:
    """The command line's words for options that were given."""
    words = []
    for key, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                words += [f"--{key}", f"{item:g}" if isinstance(item, float) else str(item)]
    return words


def main() -> None:
    """Entry point of the command ``wsss``."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
