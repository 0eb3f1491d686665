"""All that a visitor can do, as calls in Python: the page passes clicks on to these and shows what comes back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from wsss.errors import InputError
from wsss.explorer import pictures
from wsss.explorer.drawing import Mode, Stroke, after_stroke, combined
from wsss.explorer.explained import ExplainedModel, LayerChoice, Progress, Region, Setting
from wsss.explorer.sessions import Made, Photograph, Session, Sessions
from wsss.explorer.uploads import read_photograph
from wsss.explorer.work import Done, Waiting, Worker
from wsss.extras import extra
from wsss.settings import validation_line
from wsss.store import voc_palette

NO_PHOTOGRAPH = "Open a photograph first; those of visitors who are idle for half an hour are forgotten."
MULTIPLES = "multiples"
"""The place of the small multiples; those of single maps are named by the page."""

MOST_CLASSES = 24
"""Of the small multiples, and of the list: classifiers may have a thousand."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One of the small multiples; `made` is None where there is nothing to explain, and `note` says why."""

    name: str
    note: str
    made: Made | None


class Explorer:
    """A model and its visitors. Visitors are told apart by a key; any thread may call."""

    def __init__(self, explained: ExplainedModel, sessions: Sessions | None = None) -> None:
        self.explained = explained
        self.sessions = sessions or Sessions()
        self._worker = Worker()
        self._example = cache(self._looked_at_example)

    def close(self) -> None:
        """Give the thread back."""
        self._worker.close()

    def warm_up(self) -> None:
        """Make the first map of the first example ahead of the first visitor, as a model's first pass takes longest."""
        first = Setting(self.explained.methods[0].name)

        def compute(told: Progress) -> None:
            photograph = self._example(0)
            self.explained.explain(photograph.look, first, self._first_region(photograph), told)

        self._worker.submit(compute)

    def session(self, key: str) -> Session:
        """The visitor of a key."""
        return self.sessions.of(key)

    # What is looked at

    def open(self, key: str, content: bytes, name: str) -> Iterator[Waiting | Done[Photograph]]:
        """Another photograph, from the bytes of its file; its region is what is most of it beside background.

        Raises:
            InputError: see `read_photograph`, or a photograph that the model cannot take. The old one stays.
        """
        session = self.session(key)
        image = read_photograph(content)
        for step in self._worker.run(
            session, "photograph", lambda told: self._looked_at(image, name[-120:], digest_of(content))
        ):
            if isinstance(step, Done):
                self._show(session, step.result)
            yield step

    def open_example(self, key: str, index: int) -> Iterator[Waiting | Done[Photograph]]:
        """One of the examples. InputError if there is none of that number."""
        session = self.session(key)
        if index not in range(len(EXAMPLES)):
            raise InputError(f"There are examples 0 to {len(EXAMPLES) - 1}.")
        for step in self._worker.run(session, "photograph", lambda told: self._example(index)):
            if isinstance(step, Done):
                self._show(session, step.result)
            yield step

    def _looked_at(self, image: np.ndarray, name: str, digest: str) -> Photograph:
        look = self.explained.look(image)
        size = pictures.shown_size(image.shape[:2])
        mask = None
        if look.mask is not None:
            mask = pictures.png_url(pictures.tint(pictures.shrunk(look.mask, size, nearest=True), voc_palette()))
        return Photograph(name, digest, look, pictures.jpeg_url(pictures.shrunk(image, size)), mask)

    def _looked_at_example(self, index: int) -> Photograph:
        content = example_file(EXAMPLES[index])
        return self._looked_at(read_photograph(content), f"{EXAMPLES[index]}.png", digest_of(content))

    def _show(self, session: Session, photograph: Photograph) -> None:
        with session.lock:
            session.cancel()
            session.photograph, session.made = photograph, {}
            session.region = self._first_region(photograph)

    def _first_region(self, photograph: Photograph) -> Region | None:
        mask = photograph.look.mask
        if mask is None:
            return None
        shares = photograph.look.shares
        best = int(np.argmax(shares[1:])) + 1 if len(shares) > 1 and max(shares[1:]) > 0 else 0
        return Region(mask == best, predicted=best)

    # Which region is meant

    def pick(self, key: str, index: Any, mode: Mode = "new") -> None:
        """The pixels that are predicted as a class. InputError if there are none, or if nothing would be left."""
        session, photograph = self._seen(key)
        mask = photograph.look.mask
        if mask is None or index not in range(len(self.explained.class_names)):
            raise InputError("There is no such class.")
        area = mask == index
        if not area.any():
            raise InputError(f"No pixel is predicted as {self.explained.class_names[index]}.")
        with session.lock:
            session.region = combined(session.region, Region(area, predicted=index), mode)

    def draw(self, key: str, stroke: Any) -> None:
        """A stroke, as `Stroke` or as what may be one. InputError for anything else, or if nothing would be left."""
        session, photograph = self._seen(key)
        try:
            known = Stroke.model_validate(stroke)
        except ValidationError as error:
            raise InputError(f"That is no stroke: {validation_line(error)[:200]}") from None
        if photograph.look.mask is None:
            raise InputError("A classifier is asked about the whole photograph.")
        with session.lock:
            session.region = after_stroke(session.region, known, photograph.look.photograph.shape[:2])

    def whole(self, key: str) -> None:
        """All pixels."""
        session, photograph = self._seen(key)
        if photograph.look.mask is not None:
            session.region = Region(np.ones(photograph.look.photograph.shape[:2], bool))

    # Maps

    def map(self, key: str, place: str, setting: Setting, ticket: int | None = None) -> Iterator[Waiting | Done[Made]]:
        """The map of the region, and words of waiting before it; it stays as the one of its place.

        Nothing more comes once the wish is void (`ticket`, see `Session.ticket`; a new one unless given).

        Raises:
            InputError: no photograph, or options that do not go together.
        """
        session, photograph = self._seen(key)
        region = session.region
        steps = self._worker.run(session, place, lambda told: self._made(photograph, region, setting, told), ticket)
        for step in steps:
            if isinstance(step, Done):
                session.made[place] = step.result
            yield step

    def multiples(
        self, key: str, setting: Setting, over: Literal["classes", "layers"], ticket: int | None = None
    ) -> Iterator[tuple[list[Tile], float]]:
        """Maps for each class, or for each layer: those that are there so far, and the share of all, 0 to 1.

        Of classes whose predicted pixels are the region each has its own pixels for region, as in figure 2 of Humer et
        al., 2022; of a region that was drawn the score of each class is explained. The share stays below 1 where the
        wish has become void (`ticket`, as in `map`).

        Raises:
            InputError: no photograph, or a method that looks at no layer.
        """
        session, photograph = self._seen(key)
        parts = self._classes(session, photograph, setting) if over == "classes" else self._layers(session, setting)
        ticket = session.ticket(MULTIPLES) if ticket is None else ticket
        tiles: list[Tile] = []
        for number, (name, region, one) in enumerate(parts):
            yield tiles, number / len(parts)
            if one is None:
                tiles = [*tiles, Tile(name, "no pixel", None)]
                continue
            tile = None

            def compute(told: Progress, region: Region | None = region, one: Setting = one) -> Made:
                return self._made(photograph, region, one, told)

            try:
                for step in self._worker.run(session, MULTIPLES, compute, ticket):
                    if isinstance(step, Done):
                        tile = Tile(name, f"score {step.result.answer.score:.2f}", step.result)
            except InputError as error:
                tile = Tile(name, str(error), None)
            if tile is None:  # something else was wished for
                return
            tiles = [*tiles, tile]
        yield tiles, 1.0

    def _made(self, photograph: Photograph, region: Region | None, setting: Setting, told: Progress) -> Made:
        began = time.perf_counter()
        answer = self.explained.explain(photograph.look, setting, region, told)
        if not np.isfinite(answer.map).all():
            raise InputError("This map has values that are not finite; try another method or composite.")
        return Made(photograph, region, setting, answer, time.perf_counter() - began)

    def _classes(
        self, session: Session, photograph: Photograph, setting: Setting
    ) -> list[tuple[str, Region | None, Setting | None]]:
        names, mask = self.explained.class_names, photograph.look.mask
        order: Sequence[int] = range(len(names))
        if mask is None:
            order = sorted(order, key=lambda index: -photograph.look.shares[index])[:MOST_CLASSES]
        found: list[tuple[str, Region | None, Setting | None]] = []
        for index in order:
            region, one = session.region, replace(setting, target=index)
            if mask is not None and region is not None and region.predicted is not None:
                region = Region(mask == index, predicted=index)
            found.append((names[index], region, one if region is None or region.area.any() else None))
        return found

    def _layers(self, session: Session, setting: Setting) -> list[tuple[str, Region | None, Setting | None]]:
        if not self._method(setting.method).takes_layer:
            able = ", ".join(method.name for method in self.explained.methods if method.takes_layer)
            raise InputError(f"{setting.method} looks at no layer; {able or 'no method here'} does.")
        return [
            (f"{layer.name} ({layer.size[0]} x {layer.size[1]})", session.region, replace(setting, layer=layer.name))
            for layer in self.layers(session)
        ]

    def layers(self, session: Session) -> tuple[LayerChoice, ...]:
        """The layers of the network with their resolution for this photograph."""
        return () if session.photograph is None else session.photograph.look.layers

    def _method(self, name: str) -> Any:
        return next((method for method in self.explained.methods if method.name == name), self.explained.methods[0])

    def cancel(self, key: str) -> None:
        """Whatever is being made for this visitor is not wanted any more."""
        self.session(key).cancel()

    def _seen(self, key: str) -> tuple[Session, Photograph]:
        session = self.session(key)
        if session.photograph is None:
            raise InputError(NO_PHOTOGRAPH)
        return session, session.photograph


def digest_of(content: bytes) -> str:
    """What `wsss.store.file_hash` gives for a file of this content."""
    return hashlib.sha256(content).hexdigest()[:16]


EXAMPLES = ("chelsea", "astronaut", "coffee", "rocket")
"""Photographs that come inside scikit-image."""


def example_file(name: str) -> bytes:
    """A photograph of scikit-image as a PNG."""
    with extra("explorer"):
        from skimage import data

    return pictures.png(getattr(data, name)(), fast=False)
