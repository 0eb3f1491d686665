"""A segmentation network as a file that needs nothing of this toolkit (ONNX), or as a small one for it."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnseg.models import Network, load_network, save_network
from cnnseg.unroll import UnrolledNetwork
from wsss.errors import InputError
from wsss.extras import extra, need
from wsss.store import atomic

TOLERANCE = 1e-3
"""Largest difference of a probability between the exported network and PyTorch's."""

OPSET = 17
INPUT, OUTPUTS = "image", ("mask", "pixels", "classes")


OTHERS = "decoders unet, fpn, deeplabv3plus, segformer and others can, see docs/segmentation_networks.md"


@dataclass(frozen=True)
class Difference:
    """How far an exported network is from the one that it was made of, over some photographs."""

    largest: float
    """of a pixel's probabilities"""
    pixels: float
    """share of pixels that have another class"""
    photographs: int


class Deployed(nn.Module):
    """All between a photograph and its mask: scaling, normalisation, the network, softmax, argmax.

    uint8 (N, H, W, 3) RGB of any size -> mask uint8 (N, H, W); probabilities of background and classes at each pixel,
    float32 (N, C + 1, H, W); probability that the image shows each class, float32 (N, C).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        images = (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        logits, maps = self.module(images)
        found = (maps.argmax(1).to(torch.uint8), maps.softmax(1))
        return found if logits is None else (*found, logits[:, 1:].sigmoid())


def export_onnx(network: Network, path: Path, photographs: Sequence[Image.Image]) -> Difference:
    """Write an ONNX file of `Deployed`, once ONNX Runtime has given the same on photographs; see docs.

    Number, height and width of the images stay free. Class names and format stand in the file's metadata.

    Raises:
        InputError: the extra `export` is not installed, a network that cannot be exported, or a result that differs.
    """
    with extra("export"):
        import onnx
        import onnxruntime
    _check(network)
    module = Deployed(network).cpu().eval()
    with atomic(path) as temporary:
        _trace(module, temporary)
        model = onnx.load(temporary)
        for key, value in {
            "class_names": json.dumps(["background", *network.class_names]),
            "input": "uint8 RGB (N, H, W, 3)",
            "network": network.title,
        }.items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, temporary)
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        session = onnxruntime.InferenceSession(temporary.read_bytes(), quiet, providers=["CPUExecutionProvider"])

        def exported(image: Tensor) -> list[Tensor]:
            try:
                return [torch.from_numpy(array) for array in session.run(None, {INPUT: image.numpy()})]
            except Exception as error:  # ONNX Runtime's own, which have no base of their own
                raise InputError(
                    f"`format` onnx: this network cannot be exported for images of any size ({_line(error)}); {OTHERS}"
                ) from None

        found = _compare(module, exported, photographs)
        if not found.largest <= TOLERANCE:
            raise InputError(
                f"`format` onnx: expected probabilities that differ from PyTorch's by at most "
                f"{TOLERANCE:g}, got {found.largest:.2g} in ONNX Runtime; nothing was written"
            )
    return found


def export_small(network: Network, path: Path, photographs: Sequence[Image.Image]) -> Difference:
    """Write a checkpoint with weights in float16, which `load_network` reads as any other; see `Difference`."""
    _check(network)
    save_network(network, path, torch.float16)
    with torch.inference_mode():
        return _compare(Deployed(network).cpu().eval(), Deployed(load_network(path)).eval(), photographs)


def _check(network: Network) -> None:
    if isinstance(network.module, UnrolledNetwork):
        raise InputError(
            f"`network`: {network.title} cannot be exported, its way back depends on what its way there has passed; "
            "those of train-segmentation can"
        )


def _trace(module: nn.Module, path: Path) -> None:
    """Export by tracing, which takes a second; or else by torch.export, which knows more and takes up to minutes."""
    image = torch.zeros(1, 100, 130, 3, dtype=torch.uint8)
    outputs = OUTPUTS if module.module.classifies else OUTPUTS[:-1]
    common: dict[str, Any] = {"input_names": [INPUT], "output_names": list(outputs), "opset_version": OPSET}
    axes = {INPUT: {0: "n", 1: "height", 2: "width"}, "mask": {0: "n", 1: "height", 2: "width"}}
    axes |= {"pixels": {0: "n", 2: "height", 3: "width"}, "classes": {0: "n"}}
    free = torch.export.Dim.DYNAMIC
    ways: list[dict[str, Any]] = [
        {"dynamo": False, "dynamic_axes": {name: axes[name] for name in (INPUT, *outputs)}},
        {
            "dynamo": True,
            "dynamic_shapes": {"image": {0: free, 1: free, 2: free}},
            "external_data": False,
            "verbose": False,
            "opset_version": 18,
        },
    ]
    reasons = []
    for way in ways:
        if way["dynamo"]:
            need("export")
        try:
            with _silence():
                torch.onnx.export(module, (image,), str(path), **(common | way))
            return
        except Exception as error:  # each exporter, and each step of it, raises its own
            reasons.append(_line(error))
    raise InputError(f"`format` onnx: this network cannot be exported ({reasons[-1]}); {OTHERS}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _compare(
    module: nn.Module, other: Callable[[Tensor], Sequence[Tensor]], photographs: Sequence[Image.Image]
) -> Difference:
    largest, changed, pixels = 0.0, 0, 0
    for photograph in photographs:
        image = torch.from_numpy(np.array(photograph.convert("RGB")))[None]
        with torch.inference_mode():
            (mask, likely, *_), (other_mask, other_likely, *_) = module(image), other(image)
        largest = max(largest, float((likely - other_likely).abs().max()))
        changed, pixels = changed + int((mask != other_mask).sum()), pixels + mask.numel()
    return Difference(largest, changed / max(1, pixels), len(photographs))


@contextmanager
def _silence() -> Iterator[None]:
    """Inside, the exporters keep their progress, warnings and graphs to themselves; some is printed from C++."""
    level = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nothing:
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            logging.disable(logging.CRITICAL)
            for number in kept:
                os.dup2(nothing.fileno(), number)
            with warnings.catch_warnings(), redirect_stdout(nothing), redirect_stderr(nothing):
                warnings.simplefilter("ignore")
                yield
        finally:
            for number, saved in kept.items():
                os.dup2(saved, number)
                os.close(saved)
            logging.disable(level)
