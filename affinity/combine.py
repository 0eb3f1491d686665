"""Seeds of several runs to one: other methods, other classifiers, other mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from wsss.data import Sample
from wsss.errors import InputError
from wsss.parallel import map_parallel
from wsss.settings import Config
from wsss.store import Seed, read_seed, write_seed

PerRun = Annotated[tuple[PositiveFloat, ...] | None, Field(min_length=1)]


class CombineConfig(Config):
    """How maps of several runs become one."""

    rule: Literal["mean", "geometric"] = "mean"
    """mean: what one run finds is there; geometric: what all of them find"""
    weights: PerRun = None
    """weight of each run, in the order of --seeds; equal unless given"""
    powers: PerRun = None
    """each run's maps are raised to its power first, in the order of --seeds; unchanged unless given"""

    def check(self, runs: int) -> None:
        """InputError unless there are as many weights and powers, if any, as runs."""
        for argument, values in (("weights", self.weights), ("powers", self.powers)):
            if values is not None and len(values) != runs:
                raise InputError(
                    f"`{argument}`: expected one for each of the {runs} runs of `seeds`, got {len(values)}"
                )


def combine_seeds(seeds: Sequence[Seed], config: CombineConfig = CombineConfig()) -> Seed:
    """One seed of several of the same image.

    Each map is brought to the finest of the grids (bilinear) and divided by its maximum, so that all begin alike.

    Args:
        seeds: of the same image and classes.

    Raises:
        InputError: there are more or fewer weights or powers.
        ValueError: the seeds are of other classes or another size of image.
    """
    config.check(len(seeds))
    first = seeds[0]
    for other in seeds[1:]:
        if other.size != first.size or other.classes.tolist() != first.classes.tolist():
            raise ValueError(
                f"expected equal classes and sizes, got {first.classes.tolist()} of {first.size} and "
                f"{other.classes.tolist()} of {other.size}"
            )
    weights, powers = (values or (1.0,) * len(seeds) for values in (config.weights, config.powers))
    grid = max((seed.scores.shape[1:] for seed in seeds), key=lambda shape: shape[0] * shape[1])
    maps = [_to_one(seed.upsample(grid)) ** power for seed, power in zip(seeds, powers, strict=True)]
    shares = np.array(weights, np.float64) / sum(weights)
    if config.rule == "mean":
        joined = sum(share * one for share, one in zip(shares, maps, strict=True))
    else:
        joined = np.prod([one**share for share, one in zip(shares, maps, strict=True)], axis=0)
    return Seed(np.clip(joined, 0, 1).astype(np.float16), first.classes, first.size)


def combine_images(
    samples: Sequence[Sample], sources: Sequence[Path], folder: Path, config: CombineConfig, *, workers: int = 1
) -> None:
    """Write ``<folder>/<id>.npz`` for every sample from ``<source>/<id>.npz`` of each source, in `workers` processes.

    Raises InputError naming the file if a seed cannot be read, or the image if its seeds do not go together.
    """
    job = partial(_combine_image, sources=tuple(sources), folder=folder, config=config)
    for _ in map_parallel(job, samples, workers=workers, description="affinity combine"):
        pass


def _combine_image(sample: Sample, sources: tuple[Path, ...], folder: Path, config: CombineConfig) -> None:
    seeds = [read_seed(source, sample.id) for source in sources]
    try:
        seed = combine_seeds(seeds, config)
    except ValueError as error:
        raise InputError(f"seeds of image {sample.id} in {', '.join(map(str, sources))}: {error}") from None
    write_seed(folder, sample.id, seed, sample.made_of)


def _to_one(maps: np.ndarray) -> np.ndarray:
    """Maps (K, h, w) divided by their maxima; one of zeros stays so."""
    peaks = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return maps / np.where(peaks > 0, peaks, 1)
