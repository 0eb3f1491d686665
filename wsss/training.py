"""What every training here shares: its batches, a step of optimisation, and a state to go on from.

All randomness is a function of (seed, epoch or step, place), see `stable_seed`.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from wsss.distributed import OwnBatches, all_sum, sum_gradients
from wsss.errors import InputError
from wsss.processes import from_first, local_rank, size
from wsss.store import atomic
from wsss.store.spelling import respelt


def stable_seed(*numbers: int) -> int:
    """A 63-bit seed from non-negative numbers; near ones give unrelated seeds, trailing zeros do not count."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def read_batches(
    examples: data.Dataset, batches: data.Sampler, *, workers: int, device: str | torch.device, first: int = 0
) -> data.DataLoader:
    """This process's part of each batch.

    Args:
        batches: of keys of `examples`; passed through once.
        workers: processes that read beside this one.
        first: see `wsss.distributed.part_of`.

    Raises InputError if `workers` is negative.
    """
    if workers < 0:
        raise InputError(f"`workers` {workers}: expected 0 or more")
    return data.DataLoader(
        examples,
        batch_sampler=OwnBatches(batches, first),
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        multiprocessing_context="forkserver" if workers else None,
    )


def parameter_groups(module: nn.Module, factor: Callable[[str], float]) -> list[dict[str, Any]]:
    """Groups for an optimiser: weight decay on all but vectors (biases, normalisation), as is usual.

    Args:
        factor: name of a parameter -> its learning rate, in multiples of the optimiser's; kept in its group.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((factor(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": groups[key], "factor": key[0]} | ({} if key[1] else {"weight_decay": 0.0})
        for key in sorted(groups, reverse=True)
    ]


def descend(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[Tensor],
    *,
    step: int,
    clip: float | None = None,
    remedy: str,
) -> list[float]:
    """One step of optimisation, down the gradient of the first of the losses.

    Args:
        losses: scalars; all but the first are for the record.
        step: its number, and `remedy`: what helps, for the message.
        clip: largest norm of the gradient.

    Returns:
        The losses, summed over all processes.

    Raises:
        InputError: a loss, or the norm of the gradient, is not finite; the weights have not taken it in.
    """
    optimizer.zero_grad(set_to_none=True)
    losses[0].backward()
    sum_gradients(module.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    if clip is not None:
        nn.utils.clip_grads_with_norm_(module.parameters(), clip, norm)
    values = all_sum(torch.stack(list(losses))).tolist()
    if not all(map(math.isfinite, [*values, norm.item()])):
        what = f"loss {values[0]:g}, norm of its gradient {norm.item():g}"
        raise InputError(f"step {step}: {what}: not finite; {remedy}")
    optimizer.step()
    return values


def freeze_below(outputs: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Take the parameters that some outputs are made of out of training, and the others in.

    Read off the autograd graph: every network names its modules differently.
    """
    used = torch.autograd.grad(sum(output.sum() for output in outputs), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, used, strict=True):
        parameter.requires_grad_(gradient is None)


def save_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the state of a training, atomically. A run of another `identity` will not go on from it."""
    content = io.BytesIO()  # torch.save to a full disk raises no OSError, writing bytes does
    torch.save({"identity": identity, **state}, content)
    with atomic(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, or None if there is no such file; the first of several processes reads it.

    Raises InputError if the file cannot be read or belongs to a training with another identity.
    """
    return from_first(lambda: _read_state(path, identity))


def _read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); delete it to train from the start") from None
    if respelt(state.get("identity")) != identity:
        raise InputError(f"{path}: is of a training with other settings or images; delete it to train from the start")
    return state


@contextmanager
def loader_errors() -> Iterator[None]:
    """Inside, an error of a reading process is one line again: it arrives with that process's traceback in front."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).strip().splitlines()[-1].removeprefix("wsss.errors.InputError: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a reading process was killed (out of memory?): run the same command with fewer `workers`"
        ) from None


def choose_device(name: str, precision: str = "float32") -> str:
    """The device of that name; "auto" is a GPU if there is one, else the CPU.

    Of several processes on one machine each gets a GPU of its own.

    Raises InputError if it is not to be had, or does not compute in that precision.
    """
    if precision == "float64" and name.startswith("mps"):
        raise InputError(f"`precision` float64: `device` {name} has single precision alone; expected cpu or cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if size() > 1 and name == "cuda":
        return _own_gpu()
    if size() > 1 and name != "cpu":
        raise InputError(f"`device` {name}: expected cpu or cuda where several processes work together")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"`device` {name}: not available here ({reason}); cpu always is") from None
    return name


def _own_gpu() -> str:
    place, there = local_rank(), torch.cuda.device_count()
    if place >= there:
        raise InputError(f"`device` cuda: expected a GPU for each process of a machine, got {there}; start fewer")
    torch.cuda.set_device(place)
    return f"cuda:{place}"
