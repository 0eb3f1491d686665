"""What stands beside the figures of a report: caveats, notes, protocols, and how the stages were made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.data import Dataset
from wsss.entries import STAGES, TRUE_MASKS, MetricEntry
from wsss.evaluate import content_of_figures
from wsss.progress import warn
from wsss.report import tables
from wsss.report.tables import FigureRow
from wsss.store import Stage

_CAVEATS = (
    "Image-level labels given: the classes of each image were told to the method, so it cannot name a class that the "
    "image does not show. A segmentation network that has to find the classes by itself solves a harder task.",
    "Oracle rows choose the background threshold on the evaluated masks themselves: an upper bound, not a result.",
    "Every figure was measured on the data and images named here. Figures of papers, or of another class list, do not "
    "compare with it.",
)


def caveats(rows: Sequence[FigureRow], *, seeds: bool, tests: bool) -> tuple[str, ...]:
    """What a reader must keep in mind.

    Args:
        rows: figures of stages. seeds: the page shows stages at all. tests: it shows explanation tests.
    """
    labels, oracle, figures = _CAVEATS
    given = any(row.entry.labels_given for row in rows) if rows else seeds  # where nothing is known it is said
    oracles = any(row.entry.oracle for row in rows)
    return (*([labels] if given else []), *([oracle] if oracles else []), *([figures] if rows or tests else []))


def notes_on(
    folders: dict[str, Path], metrics: dict[str, list[MetricEntry]], made: Collection[str], dataset: Dataset
) -> list[str]:
    """What a reader must know beside the table: no ground truth, runs not evaluated, stale or unequal figures.

    Args:
        made: names of the runs that have stages of this split.
    """
    notes = []
    if made and not any(sample.mask_path for sample in dataset):
        notes.append(f"No ground truth: {dataset.name} / {dataset.split} has no masks, so there is nothing to score.")
    for name, run in folders.items():
        if not metrics[name]:
            if name in made and any(sample.mask_path for sample in dataset):
                line = f"{name} has no figures for split {dataset.split}: run wsss evaluate {name} on it first."
                notes.append(line)
                warn(line)
            continue
        for stage in dict.fromkeys(entry.stage for entry in metrics[name]):
            entries = [entry for entry in metrics[name] if entry.stage == stage]
            if not (run / stage / "manifest.json").is_file():
                continue
            current = Stage.read(run / stage, kind=STAGES[stage])
            told = {entry.content for entry in entries} - {None}
            same = not told or content_of_figures(current, dataset) in told
            if same and current.fingerprint in {entry.source for entry in entries}:
                continue
            line = f"{name}: the {tables.STAGE_TITLES[stage]} were made anew since they were evaluated; evaluate again."
            notes.append(line)
            warn(line)
    counts = {entry.images for entries in metrics.values() for entry in entries}
    if len(counts) > 1:
        notes.append("Rows differ in their number of images and do not compare with each other.")
    return notes + prices(metrics)


def prices(metrics: dict[str, list[MetricEntry]]) -> list[str]:
    """How far each network that learnt pseudo-masks is behind (or ahead of) the same network that learnt true ones."""
    masks = [(run, entry) for run, entries in metrics.items() for entry in entries if entry.stage == "masks"]
    known = [(run, entry, entry.miou) for run, entry in masks if entry.learnt_from and entry.miou is not None]
    taught = [each for each in known if each[1].learnt_from == TRUE_MASKS]
    return [
        f"{run} is {_gap(most - miou)} {other}, the same network learnt from true masks: the price of not "
        "drawing masks."
        for run, entry, miou in known
        if entry.learnt_from != TRUE_MASKS
        for other, best, most in taught
        if (best.network, best.labels_given, best.images) == (entry.network, entry.labels_given, entry.images)
    ]


def _gap(points: float) -> str:
    """Of mIoU; there is one ahead where pseudo-masks are of more images than were drawn."""
    return f"{abs(points):.1f} points {'behind' if points >= 0 else 'ahead of'}"


@dataclass(frozen=True)
class Protocol:
    """How the figures came about: what all rows share (or each part of them), each rule, each command."""

    shared: list[str]
    rules: list[tuple[str, str]]
    commands: list[tuple[str, str]]

    def lines(self) -> list[str]:
        commands = [f"figures of {what}: `{command}`" for what, command in self.commands]
        return [*self.shared, *(f"{rule}: {how}" for rule, how in self.rules), *commands]


def protocol_of(rows: Sequence[FigureRow]) -> Protocol:
    """The parts of the rows' protocols ("<rule>; <labels and matrix>") and commands, equal ones once."""
    shared: dict[str, list[str]] = {}
    rules: dict[str, str] = {}
    commands: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        how, _, rest = row.entry.protocol.partition("; ")
        stage = tables.stage_title(row.entry)
        shared.setdefault(rest, []).append(f"{row.run} {stage}")
        rule = tables.rule_text(row.entry)
        rules[rule if rule != "as written" else "masks"] = how
        commands.setdefault((row.run, row.entry.command), []).append(stage)
    everyone = len(shared) == 1
    return Protocol(
        [f"{'Every row' if everyone else ', '.join(dict.fromkeys(who))}: {rest}." for rest, who in shared.items()],
        list(rules.items()),
        [(f"{run} ({', '.join(dict.fromkeys(who))})", ran) for (run, ran), who in commands.items() if ran],
    )


def histories(stages: Sequence[tuple[str, str, Stage]], split: str | None) -> list[dict[str, Any]]:
    """How each stage was made: the last entry of its history, for this split where one is given.

    Args:
        stages: (run, title of the stage, stage).
    """
    made = []
    for run, title, stage in stages:
        history = stage.manifest["history"]
        last = next((h for h in reversed(history) if h.get("split") == split), history[-1] if history else {})
        versions = last.get("versions") or stage.manifest.get("versions") or {}
        made.append(
            {
                "run": run,
                "stage": title,
                "command": last.get("command", ""),
                "seconds": last.get("seconds"),
                "versions": ", ".join(f"{key} {value}" for key, value in versions.items()),
                "finished": bool(last),
            }
        )
    return made
