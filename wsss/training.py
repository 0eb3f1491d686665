"""What every training here shares: randomness that is a function of (seed, epoch, index), and a state to go on from.

With `augment` and `weights` the modules of the ground floor that import torch.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import data

from wsss.errors import InputError
from wsss.processes import from_first, local_rank, size
from wsss.store import atomic
from wsss.store.spelling import respelt


def stable_seed(*numbers: int) -> int:
    """A 63-bit seed from non-negative numbers; near ones give unrelated seeds, trailing zeros do not count."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class EpochBatches(data.Sampler):
    """Batches of (epoch, index) in an order that depends on (seed, epoch) alone. Set `epoch` before every pass."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def images(self, step: int) -> int:
        """How many images the batch of that number in an epoch has: the last one may have fewer than the others."""
        return min(self.batch_size, self.count - step * self.batch_size)

    def __iter__(self) -> Iterator[list[Any]]:
        epoch = self.epoch
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count).tolist()
        for start in range(0, self.count, self.batch_size):
            yield [(epoch, index) for index in order[start : start + self.batch_size]]


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
