"""The classes of ImageNet-1k."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k in the order of the outputs of timm's models, such as ``n01440764``."""
    from timm.data import ImageNetInfo  # takes seconds, as it brings PyTorch: only where the list is asked for

    return tuple(ImageNetInfo().label_names())


def is_imagenet_head(class_names: Sequence[str]) -> bool:
    """Whether these are the classes of an ImageNet head, of which one excludes the others: named by index, 0 to 999."""
    return len(class_names) == 1000 and all(name.isdigit() for name in class_names)


def describe(class_names: Sequence[str], place: int) -> str:
    """The name of a class; of an ImageNet head, whose classes are named by index, with its words."""
    name = class_names[place]
    if not is_imagenet_head(class_names):
        return name
    from timm.data import ImageNetInfo

    return f"{name} ({ImageNetInfo().index_to_description(place)})"
