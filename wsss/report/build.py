"""From runs to files: collect the figures, choose and draw the pictures, fill the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from wsss.console import warn
from wsss.data import Dataset
from wsss.entries import ALPHAS, STAGES, MetricEntry, read_metrics, stages_of
from wsss.errors import InputError
from wsss.parallel import map_parallel
from wsss.report import tables
from wsss.report.pictures import WIDTH, ImageBlock, choose_images, draw_block
from wsss.report.tables import FigureRow, figure_rows
from wsss.store import Stage, voc_palette
from wsss.store.atomic import write_bytes

CAVEATS = (
    "Image-level labels given: the classes of each image were told to the method, so it cannot name a class that the "
    "image does not show. A segmentation network that has to find the classes by itself solves a harder task.",
    "Oracle rows choose the background threshold on the evaluated masks themselves: an upper bound, not a result.",
    "Every figure was measured on the data and images named here. Figures of papers, or of another class list, do not "
    "compare with it.",
)


@dataclass(frozen=True)
class ReportFiles:
    """Where the three forms of a report were written."""

    html: Path
    markdown: Path
    csv: Path


def write_report(
    runs: Sequence[Path],
    dataset: Dataset,
    out: Path,
    *,
    images: Sequence[str] | None = None,
    pictures: int = 8,
    alpha: float = ALPHAS[0],
    workers: int = 1,
    command: str = "",
) -> ReportFiles:
    """Write ``out`` (HTML, nothing outside the file) and, beside it, the table as .md and .csv.

    Figures come from each run's ``metrics.json``; where there are none the page says so and shows the pictures.

    Args:
        runs: run folders; their names head the rows.
        dataset: the split that figures and pictures are about.
        images: ids to show; None chooses `pictures` of them, see :func:`wsss.report.pictures.choose_images`.
        alpha: of the alpha rule, for the contours on seeds.
        workers: processes.
        command: the command line, printed on the page.

    Raises:
        InputError: a stage was made for other classes, an unknown image, nothing to show.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: the report is a web page; give a name that ends in .html")
    if pictures < 1:
        raise InputError(f"--pictures {pictures}: at least 1")
    if not alpha > 0:
        raise InputError(f"--alpha {alpha:g}: must be greater than 0")
    folders = _name_runs(runs)
    stages = _stages(folders, dataset)
    metrics = {name: _entries(run, dataset) for name, run in folders.items()}
    rows = figure_rows(metrics)
    notes = _notes(folders, metrics, dataset)
    choice = choose_images(dataset, folders, ids=images, count=pictures, workers=workers)
    shown = [stage for stage in STAGES if any(stage in mine for mine in stages.values())]
    width = _width(len(choice.samples) * (2 + len(folders) * len(shown)))
    draw = partial(draw_block, dataset=dataset, runs=folders, stages=shown, alpha=alpha, width=width)
    blocks = list(map_parallel(draw, choice.samples, workers=workers, description="draw"))
    title = (
        f"{' and '.join(folders) if len(folders) < 4 else f'{len(folders)} runs'} on {dataset.name} / {dataset.split}"
    )
    caveats = _caveats(rows)
    page = _page(
        title=title,
        dataset=dataset,
        rows=rows,
        notes=notes,
        caveats=caveats,
        choice=choice.how,
        blocks=blocks,
        stages=shown,
        alpha=alpha,
        width=width,
        histories=_histories(stages, dataset.split),
        command=command,
    )
    result = ReportFiles(out, out.with_suffix(".md"), out.with_suffix(".csv"))
    lines = [*notes, *_protocol(rows).lines(), *caveats, *([f"written by `{command}`"] if command else [])]
    write_bytes(result.html, page.encode())
    write_bytes(result.markdown, tables.to_markdown(rows, title, lines).encode())
    write_bytes(result.csv, tables.to_csv(rows).encode())
    return result


def _caveats(rows: Sequence[FigureRow]) -> tuple[str, ...]:
    """Those of ``CAVEATS`` that apply; the first stands where labels were given, or nothing is known."""
    labels, oracle, figures = CAVEATS
    given = not rows or any(row.entry.labels_given for row in rows)
    oracles = any(row.entry.oracle for row in rows)
    return (*([labels] if given else []), *([oracle] if oracles else []), *([figures] if rows else []))


