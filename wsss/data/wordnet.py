"""The classes of ImageNet-1k."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

from wsss.errors import InputError, did_you_mean

NEAR = 5
"""Classes of ImageNet that a message names."""


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


def place_of(name: str, class_names: Sequence[str]) -> int:
    """The place of a class, by its name; of an ImageNet head by its index or its words, such as "tabby cat".

    Raises:
        InputError: no such class, with the nearest ones, or words that several classes of ImageNet have.
    """
    if name in class_names:
        return list(class_names).index(name)
    if not is_imagenet_head(class_names):
        raise InputError(f"class {name!r} is unknown to the classifier: {did_you_mean(name, class_names)}")
    places = _places_of_words().get(_plain(name), ())
    if len(places) == 1:
        return places[0]
    if places:
        named = " or ".join(map(str, places))
        raise InputError(f"class {name!r} is {len(places)} classes of ImageNet: expected an index, {named}")
    near = ", ".join(f"{words!r} ({place})" for place, words in _near(name).items())
    raise InputError(
        f"class {name!r} is none of ImageNet's 1,000: expected an index, 0 to 999, or a name"
        + (f" such as {near}" if near else ", such as 'tabby cat'")
    )


@cache
def _places_of_words() -> dict[str, tuple[int, ...]]:
    """Name -> classes of ImageNet that have it; most have several names, and some names are of two classes."""
    from timm.data import ImageNetInfo

    info, found = ImageNetInfo(), dict[str, tuple[int, ...]]()
    for place in range(1000):
        for words in info.index_to_description(place).split(", "):
            found[_plain(words)] = (*found.get(_plain(words), ()), place)
    return found


def _near(name: str) -> dict[int, str]:
    """Classes with a name that holds the word, at its end first, else with one that is spelt alike."""
    known, wanted = _places_of_words(), _plain(name)
    holding = [words for words in known if wanted in words.split()]
    holding.sort(key=lambda words: (not words.endswith(wanted), len(words)))
    found: dict[int, str] = {}
    for words in holding or difflib.get_close_matches(wanted, known, n=NEAR, cutoff=0.75):
        found.setdefault(known[words][0], words)
    return dict(list(found.items())[:NEAR])


def _plain(words: str) -> str:
    return " ".join(words.lower().replace("_", " ").split())
