"""How a relevance map is scaled before the alpha rule: mIoU of seeds by first block, power, input sizes and alpha.

    python benchmarks/seed_scaling.py --classifier runs/animals/classifier/classifier.safetensors \\
        --data voc12_animals --split train --every 8

Reads masks: run it on a training split, and choose there. Image-level labels are given. The last
column is the oracle: the best fixed threshold on these very masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from vitseg.explanation import explain
from vitseg.models import Classifier, load_classifier
from vitseg.seeds import outputs_for
from wsss.data import Dataset, Sample, load_dataset
from wsss.maps import input_size, scale_maps
from wsss.metrics import ConfusionMatrix, ThresholdSweep, seed_to_mask
from wsss.progress import track

ALPHAS = (4, 8, 16, 32)


def raw_maps(
    classifier: Classifier, sample: Sample, outputs: list[int], size: int, method: str, first: int
) -> torch.Tensor:
    """Maps (K, h, w) at one size, averaged with those of the mirrored image."""
    image = sample.load_image()
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    x = classifier.prepare(image, input_size(image, size, patch))[None]
    both = torch.cat([x, x.flip(-1)])
    maps = explain(classifier.model, both, [outputs, outputs], method, first_block=first).maps
    return (maps[0] + maps[1].flip(-1)) / 2


def score(dataset: Dataset, seeds: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> tuple[list[float], float]:
    """mIoU in per cent at each alpha, and at the oracle threshold."""
    classes = dataset.num_classes + 1
    matrices = [ConfusionMatrix(classes) for _ in ALPHAS]
    sweep = ThresholdSweep(classes)
    for sample in dataset:
        if sample.id not in seeds:
            continue
        scores, present = seeds[sample.id], np.array(sample.classes, np.uint8)
        for matrix, alpha in zip(matrices, ALPHAS, strict=True):
            matrix.update(seed_to_mask(scores, present, alpha=alpha), truths[sample.id])
        sweep.update(scores, present, truths[sample.id])
    return [100 * matrix.miou for matrix in matrices], 100 * sweep.best().matrix.miou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=8, help="take every n-th image")
    parser.add_argument("--methods", nargs="+", default=["transformer_attribution", "rollout"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 320, 448])
    parser.add_argument("--first", type=int, nargs="+", default=[1, 6, 8, 10])
    parser.add_argument("--powers", type=float, nargs="+", default=[1, 0.5, 0.33])
    options = parser.parse_args()

    dataset = load_dataset(options.data, options.split, options.root)
    classifier = load_classifier(options.classifier)
    outputs = outputs_for(classifier, dataset)
    samples = [sample for sample in dataset.samples if sample.mask_path and sample.classes][:: options.every]
    truths = {sample.id: dataset.load_mask(sample) for sample in samples}
    maps = {
        (sample.id, size, method, first): raw_maps(
            classifier, sample, [outputs[c] for c in sample.classes], size, method, first
        )
        for sample in track(samples, "explain")
        for size in options.sizes
        for method in options.methods
        for first in options.first
    }
    print(
        f"{len(samples)} images of {dataset.name}/{dataset.split}; mIoU by the alpha rule, and by the oracle threshold"
    )
    print(
        f"{'method':>24s} first  power  sizes          " + "".join(f"  a={alpha:<4d}" for alpha in ALPHAS) + "  oracle"
    )
    subsets = [(size,) for size in options.sizes] + [tuple(options.sizes)]
    for method in options.methods:
        for sizes in subsets:
            for first in options.first:
                for power in options.powers:
                    seeds = {}
                    for sample in samples:
                        scaled = [scale_maps(maps[sample.id, size, method, first], power=power) for size in sizes]
                        full = [F.interpolate(one[None], truths[sample.id].shape, mode="bilinear")[0] for one in scaled]
                        seeds[sample.id] = (sum(full) / len(full)).numpy()
                    figures, oracle = score(dataset, seeds, truths)
                    row = "".join(f"{figure:8.1f}" for figure in figures)
                    shown = "+".join(map(str, sizes))
                    print(f"{method:>24s} {first:5d}  {power:5.2f}  {shown:14s} {row}{oracle:8.1f}", flush=True)


if __name__ == "__main__":
    main()
