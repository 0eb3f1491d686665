"""Whether classes of PyTorch, timm and torchvision still compute what they were published to.

Rules and explanations go by the class of a layer. Who puts another function into such a class
(``timm.layers.Mlp.forward = mine``) changes what every model computes, and nothing on the model tells of it.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

LIBRARIES = ("torch", "timm", "torchvision", "segmentation_models_pytorch")

_CALLS = ("__call__", "_wrapped_call_impl", "_call_impl")
"""What leads from a module's call to its ``forward``."""
_PASS = ("forward", "_conv_forward", "_check_input_dim")


def is_published(kind: type) -> bool:
    """Whether a class is one of a library, so that its name tells what it does."""
    return kind.__module__.split(".")[0] in LIBRARIES


def own_call(kind: type[nn.Module]) -> str | None:
    """The method by which calling a module of this class is something else than its ``forward``; None as a rule."""
    return next((name for name in _CALLS if not _of_library(getattr(kind, name, None))), None)


def replaced_method(kind: type[nn.Module], methods: tuple[str, ...] = _PASS) -> str | None:
    """``Class.method`` where somebody has put another function into a library's class; None as a rule."""
    for name in methods:
        owner = next((one for one in kind.__mro__ if name in vars(one)), None)
        if owner is not None and is_published(owner) and not _of_library(vars(owner)[name]):
            return f"{owner.__name__}.{name}"
    return None


def _of_library(function: Any) -> bool:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and code.co_filename.startswith(_folders())


@cache
def _folders() -> tuple[str, ...]:
    specs = (find_spec(name) for name in LIBRARIES)
    return tuple(f"{Path(spec.origin).parent}/" for spec in specs if spec is not None and spec.origin is not None)
