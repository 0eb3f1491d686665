"""Layouts of data sets beside this toolkit's own: who reads them is registered here (docs/howto_data_set.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.data.sample import Sample
from wsss.errors import InputError
from wsss.extensions import check_name_is_free

Report = Callable[[str], None]
"""Takes the fault of a single image, in one line: raises it, or collects it where a data set is checked."""

ReadSamples = Callable[[Any, Path, str, Report], Sequence[Sample]]
"""(description, a `DataConfig`; root, split, report) -> the samples of the split, in a fixed order, each id once."""

ListSplits = Callable[[Any, Path], Sequence[str]]
"""(description, root) -> names of the splits."""

FIXED = ("voc", "imagenet", "imagenet_seg")
"""Layouts whose classes and pixel values are known; of all others the description says them."""

BUILT_IN = (*FIXED, "folder")


@dataclass(frozen=True)
class Layout:
    """Who reads a data set of some layout."""

    read_samples: ReadSamples
    list_splits: ListSplits


LAYOUTS: dict[str, Layout] = {}
"""Layouts that were registered, by name."""


def register_layout(name: str, *, splits: ListSplits | Sequence[str]) -> Callable[[ReadSamples], ReadSamples]:
    """Decorator: make a function the reader of the data sets whose YAML has ``layout: NAME``.

    The YAML has ``classes``, and ``mask_values`` if masks have other pixel values, as of layout "folder"; whatever else
    the reader wants to know stands under ``options``.

    Args:
        splits: names of the splits, or a function that finds them.

    Raises:
        InputError: the name is one of this toolkit's layouts.

    Example:
        >>> @register_layout("mine", splits=("train", "val"))
        ... def read(config, root, split, report):
        ...     return [Sample(path.stem, path, (1,)) for path in sorted((root / split).glob("*.jpg"))]
        >>> del LAYOUTS["mine"]
    """
    found = splits if callable(splits) else lambda config, root: tuple(splits)

    def add(read: ReadSamples) -> ReadSamples:
        if name in BUILT_IN:
            raise InputError(f"layout {name!r}: is one of this toolkit's; register yours under another name")
        check_name_is_free(name, LAYOUTS[name].read_samples if name in LAYOUTS else None, read)
        LAYOUTS[name] = Layout(read, found)
        return read

    return add
