"""From the description of a data set to its samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsss.data import folder, voc
from wsss.data.config import DataConfig, load_config
from wsss.data.sample import Dataset
from wsss.errors import InputError


def load_dataset(
    config: str | Path | DataConfig,
    split: str,
    root: Path | None = None,
    *,
    problems: list[str] | None = None,
) -> Dataset:
    """The samples of one split. Decodes no image (masks only where nothing else gives the labels of a VOC image).

    Args:
        config: a data YAML (path or name below ``configs/data``) or the description itself.
        split: layout voc, a list under ``ImageSets/Segmentation``; layout folder, a value of the CSV's ``split``
            column, or "all".
        root: folder of the data; else the environment variable named by the description, else the description's root.
        problems: where given, a fault of a single image or row is appended to this list instead of raised, and reading
            goes on; an image with a file stays in, with the labels that could be read.

    Raises InputError naming what is missing or wrong and how to give it.
    """
    config = load_config(config)
    where = config.find_root(root)
    reader = voc if config.layout == "voc" else folder
    return Dataset(
        name=config.name,
        split=split,
        root=where,
        class_names=config.class_names(),
        samples=tuple(reader.read_samples(config, where, split, _reporter(problems))),
        mask_values=config.mask_table(),
    )


def list_splits(config: str | Path | DataConfig, root: Path | None = None) -> tuple[str, ...]:
    """The names that `load_dataset` takes as split; "all" only where a folder's CSV names no splits."""
    config = load_config(config)
    return (voc if config.layout == "voc" else folder).list_splits(config, config.find_root(root))


def _reporter(problems: list[str] | None) -> Callable[[str], None]:
    def stop(line: str) -> None:
        raise InputError(line)

    return stop if problems is None else problems.append
