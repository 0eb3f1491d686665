"""The one thread that the model works in, and the wishes of visitors that wait for it in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from wsss.explorer.explained import Cancelled, Progress
from wsss.explorer.sessions import Session

T = TypeVar("T")

TELL_S = 0.25
"""Seconds between two words about work that goes on."""


@dataclass(frozen=True)
class Waiting:
    """Work goes on: for so many seconds, so far (0 to 1, None: nobody knows)."""

    seconds: float
    share: float | None


@dataclass(frozen=True)
class Done(Generic[T]):
    """Work is done."""

    result: T


class Worker:
    """A model serves one wish at a time: it would not be faster with two, and an explanation needs it for itself."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "model")

    def run(
        self, session: Session, place: str, compute: Callable[[Progress], T], ticket: int | None = None
    ) -> Iterator[Waiting | Done[T]]:
        """What `compute` gives, words of waiting before it; nothing at all once the visitor wishes for something else.

        Args:
            place: of the page; a later wish for it makes this one void, and ends its work.
            ticket: of the wish, see `Session.ticket`; a new one unless given.

        Raises:
            Whatever `compute` raises, `Cancelled` excepted, while the wish holds.
        """
        ticket = session.ticket(place) if ticket is None else ticket
        began, share = time.monotonic(), None

        def told(now: float | None) -> None:
            nonlocal share
            share = now
            if not session.holds(place, ticket):
                raise Cancelled

        def job() -> T:
            told(None)
            return compute(told)

        future = self._thread.submit(job)
        try:
            while not wait([future], TELL_S).done:
                if not session.holds(place, ticket):
                    return
                yield Waiting(time.monotonic() - began, share)
            try:
                result = future.result()
            except Cancelled:
                return
            except Exception:
                if session.holds(place, ticket):
                    raise
                return
            if session.holds(place, ticket):
                yield Done(result)
        finally:
            if not future.done():  # the page was closed: nobody waits any more
                session.drop(place, ticket)

    def submit(self, compute: Callable[[Progress], object]) -> None:
        """Work that nobody waits for; if it fails, whoever asks for the same hears of it."""
        self._thread.submit(compute, lambda share: None)

    def close(self) -> None:
        """End the thread once its work is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)
