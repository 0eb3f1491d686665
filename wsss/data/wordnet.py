"""The classes of ImageNet-1k."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k in the order of the outputs of timm's models, such as ``n01440764``."""
    from timm.data import ImageNetInfo  # takes seconds, as it brings PyTorch: only where the list is asked for

    return tuple(ImageNetInfo().label_names())


def describe(class_names: Sequence[str], place: int) -> str:
    """The name of a class; of an ImageNet head, whose classes are named by index, with its words."""
    name = class_names[place]
    if len(class_names) != 1000 or not name.isdigit():
        return name
    from timm.data import ImageNetInfo

    return f"{name} ({ImageNetInfo().index_to_description(place)})"
