"""Forward passes of a classifier, as far as needed with a graph; nothing of them stays on the model."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.methods.hooked import Hooked
from cnnseg.methods.passing import Pass, on_places
from cnnseg.unroll.axes import Axes, are_maps, are_plain, to_maps
from cnnseg.unroll.encoding import check_scores, no_maps, run_step
from cnnseg.unroll.following import Following, hanging
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
            place: that is watched; None: the last one with maps of more than one value, see `_Choice`.
            like: another pass of the same model, whose folded weights serve again.

        Raises:
            InputError: no place has such maps, or it is not known how what follows the last one lies over the image.
        """
        self._steps, self._images = traced.steps, images
        self._way: Way = Way(Options(), folded={}) if like is None else like._way
        self._last = {place: index for index, step in enumerate(self._steps) for place in step.inputs}
        self._following = Following(images)
        values: dict[int, Any] = {IMAGES: images.clone()}  # the first layers may work in place
        choice = _Choice(traced, self._following) if place is None else None
        with torch.no_grad():
            for index in range(len(self._steps)):
                if index == place:
                    break
                self._step(values, index, follow=place != len(self._steps))
                if choice is not None:
                    choice.see(index + 1, values)
        if place is None:
            assert choice is not None
            place, values = choice.made()
        self.place = place
        leaf = values[place].detach().requires_grad_()
        values[place] = leaf.clone()  # the next layer may work in place
        with torch.enable_grad():
            for index in range(place, len(self._steps)):
                self._step(values, index)
            logits = check_scores(values[len(self._steps)], self._steps[-1].name)
        axes = self._following.of(place)
        maps = partial(to_maps, axes=axes) if axes and are_maps(axes) and not are_plain(axes) else None
        if maps is not None:
            maps = partial(on_places, maps, _said(traced, place))
        super().__init__(logits, leaf, maps)

    def check_maps(self, layer: str | None) -> None:
        """InputError, naming the layer, unless the activation is maps, or tokens that can be laid out as such."""
        if not are_maps(self._following.of(self.place)):
            raise no_maps(self._leaf, layer)

    def _step(self, values: dict[int, Any], index: int, *, follow: bool = False) -> None:
        step = self._steps[index]
        inputs = tuple(values[place] for place in step.inputs)
        values[index + 1] = out = run_step(step, inputs, self._way, self._images)[0]
        if follow:
            self._following.step(index + 1, step, inputs, out)
        for place in step.inputs:
            if self._last[place] == index:
                values.pop(place, None)


class _Choice:
    """The place that is watched unless one is named: the last one with maps (B, D, h, w).

    Tokens and maps in another order count where all that the class scores hang on passes through: within attention
    they hold but a part of what there is of the image.
    """

    def __init__(self, traced: Trace, following: Following) -> None:
        self._traced, self._following = traced, following
        self._narrow = set(narrow_places(traced, hanging(traced)))
        self._found: tuple[int, dict[int, Any]] | None = None
        self._lost: int | None = None
        self._places: list[int] = []

    def see(self, place: int, values: dict[int, Any]) -> None:
        """Look at what the step at a place has just given."""
        if not self._traced.carries[place - 1]:
            return
        value, axes = values[place], self._following.of(place)
        if _is_spatial(value, axes) or (place in self._narrow and are_maps(axes) and _cells(value, axes) > 1):
            self._found, self._lost = (place, dict(values)), None
            self._places.append(place)
        elif self._following.is_lost(place, value):
            self._lost = self._lost or place

    def made(self) -> tuple[int, dict[int, Any]]:
        """The place, and the values that the steps from there on need. InputError if there is none."""
        if self._found is None:
            raise InputError("model: no layer has maps with height and width, which the method needs")
        if self._lost is not None:
            said = [_said(self._traced, one) for one in (*self._places, self._lost)]
            modules = [name for name, one in zip(said, self._places, strict=False) if self._is_module(name, one)]
            last, lost = (modules or said[:-1])[-1], said[-1]
            raise InputError(
                f"model: how the output of its layer {lost!r} lies over the image is not known; name a layer before "
                f"it, the last one with maps is {last!r}"
            )
        return self._found

    def _is_module(self, name: str, place: int) -> bool:
        """Whether the name that a place goes by is a module's, not a function's."""
        step = self._traced.steps[place - 1]
        return name != step.name or step.scope in step.names


def _said(traced: Trace, place: int) -> str:
    """The name of a place for messages: of the module that gives it, if one does."""
    parts = traced.steps[place - 1].scope.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)] if parts != [""] else []
    return next((name for name in names if find_layer(traced, name) == place), name_of(traced, place))


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
        run.check_maps(layer)
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
    following = Following(images)
    for index, step in enumerate(traced.steps):
        inputs = tuple(values[place] for place in step.inputs)
        values[index + 1] = out = run_step(step, inputs, _AS_IT_IS, images)[0]
        following.step(index + 1, step, inputs, out)
        if index + 1 in narrow:
            if not _is_spatial(out, following.of(index + 1)) or out.shape[2] * stride < side:
                break
            found[name_of(traced, index + 1)] = side / out.shape[2]
    return found


def _is_spatial(value: Any, axes: Axes | None) -> bool:
    """Whether a value is maps (B, D, h, w) of more than one place."""
    return are_plain(axes) and value.shape[2] * value.shape[3] > 1


def _cells(value: Tensor, axes: Axes | None) -> int:
    """How many places there are in a value that can be laid out as maps."""
    return to_maps(value, axes)[0, 0].numel() if axes else 0
