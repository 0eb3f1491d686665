"""What a training step of the unrolled network costs, in forward passes of its encoder, and how much memory.

    python benchmarks/unroll.py [--architecture resnet50] [--classes 21] [--batch 2] [--size 128] [--chunks 0 5 1]
                                [--ends layer4 layer3 layer2 layer1]

A step: class scores, heat-maps of all classes, both losses, all gradients (no optimiser). `--chunks` are numbers of
classes decoded at once, 0 for all; 1 is the scheme of one decoder pass and one backward pass a class. "double backward"
is the same by autograd: one gradient of the input a class, with its graph. The unit is a plain forward pass of the
same batch without graph, measured in the same process; random weights do, as time does not depend on them. Each case
has a process of its own, so that its peak is its own: that of the whole process, and beyond what model and images take.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll import unroll


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 5, 1])
    parser.add_argument("--ends", nargs="+", help="layers that are read, with features trained; the image unless given")
    parser.add_argument("--rules", help="composite of the rules")
    parser.add_argument("--no-double-backward", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    print(
        f"{options.architecture}, {options.classes} classes, batch {options.batch}, {options.size} x {options.size}, "
        f"{'bfloat16' if options.bfloat16 else 'float32'}, {options.threads} threads, median of {options.repeats}"
    )
    print(f"{'':24s} {'step':>12s} {'heat-maps':>12s} {'peak':>8s} {'beyond':>8s}")
    cases = [*options.chunks, *([] if options.no_double_backward else [None])]
    spawn = multiprocessing.get_context("spawn")
    for case in cases:
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=measure, args=(case, options, sender))
        process.start()
        try:
            step, maps, peak, beyond = receiver.recv()
        except EOFError:
            print(f"{label(case):24s} ran out of memory")
            continue
        finally:
            sender.close()
            process.join()
        shown = f"{maps:7.1f} passes" if maps else ""
        print(
            f"{label(case):24s} {step:5.1f} passes {shown:>14s} {peak / 1e9:5.2f} GB {beyond / 1e9:5.2f} GB", flush=True
        )


def label(case: int | None) -> str:
    if case is None:
        return "double backward"
    return "all classes at once" if case == 0 else f"{case} classes at once" if case > 1 else "class by class"


def measure(case: int | None, options: argparse.Namespace, sender) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = timm.create_model(options.architecture, num_classes=options.classes).eval()
    images = torch.randn(options.batch, 3, options.size, options.size)
    if options.channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    truth = torch.randint(0, options.classes, images[:, 0].shape)
    read = {"ends": options.ends, "readout": "asinh", "features": "trained"} if options.ends else {}
    network = unroll(model, rules=options.rules, classes_at_once=case or None, **read)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16)

    def forward() -> None:
        with torch.inference_mode(), autocast():
            model(images)

    def heatmaps() -> None:
        with torch.no_grad(), autocast():
            network(images)

    def step() -> None:
        with autocast():
            logits, maps = double_backward(model, images) if case is None else network(images)
        loss = F.cross_entropy(maps.float(), truth)
        loss = loss + F.binary_cross_entropy_with_logits(logits[:, 1:], torch.ones_like(logits[:, 1:]))
        model.zero_grad(set_to_none=True)
        loss.backward()

    forward()
    before = memory()
    one = timed(forward, options.repeats)
    maps = timed(heatmaps, 1) if case == 0 else 0.0
    whole = timed(step, max(1, options.repeats // 2))
    sender.send((whole / one, maps / one, memory(), memory() - before))


def double_backward(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input times gradient of each class, with its graph."""
    images = images.detach().requires_grad_()
    logits = model(images)
    rows = [torch.autograd.grad(column.sum(), images, create_graph=True)[0] for column in logits.T]
    return logits, torch.stack([(images * row).sum(1) for row in rows], 1)


def timed(function, repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
