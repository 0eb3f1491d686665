"""What each stage of the chain costs an image, in forward passes of the classifier.

    python benchmarks/chain.py --data voc12_animals --split train --images 16 [--threads 1] [--repeats 3]

The unit is one plain forward pass (fused attention, no graph) of the classifier at 224 x 224, one image at a time. All
stages see the same images, with the settings that the commands have unless told otherwise; each is run `--repeats`
times, in turn with the unit, in one process, and the median ratio of their processor times is given (of wall clock
times with more than one thread). `class by class` is the way that `vitseg seeds` had before: every class of every image
by itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from affinity.checkpoint import load_affinity_network
from affinity.labels import confident_labels
from affinity.refine import refine_seed
from affinity.settings import RefineConfig
from vitseg.models import load_classifier
from vitseg.seeds import class_maps, outputs_for
from vitseg.settings import SeedConfig
from wsss.data import load_dataset
from wsss.store import Seed

DEMO = Path(__file__).resolve().parents[1] / "demo" / "checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classifier", type=Path, default=DEMO / "classifier.safetensors")
    parser.add_argument("--network", type=Path, default=DEMO / "affinity.safetensors")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=16, help="so many, evenly over the split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter

    stages, unit, head = prepare(options)
    print(f"{head}; forward passes an image, median of {options.repeats}")
    unit()
    plain: list[float] = []
    for name, work in stages.items():
        ratios = []
        for _ in range(options.repeats):
            plain.append(seconds(unit, clock))
            ratios.append(seconds(work, clock) / plain[-1])
        print(f"{name:44s} {statistics.median(ratios):7.1f}", flush=True)
    print(f"one forward pass: {statistics.median(plain) / options.images:.4f} s", flush=True)


def prepare(options: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], Callable[[], object], str]:
    """The stages by name, each over all images, the unit over all images, and a line about both."""
    dataset = load_dataset(options.data, options.split, options.root)
    shown = [sample for sample in dataset if sample.classes]
    samples = shown[:: max(1, len(shown) // options.images)][: options.images]
    classifier, network = load_classifier(options.classifier), load_affinity_network(options.network)
    outputs = outputs_for(classifier, dataset)
    images = [sample.load_image() for sample in samples]
    arrays = [np.asarray(image) for image in images]
    wanted = [[outputs[c] for c in sample.classes] for sample in samples]
    maps = class_maps(classifier, images, wanted, SeedConfig())
    seeds = [
        Seed(one.astype(np.float16), np.array(sample.classes, np.uint8), array.shape[:2])
        for one, sample, array in zip(maps, samples, arrays, strict=True)
    ]
    squares = [classifier.prepare(image, (224, 224))[None] for image in images]
    tensors = [torch.from_numpy(array.copy()).movedim(-1, 0)[None].float() / 255 for array in arrays]

    def of_network() -> list[np.ndarray]:
        with torch.inference_mode():
            return [network(tensor)[0].numpy() for tensor in tensors]

    def forward() -> None:
        with torch.inference_mode():
            for square in squares:
                classifier.model(square)

    def seeds_with(config: SeedConfig, *, apart: bool = False) -> Callable[[], object]:
        if apart:
            pairs = [(image, [output]) for image, asked in zip(images, wanted, strict=True) for output in asked]
            return lambda: [class_maps(classifier, [image], [output], config) for image, output in pairs]
        return lambda: class_maps(classifier, images, wanted, config)

    features = of_network()

    def refined(config: RefineConfig) -> Callable[[], object]:
        return lambda: [refine_seed(*one, config, array) for *one, array in zip(features, seeds, arrays, strict=True)]

    plain = SeedConfig(attention_walk=0)
    stages = {
        "vitseg seeds": seeds_with(SeedConfig()),
        "vitseg seeds --attention-walk 0": seeds_with(plain),
        "  class by class": seeds_with(plain, apart=True),
        "  --sizes 448": seeds_with(plain.model_copy(update={"sizes": (448,)})),
        "  --sizes 448 --no-flip": seeds_with(plain.model_copy(update={"sizes": (448,), "flip": False})),
        "affinity labels": lambda: [
            confident_labels(array, seed.upsample(), seed.classes) for array, seed in zip(arrays, seeds, strict=True)
        ],
        "affinity refine: the network": of_network,
        "  the walk, --preset filled": refined(RefineConfig(preset="filled")),
        "  the walk, --preset relseg": refined(RefineConfig(preset="relseg")),
        "  the walk, --preset filled, and --crf": refined(RefineConfig(preset="filled", crf=True)),
    }
    classes = sum(map(len, wanted))
    head = (
        f"{len(samples)} images of {dataset.name}/{dataset.split} with {classes} classes, {options.threads} thread(s)"
    )
    return stages, forward, head


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


if __name__ == "__main__":
    main()
