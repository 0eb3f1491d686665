"""How relevance lies at each depth of a classifier: its spread, and how much of the map has any.

    python benchmarks/relevance_by_depth.py --network cnn --runs runs --data voc12_animals --split train --images 20 \\
        --layers layer4 layer3 layer3.0 layer2 layer2.0 layer1 layer1.0 input

Of the class that an image is labelled with, by LRP-0: relevance times number of cells, whose mean is the class score
(but for what biases take). Spread: standard deviation over cells, mean over images. Empty: share of cells without any
relevance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cnnseg.models import find_network, load_network
from cnnseg.unroll import unroll
from wsss.data import evenly_spread, load_dataset


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--layers", nargs="+", default=["layer4", "layer3", "layer2", "layer1", "input"])
    parser.add_argument("--rules")
    options = parser.parse_args()
    network = load_network(find_network(options.network, options.runs))
    unrolled = unroll(network.module.model, ends=options.layers, rules=options.rules)
    data = load_dataset(options.data, options.split, root=options.root)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.layers}
    for sample in evenly_spread([s for s in data if s.classes], options.images):
        image = network.prepare(data.load_image(sample), (options.size, options.size))[None]
        for name, maps in unrolled.relevance(image, [sample.classes[0]])[1].items():
            cells = maps.shape[2] * maps.shape[3]
            found[name].append(((maps * cells).std().item(), (maps == 0).float().mean().item()))
    print(f"{'':12s} {'spread':>8s} {'empty':>7s}")
    for name, values in found.items():
        spread, empty = torch.tensor(values).mean(0).tolist()
        print(f"{name:12s} {spread:8.1f} {100 * empty:6.1f}%")


if __name__ == "__main__":
    main()
