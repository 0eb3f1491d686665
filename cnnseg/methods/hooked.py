"""A forward pass of a model that torch.fx cannot follow: a hook at one module, and autograd from its output on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.adapter import RegionClassifier
from cnnseg.methods.layout import Layout
from cnnseg.methods.passing import Pass, on_places
from cnnseg.methods.survey import MapLayer, Survey
from cnnseg.unroll.encoding import check_scores
from cnnseg.unroll.places import ENCODERS
from wsss.errors import InputError, check_name, did_you_mean
from wsss.private import private_copy
from wsss.words import counted


class Hooked:
    """The passes of a model by hooks; each is of a copy of its own, and nothing of it stays on the model.

    Of several calls of one module in a pass the last one counts. Unlike in a trace, a convolution's output
    is its own, not that of the batch norm that follows it, and a softmax at the end stays.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def scores(self, images: Tensor) -> Pass:
        """A pass without a graph."""
        with torch.no_grad():
            return Pass(_forward(_copied(self._model), images.clone()))

    def at_images(self, images: Tensor, like: Pass | None = None) -> Pass:
        """A pass with a graph from the images (B, 3, H, W) on; ``like`` plays no part."""
        leaf = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = _forward(_copied(self._model), leaf.clone())  # the first layer may work in place
        if not logits.requires_grad:
            raise InputError("model: no gradient of its class scores reaches the images")
        return Pass(logits, leaf)

    def at_layer(self, images: Tensor, layer: str | None) -> Pass:
        """A pass with a graph from the output of a module on; None: the usual one.

        Raises:
            InputError: no such module, or its output is not maps, nor tokens on a known grid.
        """
        if layer is not None:
            self.check_layer(layer)
        name = self._usual(images[:1]) if layer is None else self._survey(images[:1]).find(layer)
        copy = _copied(self._model)
        network = _network(copy)
        layout, watch = Layout(network), _Watch(name, network.get_submodule(name))
        with torch.enable_grad():
            logits = _forward(copy, images.clone())
        if watch.leaf is None or not logits.requires_grad:
            raise InputError(f"layer {layer or name!r}: no gradient of the class scores reaches its output")
        if len(watch.leaf) != len(images):
            raise InputError(
                f"layer {layer or name!r}: gives {len(watch.leaf)} outputs for {counted(len(images), 'image')}"
            )
        return Pass(logits, watch.leaf, partial(on_places, partial(layout.maps, name), name))

    def check_layer(self, layer: str) -> None:
        """InputError, with the nearest names, if the model has no module of that name."""
        check_name(layer, "layer")
        names = [name for name, _ in _network(self._model).named_modules(remove_duplicate=False) if name]
        if layer not in names:
            raise InputError(f"layer {layer!r} is unknown to the model: {did_you_mean(layer, names)[:600]}")

    def layers(self, images: Tensor) -> list[MapLayer]:
        """The modules that give maps of images (B, 3, H, W), in the order in which they are done."""
        return self._survey(images).layers

    def blocks(self) -> list[str]:
        """Names of the blocks of its transformers."""
        return Layout(_network(_copied(self._model))).blocks

    def _survey(self, images: Tensor) -> Survey:
        copy = _copied(self._model)
        if isinstance(copy, RegionClassifier):
            copy.region = None  # which may be of another batch
        network = _network(copy)
        survey = Survey(network, Layout(network))
        with torch.enable_grad():
            survey.finish(_forward(copy, images.detach().clone().requires_grad_().clone()))
        return survey

    def _usual(self, images: Tensor) -> str:
        """Of a classifier the last module with maps; of a network that segments the last one of its encoder, or
        without such a part the last one before the class maps."""
        survey = self._survey(images)
        layers = survey.layers
        if isinstance(self._model, RegionClassifier):
            parts = dict(self._model.network.named_children())
            for part in ENCODERS:
                if part in parts:
                    return survey.find(part)
            layers = [layer for layer in layers if not layer.scores]
        if not layers:
            raise InputError("model: no layer has maps with height and width, which the method needs")
        last = layers[-1]
        if not isinstance(self._model, RegionClassifier) and (lost := survey.lost_after(last.own)) is not None:
            raise InputError(
                f"model: how the output of its layer {lost!r} lies over the image is not known; name a layer before "
                f"it, the last one with maps is {last.name!r}"
            )
        return last.own


class _Watch:
    """Puts a leaf of the graph in the place of what a module gives, so that whoever reads it reads the leaf."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.leaf: Tensor | None = None
        self._name = name
        self._given: list[list[tuple[Tensor, int]]] = []
        module.register_forward_pre_hook(self._enter, with_kwargs=True)
        module.register_forward_hook(self._leave, with_kwargs=True)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given.append([(one, one._version) for one in _tensors((*args, *kwargs.values()))])

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Tensor:
        given = self._given.pop()
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"layer {self._name!r}: expected maps of numbers, got {kind}")
        self.leaf = value.detach().clone().requires_grad_()
        if any(one._version == version and _share(one, value) for one, version in given):
            return self.leaf.clone()  # it passes on what it was given, and who reads that elsewhere reads no output
        try:
            return value.copy_(self.leaf)  # in place, for those who know the output by another name: its input, a view
        except RuntimeError:  # an expanded tensor cannot be written to
            return self.leaf.clone()


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _share(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _copied(model: nn.Module) -> nn.Module:
    """A private copy whose hooks and buffers are its own too, as a forward function may write into buffers."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"layer {name!r} is a {type(module).__name__}, into which no hook reaches; explain the module that it "
                "was made of"
            )
    copy = private_copy(model)
    buffers: dict[int, Tensor] = {}
    for module in copy.modules():
        module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs = OrderedDict(), OrderedDict()
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffers.setdefault(id(buffer), buffer.clone())
    return copy


def _network(model: nn.Module) -> nn.Module:
    """The part whose names layers go by."""
    return model.network if isinstance(model, RegionClassifier) else model


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores (B, C). InputError in one line for images that the model does not take."""
    try:
        logits = model(images)
    except (InputError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        height, width = images.shape[2:]
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"images of {height} x {width}: the model does not take them ({reason})") from None
    return check_scores(logits, type(model).__name__)
