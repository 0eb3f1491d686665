"""New photographs, a folder of them or many, to masks, overlays and a table of class shares."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnseg.models import Network
from cnnseg.scores import mask_settings
from cnnseg.segmentation.segmenting import Segmentation, segment_pictures
from cnnseg.segmentation.settings import SegmentConfig
from wsss.data import BACKGROUND, IGNORE, Sample, read_image
from wsss.data.files import image_size
from wsss.errors import InputError
from wsss.overlay import fit_width
from wsss.processes import gathered
from wsss.progress import track, warn
from wsss.provenance import command_line
from wsss.store import Stage, atomic, due, file_hash, inputs_of, locked, read_mask, write_mask
from wsss.store.atomic import remove_leftovers, write_bytes
from wsss.store.work import all_done, known_records

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files of a folder that are taken for photographs."""

MASKS, OVERLAYS, SHARES, CLASSES = "masks", "overlays", "shares.csv", "classes.txt"

OVERLAY_WIDTH = 1600
"""Overlays of wider photographs are shrunk to this."""


@dataclass(frozen=True)
class Written:
    """What `segment_photographs` has made."""

    table: Path
    made: int
    shares: dict[str, dict[str, float]]
    """Of each photograph of this call, see `Segmentation.shares`."""
    failed: dict[str, str]
    """Why the others could not be segmented."""


def find_photographs(paths: Sequence[Path], out: Path) -> dict[str, Path]:
    """Name of the results -> file, of photographs and of folders of them, with all that lies below.

    A photograph of a folder is named by its path from there, ``trip/beach/1.jpg`` below ``trip`` is ``beach_1``. The
    results that lie in `out` are left out.

    Raises InputError if a path is not there, nothing is found, or two photographs would have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"image {path}: no such file or folder")
        inside = sorted(_photographs_below(path, out)) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"folder {path}: no photographs in it ({', '.join(SUFFIXES)})")
        for file in inside:
            name = "_".join(file.relative_to(path).with_suffix("").parts) if path.is_dir() else file.stem
            if name in found and not found[name].samefile(file):
                raise InputError(f"image {file}: its mask would have the name of that of {found[name]}: {name}.png")
            found[name] = file
    return found


def segment_photographs(
    network: Network,
    path: Path,
    photographs: dict[str, Path],
    out: Path,
    config: SegmentConfig = SegmentConfig(),
    *,
    overlays: bool = True,
    device: str = "cpu",
    batch_size: int = 4,
    precision: str = "float32",
    workers: int = 2,
) -> Written:
    """Write ``masks/NAME.png``, ``overlays/NAME.jpg``, ``shares.csv`` and ``classes.txt`` into `out`.

    The table has a line for each photograph, those of earlier calls too: its size in pixels, and the share of its area,
    0 to 1, that is background and each class. A photograph that cannot be segmented is left out of it. What is done
    already is not done again, unless the photograph has changed. The names are those of the pixel values of the masks.

    Args:
        path: file of the network, for the manifest.
        photographs: of `find_photographs`.
        workers: threads that read photographs and write results beside the network.

    Raises:
        InputError: a folder made with another network or other settings, or that holds the mask of another photograph
            under one of these names.
    """
    begin = time.monotonic()
    settings = mask_settings(network, path, None, precision, config, labels_given=False)
    stage_of = Stage.writing(
        out / MASKS,
        kind="masks",
        config={**settings, **config.model_dump(mode="json")},
        class_names=network.class_names,
        suffix=".png",
        inputs={"network": file_hash(path)},
        sources={"network": path},
        otherwise="give another `out` or delete the folder",
    )
    failed: dict[str, str] = {}
    how = {"device": device, "batch_size": batch_size, "precision": precision}
    with stage_of as stage:
        for folder in (out, out / OVERLAYS):
            remove_leftovers(folder)
        _earlier(stage, out / SHARES, photographs)
        write_bytes(out / CLASSES, _legend(network.class_names).encode())
        todo = _due(stage, photographs, out, overlays=overlays)
        made = 0
        try:
            with ThreadPoolExecutor(max(1, workers)) as pool:
                writing: list[Future[None]] = []
                batches = _batches(todo, photographs, batch_size, failed)
                found = _masks(network, batches, photographs, config, pool, failed, how)
                for name, picture, mask in track(found, "segment", total=len(todo)):
                    if mask is None or picture is None:
                        continue
                    one = Segmentation(mask, network.class_names)
                    writing.append(pool.submit(_write, out, name, picture, one, overlays, todo[name]))
                    while len(writing) > 4 * max(1, workers):  # photographs are large: few wait at a time
                        writing.pop(0).result()
                    made += 1
                for job in writing:
                    job.result()
        finally:  # also of what was done until an interruption
            shares = _write_shares(stage, out / SHARES, photographs)
        made = sum(gathered(made))
        failed = {name: why for of_one in gathered(failed) for name, why in of_one.items()}
        shares = {name: found for of_one in gathered(shares) for name, found in of_one.items()}
        if all_done(list(photographs), stage.pending) and (made or not stage.manifest["history"]):
            counts = {"images": len(photographs), "made": made}
            stage.done(command=command_line("cnnseg"), split="", counts=counts, seconds=time.monotonic() - begin)
    return Written(out / SHARES, made, {name: shares[name] for name in photographs if name in shares}, failed)


def _legend(class_names: Sequence[str]) -> str:
    """A line for each pixel value of a mask: the value and its name."""
    named = {BACKGROUND: "background", **dict(enumerate(class_names, start=BACKGROUND + 1)), IGNORE: "ignored"}
    return "".join(f"{value} {name}\n" for value, name in named.items())


def _photographs_below(folder: Path, out: Path) -> Iterator[Path]:
    skipped = {path.resolve() for path in (out, out / MASKS, out / OVERLAYS)}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and (Path(parent) / name).resolve() not in skipped]
        yield from (Path(parent) / name for name in files if name[0] != "." and name.lower().endswith(SUFFIXES))


def _due(stage: Stage, photographs: dict[str, Path], out: Path, *, overlays: bool) -> dict[str, str]:
    """Name -> record (`wsss.store.records`) of the photographs without a mask of theirs, or a wanted overlay."""
    samples = [Sample(name, path, ()) for name, path in photographs.items()]

    def older(sample: Sample) -> bool:
        return stage.written(sample.id) < sample.image_path.stat().st_mtime_ns

    def bare(sample: Sample) -> bool:
        return overlays and not (out / OVERLAYS / f"{sample.id}.jpg").is_file()

    todo = due(stage, samples, "photographs", labels=False, outdated=older, lacking=bare)
    return {sample.id: sample.made_of for sample in todo}


def _batches(
    names: Iterable[str], photographs: dict[str, Path], batch_size: int, failed: dict[str, str]
) -> Iterator[list[str]]:
    """The photographs in groups of equal size; of one that cannot be read is said so in `failed`."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for name in names:
        try:
            by_size.setdefault(image_size(photographs[name]), []).append(name)
        except InputError as error:
            _fail(failed, name, error)
    for group in by_size.values():
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def _masks(
    network: Network,
    batches: Iterable[list[str]],
    photographs: dict[str, Path],
    config: SegmentConfig,
    pool: ThreadPoolExecutor,
    failed: dict[str, str],
    how: dict[str, Any],
) -> Iterator[tuple[str, Image.Image | None, np.ndarray | None]]:
    """Name, photograph and mask, None where it failed; the next batch is read while the network looks at this one."""

    def read(batch: list[str]) -> list[tuple[str, Future[Image.Image]]]:
        return [(name, pool.submit(read_image, photographs[name])) for name in batch]

    queue = iter(batches)
    ahead = read(next(queue, []))
    yield from ((name, None, None) for name in list(failed))
    while ahead:
        batch, ahead = ahead, read(next(queue, []))
        pictures: dict[str, Image.Image] = {}
        for name, job in batch:
            try:
                pictures[name] = job.result()
            except InputError as error:
                _fail(failed, name, error)
                yield name, None, None
        try:
            masks = list(segment_pictures(network, list(pictures.values()), config, **how))
        except InputError as error:  # all of a batch are of one size
            for name in pictures:
                _fail(failed, name, InputError(f"image {photographs[name]}: {error}"))
                yield name, None, None
            continue
        yield from ((name, picture, mask) for (name, picture), mask in zip(pictures.items(), masks, strict=True))


