"""The PASCAL VOC devkit: lists, photographs, masks, and three sources of image-level labels."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsss.data.config import VOC_CLASSES, DataConfig
from wsss.data.files import read_label_image
from wsss.data.sample import Sample
from wsss.errors import InputError, did_you_mean

Report = Callable[[str], None]


def read_samples(config: DataConfig, root: Path, split: str, report: Report) -> list[Sample]:
    """The samples of a list. Labels of an image: its XML under Annotations, else cls_labels.npy, else its mask."""
    base = devkit_folder(root, config.year)
    ids = _read_list(base, split, report)
    images = _names(base / "JPEGImages", ".jpg")
    if not images:
        raise InputError(f"folder {base / 'JPEGImages'}: no images (*.jpg)")
    mask_folder = base / (config.masks or "SegmentationClass")
    masks = _names(mask_folder, ".png")
    labels = LabelSource(root, base, report)
    index = {name: c for c, name in enumerate(config.class_names(), start=1)}
    samples = []
    for image_id in ids:
        if image_id not in images:
            report(f"{split}: image {image_id} has no file {base / 'JPEGImages' / image_id}.jpg")
            continue
        mask = mask_folder / f"{image_id}.png" if image_id in masks else None
        shown = labels.names(image_id, mask)
        classes = tuple(sorted(index[name] for name in shown if name in index))
        samples.append(Sample(image_id, base / "JPEGImages" / f"{image_id}.jpg", classes, mask))
    return samples


def list_splits(config: DataConfig, root: Path) -> tuple[str, ...]:
    """The lists under ImageSets/Segmentation."""
    return tuple(sorted(_names(devkit_folder(root, config.year) / "ImageSets" / "Segmentation", ".txt")))


def devkit_folder(root: Path, year: str) -> Path:
    """``VOC<year>`` below `root` as torchvision lays it out; `root` may also be that folder or ``VOCdevkit``."""
    for candidate in (root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}", root):
        if (candidate / "ImageSets").is_dir():
            return candidate
    raise InputError(f"root {root}: no VOC devkit there (VOCdevkit/VOC{year}/ImageSets is missing)")


def _read_list(base: Path, split: str, report: Report) -> list[str]:
    folder = base / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if split not in _names(folder, ".txt"):
        raise InputError(f"`split` {split}: no list {path}; {did_you_mean(split, _names(folder, '.txt'))}")
    words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    # Lists of other projects hold "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png".
    ids = [Path(word).stem if word.endswith(".jpg") else word for word in words]
    if not ids:
        raise InputError(f"{path}: the list is empty")
    for image_id, count in Counter(ids).items():
        if count > 1:
            report(f"{path}: image {image_id} stands there {count} times")
    return list(dict.fromkeys(ids))


class LabelSource:
    """The classes an image shows, by name, from the first source that knows the image."""

    def __init__(self, root: Path, base: Path, report: Report) -> None:
        self._annotations = base / "Annotations"
        self._annotated = _names(self._annotations, ".xml")
        self._report = report
        places = dict.fromkeys(folder / "cls_labels.npy" for folder in (root, base, base.parent.parent))
        self._table_path = next((path for path in places if path.is_file()), None)
        self._table: Mapping[str, np.ndarray] | None = None

    def names(self, image_id: str, mask: Path | None) -> list[str]:
        """Names of the classes shown. Objects marked difficult count. Nothing known is reported."""
        if image_id in self._annotated:
            return self._from_xml(self._annotations / f"{image_id}.xml")
        if self._table is None and self._table_path is not None:
            self._table = read_label_table(self._table_path)
        if self._table is not None and image_id in self._table:
            return [VOC_CLASSES[c] for c in np.flatnonzero(self._table[image_id])]
        if mask is not None:
            return self._from_mask(mask)
        sources = "Annotations, cls_labels.npy or a mask"
        self._report(f"image {image_id}: no image-level labels ({sources} would give them)")
        return []

    def _from_xml(self, path: Path) -> list[str]:
        try:
            objects = ElementTree.parse(path).getroot().findall("object")
        except ElementTree.ParseError as error:
            self._report(f"annotation {path}: not valid XML ({error})")
            return []
        names = dict.fromkeys((item.findtext("name") or "").strip() for item in objects)
        for name in names:
            if name not in VOC_CLASSES:
                self._report(f"annotation {path}: unknown label {name!r}; {did_you_mean(name, VOC_CLASSES)}")
        return [name for name in names if name in VOC_CLASSES]

    def _from_mask(self, path: Path) -> list[str]:
        try:
            values = np.unique(read_label_image(path))
        except InputError as error:
            self._report(str(error))
            return []
        return [VOC_CLASSES[v - 1] for v in values if 1 <= v <= len(VOC_CLASSES)]


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickled dictionary of arrays; any other object in the file is refused, so that no code of it can run."""

    _ALLOWED = frozenset({"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer", "encode"})

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def read_label_table(path: Path) -> dict[str, np.ndarray]:
    """``{image_id: (20,) array of 0 and 1}`` from a ``cls_labels.npy``. InputError if the file holds anything else."""
    try:
        with path.open("rb") as file:
            first = np.lib.format.read_magic(file) == (1, 0)
            header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            _, _, dtype = header(file)
            if not dtype.hasobject:
                raise ValueError(f"an array of {dtype}")
            content = _ArraysOnly(file).load()
        table = content.item() if isinstance(content, np.ndarray) else content
        if not isinstance(table, dict):
            raise ValueError(f"a {type(table).__name__}")
        table = {str(key): np.asarray(value) for key, value in table.items()}
    except (ValueError, EOFError, AttributeError, ImportError, IndexError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a dictionary of image-level labels ({error})") from None
    for image_id, row in table.items():
        if row.shape != (len(VOC_CLASSES),):
            raise InputError(f"{path}: image {image_id}: expected labels of shape (20,), got {row.shape}")
    return table


def _names(folder: Path, suffix: str) -> set[str]:
    """Stems of the files with that suffix: one listing of the folder instead of a question for each image."""
    if not folder.is_dir():
        return set()
    return {name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)}
