"""How many forward passes an explanation costs, and how much memory.

    python benchmarks/relevance.py [--model vit_base_patch16_224] [--batch 1 32] [--methods ...] [--memory]

Random weights do: the time does not depend on them. The unit is one plain forward pass (fused attention, no graph) of
the same model, batch and dtype, both warm, median of `--repeats`, measured alternately in one process. With --memory,
each case runs in a process of its own and its peak is given instead, beyond what the model and the images take.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import timm
import torch

import vitseg
from vitseg.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--rules", default="robust")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    print(
        f"{options.model}, {options.device}, {options.dtype}, {torch.get_num_threads()} threads, rules {options.rules}"
        + ("" if options.memory else f", median of {options.repeats}")
    )
    for batch in options.batch:
        if options.memory:
            context = multiprocessing.get_context("spawn")
            with context.Pool(1, maxtasksperchild=1) as pool:
                for name in ("forward", *options.methods):
                    peak = pool.apply(memory, (options, batch, name))
                    print(f"batch {batch:3d}  {name:26s} {peak / 1e6:8.0f} MB  {peak / batch / 1e6:6.0f} MB an image")
        else:
            times(options, batch)


def times(options: argparse.Namespace, batch: int) -> None:
    """Print the ratio of every method to a forward pass."""
    forward = work(options, batch, "forward")
    for name in options.methods:
        explanation = work(options, batch, name)
        forward()  # warm
        explanation()
        ratios, plain = [], []
        for _ in range(options.repeats):
            plain.append(seconds(forward, options.device))
            ratios.append(seconds(explanation, options.device) / plain[-1])
        unit = statistics.median(plain)
        images = batch / (statistics.median(ratios) * unit)
        print(
            f"batch {batch:3d}  {name:26s} {statistics.median(ratios):6.2f} forward passes"
            f"  (one pass {unit * 1e3:.0f} ms; {images:.1f} images a second)"
        )


def memory(options: argparse.Namespace, batch: int, name: str) -> int:
    """Peak bytes of one case beyond those of a process that holds model and images. Runs in a process of its own."""
    case = work(options, batch, name)
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case()
        return torch.cuda.max_memory_allocated() - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):  # a later run must not need more than the first
        case()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def work(options: argparse.Namespace, batch: int, name: str):
    """A function that makes one forward pass, or one explanation, of the same images."""
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    model = timm.create_model(options.model).eval().to(options.device, dtype)
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=options.device, dtype=dtype)

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    def explanation() -> None:
        vitseg.explain(model, images, method=name, rules=options.rules)

    return forward if name == "forward" else explanation


def seconds(case, device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    case()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