def _fail(failed: dict[str, str], name: str, error: InputError) -> None:
    failed[name] = str(error)
    warn(str(error))


def _write(out: Path, name: str, picture: Image.Image, found: Segmentation, overlays: bool, made_of: str) -> None:
    """Overlay and mask of a photograph; the mask last, as it is what says that the photograph is done."""
    if overlays:
        small = Image.fromarray(fit_width(np.asarray(picture), OVERLAY_WIDTH))
        drawn = replace(found, mask=fit_width(found.mask, OVERLAY_WIDTH, nearest=True)).overlay(small)
        with atomic(out / OVERLAYS / f"{name}.jpg") as temporary:
            drawn.save(temporary, format="JPEG", quality=90)
    write_mask(out / MASKS, name, found.mask, made_of)


def _earlier(stage: Stage, table: Path, photographs: dict[str, Path]) -> dict[str, str]:
    """Name -> file of the photographs in a table. InputError if one of these names is another photograph's there."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        found = {row.get("name", ""): row.get("file", "") for row in csv.DictReader(file)}
    elsewhere = [
        Sample(name, path, ())
        for name, path in photographs.items()
        if name in found and Path(found[name]).resolve() != path.resolve()
    ]
    records = known_records(stage, [sample.id for sample in elsewhere])
    inputs = inputs_of(elsewhere, labels=False)
    for place, sample in enumerate(elsewhere):
        if records.get(sample.id) != inputs.row(place):  # else the photograph has been moved, or copied
            raise InputError(
                f"`out` {table.parent}: holds {sample.id}.png of {found[sample.id]}, not of {sample.image_path}; give "
                "another folder"
            )
    return found


def _write_shares(stage: Stage, table: Path, photographs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """A line for each of the photographs whose mask is there, and for those of earlier calls; returns their shares."""
    shares = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "file", "width", "height", "background", *stage.class_names])
    with locked(table.with_name(f".{table.name}.lock")):  # of several processes the last one sees all masks
        files = {name: str(path) for name, path in photographs.items()}
        files |= {name: path for name, path in _earlier(stage, table, photographs).items() if name not in files}
        missing = set(stage.pending(files))
        for name, path in files.items():
            if name in missing:
                continue
            found = Segmentation(read_mask(stage.folder, name), stage.class_names)
            height, width = found.mask.shape
            shares[name] = found.shares
            writer.writerow([name, path, width, height, *(f"{share:.6f}" for share in shares[name].values())])
        write_bytes(table, text.getvalue().encode())
    return shares
