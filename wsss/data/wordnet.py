"""The classes of ImageNet-1k."""

from __future__ import annotations

from functools import cache


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k in the order of the outputs of timm's models, such as ``n01440764``."""
    from timm.data import ImageNetInfo  # takes seconds, as it brings PyTorch: only where the list is asked for

    return tuple(ImageNetInfo().label_names())
