"""From runs to files: collect the figures, choose and draw the pictures, fill the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsss.data import Dataset
from wsss.entries import ALPHAS, STAGES, MetricEntry, read_metrics, read_tests, stages_of
from wsss.errors import InputError, did_you_mean
from wsss.parallel import map_parallel
from wsss.report import explanation_text, tables
from wsss.report.colours import class_palette
from wsss.report.explanation import TITLES, TestSection, test_sections
from wsss.report.gallery import check_page
from wsss.report.maps import MapBlock, draw_maps
from wsss.report.page import fill_page
from wsss.report.pictures import LARGEST, WIDTH, Choice, choose_images, draw_block
from wsss.report.provenance import caveats, histories, notes_on, protocol_of
from wsss.report.tables import figure_rows
from wsss.store import Stage
from wsss.store.atomic import write_bytes


@dataclass(frozen=True)
class ReportFiles:
    """Where the three forms of a report were written."""

    html: Path
    markdown: Path
    csv: Path


def write_report(
    runs: Sequence[Path],
    dataset: Dataset | None,
    out: Path,
    *,
    images: Sequence[str] | None = None,
    pictures: int = 8,
    alpha: float = ALPHAS[0],
    workers: int = 1,
    command: str = "",
) -> ReportFiles:
    """Write ``out`` (HTML, nothing outside the file) and, beside it, the tables as .md and .csv.

    Figures come from each run's ``metrics.json``; where there are none the page says so and shows the pictures.

    Args:
        runs: run folders; their names head the rows.
        dataset: the split that figures and pictures are about; None: all explanation tests of the runs and nothing
            else, without photographs.
        images: ids to show; None chooses `pictures` of them, see :func:`wsss.report.pictures.choose_images` and
            :func:`wsss.report.maps.choose_ranked`.
        alpha: of the alpha rule, for the contours on seeds.
        workers: processes.
        command: the command line, printed on the page.

    Raises:
        InputError: a stage was made for other classes, an unknown image, nothing to show of a run.
    """
    check_page(out)
    if pictures < 1:
        raise InputError(f"`pictures` {pictures}: expected at least 1")
    if not alpha > 0:
        raise InputError(f"`alpha` {alpha:g}: expected more than 0")
    folders = _name_runs(runs)
    stages = _stages(folders, dataset) if dataset is not None else {name: {} for name in folders}
    metrics = {name: _entries(run, dataset) for name, run in folders.items()} if dataset is not None else {}
    sections = test_sections(folders, (dataset.name, dataset.split) if dataset is not None else None)
    _check_all_shown(folders, stages, metrics, sections, dataset)
    rows = figure_rows(metrics)
    shown = [stage for stage in STAGES if any(stage in mine for mine in stages.values())]
    notes, blocks, choice, width, palette = [], [], Choice((), ""), WIDTH, None
    if dataset is not None:
        notes = notes_on(folders, metrics, [name for name in folders if stages[name]], dataset)
        if shown or rows:
            mine = {name: run for name, run in folders.items() if stages[name] or metrics[name]}
            choice = choose_images(dataset, mine, ids=images, count=pictures, workers=workers)
            width = _width(len(choice.samples) * (2 + len(mine) * len(shown)))
            palette = class_palette(dataset, [c for sample in choice.samples for c in sample.classes])
            draw = partial(
                draw_block, dataset=dataset, runs=mine, stages=shown, alpha=alpha, width=width, palette=palette
            )
            blocks = list(map_parallel(draw, choice.samples, workers=workers, description="draw"))
    maps = [_maps(section, dataset, pictures, images) for section in sections]
    if images and not blocks:  # else they are known to be of the data set
        _check_images(images, sections)
    title = _title(list(folders), dataset, sections)
    remarks = caveats(rows, seeds=bool(blocks), tests=bool(sections))
    page = fill_page(
        title=title,
        dataset=dataset,
        rows=rows,
        notes=notes,
        caveats=remarks,
        choice=choice.how,
        blocks=blocks,
        palette=palette,
        stages=shown,
        alpha=alpha,
        width=min(width, WIDTH),
        sections=sections,
        maps=maps,
        named=bool(images),
        histories=_histories(stages, sections, dataset),
        command=command,
    )
    result = ReportFiles(out, out.with_suffix(".md"), out.with_suffix(".csv"))
    lines = [*notes, *protocol_of(rows).lines(), *remarks, *([f"written by `{command}`"] if command else [])]
    write_bytes(result.html, page.encode())
    text = tables.to_markdown(rows, title, lines) + explanation_text.to_markdown(sections)
    write_bytes(result.markdown, text.encode())
    write_bytes(result.csv, tables.to_csv(rows, explanation_text.records(sections)).encode())
    return result


def _name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Folder names where they differ, else whole paths."""
    unique = list(dict.fromkeys(Path(run) for run in runs))
    if not unique:
        raise InputError("compare: expected at least one run, got none")
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


