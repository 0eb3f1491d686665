"""Tables 1 to 3 of Yu et al. (2024), or others like them: train what is missing, evaluate it, write the table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from cnnseg.evaluation import PROTOCOLS
from cnnseg.runs import train_run
from cnnseg.scores import evaluate_checkpoint, is_evaluation_of, read_scores
from cnnseg.settings import BEST, CHOSEN, LAST, STAGE
from cnnseg.table_settings import VOC, Cell, RowConfig, TableConfig, classifier_run
from cnnseg.training import is_finished
from wsss.data import Dataset
from wsss.errors import InputError
from wsss.progress import note
from wsss.provenance import command_line
from wsss.store import atomic, read_json, write_json
from wsss.words import counted

BEST_LABEL = "best: chosen on the validation split"


@dataclass(frozen=True)
class Result:
    """Figures of one checkpoint of one training, in per cent; None where the network does not do it."""

    run: str
    kind: str
    architecture: str
    budget: int
    seed: int
    checkpoint: str
    """"last", or "best: chosen on the validation split"."""
    parameters: int | None
    miou: float | None
    macro_f1: float | None
    map: float | None
    f1_before: float | None
    """of the classifier that the training started from"""


def run_table(
    table: TableConfig,
    train: Dataset,
    val: Dataset,
    out: Path,
    *,
    runs: Path,
    only: Sequence[str] = (),
    device: str = "auto",
    workers: int = 0,
) -> list[Result]:
    """Train and evaluate the cells that are not finished, and write ``out`` (.md), .csv and .json after each.

    Args:
        only: patterns of run names such as ``unrolled_*_s0``: other cells are not trained, but shown where finished.
        out: path of the Markdown table.

    Raises:
        InputError: as `train_run` and `evaluate_checkpoint`; a pattern that fits no cell.
    """
    cells = list(table.cells())
    for pattern in only:
        if not any(fnmatchcase(cell.name, pattern) for cell in cells):
            raise InputError(f"`only` {pattern}: fits none of the {len(cells)} trainings, such as {cells[0].name}")
    common: dict[str, Any] = {"runs": runs, "device": device, "workers": workers}
    ready: set[str] = set()
    for cell in cells:
        if only and not any(fnmatchcase(cell.name, pattern) for pattern in only):
            continue
        if cell.classifier not in ready:
            start = table.classifier_network(cell.row.architecture)
            train_run(runs / cell.classifier, train, val, start, table.pretraining_config(), **common)
            ready.add(cell.classifier)
        train_run(runs / cell.name, train, val, cell.network_config(), cell.train_config(), **common)
        for name, which in _checkpoints(table, cell):
            path = runs / name / STAGE / which
            if not path.is_file() or _evaluated(table, path, val) is not None:
                continue
            evaluate_checkpoint(
                str(path),
                val,
                runs=runs,
                size=table.size,
                protocol=table.protocol,
                keep_masks=False,
                classes_at_once=cell.row.classes_at_once,
                precision=table.precision,
                device=device,
            )
        results = collect(table, val, runs)
        write_table(table, results, out)
        finished = sum(one.checkpoint == "last" for one in results)
        note(f"{cell.name}: {finished} of {counted(len(cells), 'training')} finished")
    results = collect(table, val, runs)
    write_table(table, results, out)
    return results


def collect(table: TableConfig, val: Dataset, runs: Path) -> list[Result]:
    """The figures of all trainings of a table that are finished and evaluated."""
    before: dict[str, float | None] = {}
    for row in table.rows:
        path = runs / classifier_run(row.architecture) / STAGE / LAST
        before[row.architecture] = (_evaluated(table, path, val) or {}).get("macro_f1")
    results = []
    for cell in table.cells():
        for name, which in _checkpoints(table, cell)[1:]:
            path = runs / name / STAGE / which
            entry = _evaluated(table, path, val) if is_finished(path.parent) else None
            if entry is None:
                continue
            results.append(
                Result(
                    cell.name,
                    cell.row.kind,
                    cell.row.architecture,
                    cell.budget,
                    cell.seed,
                    BEST_LABEL if which == BEST else "last",
                    _parameters(path.parent),
                    entry.get("miou"),
                    entry.get("macro_f1"),
                    entry.get("map"),
                    before[cell.row.architecture],
                )
            )
    return results


def write_table(table: TableConfig, results: Sequence[Result], out: Path) -> None:
    """Write the Markdown table, and beside it .csv (a line for each checkpoint) and .json."""
    rows = [{**asdict(result), **_published(table, result)} for result in results]
    with atomic(out) as temporary:
        temporary.write_text(markdown(table, results), encoding="utf-8")
    fields = [*Result.__dataclass_fields__, "published_miou", "published_f1"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(out.with_suffix(".csv")) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    content = {"table": table.model_dump(mode="json"), "protocol": _rule(table), "results": rows}
    write_json(out.with_suffix(".json"), {**content, "command": command_line("cnnseg")})


def markdown(table: TableConfig, results: Sequence[Result]) -> str:
    """The table: mIoU by budget, the mean over seeds and each; then F1 before and after; the paper's figures apart."""
    paper = table.data == VOC
    seeds = ", ".join(map(str, table.seeds))
    lines = [
        f"# {table.title}",
        "",
        f"Data: {table.data}, trained on {table.train_split}, evaluated on {table.val_split}: {_rule(table)}; "
        "no image-level labels given to the networks. Columns: number of training images with their mask. "
        f"Mean over the trainings with seeds {seeds}, in brackets each.",
        "",
        "## mIoU",
        "",
        *_grid(table, results, "miou", lambda row: row.published if paper else {}, ()),
    ]
    if any(result.macro_f1 is not None for result in results):
        before = lambda row: row.published_f1 if paper else {}  # noqa: E731
        lines += ["", "## Macro F1 of the image-level labels", ""]
        lines += ["Before: the classifier that all trainings of a row start from, at the same size and precision.", ""]
        lines += _grid(table, results, "macro_f1", before, ("before",))
    if table.best:
        lines += ["", f"Rows with best show the checkpoint that was {CHOSEN}."]
    return "\n".join(lines) + "\n"


