"""A control for the region test: an order of the pixels that knows the first convolution and nothing else.

    python benchmarks/region_lattice.py demo/checkpoints/segmentation_cnn.safetensors --data voc12_animals \
        --split val --limit 24 --size 160 [--runs runs]

A convolution of 3 x 3 with stride 2 looks at a pixel of even row and column from four windows, at one of odd row and
column from a single one, at the others from two. A rule that shares relevance equally over a window (``flat``) ranks
pixels by that. Here ranks are this number alone, ties broken by chance; prints the figures of ``random`` and of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from cyclopts import App
from torch import Tensor, nn

from cnnseg.regions.settings import RegionEvaluationConfig
from cnnseg.regions.tested import RANDOM, explainer_named, find_model, random_maps
from wsss.explanation_tests.commands import Order, RegionRule, evaluate_by_regions
from wsss.explanation_tests.explainer import Explainer

app = App(help=__doc__)


def lattice_maps(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Windows over each pixel (1, 2 or 4) and a part below 1 by chance, shaped as `random_maps` gives it."""
    windows = torch.ones_like(images[0, 0])
    windows[::2] *= 2
    windows[:, ::2] *= 2
    return windows + random_maps(model, images, targets)


@app.default
def main(
    network: Path, /, *, data: str, split: str, limit: int | None = None, size: int = 320, runs: Path = Path("runs")
) -> None:
    """Print the figures."""
    config = RegionEvaluationConfig(limit=limit, size=size)

    def find():
        tested = find_model(str(network), runs, config)
        lattice = Explainer("lattice", lattice_maps, class_specific=False)
        return tested, [explainer_named(RANDOM, tested.model), lattice]

    order = Order("cnnseg", find, config, runs)
    evaluate_by_regions(order, RegionRule(config.size, config.least, config.score), data, split, None)


if __name__ == "__main__":
    app()