def _check_all_shown(
    folders: dict[str, Path],
    stages: dict[str, dict[str, Stage]],
    metrics: dict[str, list[MetricEntry]],
    sections: Sequence[TestSection],
    dataset: Dataset | None,
) -> None:
    """InputError naming the first run that has nothing to show."""
    tested = {row.run for section in sections for row in section.rows}
    for name, run in folders.items():
        if name in tested or stages[name] or metrics.get(name):
            continue
        if dataset is None:
            raise InputError(
                f"{run}: no explanation test in its metrics.json; make one with perturbation-test or "
                "segmentation-test, or give `data` and `split` to show seeds and masks"
            )
        tests = ", ".join(f"{entry.data} / {entry.split}" for entry in read_tests(run))
        hint = f"; its explanation tests are on {tests}" if tests else "; make the seeds of this split first"
        raise InputError(f"{run}: no files of split {dataset.split} of {dataset.name} to show{hint}")


def _maps(section: TestSection, dataset: Dataset | None, count: int, images: Sequence[str] | None) -> list[MapBlock]:
    if section.test != "segmentation":
        return []
    return draw_maps(section, dataset, count=count, images=images or None)


def _check_images(images: Sequence[str], sections: Sequence[TestSection]) -> None:
    known = {i for s in sections if s.test == "segmentation" for r in s.results.values() for i in r["ids"].tolist()}
    if not known:
        raise InputError(f"`images` {','.join(images)}: there are no pictures of these runs to choose from")
    for image_id in images:
        if image_id not in known:
            near = did_you_mean(image_id, known) if len(known) <= 20 else "see the data set's list of images"
            raise InputError(f"`images` {image_id}: not in the segmentation test; {near}")


def _title(names: list[str], dataset: Dataset | None, sections: Sequence[TestSection]) -> str:
    who = " and ".join(names) if len(names) < 4 else f"{len(names)} runs"
    if dataset is not None:
        return f"{who} on {dataset.name} / {dataset.split}"
    where = list(dict.fromkeys(f"{section.data} / {section.split}" for section in sections))
    return f"{who} on {' and '.join(where)}" if len(where) < 3 else f"{who}: explanation tests"


def _histories(
    stages: dict[str, dict[str, Stage]], sections: Sequence[TestSection], dataset: Dataset | None
) -> list[dict]:
    made = [(run, tables.STAGE_TITLES[stage], opened) for run, mine in stages.items() for stage, opened in mine.items()]
    found = histories(made, dataset.split) if dataset is not None else []
    for section in sections:
        tests = [
            (row.run, f"{TITLES[section.test].lower()}", Stage.read(row.results, kind=f"{section.test}_test"))
            for row in section.rows
            if row.run in section.results
        ]
        found += histories(tests, section.split)
    return found


def _width(pictures: int) -> int:
    """Picture width that keeps the page under about 3 MB (a 320 px picture takes some 20 kB as base64)."""
    return max(120, min(LARGEST, int(WIDTH * (110 / max(1, pictures)) ** 0.5)))
