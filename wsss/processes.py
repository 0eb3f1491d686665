"""Several processes at one piece of work, on one machine or more. Alone, all of this is idle.

They are started by torchrun and then talk with each other, or by anything else, each with its ``--shard``, and then do
not. Work that is image by image is divided in one way, `portion`, whatever the command; a training (`wsss.distributed`)
needs processes that talk.

Importing it costs no torch. What trainings need of it beside this is in `wsss.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from wsss.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""One process evaluates while the others wait. That one has died is seen at once, by a closed connection."""


@dataclass(frozen=True)
class _Group:
    rank: int
    size: int
    store: Store


_group: _Group | None = None
_shard = (1, 1)


def rank() -> int:
    """The number of this process among those that work together, from 0."""
    return _group.rank if _group else 0


def size() -> int:
    """How many processes work together."""
    return _group.size if _group else 1


def is_first() -> bool:
    """Whether this process is the one that prints, and that writes what there is one of."""
    return rank() == 0


@contextmanager
def processes() -> Iterator[None]:
    """Inside, this process works together with all that torchrun has started (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    Commands open this themselves (`wsss.console.run`); a program of one's own that torchrun starts has to. Leaving it
    waits for the others.

    Raises InputError if these variables are not all there.
    """
    global _group, _shard
    if _group is not None or os.environ.get("WORLD_SIZE", "1") == "1":
        try:
            yield
        finally:
            _shard = (1, 1)
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # that connections close when a process ends is no news
    import torch
    from torch import distributed

    try:
        store, own, count = next(distributed.rendezvous("env://"))
    except ValueError as error:
        raise InputError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: {error}; start the command with torchrun") from None
    both = torch.cuda.is_available() and distributed.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if both else "gloo"
    distributed.init_process_group(backend, store=store, rank=own, world_size=count, timeout=PATIENCE)
    _group = _Group(own, count, store)
    try:
        yield
        wait()
        distributed.destroy_process_group()  # not after an error: that would wait for processes that are gone
    except Exception as error:
        if not lost(error):
            tells()  # of this, by its traceback
        raise
    finally:
        _group, _shard = None, (1, 1)


def tells() -> bool:
    """Whether this process may tell of its end: the first of all that fail does, whatever the others die of then."""
    if _group is None:
        return True
    with suppress(RuntimeError):  # the store went with the process that held it
        return _group.store.add("failures", 1) == 1
    return False


def lost(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    if _group is None or not isinstance(error, RuntimeError):
        return False
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all of them; the others do not call it."""
    if _group is None:
        return make()
    from torch import distributed

    box: list[Any] = [make() if is_first() else None]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(mine: T) -> list[T]:
    """The values of all processes, in the order of their numbers."""
    if _group is None:
        return [mine]
    from torch import distributed

    found: list[T] = [mine] * size()
    distributed.all_gather_object(found, mine)
    return found


def wait() -> None:
    """Return when all processes have come here."""
    gathered(None)


def share(items: Sequence[T]) -> list[T]:
    """What falls to this process of items that are the same in all: none twice, none left out."""
    return list(items[rank() :: size()])


def take_shard(text: str) -> None:
    """From now on `portion` gives this process the part of ``--shard i/n`` alone. InputError if it is anything else."""
    global _shard
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise InputError(f"`shard` {text}: expected i/n with 1 <= i <= n, such as 1/4")
    _shard = int(part), int(parts)


def is_sharded() -> bool:
    """Whether this process has a shard: others, of which it does not know, may be writing the same stages."""
    return _shard[1] > 1


def shard() -> str:
    """This process's shard as it was given, "i/n"; "1/1" without one."""
    return "/".join(map(str, _shard))


def of_shard(items: Sequence[T]) -> Sequence[T]:
    """The items of this process's shard; all of them without one."""
    part, parts = _shard
    return items[part - 1 :: parts]


def of_other_shards(items: Sequence[T]) -> Sequence[T]:
    """All other items; none without a shard."""
    part, parts = _shard
    return [item for place, item in enumerate(items) if place % parts != part - 1]


def portion(items: Sequence[T], missing: Callable[[Sequence[T]], list[R]]) -> list[R]:
    """What this process has to make: of the items of its shard those that are `missing`, shared among all that talk.

    Shards are cut from all items, so that they stay the same whatever is there already; what a process that died has
    left is found by the next call with its shard, or without one, and is shared anew.

    Args:
        items: in one order in all processes.
        missing: items -> what of them is not there yet; called in the first process alone.
    """
    return share(from_first(lambda: missing(of_shard(items))))


def local_size() -> int:
    """How many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if _group else 1


def local_rank() -> int:
    """The number of this process among those on this machine: which of its GPUs it takes."""
    return int(os.environ.get("LOCAL_RANK", rank())) if _group else 0
