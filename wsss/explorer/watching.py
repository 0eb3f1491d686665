"""Looking in on a computation of PyTorch from within its own thread: how far it is, and whether it is still wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch.overrides import TorchFunctionMode

from wsss.explorer.explained import Progress

T = TypeVar("T")

EVERY = 16
"""Calls of PyTorch between two looks."""


class Watcher:
    """Tells progress from the number of calls that the same computation took the last time."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, int] = {}

    def run(self, what: Hashable, compute: Callable[[], T], told: Progress) -> T:
        """What `compute` gives. `told` hears of it every few calls, and may raise to end it there.

        Args:
            what: a name for computations that take as many calls; not told apart from others of that name.
        """
        watch = _Watch(told, self._calls.get(what))
        with watch:
            result = compute()
        self._calls[what] = watch.calls
        return result


class _Watch(TorchFunctionMode):
    def __init__(self, told: Progress, expected: int | None) -> None:
        super().__init__()
        self.calls, self._told, self._expected = 0, told, expected

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls % EVERY == 0:
            self._told(min(self.calls / self._expected, 1.0) if self._expected else None)
        return func(*args, **(kwargs or {}))
