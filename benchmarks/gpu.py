"""What everything costs on a GPU, in one table: methods in batches, the random walk, a step of an unrolled network.

    python benchmarks/gpu.py [--device cuda] [--vit vit_base_patch16_224] [--cnn resnet50] [--quick]

Images a second of every method, one image at a time and in batches of 64 and 256, and how many times as fast the
largest batch that fits is; the peak of the device's memory at that batch; and the lowest correlation, over 4 images, of
the maps with those of the CPU, both in float32. Weights and images are random: times do not depend on them, but a CPU
and a GPU agree less on a model that has learnt nothing. On a CPU, where `--quick` tries the script on tiny models, no
memory is given. Each figure is the median of as many calls as `--seconds` hold. On a GPU convolutions compute in TF32,
as PyTorch has it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnnseg
import cnnseg.methods
import vitseg
import vitseg.methods
from affinity import pair_affinity, random_walk
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig
from cnnseg.unroll import unroll

Explain = Callable[[nn.Module, Tensor], Tensor]
ALIKE = 4
"""Images that CPU and device are compared on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vit", help="timm's name")
    parser.add_argument("--cnn", help="timm's name")
    parser.add_argument("--batches", type=int, nargs="+", help="1, 64 and 256 unless given")
    parser.add_argument("--quick", action="store_true", help="tiny models, batches of 1, 2 and 4")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    options = parser.parse_args()
    batches = options.batches or ([1, 2, 4] if options.quick else [1, 64, 256])
    side = 64 if options.quick else 224
    vit = timm.create_model(options.vit or ("test_vit" if options.quick else "vit_base_patch16_224"), img_size=side)
    cnn = timm.create_model(options.cnn or ("test_resnet" if options.quick else "resnet50"))
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"{name}, PyTorch {torch.__version__}, float32, {side} x {side}; images a second\n")
    print(f"| method | {' | '.join(f'batch {batch}' for batch in batches)} | gain | peak | agreement |")
    print(f"|---|{'--:|' * (len(batches) + 3)}")
    for family, model in ((vit_methods(), vit), (cnn_methods(), cnn)):
        model.eval()
        for label, explain in family.items():
            print(row(label, explain, model, batches, side, options.device, options.seconds), flush=True)
    print(features_row(batches, side, options.device, options.seconds, options.quick), flush=True)
    print()
    print(walk_line(options.quick))
    print(step_line(options.device, options.seconds, options.quick))


def vit_methods() -> dict[str, Explain]:
    found = {f"ViT, {name}": partial(_maps, vitseg.explain, method=name) for name in vitseg.methods.METHODS}
    walk = partial(_maps, vitseg.explain, method="transformer_attribution", attention_walk=2)
    return {"ViT, forward pass": _forward, **found, "ViT, transformer_attribution, attention walk": walk}


def cnn_methods() -> dict[str, Explain]:
    found = {f"CNN, {name}": partial(_maps, cnnseg.explain, method=name) for name in cnnseg.methods.METHODS}
    return {"CNN, forward pass": _forward, **found}


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def _maps(explain: Callable[..., object], model: nn.Module, images: Tensor, **options: object) -> Tensor:
    return explain(model, images, 0, **options).maps


def row(
    label: str, explain: Explain, model: nn.Module, batches: list[int], side: int, device: str, seconds: float
) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    images = torch.randn(max(*batches, ALIKE), 3, side, side)
    expected = explain(model.cpu(), images[:ALIKE]).flatten(1)
    model.to(device)
    found = explain(model, images[:ALIKE].to(device)).cpu().flatten(1)
    agreement = min(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in zip(found, expected, strict=True))
    rates, peak = [], ""
    for batch in batches:
        try:
            rate, memory = measured(partial(explain, model, images[:batch].to(device)), batch, device, seconds)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            rates.append(None)
            continue
        rates.append(rate)
        peak = f"{memory / 1e9:.2f} GB" if memory else ""
    gain = max(rate for rate in rates if rate) / rates[0]
    shown = " | ".join("too large" if rate is None else f"{rate:.1f}" for rate in rates)
    return f"| {label} | {shown} | {gain:.1f} | {peak} | {agreement:.5f} |"


def measured(work: Callable[[], object], images: int, device: str, seconds: float) -> tuple[float, int]:
    """Images a second, and bytes at the peak of the device's memory (0 on a CPU)."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    work()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 50):
        if on_gpu:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return images / statistics.median(times), torch.cuda.max_memory_allocated() if on_gpu else 0


def features_row(batches: list[int], side: int, device: str, seconds: float, quick: bool) -> str:
    """The affinity network, whose features the walk starts from."""
    tiny = {"backbone": "test_resnet", "levels": (1, 2), "widths": (8, 8), "dim": 16, "groups": 4}
    network = AffinityNetwork(NetworkConfig(weights=None, **(tiny if quick else {}))).eval()
    return row("affinity network, features", _forward, network, batches, side, device, seconds)


def walk_line(quick: bool) -> str:
    """The random walk of one image runs on the CPU, in as many processes as there are cores."""
    height, width, classes = (8, 8, 2) if quick else (47, 63, 3)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((256, height, width)).astype(np.float32) / 256
    scores = rng.random((classes, height, width), np.float32)
    begin = time.perf_counter()
    random_walk(pair_affinity(features, 5), scores, 8, 256)
    return (
        f"Random walk (CPU, one process): {time.perf_counter() - begin:.2f} s for an image of {8 * height} x "
        f"{8 * width} with {classes} classes."
    )


def step_line(device: str, seconds: float, quick: bool) -> str:
    """A training step of the unrolled network: losses and gradients, without the optimiser."""
    batch, side, classes = (2, 64, 3) if quick else (10, 256, 21)
    torch.manual_seed(0)
    network = unroll(timm.create_model("test_resnet" if quick else "resnet50", num_classes=classes)).to(device).train()
    images = torch.randn(batch, 3, side, side, device=device)
    truth = torch.randint(0, classes, (batch, side, side), device=device)

    def step() -> None:
        logits, maps = network(images)
        loss = F.cross_entropy(maps, truth) + F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
        network.zero_grad(set_to_none=True)
        loss.backward()

    try:
        rate, memory = measured(step, batch, device, seconds)
    except torch.cuda.OutOfMemoryError:
        return f"Unrolled step, batch {batch}, {side} x {side}: does not fit; give --classes-at-once in training."
    peak = f", peak {memory / 1e9:.2f} GB" if memory else ""
    return f"Unrolled step, batch {batch}, {side} x {side}, {classes} classes: {batch / rate:.3f} s{peak}."


if __name__ == "__main__":
    main()
