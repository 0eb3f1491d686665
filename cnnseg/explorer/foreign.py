"""Anybody's network that segments, by the name of a function that gives it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from cnnseg.adapter import maps_of
from cnnseg.models import Network
from wsss.errors import InputError
from wsss.words import counted

PROBE = 128
"""Side of the black image that a network is tried on."""


class Maps(nn.Module):
    """A network with the interface of those of this toolkit: class scores, of which it has none, and maps."""

    classifies, segments = False, True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[None, Tensor]:
        """No class scores, and the maps (B, C, H, W)."""
        return None, maps_of(self.network(images))


def foreign_network(name: str) -> Network:
    """What the function MODULE:FUNCTION gives, ready to be asked.

    Raises:
        InputError: no such module or function, one that fails, a network without maps, or names of another number.
    """
    made = _call(name)
    module, names = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(f"`model` {name}: expected a torch.nn.Module, got a {type(module).__name__}")
    network = Maps(module).eval()
    outputs = _outputs(network, name)
    listed = _names(names, outputs, name)
    return Network(network, "model", name, listed[1:], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _call(name: str) -> Any:
    place, colon, function = name.partition(":")
    if not (place and colon and function):
        raise InputError(f"`model` {name}: expected MODULE:FUNCTION, such as my_networks:cats")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(place), function)
    except ImportError as error:
        raise InputError(f"`model` {name}: {place} cannot be imported ({error})") from None
    except AttributeError:
        raise InputError(f"`model` {name}: {place} has no {function}") from None
    return found()


@torch.no_grad()
def _outputs(network: nn.Module, name: str) -> int:
    like = next(network.parameters(), torch.empty(0))
    try:
        _, maps = network(torch.zeros(1, 3, PROBE, PROBE, dtype=like.dtype, device=like.device))
    except InputError as error:  # that it gives no maps
        raise InputError(f"`model` {name}: {str(error).removeprefix('network: ')}") from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"`model` {name}: takes no image of {PROBE} x {PROBE} ({str(error).splitlines()[0]})"
        ) from None
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"`model` {name}: expected maps (1, C, H, W) for (1, 3, {PROBE}, {PROBE}), got {shape}")
    return maps.shape[1]


def _names(names: Sequence[str] | None, outputs: int, name: str) -> tuple[str, ...]:
    if names is None:
        return ("background", *(f"class {index}" for index in range(1, outputs)))
    if len(names) != outputs:
        raise InputError(f"`model` {name}: expected names for {counted(outputs, 'class')}, got {len(names)}")
    return tuple(map(str, names))
