"""Forward passes of a classifier, as far as needed with a graph; nothing of them stays on the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.methods.hooked import Hooked
from cnnseg.methods.passing import Pass
from cnnseg.unroll.encoding import check_maps, check_scores, run_step
from cnnseg.unroll.layers import Options, Way
from cnnseg.unroll.places import find_layer, name_of, narrow_places, usual_place
from cnnseg.unroll.trace import Trace, Untraceable, trace
from wsss.errors import InputError

IMAGES = 0
"""The place of the images among those of the steps' outputs, which count from 1."""


class Run(Pass):
    """A forward pass in evaluation mode, with a graph from one place on; the activation is a leaf of it."""

    def __init__(self, traced: Trace, images: Tensor, place: int | None, like: Run | None = None) -> None:
        """Run the steps on images (B, 3, H, W).

        Args:
            place: that is watched; None: the last one with maps (B, D, h, w) of more than one value.
            like: another pass of the same model, whose folded weights serve again.

        Raises:
            InputError: no place has such maps.
        """
        self._steps, self._images = traced.steps, images
        self._way: Way = Way(Options(), folded={}) if like is None else like._way
        self._last = {place: index for index, step in enumerate(self._steps) for place in step.inputs}
        values: dict[int, Any] = {IMAGES: images.clone()}  # the first layers may work in place
        spatial: tuple[int, dict[int, Any]] | None = None
        with torch.no_grad():
            for index in range(len(self._steps)):
                if index == place:
                    break
                self._step(values, index)
                if place is None and traced.carries[index] and _is_spatial(values[index + 1]):
                    spatial = index + 1, dict(values)
        if place is None:
            if spatial is None:
                raise InputError("model: no layer has maps with height and width, which the method needs")
            place, values = spatial
        leaf = values[place].detach().requires_grad_()
        values[place] = leaf.clone()  # the next layer may work in place
        with torch.enable_grad():
            for index in range(place, len(self._steps)):
                self._step(values, index)
            super().__init__(check_scores(values[len(self._steps)], self._steps[-1].name), leaf)

    def _step(self, values: dict[int, Any], index: int) -> None:
        step = self._steps[index]
        inputs = tuple(values[place] for place in step.inputs)
        values[index + 1] = run_step(step, inputs, self._way, self._images)[0]
        for place in step.inputs:
            if self._last[place] == index:
                values.pop(place, None)


class Traced:
    """The passes of a model that `torch.fx` can follow."""

    def __init__(self, traced: Trace) -> None:
        self._traced = traced

    def scores(self, images: Tensor) -> Run:
        """A pass without a graph."""
        with torch.no_grad():
            return Run(self._traced, images, len(self._traced.steps))

    def at_images(self, images: Tensor, like: Run | None = None) -> Run:
        """A pass with a graph from the images (B, 3, H, W) on; ``like``: see `Run`."""
        return Run(self._traced, images, IMAGES, like)

    def at_layer(self, images: Tensor, layer: str | None) -> Run:
        """A pass with a graph from a layer's output on; None: the usual one. InputError if it is no maps."""
        place = usual_place(self._traced) if layer is None else find_layer(self._traced, layer)
        run = Run(self._traced, images, place)
        check_maps(run.activation, layer)
        return run

    def check_layer(self, layer: str) -> None:
        """InputError, with the nearest names, if the model has no layer of that name."""
        find_layer(self._traced, layer)


def passes(model: nn.Module) -> Traced | Hooked:
    """How methods that need activations and gradients alone run a model: by its trace, else by hooks."""
    try:
        return Traced(trace(model))
    except Untraceable:
        return Hooked(model)


_AS_IT_IS = Way(Options())
_SIDE, _CELLS = 256, 8
"""Of the image that strides are read off: at least so large, and with at least so many cells along a side."""


def layer_at_stride(model: nn.Module, stride: int) -> str | None:
    """Name of the last layer that all relevance passes through whose maps have a value for `stride` pixels or fewer.

    None if there is no such layer.
    """
    fine = [name for name, own in layers_with_maps(model, stride).items() if own <= stride]
    return fine[-1] if fine else None


@torch.no_grad()
def layers_with_maps(model: nn.Module, stride: int, *, halved: bool = False) -> dict[str, float]:
    """Layers with maps that all relevance passes through, in order, each with its stride: pixels for a value.

    Args:
        stride: the largest that is of interest.
        halved: read it off an image of half the usual side.

    Of a model that `torch.fx` cannot follow, whether relevance passes by is not known: all layers with maps.
    """
    side = max(_SIDE, _CELLS * stride) // (1 + halved)
    images = next(model.parameters()).new_zeros(1, 3, side, side)
    try:
        traced = trace(model)
    except Untraceable:
        layers = Hooked(model).layers(images)
        return {layer.name: side / layer.height for layer in layers if layer.height * stride >= side}
    narrow, values, found = set(narrow_places(traced)), {IMAGES: images}, {}
    for index, step in enumerate(traced.steps):
        inputs = tuple(values[place] for place in step.inputs)
        values[index + 1] = out = run_step(step, inputs, _AS_IT_IS, images)[0]
        if index + 1 in narrow:
            if not _is_spatial(out) or out.shape[2] * stride < side:
                break
            found[name_of(traced, index + 1)] = side / out.shape[2]
    return found


def _is_spatial(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] * value.shape[3] > 1
