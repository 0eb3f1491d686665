"""From figures, notes and pictures to the text of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from wsss.colours import css_scale
from wsss.data import Dataset
from wsss.extras import extra
from wsss.report import explanation, explanation_text, tables
from wsss.report.colours import IGNORED, NEUTRAL
from wsss.report.curves import COLOURS, SCORES, curves_svg, dash_array
from wsss.report.explanation import TestSection
from wsss.report.maps import MapBlock
from wsss.report.pictures import SEED_OPACITY, ImageBlock
from wsss.report.provenance import protocol_of
from wsss.report.tables import FigureRow

with extra("wsss"):
    import jinja2


def template(name: str) -> jinja2.Template:
    """A template of this package."""
    # escapes for HTML, whatever the templates are called: names of runs and classes are the user's
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsss.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["css_scale"] = css_scale
    environment.globals["rgb"] = "rgb({} {} {})".format
    return environment.get_template(name)


def today() -> str:
    """Date and time, for the head of a page."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def fill_page(
    *,
    dataset: Dataset | None,
    rows: list[FigureRow],
    blocks: list[ImageBlock],
    palette: np.ndarray | None,
    stages: Sequence[str],
    sections: Sequence[TestSection],
    maps: Sequence[list[MapBlock]],
    named: bool,
    **context: Any,
) -> str:
    """The whole page.

    Args:
        palette: colours of the classes in the pictures, uint8 (256, 3); None where there are none.
        stages: that the pictures show, in order.
        maps: the pictures of each section. named: their images were named, not chosen.
        context: what the template names besides.
    """
    chosen = tables.iou_columns(rows)
    classes = list(dict.fromkeys(name for row in chosen for name in row.entry.iou))
    return template("template.html.j2").render(
        dataset=dataset,
        with_truth=sum(1 for sample in dataset or () if sample.mask_path),
        rows=rows,
        columns={name: tables.COLUMNS[name] for name in tables.columns_of(rows)} if rows else {},
        show=tables.show,
        rule_text=tables.rule_text,
        stages=stages,
        stage_titles=[tables.STAGE_TITLES[stage] for stage in stages],
        stage_title=tables.stage_title,
        iou_rows=chosen,
        iou_runs=Counter(row.run for row in chosen),
        iou_classes=[(name, tables.best_of_class(chosen, name)) for name in classes],
        protocol=protocol_of(rows),
        legend=class_colours(dataset, blocks, palette) if dataset is not None and palette is not None else [],
        runs=max(len({row.run for row in rows}), len(blocks[0].rows) if blocks else 0),
        outcomes=tables.outcomes(rows),
        seed_scale=css_scale(signed=False, opacity=SEED_OPACITY),
        neutral=NEUTRAL,
        ignored=IGNORED,
        shared=tables.shared_facts(rows),
        blocks=blocks,
        tests=[_test(section, mine, named) for section, mine in zip(sections, maps, strict=True)],
        texts=explanation_text,
        numbers=explanation,
        date=today(),
        **context,
    )


def _test(section: TestSection, maps: list[MapBlock], named: bool) -> dict[str, Any]:
    """What the template of the tests needs of one section."""
    names = ", ".join(row.label for row in section.rows)
    score = SCORES.get(section.test, "").removesuffix(", %")
    label = (
        f"{score[:1].upper()}{score[1:]} by the share of pixels removed, for {names}; the figures stand in the table"
    )
    drawn = curves_svg(section.rows, label)
    lines = {row.run: (COLOURS[k % len(COLOURS)], dash_array(k)) for k, row in enumerate(section.rows)}
    keys = [column for column in section.columns if any(row.entry.curves.get(column.key) for row in section.rows)]
    how = "chosen by the mean of their IoU over the runs" if not named else "named with --images"
    return {
        "section": section,
        "svg": drawn,
        "lines": lines if drawn else {},
        "curves": keys,
        "maps": maps,
        "how": how,
    }


def class_colours(dataset: Dataset, blocks: Sequence[ImageBlock], palette: np.ndarray) -> list[tuple[str, str]]:
    """(class, colour); of a long list the classes that are shown alone."""
    shown = {name for block in blocks for name in block.classes}
    return [
        (name, "#{:02x}{:02x}{:02x}".format(*palette[index]))
        for index, name in enumerate(dataset.class_names, start=1)
        if dataset.num_classes <= 25 or name in shown
    ]
