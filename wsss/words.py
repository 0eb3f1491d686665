"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """A number of things, the noun in the form that fits.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "class")
    ('1 image', '2 images', '0 classes')
    """
    ending = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number} {what}{ending}"


def agreeing(number: int, one: str, many: str) -> str:
    """The verb, or another word, that fits a number of things.

    >>> f"1 of 3 images {agreeing(1, 'has', 'have')} no mask"
    '1 of 3 images has no mask'
    """
    return one if number == 1 else many
