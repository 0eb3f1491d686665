"""Ways to divide relevance at skip connections and products: what each does to maps and to seeds.

    python benchmarks/skip_rules.py --weights vit_tiny_patch16_224.safetensors \\
        --classifier demo/checkpoints/classifier.safetensors --data voc12 --root FOLDER --seed-data voc12_animals

The segmentation test (mIoU) of transformer attribution of an ImageNet model on every fourth single-class image, and
mIoU of seeds of the fine-tuned classifier on every twelfth image, alpha 8 and best threshold. Reads masks: run it on a
training split. The tables of docs/conditioning.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from seed_scaling import score
from torch import Tensor
from torch.nn import functional as F

from vitseg.explanation import explain
from vitseg.methods import RULES, Formulation
from vitseg.models import load_classifier, load_imagenet_vit
from vitseg.relevance.rules import EXACT, PLAIN, Exact, Robust, share
from vitseg.seeds import outputs_for
from wsss.data import foreground_set, load_dataset
from wsss.explanation_tests.segmentation import enlarge, load_pair, score_image
from wsss.explanation_tests.tested import stack
from wsss.maps import input_size, scale_maps
from wsss.progress import track

ANIMALS = ["cat", "cow", "dog", "horse", "sheep"]


class Products(Exact):
    """The published skip connection, products by absolute shares; base of the others."""

    product = Robust.product


class Channels(Products):
    """Absolute shares by channel."""

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        s = share(relevance, a.abs() + b.abs())
        return a.abs() * s, b.abs() * s


class Projection(Products):
    """One signed share a token, <a, z> / <z, z>."""

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        of_a = share((a * z).sum(-1, keepdim=True), z.square().sum(-1, keepdim=True))
        return relevance * of_a, relevance * (1 - of_a)


class Half(Products):
    """Half and half."""

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        return relevance / 2, relevance / 2


class Damped(Products):
    """Signed shares by channel, damped where a and b cancel, rescaled as published."""

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        s = share(relevance * z, z.square() + (0.1 * (a.abs() + b.abs())).square())
        parts = a * s, b * s
        sums = [part.sum((1, 2), keepdim=True) for part in parts]
        total = relevance.sum((1, 2), keepdim=True) / (sums[0].abs() + sums[1].abs())
        return tuple(part * one.sign() * total for part, one in zip(parts, sums, strict=True))


RULE_SETS = {
    "published": EXACT,
    "published, products by shares": Products(),
    "absolute shares by channel": Channels(),
    "lengths of the tokens (robust)": Robust(),
    "signed share of a token": Projection(),
    "half and half": Half(),
    "damped, rescaled": Damped(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--architecture", default="vit_tiny_patch16_224")
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--data", default="voc12")
    parser.add_argument("--seed-data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--seed-every", type=int, default=12)
    parser.add_argument("--first", type=int, default=8, help="first block of the rollout of seeds")
    parser.add_argument("--size", type=int, default=320, help="input size of seeds")
    options = parser.parse_args()
    for name, rules in RULE_SETS.items():
        RULES["tried"] = Formulation(rules, PLAIN)
        miou = segmentation(options)
        alpha, oracle = seeds(options)
        print(f"{name:32s} map {miou:5.1f}   seeds {alpha:5.1f} / {oracle:5.1f}", flush=True)


def segmentation(options: argparse.Namespace) -> float:
    """mIoU of the segmentation test, in per cent."""
    classifier = load_imagenet_vit(options.architecture, options.weights)
    dataset = foreground_set(load_dataset(options.data, options.split, options.root), ANIMALS)
    confusion = np.zeros((2, 2), np.int64)
    for sample in track(dataset.samples[:: options.every], "maps"):
        image, truth = load_pair(dataset, sample, classifier.model.patch_embed.img_size)
        inputs = classifier.normalise(stack([image]).float() / 255)
        heat = enlarge(explain(classifier.model, inputs, rules="tried").maps, truth.shape)[0].numpy()
        confusion += score_image(heat, truth).confusion
    hits = np.diag(confusion)
    return 100 * float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


def seeds(options: argparse.Namespace) -> tuple[float, float]:
    """mIoU of seeds in per cent, with alpha 8 and with the best threshold; one size, mirrored, square root."""
    classifier = load_classifier(options.classifier)
    dataset = load_dataset(options.seed_data, options.split, options.root)
    outputs = outputs_for(classifier, dataset)
    samples = [sample for sample in dataset if sample.mask_path and sample.classes][:: options.seed_every]
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    truths, found = {}, {}
    for sample in track(samples, "seeds"):
        image = sample.load_image()
        x = classifier.prepare(image, input_size(image, options.size, patch))[None]
        wanted = [[outputs[c] for c in sample.classes]] * 2
        maps = explain(
            classifier.model, torch.cat([x, x.flip(-1)]), wanted, first_block=options.first, rules="tried"
        ).maps
        truths[sample.id] = dataset.load_mask(sample)
        scaled = scale_maps((maps[0] + maps[1].flip(-1)) / 2, power=0.5)
        found[sample.id] = F.interpolate(scaled[None], truths[sample.id].shape, mode="bilinear")[0].numpy()
    figures, oracle = score(dataset, found, truths)
    return figures[1], oracle


if __name__ == "__main__":
    main()
