"""Settings of the two tests; importing them costs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from wsss.errors import InputError, did_you_mean
from wsss.settings import Config


class EvaluationConfig(Config):
    """What the perturbation test and the segmentation test share, whatever explains."""

    methods: tuple[str, ...] | None = None
    """explanation methods, names separated by spaces; all that there are unless given"""
    limit: int | None = Field(None, ge=1)
    """take that many images, evenly spread over the data set; all if not given"""
    batch_size: int = Field(16, ge=1)
    """images that go through the model at once; bounds the memory"""
    precision: Literal["float32", "float64"] = "float32"
    """precision of model and images; float64 takes about twice as long on a CPU, badly conditioned rules may need it"""


def chosen_names(given: tuple[str, ...] | None, known: Iterable[str], *, argument: str, what: str) -> tuple[str, ...]:
    """The names asked for by an argument, each once; all that are known if it is left out.

    Args:
        what: a name stands for, such as "method".

    Raises:
        InputError: none at all, commas, or an unknown name.
    """
    known = tuple(known)
    if given is None:
        return known
    if not given:
        raise InputError(f"`{argument}`: names none; leave it out for all {what}s")
    for name in given:
        if "," in name:
            spaced = " ".join(name.replace(",", " ").split())
            raise InputError(f"`{argument}` {name}: expected names separated by spaces, got commas: {spaced}")
        if name not in known:
            raise InputError(f"{what} {name!r} is unknown: {did_you_mean(name, known)}")
    return tuple(dict.fromkeys(given))
