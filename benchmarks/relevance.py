"""How many forward passes an explanation costs.

    python benchmarks/relevance.py [--model vit_base_patch16_224] [--batch 1 8] [--methods ...]

Random weights do: the time does not depend on them. The unit is one plain forward pass (fused attention, no graph) of
the same model, batch and dtype, both warm, median of `--repeats`, measured alternately in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch

import vitseg
from vitseg.methods import METHODS


def seconds(work, device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--methods", nargs="+", default=sorted(METHODS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    dtype = getattr(torch, options.dtype)
    model = timm.create_model(options.model).eval().to(options.device, dtype)
    size = model.patch_embed.img_size
    print(
        f"{options.model}, {options.device}, {options.dtype}, {torch.get_num_threads()} threads, "
        f"median of {options.repeats}"
    )
    for batch in options.batch:
        images = torch.randn(batch, 3, *size, device=options.device, dtype=dtype)

        def forward(images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                model(images)

        for name in options.methods:

            def explanation(images: torch.Tensor = images, name: str = name) -> None:
                vitseg.explain(model, images, method=name)

            ratios, times = [], []
            for work in (forward, explanation):  # warm
                work()
            for _ in range(options.repeats):
                plain = seconds(forward, options.device)
                ratios.append(seconds(explanation, options.device) / plain)
                times.append(plain)
            print(
                f"batch {batch:3d}  {name:26s} {statistics.median(ratios):6.2f} forward passes"
                f"  (one pass {statistics.median(times) * 1e3:.0f} ms)"
            )


if __name__ == "__main__":
    main()
