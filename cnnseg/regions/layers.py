"""The layers of a network that segments, encoder and decoder, in order, with the size of their maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.adapter import RegionClassifier
from cnnseg.methods.hooked import Hooked
from cnnseg.methods.running import Traced, passes
from cnnseg.unroll.axes import are_plain
from cnnseg.unroll.encoding import run_step
from cnnseg.unroll.following import Following
from cnnseg.unroll.layers import Options, Way
from cnnseg.unroll.places import ENCODERS, find_layer
from cnnseg.unroll.trace import Trace, trace
from wsss.errors import InputError

_AS_IT_IS = Way(Options())


@dataclass(frozen=True)
class LayerMaps:
    """A layer by its name in the network, and the maps that it gives for images of some size.

    ``stride``: pixels of the image for a value. ``scores``: no layer with weights follows, so that its maps are the
    network's answer, of which there is nothing to explain.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: float
    scores: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the maps."""
        return self.height, self.width


@torch.no_grad()
def list_layers(adapted: RegionClassifier, images: Tensor, *, every: bool = False) -> list[LayerMaps]:
    """The layers whose maps an explanation can look at, in the order in which the network computes them.

    Args:
        adapted: the network, of `cnnseg.adapt`.
        images: (B, 3, H, W); their size is what counts.
        every: all of them; else the last one of each block (the smallest modules with two layers of weights or more),
            and of what stands between blocks the last one of each size, as in a VGG, which is one block.
    """
    ways = passes(adapted)
    found = list(_maps(adapted, images) if isinstance(ways, Traced) else _hooked_maps(ways, images))
    if every:
        return [layer for layer, _ in found]
    blocks = _blocks(adapted.network, () if isinstance(ways, Traced) else ways.blocks())
    owners = [next((block for block in blocks if _inside(names, block)), None) for _, names in found]
    parts = [(owner, owner or layer.name.partition(".")[0]) for (layer, _), owner in zip(found, owners, strict=True)]
    chosen: list[LayerMaps] = []
    for (owner, _), group in groupby(zip(parts, found, strict=True), key=lambda pair: pair[0]):
        sizes = [list(alike)[-1] for _, alike in groupby((layer for _, (layer, _) in group), key=lambda it: it.size)]
        chosen += sizes if owner is None or len(sizes) > 2 else sizes[-1:]  # a block may halve its maps half-way
    return chosen


def stages(layers: Sequence[LayerMaps]) -> list[LayerMaps]:
    """The last layer before each change of resolution; the network's answer is none of them."""
    inner = [layer for layer in layers if not layer.scores]
    return [list(group)[-1] for _, group in groupby(inner, key=lambda layer: layer.size)]


def usual_layer(layers: Sequence[LayerMaps]) -> LayerMaps:
    """The end of the encoder, where Vinogradova, Dibrov and Myers (AAAI 2020) look; the last of the layers with the
    coarsest maps in a network without a part of that name.

    Raises:
        InputError: no layer has maps.
    """
    inner = [layer for layer in layers if not layer.scores]
    if not inner:
        raise InputError(
            "network: no layer has maps with height and width; `method` lrp and input_x_gradient need none"
        )
    coarsest = min(layer.height * layer.width for layer in inner)
    named = [layer for layer in inner if layer.name in ENCODERS]
    return (named or [layer for layer in inner if layer.height * layer.width == coarsest])[-1]


def _hooked_maps(ways: Hooked, images: Tensor) -> Iterator[tuple[LayerMaps, tuple[str, ...]]]:
    """The same of a network that `torch.fx` cannot follow."""
    for layer in ways.layers(images):
        stride = images.shape[2] / layer.height
        yield LayerMaps(layer.name, layer.channels, layer.height, layer.width, stride, layer.scores), (layer.own,)


def _maps(adapted: RegionClassifier, images: Tensor) -> Iterator[tuple[LayerMaps, tuple[str, ...]]]:
    """Every layer that is a module of the network and gives maps (B, D, h, w) of more than one value, with the names of
    the modules that it lies in."""
    traced = trace(adapted)
    modules = dict(adapted.network.named_modules())
    weighted = [
        place for place, step in enumerate(traced.steps, 1) if any(_has_weights(modules.get(n)) for n in step.names)
    ]
    last_use = {place: index for index, step in enumerate(traced.steps) for place in step.inputs}
    values: dict[int, Any] = {0: images.clone()}
    following = Following(images)
    for index, step in enumerate(traced.steps[:-1]):  # the last one is the mean over the region
        inputs = tuple(values[place] for place in step.inputs)
        out = run_step(step, inputs, _AS_IT_IS, images)[0]
        for place in step.inputs:
            if last_use[place] == index:
                values.pop(place, None)
        place = index + 1
        values[place] = out
        following.step(place, step, inputs, out)
        if traced.carries[index] and are_plain(following.of(place)) and out[0, 0].numel() > 1:
            name = _module_name(traced, place, modules)
            if name is not None:
                height, width = out.shape[2:]
                scores = place >= weighted[-1] if weighted else True
                inside = (step.scope, *step.names)
                yield LayerMaps(name, out.shape[1], height, width, images.shape[2] / height, scores), inside


def _module_name(traced: Trace, place: int, modules: Mapping[str, nn.Module]) -> str | None:
    """The shortest name of a module whose output a place is; None of what is inside a module's own code."""
    step = traced.steps[place - 1]
    parts = [name.split(".") for name in (step.scope, *step.names)]
    names = {".".join(own[:count]) for own in parts for count in range(1, len(own) + 1)}
    known = sorted((name for name in names if name in modules and name), key=len)
    return next((name for name in known if find_layer(traced, name) == place), None)


def _blocks(network: nn.Module, whole: Sequence[str]) -> list[str]:
    """Names of the smallest modules that hold two layers of weights or more; of those in a `whole` one, that one's."""
    counts = {name: sum(map(_has_weights, module.modules())) for name, module in network.named_modules() if name}
    several = [name for name, count in counts.items() if count > 1]
    smallest = [name for name in several if not any(other.startswith(f"{name}.") for other in several)]
    return [*whole, *smallest]


def _inside(names: Sequence[str], block: str) -> bool:
    return any(name == block or name.startswith(f"{block}.") for name in names)


def _has_weights(module: nn.Module | None) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1
