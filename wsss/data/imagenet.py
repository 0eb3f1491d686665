"""ImageNet as torchvision lays it out, and any other images that folders or file names assign to one class each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from wsss.data.config import DataConfig
from wsss.data.folder import IMAGE_SUFFIXES
from wsss.data.sample import Sample
from wsss.errors import InputError, did_you_mean, near_name

Report = Callable[[str], None]

_LISTED = 20  # class names that an error lists in full


def read_samples(config: DataConfig, root: Path, split: str, report: Report) -> list[Sample]:
    """The images of ``root/<split>``, or of `root` with split "all", ordered by class, then by name.

    That folder holds one subfolder a class (``<class>/*.jpg``), or images named after their class
    (``<class>_anything.jpg``, ``<class>.jpg``). The id of an image is its file name without suffix. Reported: a folder
    or a name that is no class, an image beside the folders of classes, two images of one id.
    """
    folder = _split_folder(config, root, split)
    names = config.class_names()
    index = {name: c for c, name in enumerate(names, start=1)}
    found = list(_by_folder(folder, index, report) if _subfolders(folder) else _by_name(folder, index, report))
    if not found:
        raise InputError(
            f"folder {folder}: no images of the classes {_listed(names)}; "
            "expected <class>/*.jpg or <class>_anything.jpg (or png, bmp, webp)"
        )
    samples: dict[str, Sample] = {}
    for label, path in sorted(found, key=lambda item: (item[0], item[1].name)):
        if path.stem in samples:
            first = samples[path.stem].image_path
            report(f"image {path}: has the name of {first}; results are kept by name, so each must have its own")
            continue
        samples[path.stem] = Sample(path.stem, path, (label,))
    return list(samples.values())


def list_splits(config: DataConfig, root: Path) -> tuple[str, ...]:
    """The subfolders of `root` that hold classes; ("all",) where `root` itself holds the classes or the images."""
    known = frozenset(config.class_names())
    if _holds_classes(root, known):
        return ("all",)
    return tuple(folder.name for folder in _subfolders(root) if _holds_classes(folder, known)) or ("all",)


def class_of(stem: str, known: frozenset[str] | dict[str, int]) -> str | None:
    """The class that a file name begins with: the whole name or all before one of its "_"; the longest that fits.

    >>> class_of("sea_lion_03", {"sea": 1, "sea_lion": 2})
    'sea_lion'
    """
    words = stem.split("_")
    prefixes = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), None)


def class_hint(name: str, known: Mapping[str, int]) -> str:
    """`did_you_mean` that does not list a thousand classes: the nearest one, and the first few.

    >>> class_hint("dgo", {"cat": 1, "dog": 2})
    "did you mean 'dog'? known: cat, dog"
    """
    if len(known) <= _LISTED:
        return did_you_mean(name, known)
    return near_name(name, known) + f"known: {_listed(list(known))}"


def _split_folder(config: DataConfig, root: Path, split: str) -> Path:
    splits = list_splits(config, root)
    if split == "all":
        if splits != ("all",):
            raise InputError(f"`split` all: {root} holds the splits {', '.join(splits)}; give one of them")
        return root
    if os.sep in split or split in ("", ".", "..") or not (root / split).is_dir():
        raise InputError(f"`split` {split}: no such folder in {root}; {did_you_mean(split, splits)}")
    return root / split


def _by_folder(folder: Path, index: dict[str, int], report: Report) -> Iterator[tuple[int, Path]]:
    for path in _images(folder):
        report(f"image {path}: lies beside the folders of the classes; move it into one of them")
    for subfolder in _subfolders(folder):
        if subfolder.name in index:
            yield from ((index[subfolder.name], path) for path in _images(subfolder))
        else:
            report(f"folder {subfolder}: no class of this name; {class_hint(subfolder.name, index)}")


def _by_name(folder: Path, index: dict[str, int], report: Report) -> Iterator[tuple[int, Path]]:
    for path in _images(folder):
        name = class_of(path.stem, index)
        if name is None:
            first = path.stem.split("_")[0]
            report(f"image {path}: expected a name <class>_anything; {class_hint(first, index)}")
        else:
            yield index[name], path


def _holds_classes(folder: Path, known: frozenset[str]) -> bool:
    if any(subfolder.name in known for subfolder in _subfolders(folder)):
        return True
    return any(class_of(path.stem, known) for path in _images(folder))


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    """Image files directly in a folder; scandir, as ImageNet's train split has 1.3 million of them."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    return (folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _LISTED else f"{', '.join(names[:3])}, ... ({len(names)} in all)"