def _name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Folder names where they differ, else whole paths."""
    unique = list(dict.fromkeys(Path(run) for run in runs))
    if not unique:
        raise InputError("compare: give at least one run")
    names = [run.name or run.resolve().name for run in unique]
    return dict(zip(names if len(set(names)) == len(names) else map(str, unique), unique, strict=True))


def _stages(folders: dict[str, Path], dataset: Dataset) -> dict[str, dict[str, Stage]]:
    """The stages of each run that hold files of this split, checked to be made for these classes."""
    found = {}
    for name, run in folders.items():
        found[name] = {
            stage: Stage.read(run / stage, kind=STAGES[stage], class_names=dataset.class_names)
            for stage in stages_of(run, dataset.samples)
        }
    return found


def _entries(run: Path, dataset: Dataset) -> list[MetricEntry]:
    return [entry for entry in read_metrics(run) if (entry.data, entry.split) == (dataset.name, dataset.split)]


def _notes(folders: dict[str, Path], metrics: dict[str, list[MetricEntry]], dataset: Dataset) -> list[str]:
    """What a reader must know beside the table: no ground truth, runs not evaluated, stale or unequal figures."""
    notes = []
    if not any(sample.mask_path for sample in dataset):
        notes.append(f"No ground truth: {dataset.name} / {dataset.split} has no masks, so there is nothing to score.")
    for name, run in folders.items():
        if not metrics[name]:
            if any(sample.mask_path for sample in dataset):
                line = f"{name} has no figures for split {dataset.split}: run wsss evaluate {name} on it first."
                notes.append(line)
                warn(line)
            continue
        for stage in dict.fromkeys(entry.stage for entry in metrics[name]):
            current = run / stage
            sources = {entry.source for entry in metrics[name] if entry.stage == stage}
            if (
                not (current / "manifest.json").is_file()
                or Stage.read(current, kind=STAGES[stage]).fingerprint in sources
            ):
                continue
            line = f"{name}: the {tables.STAGE_TITLES[stage]} were made anew since they were evaluated; evaluate again."
            notes.append(line)
            warn(line)
    counts = {entry.images for entries in metrics.values() for entry in entries}
    if len(counts) > 1:
        notes.append("Rows differ in their number of images and do not compare with each other.")
    return notes


@dataclass(frozen=True)
class _Protocol:
    """How the figures came about: what all rows share (or each part of them), each rule, each command."""

    shared: list[str]
    rules: list[tuple[str, str]]
    commands: list[tuple[str, str]]

    def lines(self) -> list[str]:
        commands = [f"figures of {what}: `{command}`" for what, command in self.commands]
        return [*self.shared, *(f"{rule}: {how}" for rule, how in self.rules), *commands]


def _protocol(rows: Sequence[FigureRow]) -> _Protocol:
    """The parts of the rows' protocols ("<rule>; <labels and matrix>") and commands, equal ones once."""
    shared: dict[str, list[str]] = {}
    rules: dict[str, str] = {}
    commands: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        how, _, rest = row.entry.protocol.partition("; ")
        stage = tables.STAGE_TITLES[row.entry.stage]
        shared.setdefault(rest, []).append(f"{row.run} {stage}")
        rule = tables.rule_text(row.entry)
        rules[rule if rule != "as written" else "masks"] = how
        commands.setdefault((row.run, row.entry.command), []).append(stage)
    everyone = len(shared) == 1
    return _Protocol(
        [f"{'Every row' if everyone else ', '.join(dict.fromkeys(who))}: {rest}." for rest, who in shared.items()],
        list(rules.items()),
        [(f"{run} ({', '.join(dict.fromkeys(who))})", ran) for (run, ran), who in commands.items() if ran],
    )


def _histories(stages: dict[str, dict[str, Stage]], split: str) -> list[dict[str, Any]]:
    """How each stage was made: the last entry of its history for this split."""
    made = []
    for name, mine in stages.items():
        for stage, opened in mine.items():
            history = opened.manifest["history"]
            last = next((h for h in reversed(history) if h.get("split") == split), history[-1] if history else {})
            versions = last.get("versions") or opened.manifest.get("versions") or {}
            made.append(
                {
                    "run": name,
                    "stage": tables.STAGE_TITLES[stage],
                    "command": last.get("command", ""),
                    "seconds": last.get("seconds"),
                    "versions": ", ".join(f"{key} {value}" for key, value in versions.items()),
                    "finished": bool(last),
                }
            )
    return made


def _width(pictures: int) -> int:
    """Picture width that keeps the page under about 3 MB (a 320 px picture takes some 20 kB as base64)."""
    return WIDTH if pictures <= 110 else max(120, int(WIDTH * (110 / pictures) ** 0.5))


def _page(
    *, dataset: Dataset, rows: list[FigureRow], blocks: list[ImageBlock], stages: list[str], **context: Any
) -> str:
    source = files("wsss.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    chosen = tables.iou_columns(rows)
    classes = list(dict.fromkeys(name for row in chosen for name in row.entry.iou))
    shown = {name for block in blocks for name in block.classes}
    legend = [
        (name, "#{:02x}{:02x}{:02x}".format(*voc_palette()[index]))
        for index, name in enumerate(dataset.class_names, start=1)
        if dataset.num_classes <= 25 or name in shown
    ]
    return environment.from_string(source).render(
        dataset=dataset,
        with_truth=sum(1 for sample in dataset if sample.mask_path),
        rows=rows,
        columns={name: tables.COLUMNS[name] for name in tables.columns_of(rows)} if rows else {},
        show=tables.show,
        rule_text=tables.rule_text,
        titles=tables.STAGE_TITLES,
        iou_rows=chosen,
        iou_classes=[(name, tables.best_of_class(chosen, name)) for name in classes],
        protocol=_protocol(rows),
        legend=legend,
        blocks=blocks,
        stages=stages,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **context,
    )
