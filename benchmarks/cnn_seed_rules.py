"""Which explanation of a CNN makes the best seeds: mIoU by composite or method, layer, power, input sizes and alpha.

    python benchmarks/cnn_seed_rules.py --network cnn --data voc12_animals --split train --every 16 \\
        --maps zero:pixels zero:layer2 zero:layer2:contrastive epsilon_plus:pixels layercam:layer3 cam 'zero:layer2*cam'

Reads masks: run it on a training split, and choose there. Image-level labels are given. The last column is the oracle:
the best fixed threshold on these very masks. Maps are those of ``cnnseg seeds``, with the mirror image's: NAME is a
composite or a method, NAME:LAYER at a layer, NAME:LAYER:contrastive of a class minus the mean of all others;
depths:mean and depths:asinh are LRP-0 read at strides 32 to 4 and joined as in unrolled networks; A*B is the geometric
mean of two.
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
from cnnseg.reading import find_reading
from cnnseg.rules import COMPOSITES
from cnnseg.seeds import STRIDE, Explain, averaged, explanation, outputs_for, settle
from cnnseg.settings import PIXELS, NetworkConfig, SeedConfig
from cnnseg.unroll import unroll
from wsss.data import Sample, load_dataset
from wsss.maps import input_size, scale_maps
from wsss.progress import note, track

POWERS = (1, 0.85, 0.75, 0.5, 0.33)


def maker(network: Network, name: str, cell: int) -> Explain:
    """The function that makes the maps of that name."""
    first, *more = name.split(":")
    layer = more[0] if more else None
    if first == "depths":
        reading = find_reading(NetworkConfig(readout=layer))
        unrolled = unroll(network.module.model, **reading.options(network.module.model))
        return lambda images, outputs: averaged(unrolled.read(images, outputs).clamp(min=0), images, cell)
    if first not in COMPOSITES:
        return explanation(network, SeedConfig(method=first, layer=layer, cell=cell))
    config = settle(network, SeedConfig(rules=first, layer=layer, cell=cell))
    if more[1:] != ["contrastive"]:
        return explanation(network, config)
    unrolled = unroll(network.module.model, rules=first, contrastive=True)
    layer = None if config.layer == PIXELS else config.layer

    def contrast(images: Tensor, outputs: list[int]) -> Tensor:
        maps = unrolled.heatmaps(images, outputs, layer, positive=layer is not None)[1]
        return averaged(maps.clamp(min=0), images, cell)

    return contrast


@torch.inference_mode()
def raw_maps(network: Network, explain: Explain, sample: Sample, outputs: list[int], size: int, cell: int) -> Tensor:
    """Maps (K, h, w) at one size, averaged with those of the mirrored image."""
    image, step = sample.load_image(), -(-STRIDE // cell) * cell
    x = network.prepare(image, input_size(image, size, (step, step)))[None]
    maps = explain(torch.cat([x, x.flip(-1)]), outputs)
    return (maps[0] + maps[1].flip(-1)) / 2


def enlarged(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (K, h, w) at (H, W) `shape`."""
    return F.interpolate(maps[None], shape, mode="bilinear", align_corners=False)[0]


def scaled_seed(maps: list[list[Tensor]], power: float, shape: tuple[int, ...]) -> np.ndarray:
    """The mean (K, H, W) over sizes of maps that are scaled each by itself, the factors of each size multiplied."""
    full = []
    for factors in maps:
        grid = max((one.shape[1:] for one in factors), key=lambda sides: sides[0])
        product = torch.stack([enlarged(scale_maps(one), grid) for one in factors]).log().mean(0).exp()
        full.append(enlarged(scale_maps(product, power=power), shape))
    return (sum(full) / len(full)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", required=True, help="run of a classifier, or its checkpoint")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=8, help="take every n-th image")
    parser.add_argument("--maps", nargs="+", default=["zero:layer2", "zero:pixels", "epsilon_plus:pixels", "cam"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320])
    parser.add_argument("--powers", type=float, nargs="+", default=POWERS)
    parser.add_argument("--cell", type=int, default=16, help="side in pixels of the cells that maps are averaged over")
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
    made: dict[str, dict[tuple[str, int], Tensor]] = {}
    for names in options.maps:
        for name in names.split("*"):
            if name in made:
                continue
            begin, explain = time.perf_counter(), maker(network, name, options.cell)
            made[name] = {
                (sample.id, size): raw_maps(
                    network, explain, sample, [outputs[c] for c in sample.classes], size, options.cell
                )
                for sample in track(samples, name)
                for size in options.sizes
            }
            note(f"{name}: {(time.perf_counter() - begin) / len(samples):.1f} s an image")
        for sizes in subsets:
            for power in options.powers:
                seeds = {}
                for sample in samples:
                    factors = [[made[name][sample.id, size] for name in names.split("*")] for size in sizes]
                    seeds[sample.id] = scaled_seed(factors, power, truths[sample.id].shape)
                figures, oracle = score(dataset, seeds, truths)
                row = "".join(f"{figure:8.1f}" for figure in figures)
                print(f"{names:>32s}  {power:5.2f}  {'+'.join(map(str, sizes)):14s} {row}{oracle:8.1f}", flush=True)


if __name__ == "__main__":
    main()
