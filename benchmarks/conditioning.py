"""How far relevance in single precision is from relevance in double precision: by block, by rule, by image.

    python benchmarks/conditioning.py --weights vit_tiny_patch16_224.safetensors --data voc12_animals --split val \\
        --out docs/images

Explains the predicted ImageNet class of every image twice, float32 and float64, with the exact rules, the robust rules,
and the exact rules with one of them replaced. Prints the figures of docs/conditioning.md and draws its plots.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from vitseg.explanation import explain
from vitseg.methods import RULES, Formulation
from vitseg.models import Classifier, load_imagenet_vit
from vitseg.relevance import capture, propagation
from vitseg.relevance.rules import EXACT, PLAIN, ROBUST, Exact, Robust
from wsss.data import Sample, load_dataset
from wsss.progress import track

mpl.use("Agg")
from matplotlib import pyplot as plt


class RobustSkip(Exact):
    """The exact rules with the robust skip connection."""

    skip = Robust.skip


class RobustProduct(Exact):
    """The exact rules with the robust products of attention and values, queries and keys."""

    product = Robust.product


SETS = {"exact": EXACT, "exact, robust product": RobustProduct(), "exact, robust skip": RobustSkip(), "robust": ROBUST}
COLOURS = {"exact": "#b2182b", "exact, robust product": "#ef8a62", "exact, robust skip": "#67a9cf", "robust": "#2166ac"}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each map (B, ...) with its other."""
    a, b = (one.flatten(1).double() - one.flatten(1).double().mean(1, keepdim=True) for one in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default="vit_tiny_patch16_224")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1, help="every n-th image")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, help="folder of the plots")
    options = parser.parse_args()

    single = load_imagenet_vit(options.architecture, options.weights)
    double = load_imagenet_vit(options.architecture, options.weights).model.double()
    samples = load_dataset(options.data, options.split, options.root).samples[:: options.every]
    correlations: dict[str, list[Tensor]] = {name: [] for name in SETS}
    errors: dict[str, list[Tensor]] = {"exact": [], "robust": []}
    worst: tuple[float, list[np.ndarray]] = (2.0, [])
    for start in track(range(0, len(samples), options.batch), "explain"):
        inputs = load(single, samples[start : start + options.batch])
        targets = explain(double, inputs.double(), method="raw_attention").targets
        found = {}
        for name, rules in SETS.items():
            RULES["measured"] = Formulation(rules, PLAIN)
            pair = [
                explain(model, x, targets, rules="measured").maps
                for model, x in ((single.model, inputs), (double, inputs.double()))
            ]
            correlations[name].append(correlation(*pair))
            found[name] = pair
        low = correlations["exact"][-1].min()
        if low < worst[0]:
            index = int(correlations["exact"][-1].argmin())
            worst = float(low), [one[index].numpy() for name in errors for one in reversed(found[name])]
        for name in errors:
            errors[name].append(block_errors(single.model, double, inputs, targets, SETS[name]))
    by_rule = {name: torch.cat(parts) for name, parts in correlations.items()}
    by_block = {name: torch.cat(parts, 1) for name, parts in errors.items()}

    print(f"{options.architecture}, {len(samples)} images of {options.data}/{options.split}, transformer attribution")
    print("correlation of the float32 map with the float64 map: lowest, 5th percentile, median; below 0.999")
    for name, values in by_rule.items():
        low, middle = values.quantile(0.05), values.median()
        print(f"  {name:24s} {values.min():.6f}  {low:.6f}  {middle:.6f}  {(values < 0.999).sum()}/{len(values)}")
    print("relative error of the attention's relevance, float32 against float64, median over the images, by block")
    for name, values in by_block.items():
        print(f"  {name:24s}", *(f"{value:.1e}" for value in values.median(1).values))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        plot_correlations(by_rule, options.out / "conditioning_correlation.png")
        plot_blocks(by_block, options.out / "conditioning_blocks.png")
        plot_maps(worst, options.out / "conditioning_maps.png")


def load(classifier: Classifier, samples: Sequence[Sample]) -> Tensor:
    return torch.stack([classifier.prepare(s.load_image(), classifier.model.patch_embed.img_size) for s in samples])


def block_errors(single: torch.nn.Module, double: torch.nn.Module, x: Tensor, targets: Tensor, rules: Exact) -> Tensor:
    """||R32 - R64|| / ||R64|| of every block's attention and image, (blocks, B), lowest block first."""
    walks = [
        propagation.attention_relevances(capture.run(model, inputs), targets[:, None], 0, rules)
        for model, inputs in ((single, x), (double, x.double()))
    ]
    found = []
    for ours, truth in zip(*walks, strict=True):
        difference = (ours.double() - truth).flatten(1).norm(dim=1)
        found.append(difference / truth.flatten(1).norm(dim=1))
    return torch.stack(found[::-1])


def plot_correlations(by_rule: dict[str, Tensor], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, values in by_rule.items():
        distance = (1 - values).clamp(min=1e-14).sort().values
        axes.plot(distance, np.linspace(0, 100, len(distance)), label=name, color=COLOURS[name])
    axes.axvline(1e-3, color="grey", lw=0.8, ls=":")
    axes.set(xscale="log", xlabel="1 - correlation of the float32 map with the float64 map", ylabel="images (%)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_blocks(by_block: dict[str, Tensor], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, values in by_block.items():
        blocks = np.arange(len(values))
        low, middle, high = np.percentile(values, (5, 50, 95), axis=1)
        axes.plot(blocks, middle, label=f"{name} (median, 5 to 95 %)", color=COLOURS[name])
        axes.fill_between(blocks, low, high, color=COLOURS[name], alpha=0.2, lw=0)
    axes.set(yscale="log", xlabel="block (the walk goes from right to left)", ylabel="relative error of the relevance")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_maps(worst: tuple[float, list[np.ndarray]], path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.5), layout="constrained")
    names = [f"{rules}, {precision}" for rules in ("exact", "robust") for precision in ("float64", "float32")]
    for axis, name, found in zip(axes, names, worst[1], strict=True):
        axis.imshow((found - found.min()) / np.ptp(found), cmap="viridis")
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
