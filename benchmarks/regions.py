"""What an explanation of a region of a segmentation network costs, from click to map.

    python benchmarks/regions.py NETWORK [--size 320] [--threads 2] [--repeats 5]

NETWORK is a checkpoint or a run (`cnnseg.load_network`), or the name of a decoder of segmentation-models-pytorch on a
ResNet-18 with random weights, since time does not depend on them. Every call of `cnnseg.explain` has a new region, as
if somebody had clicked, and all that it does is counted. Medians; the unit of the ratios is a plain forward pass of the
same image in the same process, measured in turn with the explanation. "processor" is the time that the process itself
was at work, all threads together, and the ratio is of that: on a busy machine the other is no measure. "first" is the
first call, which follows the network's code once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import cnnseg

CASES = (
    {"method": "gradcam"},
    {"method": "layercam"},
    {"method": "input_x_gradient"},
    *({"rules": rules} for rules in ("zero", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")),
    {"rules": "epsilon_gamma_box"},
    {"method": "integrated_gradients"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network, size = find(options.network), options.size
    images = torch.randn(1, 3, size, size)
    adapted = cnnseg.adapt(network)

    def forward() -> None:
        with torch.inference_mode():
            adapted.maps(images)

    def click(**how: str) -> None:
        region = torch.zeros(1, 1, size, size)
        top, left = torch.randint(0, size - size // 4, (2,)).tolist()
        region[..., top : top + size // 4, left : left + size // 4] = 1
        adapted.region = region
        cnnseg.explain(adapted, images, targets=1, **how)

    forward()
    print(f"{options.network}, {size} x {size}, {options.threads} threads, median of {options.repeats}")
    print(f"{'':32s} {'clock':>10s} {'processor':>12s}")
    wall, work = timed(lambda: click(method="gradcam"))
    print(f"{'first':32s} {wall:7.0f} ms {work:9.0f} ms")
    for case in CASES:
        plain, own = [], []
        for _ in range(options.repeats):
            plain.append(timed(forward))
            own.append(timed(lambda case=case: click(**case)))
        (_, one), (wall, work) = (map(statistics.median, zip(*times, strict=True)) for times in (plain, own))
        name = case["method"] if "method" in case else f"lrp {case['rules']}"
        print(f"{name:32s} {wall:7.0f} ms {work:9.0f} ms {work / one:6.1f} passes of {one:.0f} ms", flush=True)


def find(name: str) -> nn.Module:
    if Path(name).exists():
        return cnnseg.load_network(name, device="cpu").module
    import segmentation_models_pytorch as smp

    return smp.create_model(name, "resnet18", encoder_weights=None, classes=7).eval()


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds by the clock, and of the process."""
    begin, before = time.perf_counter(), time.process_time()
    function()
    return 1000 * (time.perf_counter() - begin), 1000 * (time.process_time() - before)


if __name__ == "__main__":
    main()
