"""Seeds to masks by the random walk (Athanasiadis et al. 2021, section 3.3.3).

The network runs here, the walk and the CRF in worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from affinity.labels import check_seed
from affinity.settings import STRIDE, RefineConfig
from affinity.walk import pair_affinity, random_walk
from wsss.data import BACKGROUND, Sample
from wsss.errors import InputError
from wsss.metrics import alpha_background
from wsss.parallel import map_parallel
from wsss.store import Seed, read_seed, write_mask, write_seed

if TYPE_CHECKING:
    from affinity.network import AffinityNetwork


@dataclass(frozen=True)
class Refined:
    """The result for one image.

    ``mask``: uint8 (H, W), 0 background, class index. ``seed``: the walked scores as a seed on the grid of stride 8,
    r_c = s_c / (s_c + s_background). A class beats the background where r_c > 1/2 and another class where its r is
    larger, so the alpha rule with alpha = 1 on it is the argmax over classes and background that the mask was made by
    (before upsampling).
    """

    mask: np.ndarray
    seed: Seed


def grid_scores(seed: Seed, alpha: float) -> np.ndarray:
    """Background (alpha rule) and class scores, averaged over the cells of stride 8.

    (K, h, w) scores at the method's grid -> float32 (K + 1, ceil(H / 8), ceil(W / 8)) in [0, 1]. The background is
    computed at the size of the image, as in AffinityNet's code. A cell that the image only part fills is completed by
    repeating the border.
    """
    scores = seed.upsample()
    scores = np.concatenate([alpha_background(scores, alpha)[None], scores])
    height, width = seed.size
    scores = np.pad(scores, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE)), mode="edge")
    channels, height, width = scores.shape
    return scores.reshape(channels, height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(2, 4))


def refine_seed(
    features: np.ndarray, seed: Seed, config: RefineConfig = RefineConfig(), image: np.ndarray | None = None
) -> Refined:
    """Walk the scores of one image along the affinities of its features, and decide.

    Args:
        features: (D, ceil(H / 8), ceil(W / 8)) of the affinity network.
        seed: the seed; with K = 0 everything is background.
        config: settings; `image`, (H, W, 3) uint8, is needed for ``config.crf``.

    Raises:
        ValueError: if the shape of the features does not belong to ``seed.size``, or the image is needed and missing.
    """
    height, width = seed.size
    grid = (-(-height // STRIDE), -(-width // STRIDE))
    if features.shape[1:] != grid:
        raise ValueError(f"features: expected (D, *{grid}) for an image of {height} x {width}, got {features.shape}")
    if config.crf and image is None:
        raise ValueError("the CRF needs the image")
    if len(seed.classes) == 0:
        empty = Seed(np.zeros((0, *grid), np.float16), seed.classes, seed.size)
        return Refined(np.full(seed.size, BACKGROUND, np.uint8), empty)
    walk = config.walk()
    start = grid_scores(seed, walk.alpha)
    if walk.rescale:
        walked = random_walk(pair_affinity(features, config.radius), start[1:], walk.beta, walk.steps)
        full = np.stack([_upsample(channel, seed.size) for channel in walked])
        low = full.min(axis=(1, 2), keepdims=True)
        high = np.percentile(full, config.peak, axis=(1, 2), keepdims=True)
        walked, scores = (_with_background(maps, low, high, walk.alpha) for maps in (walked, full))
    else:
        walked = random_walk(pair_affinity(features, config.radius), start, walk.beta, walk.steps)
        scores = np.stack([_upsample(channel, seed.size) for channel in walked])
    if config.crf and image is not None:
        from affinity.crf import DenseCRF  # which loads PyTorch

        sharp = (scores / scores.max(axis=0).clip(min=1e-12)) ** config.crf_sharpness
        scores = DenseCRF(image, config.crf_settings)(sharp / sharp.sum(axis=0))
    mask = np.array([BACKGROUND, *seed.classes], np.uint8)[scores.argmax(axis=0)]
    relative = walked[1:] / (walked[1:] + walked[:1]).clip(min=1e-12)
    return Refined(mask, Seed(_spanning(relative, seed.size).astype(np.float16), seed.classes, seed.size))


def refine_images(
    samples: Sequence[Sample],
    seeds: Path,
    network: AffinityNetwork,
    masks: Path,
    refined: Path | None,
    config: RefineConfig = RefineConfig(),
    *,
    batch_size: int = 1,
    workers: int = 1,
) -> int:
    """Write ``<masks>/<id>.png`` (and ``<refined>/<id>.npz``) for every sample; returns the number of images.

    Images of one size go through the network together, `batch_size` at a time; `workers` processes walk meanwhile.

    The network runs in this process, on the device where it is.

    Raises InputError naming the file if an image or a seed cannot be read, or the two differ in size.
    """
    groups: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(read_seed(seeds, sample.id).size, []).append(sample)
    batches = [tuple(group[i : i + batch_size]) for group in groups.values() for i in range(0, len(group), batch_size)]
    tasks = _Tasks(batches, seeds, network, with_image=config.crf)
    job = partial(_finish, masks=masks, refined=refined, config=config)
    return sum(1 for _ in map_parallel(job, tasks, workers=workers, description="affinity refine"))


class _Task(NamedTuple):
    id: str
    features: np.ndarray
    seed: Seed
    image: np.ndarray | None
    made_of: str


class _Tasks:
    """The images with their features, made when they are asked for: only a few are in memory at a time."""

    def __init__(
        self, batches: list[tuple[Sample, ...]], seeds: Path, network: AffinityNetwork, *, with_image: bool
    ) -> None:
        self.batches, self.seeds, self.network, self.with_image = batches, seeds, network, with_image

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[_Task]:
        import torch

        device = self.network.mean.device
        for batch in self.batches:
            samples = [(sample, np.asarray(sample.load_image())) for sample in batch]
            seeds = [read_seed(self.seeds, sample.id) for sample in batch]
            for (sample, image), seed in zip(samples, seeds, strict=True):
                check_seed(sample, image, seed)
            images = torch.from_numpy(np.stack([image for _, image in samples])).to(device)
            with torch.inference_mode():
                features = self.network(images.movedim(-1, 1).float() / 255).cpu().numpy()
            for (sample, image), seed, feature in zip(samples, seeds, features, strict=True):
                if not np.isfinite(feature).all():
                    raise InputError(
                        f"image {sample.id}: the affinity network gives NaN or infinite features; train again"
                    )
                yield _Task(sample.id, feature, seed, image if self.with_image else None, sample.made_of)


def _finish(task: _Task, masks: Path, refined: Path | None, config: RefineConfig) -> None:
    """Walk, decide and write one image; the mask last, as it is what says that the image is done."""
    result = refine_seed(task.features, task.seed, config, task.image)
    if refined is not None:
        write_seed(refined, task.id, result.seed, task.made_of)
    write_mask(masks, task.id, result.mask, task.made_of)


def _with_background(maps: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float) -> np.ndarray:
    """Maps (K, h, w) scaled from [low, high] to [0, 1], a constant one to 0, with the background in front."""
    scaled = ((maps - low) / np.where(high > low, high - low, np.inf)).clip(0, 1)
    return np.concatenate([alpha_background(scaled, alpha)[None], scaled])


def _spanning(relative: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The walked scores, whose last cells may reach beyond the image, on a grid that spans just the image."""
    height, width = relative.shape[1:]
    if (height * STRIDE, width * STRIDE) == size:
        return relative.clip(0, 1)
    resized = [cv2.resize(_upsample(one, size), (width, height), interpolation=cv2.INTER_AREA) for one in relative]
    return np.stack(resized).clip(0, 1)


def _upsample(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear from the grid to the image; the grid's last cells may reach beyond it and are cut off."""
    height, width = channel.shape
    full = cv2.resize(channel, (width * STRIDE, height * STRIDE), interpolation=cv2.INTER_LINEAR)
    return full[: size[0], : size[1]]
