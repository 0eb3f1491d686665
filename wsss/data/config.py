"""The description of a data set: one YAML under ``configs/data``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from wsss.configs import find_config, read_yaml
from wsss.data.layouts import BUILT_IN, FIXED, LAYOUTS
from wsss.data.sample import BACKGROUND, IGNORE
from wsss.data.wordnet import wordnet_ids
from wsss.errors import InputError, did_you_mean
from wsss.settings import Config, validation_line

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

"""Names of the pixel values 1..20, and of the columns of ``cls_labels.npy``."""

MAX_CLASSES = 254
"""Classes that masks can show: their pixels are uint8, 0 is background, 255 is ignored."""

MAX_LABELS = 65534
"""Classes of a data set of labels and seeds, which are kept as uint16 where a mask would not do."""


class DataConfig(Config):
    """One data set: its layout, where it lies, and the classes of interest.

    Class index c (1..C) is the place in ``classes`` plus one. Pixels of classes outside the list are ignored (255).
    """

    name: str
    """Name in messages and reports."""
    layout: str
    """"voc": a PASCAL VOC devkit. "folder": a folder of images with a CSV of labels. "imagenet": images in folders
    named after their class, or named so themselves. "imagenet_seg": the file gtsegs_ijcv.mat. Or one that was
    registered (`wsss.data.register_layout`), whose keys are those of "folder"."""
    root: Path | None = None
    """Folder of the data. In a YAML file, a relative path starts at that file's folder."""
    root_env: str | None = None
    """Environment variable that gives the root; it wins over ``root``, and ``--root`` wins over both."""
    classes: tuple[str, ...] | None = None
    """The classes, in the order of their indices. Layout voc: all 20 unless given. Layout folder: required. Layout
    imagenet: names of the folders, the WordNet ids of ImageNet-1k unless given. Layout imagenet_seg: one, "object"."""

    year: str = "2012"
    """Layout voc: the devkit's year; the root contains ``VOCdevkit/VOC<year>`` or is that folder."""

    images: str = "images"
    """Layout folder: the subfolder of images (jpg, jpeg, png, bmp, webp)."""
    labels: str = "labels.csv"
    """Layout folder: CSV with the columns ``image``, ``classes`` (separated by ``;``) and, if wanted, ``split``."""
    masks: str | None = None
    """Subfolder of masks ``<image id>.png``; "masks" (folder) or "SegmentationClass" (voc) unless given."""
    mask_values: tuple[str, ...] | None = None
    """Layout folder: names of the pixel values 1, 2, ... in the masks, ``classes`` unless given. A name that is not in
    ``classes`` is known and left out: its pixels are ignored, its label in the CSV is passed over."""
    foreground_value: int | None = Field(None, ge=1, le=255)
    """Layout folder: pixel value of the masks that stands for the one class which the image is labelled with, such as
    255 in masks of 0 and 255. 0 is background, and all other values are ignored."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Layouts that were registered: what else their reader wants to know."""

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.layout not in (*BUILT_IN, *LAYOUTS):
            raise ValueError(
                f"layout: {self.layout!r} is unknown: {did_you_mean(self.layout, (*BUILT_IN, *LAYOUTS))}; one of your "
                "own goes with `extension` FILE"
            )
        for field, names in (("classes", self.classes), ("mask_values", self.mask_values)):
            if names is None:
                continue
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{field}: expected each name once, got {twice[0]!r} twice")
            most = MAX_CLASSES if field == "mask_values" else MAX_LABELS
            if not 1 <= len(names) <= most:
                raise ValueError(f"{field}: expected 1 to {most} names, got {len(names)}")
            for name in names:
                if name != name.strip() or not name or ";" in name or name == "background":
                    raise ValueError(f"{field}: {name!r} cannot be a class name (background has index 0 by itself)")
        if self.layout not in FIXED and self.classes is None:
            raise ValueError(f"classes: layout {self.layout!r} needs the list of class names")
        if self.layout in FIXED and self.mask_values is not None:
            raise ValueError(f"mask_values: layout {self.layout!r} has its own or none")
        if self.options and self.layout in BUILT_IN:
            raise ValueError(f"options: of layouts that were registered, not of layout {self.layout!r}")
        if self.foreground_value is not None and (self.layout in FIXED or self.mask_values is not None):
            raise ValueError(f"foreground_value: of layout 'folder' without mask_values, not of layout {self.layout!r}")
        if self.layout in ("imagenet", "imagenet_seg") and self.masks is not None:
            raise ValueError(f"masks: layout {self.layout!r} has no folder of masks")
        if self.layout == "imagenet_seg" and self.classes is not None:
            raise ValueError("classes: layout 'imagenet_seg' has one class, 'object'; leave the list out")
        if self.layout == "voc":
            for name in self.classes or ():
                if name not in VOC_CLASSES:
                    raise ValueError(f"classes: no VOC class {name!r}: {did_you_mean(name, VOC_CLASSES)}")
        return self

    def class_names(self) -> tuple[str, ...]:
        """The chosen classes in the order of their indices 1..C."""
        if self.classes is not None:
            return self.classes
        if self.layout == "imagenet":
            return wordnet_ids()
        return VOC_CLASSES if self.layout == "voc" else ("object",)

    def stored_names(self) -> tuple[str, ...]:
        """Names of the pixel values 1, 2, ... as the mask files store them."""
        if self.layout == "voc":
            return VOC_CLASSES
        if self.layout == "imagenet":
            return ()
        if self.layout == "imagenet_seg":
            return self.class_names() * MAX_CLASSES  # any value but 0 and 255 is the object
        return self.mask_values if self.mask_values is not None else self.class_names()

    def mask_table(self) -> np.ndarray:
        """Stored pixel value -> class index, uint8 (256,): 0 is 0; classes outside the list, unused values: 255.

        With a ``foreground_value`` 1 stands for the class of the image, whichever that is.
        """
        index = {name: c for c, name in enumerate(self.class_names(), start=1)}
        table = np.full(256, IGNORE, np.uint8)
        table[BACKGROUND] = BACKGROUND
        if self.foreground_value is not None:
            table[self.foreground_value] = 1  # whichever class the image shows, see `Dataset.class_values`
            return table
        if len(self.class_names()) <= MAX_CLASSES:  # of more there are no masks
            for value, name in enumerate(self.stored_names(), start=1):
                table[value] = index.get(name, IGNORE)
        return table

    def with_foreground(self, value: int | None) -> DataConfig:
        """This description with another ``foreground_value``, if one is given. InputError if it cannot have one."""
        if value is None:
            return self
        try:
            return DataConfig(**(dict(self) | {"foreground_value": value}))
        except ValidationError as error:
            raise InputError(f"`foreground_value` {value}: {validation_line(error)}") from None

    def find_root(self, root: Path | None = None) -> Path:
        """The folder of the data: `root`, else the environment variable, else the file's own.

        Raises InputError where none is given or the one given is no folder (layout imagenet_seg: nor a file).
        """
        from_env = os.environ.get(self.root_env) if self.root_env else None
        if root is not None:
            given, source = root, "`root`"
        elif from_env:
            given, source = Path(from_env), str(self.root_env)
        elif self.root is not None:
            given, source = self.root, f"root of data set {self.name}"
        else:
            variable = f", or the environment variable {self.root_env}" if self.root_env else ""
            raise InputError(
                f"data set {self.name}: no root folder known; give `root` PATH, root: in its YAML file{variable}"
            )
        path = Path(given).expanduser()
        if not path.is_dir() and not (self.layout == "imagenet_seg" and path.is_file()):
            raise InputError(f"{source} {path}: no such folder")
        return path


def load_config(config: str | Path | DataConfig) -> DataConfig:
    """A data set's description from a YAML file: a path, or a name below ``configs/data``.

    Raises InputError naming the file and the key at fault.
    """
    if isinstance(config, DataConfig):
        return config
    path = find_config(config, "data")
    content = read_yaml(path, "name, layout, root_env, classes")
    if isinstance(content.get("root"), str):
        content["root"] = path.parent / Path(content["root"]).expanduser()
    try:
        return DataConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_line(error)}") from None
