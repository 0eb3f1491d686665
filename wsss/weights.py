"""Files of weights: read, checked against the model that is to hold them, and written with a description."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import load_state_dict
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.store import atomic

_ENTRY = "relseg"


def read_weights(path: Path, argument: str) -> dict[str, Tensor]:
    """The state dict of a file (.safetensors, .pth), on the CPU.

    No code of the file is run: a pickle that holds more than tensors is refused.

    Raises:
        InputError: naming `argument`, if it cannot be read, or has values that are not finite.
    """
    if not path.is_file():
        raise InputError(f"`{argument}` {path}: no such file (or the word 'pretrained')")
    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each raise their own
        if "Unsupported global: GLOBAL" in f"{error} {error.__cause__}":  # a class, or a function to be called
            raise InputError(
                f"`{argument}` {path}: expected weights alone, got more, and to read that could run code of whoever "
                "made it; save them alone: torch.save(model.state_dict(), FILE), or safetensors"
            ) from None
        raise InputError(f"`{argument}` {path}: not a readable file of weights ({type(error).__name__})") from None
    check_finite(state, f"`{argument}` {path}")
    return state


def fitting(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: str, of: str, without: Collection[str] = ()
) -> dict[str, Tensor]:
    """What `state` holds for every tensor of `own` whose name does not begin with one of `without`, in float32.

    Counters of batch norm may be missing, as in files of old versions of PyTorch.

    Args:
        source: argument and file, for the message.
        of: the model that the weights should be of.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    wanted = [name for name in own if not name.startswith(tuple(without))]
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    wrong = [name for name in needed if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise InputError(
            f"{source}: not the weights of a {of}: {len(wrong)} of {len(own)} tensors differ, first {wrong[0]}"
        )
    found = {name: state[name] for name in wanted if name in state}
    return widened(found)


def widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with floating-point tensors, whatever they were stored in, as float32."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def stored_state(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict as a checkpoint keeps it, on the CPU: parameters in `dtype`, buffers as they are.

    Variances of batch norm are too large for float16.
    """
    parameters = {name for name, _ in module.named_parameters()}
    return {
        name: tensor.detach().cpu().to(dtype if name in parameters else tensor.dtype).contiguous()
        for name, tensor in module.state_dict().items()
    }


def write_checkpoint(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and description (JSON) into one safetensors file, atomically."""
    # One entry: the library writes several in random order, and equal models shall be equal files.
    metadata = {_ENTRY: json.dumps(description, default=str)}
    with atomic(path) as temporary:
        temporary.write_bytes(save(dict(state), metadata))


def read_checkpoint(path: Path, what: str, maker: str) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Description and weights of a safetensors file; None for a file that `write_checkpoint` did not write.

    Args:
        what: the file should hold. maker: the command that makes it; both for the message.

    Raises InputError if it is missing, cannot be read, or has values that are not finite.
    """
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file; `{maker}` makes one")
    try:
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(_ENTRY)
            description = None if entry is None else json.loads(entry)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{what} {path}: not a readable safetensors file ({error})") from None
    check_finite(state, f"{what} {path}")
    return description, state


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """InputError naming the first tensor with values that are not finite."""
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{source}: {name} has values that are not finite, as a training leaves that went astray; train again "
                "with a lower learning rate, or take another file"
            )
