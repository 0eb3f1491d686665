"""Which explanation of a CNN makes the best seeds: mIoU by composite or method, power, input sizes and alpha.

    python benchmarks/cnn_seed_rules.py --network cnn --data voc12_animals --split train --every 8 \\
        --maps zero epsilon_plus epsilon_gamma_box cam layercam:layer3 --sizes 320

Reads masks: run it on a training split, and choose there. Image-level labels are given. The last column is the oracle:
the best fixed threshold on these very masks. Maps are those of ``cnnseg seeds``, with the mirror image's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from seed_scaling import ALPHAS, score
from torch import Tensor
from torch.nn import functional as F

from cnnseg.models import Network, find_network, load_network
from cnnseg.rules import COMPOSITES
from cnnseg.seeds import STRIDE, Explain, explanation, outputs_for
from cnnseg.settings import SeedConfig
from wsss.console import note, track
from wsss.data import Sample, load_dataset, read_image
from wsss.maps import input_size, scale_maps


def config_of(name: str, cell: int) -> SeedConfig:
    """The settings that are meant by the name of a composite, of a method, or by METHOD:LAYER."""
    if name in COMPOSITES:
        return SeedConfig(rules=name, cell=cell)
    method, _, layer = name.partition(":")
    return SeedConfig(method=method, layer=layer or None, cell=cell)


@torch.inference_mode()
def raw_maps(network: Network, explain: Explain, sample: Sample, outputs: list[int], size: int, cell: int) -> Tensor:
    """Maps (K, h, w) at one size, averaged with those of the mirrored image."""
    image, step = read_image(sample.image_path), -(-STRIDE // cell) * cell
    x = network.prepare(image, input_size(image, size, (step, step)))[None]
    maps = explain(torch.cat([x, x.flip(-1)]), outputs)
    return (maps[0] + maps[1].flip(-1)) / 2


def scaled_seed(maps: list[Tensor], power: float, shape: tuple[int, ...]) -> np.ndarray:
    """The mean (K, H, W) over sizes of maps that are scaled each by itself."""
    scaled = [scale_maps(one, power=power) for one in maps]
    full = [F.interpolate(one[None], shape, mode="bilinear", align_corners=False)[0] for one in scaled]
    return (sum(full) / len(full)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", required=True, help="run of a classifier, or its checkpoint")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=8, help="take every n-th image")
    parser.add_argument("--maps", nargs="+", default=[*COMPOSITES, "cam", "gradcam", "layercam:layer3"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320])
    parser.add_argument("--powers", type=float, nargs="+", default=[1, 0.75, 0.5, 0.33])
    parser.add_argument(
        "--cell", type=int, default=16, help="side in pixels of the cells that heat-maps are averaged over"
    )
    options = parser.parse_args()

    dataset = load_dataset(options.data, options.split, options.root)
    network = load_network(find_network(options.network, options.runs))
    outputs = outputs_for(network, dataset)
    samples = [sample for sample in dataset.samples if sample.mask_path and sample.classes][:: options.every]
    truths = {sample.id: dataset.load_mask(sample) for sample in samples}
    print(
        f"{len(samples)} images of {dataset.name}/{dataset.split}; mIoU by the alpha rule, and by the oracle threshold"
    )
    print(f"{'maps':>32s}  power  sizes          " + "".join(f"  a={alpha:<4d}" for alpha in ALPHAS) + "  oracle")
    subsets = [(size,) for size in options.sizes]
    if len(options.sizes) > 1:
        subsets.append(tuple(options.sizes))
    for name in options.maps:
        begin = time.perf_counter()
        explain = explanation(network, config_of(name, options.cell))
        maps = {
            (sample.id, size): raw_maps(
                network, explain, sample, [outputs[c] for c in sample.classes], size, options.cell
            )
            for sample in track(samples, name)
            for size in options.sizes
        }
        seconds = (time.perf_counter() - begin) / len(samples)
        for sizes in subsets:
            shown = "+".join(map(str, sizes))
            for power in options.powers:
                seeds = {
                    sample.id: scaled_seed([maps[sample.id, size] for size in sizes], power, truths[sample.id].shape)
                    for sample in samples
                }
                figures, oracle = score(dataset, seeds, truths)
                row = "".join(f"{figure:8.1f}" for figure in figures)
                print(f"{name:>32s}  {power:5.2f}  {shown:14s} {row}{oracle:8.1f}", flush=True)
        note(f"{name}: {seconds:.1f} s an image")


if __name__ == "__main__":
    main()
