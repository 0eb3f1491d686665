"""Own data: a folder of images, a CSV of labels, and masks if there are any."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wsss.data.config import MAX_CLASSES, DataConfig
from wsss.data.sample import Sample
from wsss.errors import InputError, did_you_mean

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NO_CLASS = "background"
"""The label of an image that shows none of the classes (an empty cell is taken for a forgotten label)."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the CSV, its image found."""

    id: str
    image_path: Path
    labels: tuple[str, ...]
    split: str


def read_samples(config: DataConfig, root: Path, split: str, report: Report) -> list[Sample]:
    """The samples whose row has that split ("all": every row), in the order of the CSV."""
    rows = read_rows(config, root, report)
    known = sorted({row.split for row in rows if row.split} | {"all"})
    if split not in known:
        raise InputError(f"`split` {split}: no such split in {root / config.labels}; {did_you_mean(split, known)}")
    masks = mask_files(config, root)
    if masks and len(config.class_names()) > MAX_CLASSES:
        raise InputError(
            f"folder {root / (config.masks or 'masks')}: expected masks of at most {MAX_CLASSES} classes, got "
            f"{len(config.class_names())}; choose fewer, or move the masks away to use the labels alone"
        )
    index = {name: c for c, name in enumerate(config.class_names(), start=1)}

    @cache
    def classes(labels: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(sorted({index[label] for label in labels if label in index}))

    return [
        Sample(row.id, row.image_path, classes(row.labels), masks.get(row.id))
        for row in rows
        if split in ("all", row.split)
    ]


def list_splits(config: DataConfig, root: Path) -> tuple[str, ...]:
    """The values of the ``split`` column, sorted; ("all",) where there is none or some rows have no split."""
    rows = read_rows(config, root, lambda line: None)
    splits = {row.split for row in rows}
    return tuple(sorted(splits)) if splits and "" not in splits else (*sorted(splits - {""}), "all")


def mask_files(config: DataConfig, root: Path) -> dict[str, Path]:
    """Mask files by image id; empty where there is no folder of masks."""
    folder = root / (config.masks or "masks")
    if not folder.is_dir():
        if config.masks is not None:
            raise InputError(f"folder {folder}: no such folder (masks of data set {config.name})")
        return {}
    return {name[:-4]: folder / name for name in sorted(os.listdir(folder)) if name.lower().endswith(".png")}


def image_files(folder: Path) -> dict[str, list[Path]]:
    """Image files directly in `folder` by id (the name without suffix). InputError if there is none."""
    return {stem: [folder / name for name in names] for stem, names in _image_names(folder).items()}


def _image_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Names of the image files directly in `folder` by id: of a million images they take a third of their paths."""
    if not folder.is_dir():
        raise InputError(f"folder {folder}: no such folder (images of the data set)")
    files: dict[str, tuple[str, ...]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            files[stem] = (*files.get(stem, ()), name)
    if not files:
        raise InputError(f"folder {folder}: no images ({', '.join(s.lstrip('.') for s in IMAGE_SUFFIXES)})")
    return files


def read_rows(config: DataConfig, root: Path, report: Report) -> list[Row]:
    """The rows of the CSV. Reported, each with file and line: an unknown label, no label, a row without an image file,
    an image without a row, two rows for one image, two files for one name, a name with a folder in it."""
    folder = root / config.images
    files = _image_names(folder)
    path = root / config.labels
    known = set(config.class_names()) | set(config.stored_names())
    rows: dict[str, Row] = {}
    lines: dict[str, int] = {}
    named: set[str] = set()

    @cache
    def labels_of(cell: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label.strip() for label in cell.split(";") if label.strip()))

    for line, name, cell, split in _read_csv(path):
        where = f"{path} line {line}: image {name!r}"
        if "/" in name or "\\" in name:
            report(f"{where}: expected a name within {config.images}/, without a folder")
            continue
        image = _find(name, files)
        if not image:
            report(f"{where}: no such file in {folder}")
            continue
        named.update(image)
        if len(image) > 1:
            report(f"{where}: could be {' or '.join(image)}; give the suffix")
            continue
        image_id = os.path.splitext(image[0])[0]
        lines.setdefault(image_id, line)
        if image_id in rows:
            report(f"{where}: stands in line {lines[image_id]} already; one row an image, its classes separated by ';'")
            continue
        labels = labels_of(cell)
        if not labels:
            report(f"{where}: no label; write {NO_CLASS} where it shows none of the classes")
        for label in labels:
            if label not in known and label != NO_CLASS:
                report(f"{where}: unknown label {label!r}; {did_you_mean(label, known)}")
        rows[image_id] = Row(image_id, folder / image[0], labels, sys.intern(split))
    for name in (name for same_id in files.values() for name in same_id):
        if name not in named:
            report(f"image {folder / name}: no row in {path}")
    return list(rows.values())


def _find(name: str, files: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Files that a name in the CSV can mean. A name with an image suffix means that file alone."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in IMAGE_SUFFIXES:
        exact = tuple(file for file in files.get(stem, ()) if file == name)
        if exact:
            return exact
    return files.get(name, ())


def _read_csv(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line, image, classes, split) of each row that is not blank; split is empty where there is no such column."""
    columns = "columns image, classes (separated by ';') and, if wanted, split"
    if not path.is_file():
        raise InputError(f"{path}: no such file; a CSV with the {columns} gives the labels")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            if not {"image", "classes"} <= set(header):
                raise InputError(f"{path}: expected the {columns}, got {', '.join(header) or 'none'}")
            reader.fieldnames = header
            empty = True
            for row in reader:
                if None in row:
                    raise InputError(
                        f"{path} line {reader.line_num}: more cells than columns; several classes are separated by ';'"
                    )
                image, classes, split = ((row.get(key) or "").strip() for key in ("image", "classes", "split"))
                if image or classes:
                    empty = False
                    yield reader.line_num, image, classes, split
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV in UTF-8 ({error})") from None
    if empty:
        raise InputError(f"{path}: expected a row for each image, with the {columns}, got none")
