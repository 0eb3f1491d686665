"""The dense CRF beside pydensecrf2: time of two score maps on one image, and what differs.

    python benchmarks/crf.py [PHOTOGRAPH] [--threads 1]

Needs pydensecrf2, which `make env` installs on Python 3.11 and 3.12.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
from skimage import data

from affinity.crf import DenseCRF
from affinity.settings import CRFConfig
from wsss.data import read_image

CONFIG = CRFConfig()


def blobs(height: int, width: int) -> np.ndarray:
    """Two score maps of three labels, (2, 3, H, W), as two alphas of one seed would be."""
    y, x = np.mgrid[:height, :width]
    first = np.exp(-(((y - height / 2) / 100) ** 2) - ((x - width / 2) / 120) ** 2)
    second = 0.8 * np.exp(-(((y - height / 3) / 60) ** 2) - ((x - width / 4) / 80) ** 2)
    scores = np.stack([np.full_like(first, 0.3), first, second]).astype(np.float32)
    return np.stack([scores, scores**2])


def published(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """One object for both score maps."""
    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, scores.shape[1])
    crf.addPairwiseGaussian(sxy=CONFIG.smooth_sigma, compat=CONFIG.smooth_weight)
    crf.addPairwiseBilateral(
        sxy=CONFIG.colour_sigma_xy, srgb=CONFIG.colour_sigma_rgb, rgbim=image, compat=CONFIG.colour_weight
    )
    found = []
    for one in scores:
        crf.setUnaryEnergy(-np.log(one.clip(CONFIG.clip, 1)).reshape(len(one), -1))
        found.append(np.array(crf.inference(CONFIG.iterations)).reshape(one.shape))
    return np.stack(found)


def fastest(run: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - start)
    return min(times), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photograph", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=1, help="of ours; pydensecrf2 has one")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    shown = Image.fromarray(data.astronaut()).resize((500, 375))
    image = np.array(shown if options.photograph is None else read_image(options.photograph))
    scores = blobs(*image.shape[:2])
    theirs, expected = fastest(lambda: published(image, scores), options.repeats)
    ours, found = fastest(lambda: DenseCRF(image, CONFIG)(scores), options.repeats)
    same = (found.argmax(1) == expected.argmax(1)).mean()
    print(f"{image.shape[0]} x {image.shape[1]}, two score maps of three labels, {options.threads} thread(s)")
    print(f"pydensecrf2 {theirs:.2f} s, ours {ours:.2f} s: {ours / theirs:.2f} times")
    print(f"largest difference of a probability {np.abs(found - expected).max():.1e}; {same:.4%} of the labels equal")


if __name__ == "__main__":
    main()
