"""The chain of a run: what each stage was made of, and whether that is still what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data import Dataset, Sample, load_dataset
from wsss.entries import STAGES, TESTS, read_metrics, read_tests
from wsss.errors import InputError
from wsss.evaluate import content_of_figures
from wsss.store import Stage, file_hash, inputs_of
from wsss.store.inputs import IMAGE, LABELS, MASK, Inputs, differing, of_images
from wsss.store.locks import holders, is_held
from wsss.store.manifest import MANIFEST
from wsss.store.work import DATA, known_records
from wsss.words import counted

Splits = Mapping[str, Dataset]
"""The data set's splits by name; empty where it is not given."""


@dataclass(frozen=True)
class State:
    """A stage, or the figures of a run.

    ``name``: within its run, led by the run's name. ``made``: what it holds. ``sources``: what it was made of.
    ``stale``: why it is not up to date, empty if it is. ``notes``: what is worth knowing beside.
    """

    name: str
    made: str
    sources: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The state in words."""
        parts = [f"stale: {', '.join(self.stale)}" if self.stale else "up to date", *self.notes]
        return "; ".join(parts)


def chain_of(
    run: Path, data: str | None = None, root: Path | None = None, foreground_value: int | None = None
) -> list[State]:
    """The stages of a run, and those of other runs that they were made of, each after its sources; then the figures.

    Args:
        data, root, foreground_value: the data set, see `load_dataset`: without it, images, labels and ground truth are
            not looked at.

    Raises:
        InputError: no stage in that folder, a manifest that is damaged, or no such data set.
    """
    stages = _stages(run)
    if not stages:
        raise InputError(f"{run}: expected a run of one of the commands, got a folder without stages ({MANIFEST})")
    splits = {} if data is None else _load(data, root, foreground_value, stages.values())
    states: dict[Path, State] = {}
    for folder, stage in stages.items():
        found = _state_of(stage, splits)
        behind = [f"made of {states[path].name}, which is stale" for path in _upstream(stage, states)]
        states[folder] = replace(found, stale=found.stale + tuple(behind))
    return [*states.values(), *_figures(run, splits)]


def _stages(run: Path) -> dict[Path, Stage]:
    """Folder -> stage, sources first."""
    found: dict[Path, Stage] = {}

    def add(folder: Path) -> None:
        if folder in found or not (folder / MANIFEST).is_file():
            return
        stage = Stage.read(folder, kind=None)
        for name in stage.manifest["sources"]:
            source = stage.source(name)
            if name != DATA and source is not None:
                add(source if source.is_dir() else source.parent)
        found[folder] = stage

    manifests = [*run.resolve().glob(f"*/{MANIFEST}"), *run.resolve().glob(f"*/*/{MANIFEST}")]
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime_ns):
        if ".old" not in path.parent.name:
            add(path.parent)
    return found


def _load(data: str, root: Path | None, foreground_value: int | None, stages: Iterable[Stage]) -> Splits:
    names = set().union(*(stage.splits for stage in stages))
    names |= {stage.manifest["config"].get(key) for stage in stages for key in ("split", "val_split")}
    found: dict[str, Dataset] = {}
    failed: InputError | None = None
    for name in sorted(filter(None, names)):
        try:
            found[name] = load_dataset(data, name, root, foreground_value=foreground_value)
        except InputError as error:
            failed = error
    if failed is not None and not found:
        raise failed
    return found


def _state_of(stage: Stage, splits: Splits) -> State:
    manifest = stage.manifest
    training = manifest["suffix"] == ".safetensors"
    test = manifest["kind"].endswith("_test")
    stale = list(_changed_sources(stage))
    if training:
        made, changes = _training(stage, splits)
    elif test:
        made, changes = _test(stage, splits)
    else:
        made, changes = _images(stage, splits)
    notes = []
    if is_held(stage.folder):
        notes.append(f"being written by {holders(stage.folder)}")
    elif (stage.folder / "resume.pt").exists() or not manifest["history"]:
        notes.append("not finished: run its command again")
    sources = [_short(path) for name in manifest["sources"] if name != DATA and (path := stage.source(name))]
    known = manifest["inputs"].get("data") or manifest["config"].get("data")
    if known:
        sources.append(f"data {known}")
    return State(_short(stage.folder), made, tuple(sources), (*stale, *changes), tuple(notes))


def _changed_sources(stage: Stage) -> Iterator[str]:
    """Files and stages that are not what the manifest says of them."""
    for name, value in stage.manifest["inputs"].items():
        path = stage.source(name)
        if name == DATA or path is None:
            continue
        if not path.exists():
            yield f"{name} is not at {path} any more"
        elif path.is_dir():
            if (path / MANIFEST).is_file() and Stage.read(path, kind=None).fingerprint != value:
                yield f"{name} made anew with other settings"
        elif file_hash(path) != value:
            yield f"{name} changed"


def _upstream(stage: Stage, states: Mapping[Path, State]) -> Iterator[Path]:
    for name in stage.manifest["sources"]:
        path = stage.source(name)
        if name != DATA and path is not None:
            folder = path if path.is_dir() else path.parent
            if folder in states and states[folder].stale:
                yield folder


def _images(stage: Stage, splits: Splits) -> tuple[str, list[str]]:
    """What a stage that is made image by image holds, and what has changed."""
    suffix = stage.manifest["suffix"]
    names = sorted(path.name.removesuffix(suffix) for path in stage.folder.glob(f"*{suffix}"))
    records = known_records(stage, names)
    changes = _compare_records(stage, records, {name: Sample(name, Path(), ()) for name in records}, ())
    listed = stage.splits
    for split, dataset in splits.items():
        mine = {sample.id: sample for sample in dataset if sample.id in records}
        if split in listed and len(mine) < len(dataset):
            changes.append(f"{counted(len(dataset) - len(mine), 'image')} of split {split} not made")
        changes += _compare_records(stage, records, mine, (IMAGE, LABELS))
    unknown = sum(record is None for record in records.values())
    said = f", of {unknown} it is not known what they were made of" if unknown else ""
    return f"{counted(len(records), 'image')}{said}", list(dict.fromkeys(changes))


def _compare_records(
    stage: Stage, records: Mapping[str, Any], samples: Mapping[str, Sample], own: Sequence[str]
) -> list[str]:
    """The inputs in which records differ from what is there: those in `own`, else files of other stages."""
    known = {name: sample for name, sample in samples.items() if records.get(name)}
    if not known:
        return []
    first = next(iter(known))
    columns = [column for column in records[first] if (column in own) or (not own and stage.source(column))]
    if not columns:
        return []
    files = {
        name: _file_in(source) for name in columns if name not in (IMAGE, LABELS) and (source := stage.source(name))
    }
    now = inputs_of(list(known.values()), image=IMAGE in columns, labels=LABELS in columns, files=files)
    found: dict[str, list[str]] = {}
    for place, name in enumerate(now.ids):
        for column in differing(records[name], now.row(place)):
            found.setdefault(column, []).append(name)
    return [
        f"{of_images(column)}{len(names)} of {counted(len(known), 'image')} changed ({names[0]})"
        for column, names in found.items()
    ]


def _training(stage: Stage, splits: Splits) -> tuple[str, list[str]]:
    old = Inputs.read(stage.folder)
    split = stage.manifest["config"].get("split")
    if old is None:
        return f"training on {split}; it is not known what it learnt", []
    made = f"training on {counted(len(old.ids), 'image')} of {split}"
    files = {name: _file_in(source) for name in old.columns if (source := stage.source(name))}
    if split not in splits:
        samples = [Sample(name, Path(), ()) for name in old.ids]
        now = inputs_of(samples, image=False, labels=False, files=files)
    else:
        dataset = splits[split]
        masked = old.columns.get(MASK)
        learnt = {name for name, mask in zip(old.ids, masked, strict=True) if mask} if masked is not None else set()
        samples = [s if s.id in learnt else replace(s, mask_path=None) for s in dataset]
        now = inputs_of(samples, mask=None if masked is None else dataset.mask_values, files=files)
    same = now.ids == old.ids and all(np.array_equal(now.columns[name], old.columns[name]) for name in now.columns)
    return made, [] if same else [now.changes(old)]


def _test(stage: Stage, splits: Splits) -> tuple[str, list[str]]:
    parts = sorted(stage.folder.glob("part-*.npz"))
    records = known_records(stage, [path.stem for path in parts])
    made = counted(len(parts), "part")
    samples = {sample.id: sample for dataset in splits.values() for sample in dataset}
    if stage.manifest["kind"] == "region_test":  # of pairs of an image and a class
        pairs = [(sample, c) for sample in samples.values() for c in sample.classes]
        named = [replace(s, id=f"{s.id}.{stage.class_names[c - 1]}", classes=(c,)) for s, c in pairs]
        samples = {sample.id: sample for sample in named}
    tables = next((dataset.mask_values for dataset in splits.values()), None)
    changed = 0
    for path in parts if samples else ():
        with np.load(path, allow_pickle=False) as arrays:
            ids = arrays["ids"].tolist()
        record = records.get(path.stem)
        if record and all(image_id in samples for image_id in ids):
            mask = tables if MASK in record else None
            changed += bool(differing(record, inputs_of([samples[one] for one in ids], mask=mask).digests))
        elif record:
            changed += 1
    return made, [f"images of {counted(changed, 'part')} changed"] if changed else []


def _figures(run: Path, splits: Splits) -> Iterator[State]:
    """The figures in ``metrics.json``, by stage and split."""
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in read_metrics(run):
        reasons = rows.setdefault((entry.stage, entry.split), [])
        if not (run / entry.stage / MANIFEST).is_file():
            reasons.append("the stage is gone")
            continue
        stage = Stage.read(run / entry.stage, kind=STAGES[entry.stage])
        dataset = splits.get(entry.split)
        if stage.fingerprint != entry.source:
            reasons.append("made anew with other settings")
        elif entry.content and dataset is not None and content_of_figures(stage, dataset) != entry.content:
            reasons.append("results or ground truth changed")
    for test in read_tests(run):
        reasons = rows.setdefault((test.test, test.split), [])
        folder = run / test.folder
        if not (folder / MANIFEST).is_file() or Stage.read(folder, kind=None).fingerprint != test.source:
            reasons.append("made anew with other settings")
    name = run.resolve().name
    for (stage_name, split), reasons in rows.items():
        yield State(f"{name}/metrics.json", f"{stage_name} on {split}", (), tuple(dict.fromkeys(reasons)))


def _file_in(folder: Path) -> Callable[[str], Path]:
    suffix = Stage.read(folder, kind=None).manifest["suffix"] if (folder / MANIFEST).is_file() else ".npz"
    return lambda image_id: folder / f"{image_id}{suffix}"


def _short(path: Path) -> str:
    """The run and the stage of a path; of a file, the stage that it lies in, or its name."""
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return path.name
    depth = 3 if folder.parent.name in TESTS else 2
    return "/".join(folder.parts[-depth:])
