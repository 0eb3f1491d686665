"""The visitors of the page, kept apart: each has a photograph, a region and maps of his own, for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from wsss.explorer.explained import Answer, Look, Region, Setting

IDLE_S = 1800
"""Seconds after which a visitor who does nothing is forgotten."""

ROOM = 1_000_000_000
"""Bytes that the photographs of all visitors may take."""

MOST = 200
"""Visitors at a time."""

_NUMBERS = count(1)


def number() -> int:
    """Greater than all that were given out before, to whichever visitor."""
    return next(_NUMBERS)


@dataclass(frozen=True, eq=False)
class Photograph:
    """What a visitor looks at; `name` and `hash` of the file go into the settings."""

    name: str
    hash: str
    look: Look
    url: str
    mask_url: str | None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        mask = self.look.mask
        return self.look.photograph.nbytes * 2 + (0 if mask is None else mask.nbytes) + len(self.url)


@dataclass(frozen=True, eq=False)
class Made:
    """A map with all that it was made of, and the seconds that it took."""

    photograph: Photograph
    region: Region | None
    setting: Setting
    answer: Answer
    seconds: float = 0.0


@dataclass(eq=False)
class Session:
    """One visitor. `tickets`: the number of the wish for each place of the page that holds; all others are void."""

    used: float = field(default_factory=time.monotonic)
    photograph: Photograph | None = None
    region: Region | None = None
    made: dict[str, Made] = field(default_factory=dict)
    tickets: dict[str, int] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    def ticket(self, place: str) -> int:
        """A new wish for a place; whatever was wished before is void."""
        with self.lock:
            self.tickets[place] = number()
            return self.tickets[place]

    def holds(self, place: str, ticket: int) -> bool:
        """Whether a wish is neither cancelled nor replaced."""
        return self.tickets.get(place) == ticket

    def replaced(self, place: str, ticket: int) -> bool:
        """Whether something else has been wished for since."""
        return self.tickets.get(place, ticket) != ticket

    def drop(self, place: str, ticket: int) -> None:
        """A wish is void, unless it is already."""
        with self.lock:
            if self.holds(place, ticket):
                del self.tickets[place]

    def cancel(self) -> None:
        """All wishes are void."""
        with self.lock:
            self.tickets.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of memory, about."""
        return 0 if self.photograph is None else self.photograph.nbytes


class Sessions:
    """All visitors by their keys. The idle ones go first where there are too many, or too much."""

    def __init__(self, *, idle_s: float = IDLE_S, room: int = ROOM, most: int = MOST) -> None:
        self._idle_s, self._room, self._most = idle_s, room, most
        self._all: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: str) -> Session:
        """The visitor of a key, a new one if there is none (any more)."""
        with self._lock:
            session = self._all.pop(key, None) or Session()
            session.used = time.monotonic()
            self._all[key] = session  # the latest is last
            self._tidy()
            return session

    def forget(self, key: str) -> None:
        """The visitor has left."""
        with self._lock:
            session = self._all.pop(key, None)
        if session is not None:
            session.cancel()

    def __len__(self) -> int:
        return len(self._all)

    def _tidy(self) -> None:
        held = sum(session.nbytes for session in self._all.values())
        for key, session in list(self._all.items())[:-1]:
            idle = time.monotonic() - session.used > self._idle_s
            if not (idle or held > self._room or len(self._all) > self._most):
                return
            held -= session.nbytes
            del self._all[key]
            session.cancel()