def _grid(
    table: TableConfig,
    results: Sequence[Result],
    key: str,
    published: Callable[[RowConfig], dict[int, float]],
    extra: tuple[str, ...],
) -> list[str]:
    known = sorted({budget for row in table.rows for budget in published(row)})
    heads = ["network", "encoder", "parameters", *extra, *map(str, table.budgets)]
    heads += [f"paper, {budget or 'before'}" for budget in known]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for row in table.rows:
        mine = [r for r in results if (r.kind, r.architecture) == (row.kind, row.architecture)]
        if key == "macro_f1" and mine and all(result.macro_f1 is None for result in mine):
            continue
        for checkpoint in ("last", BEST_LABEL) if table.best else ("last",):
            shown = [result for result in mine if result.checkpoint == checkpoint]
            label = row.label if checkpoint == "last" else f"{row.label} ({checkpoint})"
            size = next((result.parameters for result in shown if result.parameters), None)
            cells = [label, row.architecture, f"{size / 1e6:.2f} M" if size else "-"]
            if extra:
                cells.append(_figure(next((result.f1_before for result in shown), None)))
            for budget in table.budgets:
                values = {r.seed: getattr(r, key) for r in shown if r.budget == budget}
                cells.append(_mean([values.get(seed) for seed in table.seeds]))
            cells += [_figure(published(row).get(budget)) if checkpoint == "last" else "" for budget in known]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _mean(values: Sequence[float | None]) -> str:
    """Mean and each value; what is not finished shows as -."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(values) == 1:
        return _figure(known[0])
    return f"{fmean(known):.2f} ({', '.join(map(_figure, values))})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rule(table: TableConfig) -> str:
    """How all figures are computed: before and after training alike."""
    size = "at native size" if table.size is None else f"resized to an area of {table.size} x {table.size}"
    return f"images {size}, networks in {table.precision}; {PROTOCOLS[table.protocol]}"


def _published(table: TableConfig, result: Result) -> dict[str, float | None]:
    row = next(r for r in table.rows if (r.kind, r.architecture) == (result.kind, result.architecture))
    paper = table.data == VOC
    return {
        "published_miou": row.published.get(result.budget) if paper else None,
        "published_f1": row.published_f1.get(result.budget) if paper else None,
    }


def _checkpoints(table: TableConfig, cell: Cell) -> list[tuple[str, str]]:
    """Run and file of what a cell needs figures of: the classifier, the end of the training, the best if wanted."""
    found = [(cell.classifier, LAST), (cell.name, LAST)]
    return [*found, (cell.name, BEST)] if table.best else found


def _evaluated(table: TableConfig, path: Path, val: Dataset) -> dict[str, Any] | None:
    """The figures of a checkpoint by the table's rule, if they are there."""
    if not path.is_file():
        return None
    folder = path.parent if path.name == LAST else path.parents[1].with_name(f"{path.parents[1].name}_best") / STAGE
    rule: dict[str, Any] = {"size": table.size, "protocol": table.protocol, "precision": table.precision}
    return next((entry for entry in read_scores(folder) if is_evaluation_of(entry, path, val, **rule)), None)


def _parameters(folder: Path) -> int | None:
    history = read_json(folder / "manifest.json").get("history") or [{}]
    return history[-1].get("parameters")
