"""Which kind of layer a module is, whatever was added to its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm.layers
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrize

from cnnseg.unroll.layers import Layer
from wsss.errors import InputError
from wsss.genuine import is_published

FEATURE_NORMS = ("LayerNorm", "LayerNorm2d", "GroupNorm", "GroupNorm1", "GroupNormAct")
"""Classes of PyTorch, timm and torchvision that standardise features, and do no more but for the last one's activation,
which the trace takes off."""

EINOPS = ("Rearrange", "Reduce")

_PASS = ("__call__", "forward", "_conv_forward", "_check_input_dim")
"""Methods of layers that their output hangs on."""


REGISTERED: dict[type[nn.Module], Callable[[Any], Layer]] = {}
"""Classes of layers that somebody has registered, each with what makes its `Layer` of a module."""


def register_layer(kind: type[nn.Module]) -> Callable[[Callable[[Any], Layer]], Callable[[Any], Layer]]:
    """Decorator: make a function from a module of class `kind` to its `Layer` the rule of that class.

    The class is then one layer, whatever its code consists of (docs/howto_backbone.md).

    Raises InputError for a class that there are rules for already.
    """
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise InputError(f"register_layer: expected a class of torch.nn.Module, got {kind!r:.60}")
    if is_published(kind) and kind.__module__.startswith("torch.nn"):
        raise InputError(f"register_layer: {kind.__name__} is PyTorch's and has its rule; register a class of your own")

    def add(make: Callable[[Any], Layer]) -> Callable[[Any], Layer]:
        REGISTERED[kind] = make
        return make

    return add


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module, that below a parametrisation (weight norm, spectral norm, ...) if it has one.

    Of a subclass that adds something beside the pass it is the class of torch.nn.
    """
    kind = type(module)
    kind = kind.__mro__[1] if parametrize.is_parametrized(module) else kind
    if kind is timm.layers.Linear:
        return nn.Linear  # the same but for scripting
    base = next((one for one in kind.__mro__ if one.__module__.startswith("torch.nn.")), nn.Module)
    adds = base is not nn.Module and all(getattr(kind, key, None) is getattr(base, key, None) for key in _PASS)
    return base if adds else kind


def is_batch_norm(module: nn.Module | None) -> bool:
    """A batch norm of whatever dimension, with or without timm's activation."""
    return isinstance(module, BatchNormAct2d) or (
        module is not None and kind_of(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    )
