"""Pseudo-masks of finished runs in the place of a data set's own masks: what a network learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnseg.examples import Examples
from wsss.data import BACKGROUND, IGNORE, Dataset, Sample
from wsss.errors import InputError
from wsss.parallel import map_parallel
from wsss.progress import note, warn
from wsss.store import Seed, Stage, read_mask, read_seed, require, resolve_run
from wsss.words import agreeing, counted

MASKS, SCORES = "masks", "refined"
"""Stages of a run: the masks, and the walked scores that they were made from."""


@dataclass(frozen=True, kw_only=True)
class PseudoMasks(Dataset):
    """A data set whose masks are those of one or more runs. Its labels stay, its own masks are never read.

    A pixel is 255 where the runs disagree, and where the probability that the walked scores (their mean over the runs)
    give to the mask's class is below `ignore_below`.
    """

    base: Dataset
    masks: tuple[Path, ...]
    """Folders of the runs' masks."""
    scores: tuple[Path, ...] = ()
    """Folders of their walked scores; none where nothing needs them."""
    ignore_below: float = 0.0

    def load_mask(self, sample: Sample) -> np.ndarray:
        """The mask to learn (H, W) uint8 in 0..C, 255 where nothing is learnt. InputError if one cannot be read."""
        mask = self.agreed_mask(sample)
        if self.ignore_below:
            probability = self.probabilities(sample, mask.shape)
            counts = mask != IGNORE
            of_mask = np.take_along_axis(probability, np.where(counts, mask, 0)[None].astype(np.intp), 0)[0]
            mask = np.where(of_mask < self.ignore_below, IGNORE, mask)
        return mask

    def agreed_mask(self, sample: Sample) -> np.ndarray:
        """The mask of the runs, 255 where they disagree or one has 255."""
        first = read_mask(self.masks[0], sample.id)
        for folder in self.masks[1:]:
            other = read_mask(folder, sample.id)
            if other.shape != first.shape:
                sizes = f"{_hw(other.shape)}, {self.masks[0] / sample.id}.png is {_hw(first.shape)}"
                raise InputError(
                    f"mask {folder / sample.id}.png: expected masks of one image to be equal in size, got {sizes}"
                )
            first = np.where(first == other, first, IGNORE)
        classes = np.flatnonzero(np.bincount(first.ravel(), minlength=256))
        strange = classes[(classes > self.num_classes) & (classes != IGNORE)]
        if len(strange):
            raise InputError(
                f"mask {self.masks[0] / sample.id}.png: holds class index {strange[0]}, data set {self.name} has "
                f"{counted(self.num_classes, 'class')}"
            )
        return first

    def probabilities(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """What the runs' walked scores say of each pixel: float32 (C + 1, H, W), sums to 1; their mean."""
        total = np.zeros((self.num_classes + 1, *size), np.float32)
        for folder in self.scores:
            seed = read_seed(folder, sample.id)
            if tuple(seed.size) != tuple(size):
                raise InputError(
                    f"seed {folder / sample.id}.npz: made for an image of {_hw(seed.size)}, its mask is {_hw(size)}"
                )
            total[[BACKGROUND, *seed.classes]] += class_probabilities(seed)
        return total / len(self.scores)


def class_probabilities(seed: Seed) -> np.ndarray:
    """Walked scores as probabilities of background and the seed's classes: float32 (K + 1, H, W), sums to 1.

    A walked score is r_c = s_c / (s_c + s_background) (`affinity.refine.Refined`), so that the odds of class and
    background are r / (1 - r). A score of 1 has the largest odds that float16 can tell from it.
    """
    scores = seed.upsample().clip(0, 1 - 2**-11)
    odds = np.concatenate([np.ones((1, *scores.shape[1:]), np.float32), scores / (1 - scores)])
    return odds / odds.sum(0)


class PseudoExamples(Examples):
    """`Examples` of pseudo-masks.

    Labels of a crop: 1 for a class that its mask shows enough of, 0 for one that the image does not show, and unknown
    (-1) for one that the image shows and the crop's mask does not: the mask may have missed it.
    """

    dataset: PseudoMasks

    def labels_of(self, mask: Tensor, index: int) -> Tensor:
        shown, of_image = self.crop_labels(mask), self.labels[index]
        return torch.where((shown == 0) & (of_image == 1), -1.0, shown * of_image)


class SoftExamples(PseudoExamples):
    """`PseudoExamples` with soft targets: uint8 (C + 2, S, S), as `cnnseg.losses.segmentation_loss` takes them."""

    def target(self, sample: Sample) -> np.ndarray:
        mask = self.dataset.load_mask(sample)
        probability = np.rint(255 * self.dataset.probabilities(sample, mask.shape)).astype(np.uint8)
        return np.concatenate([mask[None], probability])

    def unknown(self) -> Tensor:
        return super().unknown().expand(self.dataset.num_classes + 2, -1, -1).clone()

    def crop_labels(self, mask: Tensor) -> Tensor:
        return super().crop_labels(mask[0])


def with_masks_of(
    dataset: Dataset, runs: Sequence[str], folder: Path, *, ignore_below: float = 0.0, scores: bool = False
) -> PseudoMasks:
    """The data set with the masks of runs (names below `folder`, or paths) in the place of its own.

    Args:
        scores: walked scores are wanted, for soft targets.

    Raises:
        InputError: no such run, no masks in it or not of all images, masks of other classes, no walked scores where
            they are wanted.
    """
    paths = [resolve_run(run, folder) for run in runs]
    if len(set(paths)) < len(paths):
        raise InputError(f"`masks` {' '.join(runs)}: expected each run once")
    for path in paths:
        _check_stage(dataset, path, MASKS, "masks", "mask", "run the command that made them on this split")
        if scores or ignore_below:
            option = "`soft`" if scores else f"`ignore_below` {ignore_below:g}"
            remedy = f"{option} needs walked scores beside the masks; `affinity refine` keeps them"
            _check_stage(dataset, path, SCORES, "seeds", "walked seed", remedy)
    masks = tuple(path / MASKS for path in paths)
    samples = tuple(replace(sample, mask_path=masks[0] / f"{sample.id}.png") for sample in dataset)
    wanted = tuple(path / SCORES for path in paths) if scores or ignore_below else ()
    shared = {
        key: getattr(dataset, key)
        for key in ("name", "split", "root", "class_names", "mask_values", "foreground_value")
    }
    return PseudoMasks(**shared, samples=samples, base=dataset, masks=masks, scores=wanted, ignore_below=ignore_below)


def fingerprints(dataset: Dataset) -> dict[str, str]:
    """Run -> fingerprint of its masks, for the manifest of what is learnt from them; none of true masks."""
    if not isinstance(dataset, PseudoMasks):
        return {}
    return {
        name: Stage.read(path, kind="masks").fingerprint
        for name, path in sources_of(dataset).items()
        if path in dataset.masks
    }


def sources_of(dataset: Dataset) -> dict[str, Path]:
    """Name -> folder of the masks, and of the walked scores, that stand for a data set's own; none of true masks."""
    if not isinstance(dataset, PseudoMasks):
        return {}
    names = [path.parent.name for path in dataset.masks]
    keys = names if len(set(names)) == len(names) else [str(path.parent) for path in dataset.masks]
    masks = {f"masks {key}": path for key, path in zip(keys, dataset.masks, strict=True)}
    return masks | {f"scores {key}": path for key, path in zip(keys, dataset.scores, strict=False)}


def files_of(dataset: Dataset) -> dict[str, Callable[[str], Path]]:
    """`sources_of`, as functions of an image's id that give the file."""

    def file_in(folder: Path, suffix: str) -> Callable[[str], Path]:
        return lambda image_id: folder / f"{image_id}{suffix}"

    suffix = {"masks": ".png", "scores": ".npz"}
    return {name: file_in(path, suffix[name.split()[0]]) for name, path in sources_of(dataset).items()}


def examples_for(dataset: Dataset, *, soft: bool) -> type[Examples]:
    """What reads the training examples of a data set; its own masks are never soft."""
    if not isinstance(dataset, PseudoMasks):
        return Examples
    return SoftExamples if soft else PseudoExamples


def check_masks(dataset: PseudoMasks, *, workers: int = 0) -> None:
    """Read every mask once, and say how the pixels share out.

    Raises InputError if a mask cannot be read, is of another size than its image, holds other classes than the data
    set, or no pixel is left to learn from.
    """
    alone = replace(dataset, samples=(), base=replace(dataset.base, samples=()))  # it travels with every image
    found = list(map_parallel(_Counter(alone), dataset.samples, workers=workers, description="look through the masks"))
    counts = np.sum([one.counts for one in found], axis=0)
    total, ignored = counts.sum(), counts[IGNORE]
    if ignored == total:
        raise InputError(
            f"`masks` {' '.join(path.parent.name for path in dataset.masks)}: no pixel is left to learn from, all are "
            f"ignored; the runs disagree everywhere, or `ignore_below` {dataset.ignore_below:g} is too high"
        )
    shares = {"background": counts[BACKGROUND]} | dict(zip(dataset.class_names, counts[1:], strict=False))
    line = ", ".join(f"{name} {100 * count / (total - ignored):.1f}" for name, count in shares.items())
    note(f"masks: {100 * ignored / total:.1f} % of the pixels are ignored; of the others, in per cent: {line}")
    if unlabelled := [one.id for one in found if one.strange]:
        shown = f"{counted(len(unlabelled), 'mask')} {agreeing(len(unlabelled), 'shows', 'show')}"
        warn(f"{shown} classes that the image-level labels lack, the first is {unlabelled[0]}")


class _Counts(NamedTuple):
    id: str
    counts: np.ndarray
    strange: bool


@dataclass(frozen=True)
class _Counter:
    """The work on one image; small enough to be sent to worker processes."""

    dataset: PseudoMasks

    def __call__(self, sample: Sample) -> _Counts:
        mask, size = self.dataset.load_mask(sample), self.dataset.base.image_size(sample)
        if clash := sample.size_clash(size, mask.shape):
            raise InputError(clash)
        counts = np.bincount(mask.ravel(), minlength=256)
        shown = set(np.flatnonzero(counts).tolist()) - {BACKGROUND, IGNORE}
        return _Counts(sample.id, counts, not shown <= set(sample.classes))


def _check_stage(dataset: Dataset, run: Path, name: str, kind: str, what: str, remedy: str) -> None:
    stage = Stage.read(run / name, kind=kind, class_names=dataset.class_names, maker="affinity refine")
    require(stage, dataset, what, remedy)


def _hw(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
