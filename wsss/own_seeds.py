"""Anybody's maps as the seeds of a run, which every command takes like seeds of its own (docs/own_seeds.md)."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data import BACKGROUND, Dataset, Sample, load_dataset
from wsss.errors import InputError
from wsss.progress import note
from wsss.store import DATA, Seed, Stage, class_array, due, inputs_of, write_seed
from wsss.store import read_seed as read_seed_file
from wsss.words import counted

MAKER = "wsss.write_seeds"
"""What a manifest says of who made such seeds, beside the caller's own settings."""

Maps = Any
"""Maps (K, h, w): an array, a tensor on any device, or K maps (h, w) of either kind."""


@dataclass(frozen=True)
class SeedRun:
    """The seeds of a run that are being written; `seed_run` makes it."""

    stage: Stage
    dataset: Dataset
    scale: bool = True
    samples: Mapping[str, Sample] = field(default_factory=dict, repr=False)
    """The images by their ids."""
    written: set[str] = field(default_factory=set, repr=False)
    """Ids of those that have been written by now."""

    def missing(self) -> list[Sample]:
        """The images without a seed, and those whose photograph or labels have changed since theirs was written.

        A loop over them that was stopped goes on where it was. A sample has ``id``, ``classes`` (indices, 1..C) and
        ``load_image()``, which reads the photograph upright.
        """
        return due(self.stage, self.dataset.samples, "seeds", outdated=self._relabelled)

    def write(
        self, image_id: str, maps: Maps, classes: Sequence[str | int], size: tuple[int, int] | None = None
    ) -> None:
        """Write the seed of an image; see `write_seeds`."""
        sample = self._sample(image_id)
        indices = self._indices(sample, classes)
        where = f"image {sample.id}"
        scores = _scores(where, maps, [self.dataset.class_names[c - 1] for c in indices], self.scale)
        order = np.argsort(indices, kind="stable")
        seed = Seed(scores[order], class_array(sample.classes), _size(sample, size))
        write_seed(self.stage.folder, sample.id, seed, inputs_of([sample]).record(0))
        self.written.add(sample.id)

    def _relabelled(self, sample: Sample) -> bool:
        return tuple(read_seed_file(self.stage.folder, sample.id).classes.tolist()) != sample.classes

    def _sample(self, image_id: str) -> Sample:
        if image_id in self.samples:
            return self.samples[image_id]
        name = str(image_id)
        near = [stem] if (stem := Path(name).stem) in self.samples else get_close_matches(name, self.samples, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its images are {', '.join(list(self.samples)[:3])}, ..."
        raise InputError(f"image {image_id!r}: not in data set {self.dataset.name}, split {self.dataset.split}; {hint}")

    def _indices(self, sample: Sample, classes: Sequence[str | int]) -> list[int]:
        """Class indices of the maps, in the caller's order. InputError unless they are the labels of the image."""
        if isinstance(classes, str | Integral):
            raise InputError(f"image {sample.id}: classes: expected a list such as [{classes!r}], got {classes!r}")
        if classes is None or isinstance(classes, set | frozenset):
            raise InputError(f"image {sample.id}: classes: expected a list in the order of the maps, got {classes!r}")
        indices = [self._index(sample, one.item() if hasattr(one, "item") else one) for one in classes]
        if sorted(indices) != list(sample.classes):
            mine, labels = (self._named(one) for one in (indices, sample.classes))
            raise InputError(
                f"image {sample.id}: expected one map of each of its labels ({labels}), got maps of {mine}"
            )
        return indices

    def _index(self, sample: Sample, given: str | int) -> int:
        if given in ("background", BACKGROUND):
            raise InputError(
                f"image {sample.id}: classes: {given!r} is the background, of which a seed has no map: it is "
                "(1 - strongest class)^alpha; leave it out"
            )
        if isinstance(given, str):
            return self.dataset.class_index(given)
        if not isinstance(given, Integral) or not 1 <= given <= self.dataset.num_classes:
            raise InputError(
                f"image {sample.id}: classes: expected names, or indices from 1 to {self.dataset.num_classes}, got "
                f"{given!r}"
            )
        return int(given)

    def _named(self, indices: Sequence[int]) -> str:
        return ", ".join(self.dataset.class_names[c - 1] for c in sorted(indices)) or "none"


@contextmanager
def seed_run(
    run: str | Path,
    *,
    data: str | Path | Dataset,
    split: str = "all",
    root: Path | None = None,
    scale: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[SeedRun]:
    """The seeds of a run, to write them one by one and to go on where that was stopped.

    While the block lasts nobody else writes these seeds; when it ends well the manifest tells of what was written.

    Args:
        run: folder of the run, such as ``runs/mine``; made if it is not there.
        data: the images and their labels, see `wsss.data.load_dataset`; or a data set that is loaded already.
        split: of the data set.
        root: its folder, where it is not the one that the YAML names.
        scale: divide each map by its maximum, as CAMs are: the image is known to show the class, so that a seed says
            where and not how surely. False: keep the maps as they are, in [0, 1].
        settings: what the maps were made with, for the manifest; seeds made otherwise go into another run.

    Raises:
        InputError: no such data set or split, the run has seeds that were made otherwise, or somebody is writing them.

    Example:
        >>> import numpy as np, wsss
        >>> with wsss.seed_run("runs/mine", data="my_data.yaml", settings={"method": "gradcam"}) as seeds:
        ...     for sample in seeds.missing():
        ...         maps = np.random.rand(len(sample.classes), 14, 14)  # yours, of sample.load_image(): at least 0
        ...         seeds.write(sample.id, maps, sample.classes)
        runs/mine/seeds: seeds of 1 of 1 image of my_data/all
    """
    with _begun(run, data, split, root, scale, settings) as seeds:
        yield seeds
        there = len(seeds.samples) - len(seeds.stage.pending(seeds.samples))
        of_all = f"{there} of {counted(len(seeds.samples), 'image')} of {seeds.dataset.name}/{seeds.dataset.split}"
        note(f"{seeds.stage.folder}: seeds of {of_all}")


@contextmanager
def _begun(
    run: str | Path,
    data: str | Path | Dataset,
    split: str,
    root: Path | None,
    scale: bool,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[SeedRun]:
    """`seed_run` without a word at its end."""
    begin = time.monotonic()
    dataset = data if isinstance(data, Dataset) else load_dataset(data, split, root)
    if not len(dataset):
        raise InputError(f"split {dataset.split}: data set {dataset.name} has no images in it")
    stage_of = Stage.writing(
        Path(run) / "seeds",
        kind="seeds",
        config={**(settings or {}), "made_by": MAKER, "scale": bool(scale)},
        class_names=dataset.class_names,
        suffix=".npz",
        inputs={"data": dataset.name},
        sources={DATA: dataset.root},
    )
    with stage_of as stage:
        seeds = SeedRun(stage, dataset, bool(scale), {sample.id: sample for sample in dataset})
        yield seeds
        if seeds.written:
            _account(stage, dataset.split, len(seeds.written), time.monotonic() - begin)


def write_seeds(
    run: SeedRun | str | Path,
    image_id: str,
    maps: Maps,
    classes: Sequence[str | int],
    size: tuple[int, int] | None = None,
    *,
    data: str | Path | Dataset | None = None,
    split: str = "all",
    root: Path | None = None,
    scale: bool = True,
) -> None:
    """Write the maps of an image as its seed; one that is there is replaced.

    Args:
        run: folder of the run, or what `seed_run` gives, which reads the data set once for all images.
        image_id: of the data set: the name of the photograph without its suffix.
        maps: (K, h, w), one for each class the image is labelled with; on any grid that spans the photograph, at least
            0 and finite. An array, a tensor on any device, or a list of K maps (h, w).
        classes: the K classes in the order of the maps, names or indices (1..C); just the labels of the image, and
            without the background. Of an image that shows none of the classes, maps and classes are [].
        size: (H, W) of the upright photograph that the maps are of, to have it checked.
        data: see `seed_run`, as of `split`, `root` and `scale`; with the folder of a run.
        split: see there.
        root: see there.
        scale: see there.

    Raises:
        InputError: an image, a class, maps or a size other than said here; nothing is written then.

    Example:
        >>> import numpy as np, wsss
        >>> maps = np.random.rand(1, 14, 14)  # yours: (K, h, w), at least 0
        >>> wsss.write_seeds("runs/other", "cat_01", maps, ["cat"], (300, 451), data="my_data.yaml")
    """
    if isinstance(run, SeedRun):
        if data is not None:
            raise InputError("data: the run is begun already, and knows its data set; leave it out")
        if not scale and run.scale:
            raise InputError("scale: expected seed_run(..., scale=False), as the run was begun with scale=True")
        run.write(image_id, maps, classes, size)
        return
    if data is None:
        raise InputError(f"data: expected the data set that image {image_id} is of (a YAML file), got None")
    with _begun(run, data, split, root, scale) as seeds:
        seeds.write(image_id, maps, classes, size)


def read_seed(run: str | Path, image_id: str, stage: str = "seeds") -> Seed:
    """The seed of an image of a run: ``scores`` (K, h, w) in [0, 1], ``classes`` (K,), ``size`` (H, W).

    Args:
        run: folder of the run. stage: ``seeds``, or ``refined``: the walked scores of `affinity refine`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return read_seed_file(Path(run) / stage, image_id)


def _scores(where: str, maps: Maps, names: Sequence[str], scale: bool) -> np.ndarray:
    """Maps as seeds keep them, float16 (K, h, w) in [0, 1]. InputError saying what is wrong with them."""
    if not names:
        return np.zeros((0, 1, 1), np.float16)
    found = _array(where, maps, len(names))
    for name, one in zip(names, found, strict=True):
        low, high = one.min(), one.max()
        if not np.isfinite(low + high):
            raise InputError(f"{where}: map of {name}: expected finite values, got NaN or infinite ones")
        if low < 0:
            raise InputError(
                f"{where}: map of {name}: expected values of at least 0, got {low:.3g} to {high:.3g}; keep the "
                "positive part, maps.clip(0), or shift them"
            )
        if not scale and high > 1:
            raise InputError(
                f"{where}: map of {name}: expected values in [0, 1] with scale=False, got up to {high:.3g}"
            )
    if scale:
        peaks = found.max((1, 2), keepdims=True)
        found = found / np.where(peaks > 0, peaks, 1)
    return found.astype(np.float16)


def _array(where: str, maps: Maps, count: int) -> np.ndarray:
    """Maps of whatever kind as float64 (K, h, w)."""
    try:
        found = np.stack([_plain(one) for one in maps]) if isinstance(maps, list | tuple) else _plain(maps)
        if found.dtype.kind not in "fiub":
            raise ValueError(f"{found.dtype}")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: maps: expected numbers (K, h, w), an array or a tensor, got a {type(maps).__name__} "
            f"({' '.join(str(error).split())})"
        ) from None
    if found.ndim != 3 or len(found) != count or 0 in found.shape:
        one = f"; maps[None] is a single one of shape (1, {', '.join(map(str, found.shape))})" * (found.ndim == 2)
        raise InputError(
            f"{where}: maps: expected shape ({count}, h, w), one for each of its classes, got {found.shape}{one}"
        )
    return found.astype(np.float64)


def _plain(one: Any) -> np.ndarray:
    """An array, or a tensor wherever it is, as an array; PyTorch need not be there."""
    if hasattr(one, "detach"):
        one = one.detach().cpu()
        one = (one.float() if one.dtype.is_floating_point and one.element_size() < 4 else one).numpy()
    return np.asarray(one)


def _size(sample: Sample, given: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of the photograph. InputError if the maps are of one of another size."""
    height, width = sample.image_size()
    if given is None:
        return height, width
    try:
        wanted = tuple(int(side) for side in given)
    except (TypeError, ValueError):
        wanted = ()
    if wanted != (height, width):
        hint = "; the size of a PIL image is (width, height)" if wanted == (width, height) else ""
        raise InputError(
            f"image {sample.id}: size: expected (height, width) of the photograph, ({height}, {width}), got {given!r}"
            f"{sample.turn_hint((height, width), wanted) or hint}"
        )
    return height, width


def _account(stage: Stage, split: str, images: int, seconds: float) -> None:
    """What was written, in the history; what one script has written call by call is one entry."""
    command, history = _command(), stage.manifest["history"]
    last = history[-1] if history else {}
    if (last.get("command"), last.get("split")) == (command, split):
        counts = {"images": last["counts"]["images"] + images}
        stage.note(history=[*history[:-1], {**last, "counts": counts, "seconds": round(last["seconds"] + seconds, 3)}])
    else:
        stage.done(command=command, split=split, counts={"images": images}, seconds=seconds)


def _command() -> str:
    """The script that writes, as it was started; of a notebook or a prompt there is none."""
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules or not sys.argv[0]
    return f"{MAKER} (from Python)" if interactive else shlex.join(["python", *sys.argv])
