"""Stages that are made image by image: what is there, what is to be made, the account of what was done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from wsss.data.sample import Dataset, Sample
from wsss.errors import InputError
from wsss.processes import from_first, gathered, is_first, is_sharded, of_other_shards, of_shard, portion, shard
from wsss.progress import note
from wsss.store.atomic import locked, read_json, write_json
from wsss.store.inputs import differing, inputs_of, of_images
from wsss.store.records import Record
from wsss.store.stage import Stage
from wsss.words import agreeing, counted

DATA = "data"
"""Name of the data set among the sources of a stage."""

T = TypeVar("T")

_TAKEN_OVER = ".taken_over.json"


def require(stage: Stage, dataset: Dataset, what: str, remedy: str) -> None:
    """InputError if an image of the split is missing in a stage that is read, or has changed since that was made.

    A process with a shard looks at its own images; of those that talk the first one looks.
    """
    from_first(lambda: _require(stage, dataset, of_shard(dataset.samples), what, remedy))


def _require(stage: Stage, dataset: Dataset, samples: Sequence[Sample], what: str, remedy: str) -> None:
    names = [sample.id for sample in samples]
    of_all = f"of {counted(len(samples), 'image')} of split {dataset.split}"
    missing = stage.absent(names)
    if missing:
        raise InputError(
            f"{stage.folder}: {len(missing)} {of_all} {agreeing(len(missing), 'has', 'have')} no {what} "
            f"({missing[0]} is the first); {remedy}"
        )
    now, taken = inputs_of(samples), _taken_over(stage)
    stale = []
    for place, (whole, record) in enumerate(stage.inspected(names)):
        if not whole:
            file = stage.folder / f"{names[place]}{stage.manifest['suffix']}"
            maker = (stage.manifest["history"] or [{}])[-1].get("command") or "the command that makes it"
            raise InputError(f"{what} {file}: damaged (half-written?); run again, which makes it anew: {maker}")
        if differing(record or taken.get(names[place], {}), now.row(place)):
            stale.append(names[place])
    if stale:
        raise InputError(
            f"{stage.folder}: {len(stale)} {of_all} {agreeing(len(stale), 'has', 'have')} changed, or their labels, "
            f"since their {what} was made ({stale[0]} is the first); {remedy}"
        )


def due(
    stages: Stage | Sequence[Stage],
    samples: Sequence[Sample],
    what: str,
    *,
    image: bool = True,
    labels: bool = True,
    files: Mapping[str, Callable[[str], Path]] | None = None,
    outdated: Callable[[Sample], bool] = lambda sample: False,
    lacking: Callable[[Sample], bool] = lambda sample: False,
) -> list[Sample]:
    """The samples without a result, or with one that was made of something else; each with its record in ``made_of``.

    Several processes get each its part of them (`wsss.processes`).

    Results that do not say what they were made of (of older versions, or put there by hand) are taken over: they count
    as made of what is there now, from then on.

    Args:
        stages: written together; an image is done if each of them has it.
        what: the results are called, in the plural.
        image, labels, files: what results depend on, see `wsss.store.inputs.inputs_of`.
        outdated: whether an old result, that is to be taken over, gives itself away as older than its inputs.
        lacking: whether what belongs to a result beside the stages is missing.

    Raises:
        InputError: results are of other images of the same names, in another folder that is still there.
    """
    stages = [stages] if isinstance(stages, Stage) else list(stages)
    how: dict[str, Any] = {"image": image, "labels": labels, "files": files, "outdated": outdated, "lacking": lacking}
    return portion(samples, lambda mine: _due(stages, mine, what, **how))


def _due(
    stages: Sequence[Stage],
    samples: Sequence[Sample],
    what: str,
    *,
    image: bool,
    labels: bool,
    files: Mapping[str, Callable[[str], Path]] | None,
    outdated: Callable[[Sample], bool],
    lacking: Callable[[Sample], bool],
) -> list[Sample]:
    now = inputs_of(samples, image=image, labels=labels, files=files)
    todo: set[int] = set()
    changed: Counter[str] = Counter()
    for stage in stages:
        taken, unrecorded = _taken_over(stage), {}
        for place, (whole, record) in enumerate(stage.inspected(sample.id for sample in samples)):
            sample = samples[place]
            if whole and record is None:
                record = taken.get(sample.id)
                if record is None and not outdated(sample):
                    record = unrecorded[sample.id] = now.row(place)
            if record is None:
                todo.add(place)
            elif place not in todo and (names := differing(record, now.row(place))):
                todo.add(place)
                changed.update(names[:1])
        _take_over(stage, unrecorded, what)
    if changed:
        check_root(stages[0], what, counted(sum(changed.values()), "image"))
    else:
        _follow(stages, bool(len(samples) - len(todo)))
    todo |= {place for place, sample in enumerate(samples) if place not in todo and lacking(sample)}
    kept = len(samples) - len(todo)
    if kept or changed:
        reasons = [f"{of_images(name)}{counted(number, 'image')} changed" for name, number in changed.items()]
        note(", ".join([f"{kept} of {len(samples)} {what} {agreeing(kept, 'is', 'are')} up to date", *reasons]))
    return [replace(samples[place], made_of=now.record(place)) for place in sorted(todo)]


def account(
    stage: Stage, dataset: Dataset, made: int, begin: float, *, command: str, split: str | None = None, **extra: object
) -> int:
    """Keep account of what a command made, `made` images in this process, and say it; returns those of all processes.

    Of several processes one does it, when all images are there.
    """
    made = sum(gathered(made))
    if not all_done([sample.id for sample in dataset], stage.pending):
        return made
    counts = {"images": len(dataset), "made": made}
    split = dataset.split if split is None else split
    stage.done_if(made, command=command, split=split, counts=counts, seconds=time.monotonic() - begin, **extra)
    note(f"{stage.folder}: {made} of {counted(len(dataset), 'image')} made now")
    return made


def all_done(items: Sequence[T], missing: Callable[[Sequence[T]], Sequence[Any]]) -> bool:
    """Whether the other shards are done too, so that this process may say that all is made; if not, it says so.

    Of processes that talk the first does it; call `wsss.processes.gathered` before, which waits for what they make.

    Args:
        items: in one order in all processes. missing: items -> those of them that are not there yet.
    """
    if not is_first():
        return False
    if not is_sharded():
        return True
    left = missing(of_other_shards(items))
    if left:
        are = agreeing(len(left), "is", "are")
        note(f"shard {shard()} is made; {len(left)} of {len(items)} {are} left to other shards")
    return not left


def known_records(stage: Stage, names: Iterable[str]) -> dict[str, Record | None]:
    """What results that are there were made of; None where neither their files nor an earlier look has told."""
    taken = _taken_over(stage)
    return {name: taken.get(name) if record is None else record for name, record in stage.records(names).items()}


def records_of(stage: Stage, names: Iterable[str], now: Callable[[str], Record], what: str) -> dict[str, Record]:
    """The record of every result that is there; those without one are taken over.

    Args:
        names: of results. now: what one of them would be made of now. what: see `due`.
    """
    records = known_records(stage, names)
    unrecorded = {name: now(name) for name, record in records.items() if record is None}
    _take_over(stage, unrecorded, what)
    return {name: record for name, record in (records | unrecorded).items() if record is not None}


def _take_over(stage: Stage, unrecorded: Mapping[str, Record], what: str) -> None:
    """Keep what results that do not say so count as made of from now on."""
    if not unrecorded:
        return
    with locked(stage.folder / f"{_TAKEN_OVER}.lock"):
        write_json(stage.folder / _TAKEN_OVER, _taken_over(stage) | dict(unrecorded))
    note(
        f"{stage.folder}: {len(unrecorded)} {what} do not say what they were made of (an older version's, or not "
        "made here); taken over as made of what is there now: delete them if they are not"
    )


def _taken_over(stage: Stage) -> dict[str, Record]:
    path = stage.folder / _TAKEN_OVER
    return read_json(path) if path.is_file() else {}


def check_root(stage: Stage, what: str, changed: str) -> None:
    """InputError if what has changed is of another data set of this name, and that is still there.

    Args:
        what: the results are called. changed: how many images, in words.
    """
    old, new = stage.source(DATA), stage.sources.get(DATA)
    if old is not None and new is not None and old.exists() and not old.samefile(new):
        raise InputError(
            f"{stage.folder}: holds {what} of the data in {old}; {changed} of the same name in {new} differ: write "
            "into another run"
        )


def _follow(stages: Sequence[Stage], kept: bool) -> None:
    """Note the folder of the data where they have been moved or copied."""
    for stage in stages:
        new = stage.sources.get(DATA)
        if kept and new is not None and stage.source(DATA) != Path(new).resolve():
            stage.note()
