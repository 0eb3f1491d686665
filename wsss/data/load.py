"""From the description of a data set to its samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsss.data import folder, imagenet, imagenet_seg, voc
from wsss.data.config import DataConfig, load_config
from wsss.data.foreground import check_foreground_value
from wsss.data.layouts import LAYOUTS, Layout
from wsss.data.sample import Dataset
from wsss.errors import InputError

_READERS = {
    name: Layout(module.read_samples, module.list_splits)
    for name, module in (("voc", voc), ("folder", folder), ("imagenet", imagenet), ("imagenet_seg", imagenet_seg))
}


def load_dataset(
    config: str | Path | DataConfig,
    split: str,
    root: Path | None = None,
    *,
    foreground_value: int | None = None,
    problems: list[str] | None = None,
) -> Dataset:
    """The samples of one split. Decodes no image (masks only where nothing else gives the labels of a VOC image).

    Args:
        config: a data YAML (path or name below ``configs/data``) or the description itself.
        split: layout voc, a list under ``ImageSets/Segmentation``; layout folder, a value of the CSV's ``split``
            column, or "all"; layout imagenet, a subfolder, or "all" where the classes lie in the root; layout
            imagenet_seg, "all"; one that was registered, as its reader says.
        root: folder of the data (imagenet_seg: or the file); else the environment variable named by the description,
            else the description's root.
        foreground_value: pixel value of the masks that stands for the one class of each image; the description's own
            unless given.
        problems: where given, a fault of a single image or row is appended to this list instead of raised, and reading
            goes on; an image with a file stays in, with the labels that could be read.

    Raises InputError naming what is missing or wrong and how to give it.
    """
    check_foreground_value(foreground_value)
    config = load_config(config).with_foreground(foreground_value)
    where = config.find_root(root)
    return Dataset(
        name=config.name,
        split=split,
        root=where,
        class_names=config.class_names(),
        samples=tuple(_reader(config).read_samples(config, where, split, _reporter(problems))),
        mask_values=config.mask_table(),
        foreground_value=config.foreground_value,
    )


def list_splits(config: str | Path | DataConfig, root: Path | None = None) -> tuple[str, ...]:
    """The names that `load_dataset` takes as split; "all" only where the data are not split."""
    config = load_config(config)
    return tuple(_reader(config).list_splits(config, config.find_root(root)))


def _reader(config: DataConfig) -> Layout:
    return _READERS.get(config.layout) or LAYOUTS[config.layout]


def _reporter(problems: list[str] | None) -> Callable[[str], None]:
    def stop(line: str) -> None:
        raise InputError(line)

    return stop if problems is None else problems.append
