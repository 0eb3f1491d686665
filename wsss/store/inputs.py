"""What results are made of, image by image: columns of contents (`wsss.store.content`), compared and kept."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data.sample import Sample
from wsss.store.atomic import write_bytes
from wsss.store.content import MISSING, as_text, contents, hash_bytes
from wsss.store.records import Record, pack
from wsss.words import counted

IMAGE, LABELS, MASK = "image", "labels", "mask"
"""Columns of a data set's own: bytes of the photograph, class indices, bytes of the mask."""

INPUTS = ".inputs.npz"
"""The file of a training that keeps them."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of some images. ``columns``: name of an input -> contents uint64 (n,), 0 where an image has none."""

    ids: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def digests(self) -> dict[str, str]:
        """Name of an input -> 16 hexadecimal digits of all images' together, for a manifest."""
        names = hashlib.blake2b("\0".join(self.ids).encode(), digest_size=8).hexdigest()
        found = {"images": names}
        for name, column in self.columns.items():
            found[name] = hashlib.blake2b(column.astype("<u8").tobytes(), digest_size=8).hexdigest()
        return found

    def record(self, place: int) -> str:
        """The packed record of one image, see `wsss.store.records`."""
        return pack(self.row(place))

    def row(self, place: int) -> Record:
        """Name of an input -> content, of one image."""
        return {name: as_text(column[place]) for name, column in self.columns.items()}

    def changes(self, old: Inputs) -> str:
        """What is other than in `old`, in words: "labels of 2 of 9 images changed (cat_1 is the first)"; or ""."""
        if self.ids == old.ids:
            return ", ".join(filter(None, (_changed(name, self, old) for name in self.columns)))
        parts = []
        for word, mine, others in (("added", self, old), ("taken away", old, self)):
            known = set(others.ids)
            extra = [image_id for image_id in mine.ids if image_id not in known]
            if extra:
                parts.append(f"{counted(len(extra), 'image')} {word} ({_first(extra[0], len(extra))})")
        places = {image_id: place for place, image_id in enumerate(old.ids)}
        both = [(place, places[image_id]) for place, image_id in enumerate(self.ids) if image_id in places]
        if both:
            here, there = (np.array(side) for side in zip(*both, strict=True))
            mine, others = self.part(here), old.part(there)
            parts += [line for name in self.columns if (line := _changed(name, mine, others))]
        return ", ".join(parts) or "the order of the images changed"

    def save(self, folder: Path) -> None:
        """Keep them in a stage folder, atomically."""
        buffer = io.BytesIO()
        columns: dict[str, Any] = dict(self.columns)
        np.savez_compressed(buffer, ids=np.array(self.ids, dtype=np.str_), **columns)
        write_bytes(folder / INPUTS, buffer.getvalue())

    @classmethod
    def read(cls, folder: Path) -> Inputs | None:
        """What `save` has kept; None if there is nothing, or it cannot be read."""
        try:
            with np.load(folder / INPUTS, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in arrays.files if name != "ids"}
                return cls(tuple(arrays["ids"].tolist()), columns)
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
            return None

    def part(self, places: np.ndarray | slice) -> Inputs:
        """Those of some of the images."""
        ids = self.ids[places] if isinstance(places, slice) else tuple(self.ids[place] for place in places.tolist())
        return Inputs(ids, {name: column[places] for name, column in self.columns.items()})


def inputs_of(
    samples: Sequence[Sample],
    *,
    image: bool = True,
    labels: bool = True,
    mask: np.ndarray | None = None,
    files: Mapping[str, Callable[[str], Path]] | None = None,
) -> Inputs:
    """The inputs of samples as they are now.

    Args:
        image, labels: whether results depend on them.
        mask: where they depend on masks, the table by which those are read (`wsss.data.Dataset.mask_values`).
        files: name of another input -> function of an image's id that gives its file.
    """
    columns: dict[str, np.ndarray] = {}
    if image:
        columns[IMAGE] = contents(_Files(samples, lambda sample: sample.image_path), "look through the images")
    if labels:
        hashed = cache(lambda classes: hash_bytes(np.asarray(classes, "<u2").tobytes()))
        columns[LABELS] = np.fromiter((hashed(sample.classes) for sample in samples), np.uint64, len(samples))
    if mask is not None:
        found = contents(_Files(samples, lambda sample: sample.mask_path), "look through the masks")
        columns[MASK] = np.where(found == MISSING, found, found ^ np.uint64(hash_bytes(mask.tobytes())))
    for name, path_of in (files or {}).items():
        columns[name] = contents(_Files(samples, _of_id(path_of)), f"look through the {name}")
    return Inputs(tuple(sample.id for sample in samples), columns)


@dataclass(frozen=True)
class _Files(Sequence[Path | None]):
    """A file of each sample, named when it is looked at: a million paths take a third of a gigabyte."""

    samples: Sequence[Sample]
    path_of: Callable[[Sample], Path | None]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Any) -> Any:
        return self.path_of(self.samples[place])


def _of_id(path_of: Callable[[str], Path]) -> Callable[[Sample], Path]:
    return lambda sample: path_of(sample.id)


def differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names of the inputs by which two records (or digests) differ; one that the old one does not have is no change."""
    return [name for name, value in new.items() if name in old and old[name] != value]


def _changed(name: str, mine: Inputs, old: Inputs) -> str:
    if name not in old.columns:
        return ""
    places = np.flatnonzero(mine.columns[name] != old.columns[name])
    if not len(places):
        return ""
    total = len(mine.ids)
    which = f"all {total} images" if len(places) == total > 1 else f"{len(places)} of {counted(total, 'image')}"
    return f"{of_images(name)}{which} changed ({_first(mine.ids[places[0]], len(places))})"


def of_images(name: str) -> str:
    """How an input of images is spoken of: "labels of " or, of the images themselves, nothing."""
    return {IMAGE: "", MASK: "masks of "}.get(name, f"{name} of ")


def _first(image_id: str, count: int) -> str:
    return image_id if count == 1 else f"{image_id} is the first"
