"""The page itself: Gradio's components, and what happens where on a click."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html import escape
from typing import Any, Literal

from wsss.errors import InputError
from wsss.explorer import downloads, widgets
from wsss.explorer.asking import MULTIPLES, Explorer
from wsss.explorer.explained import ExplainedModel, Setting
from wsss.explorer.panels import PLACES, Panel, layer_choices, make_panel, method_of, setting_of, settings_of
from wsss.explorer.sessions import Session, number
from wsss.explorer.uploads import decoded
from wsss.explorer.work import Done, Waiting
from wsss.extras import extra

with extra("explorer"):
    import gradio as gr

Updates = Iterator[dict[Any, Any]]
"""Of components, one after the other."""

_EVENT = {"show_progress": "hidden", "trigger_mode": "multiple", "api_visibility": "private"}


class Page:
    """The page of an explorer, as ``blocks``."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.explained = explorer, explorer.explained
        with gr.Blocks(title="relseg explorer", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(_header(self.explained), apply_default_css=False, elem_id="header")
            with gr.Row(elem_id="board"):
                with gr.Column(elem_classes="card", elem_id="left", min_width=320, scale=6):
                    self.stage = widgets.stage()
                self.panels = [make_panel(self.explained, place, shown=place == PLACES[0]) for place in PLACES]
            with gr.Row(elem_id="actions"):
                self.compare = gr.Checkbox(False, label="Second settings beside the first", elem_id="compare")
                self.all_classes = gr.Button("All classes", elem_id="all-classes")
                self.all_layers = gr.Button("All layers", elem_id="all-layers")
            self.tiles = widgets.tiles_view()
            self.courier = widgets.courier()
            self._wire()

    # Which component calls what

    def _wire(self) -> None:
        stage, panels = self.stage, self.panels
        settings = [self.compare, *(one for panel in panels for one in panel.inputs)]
        views = [panel.view for panel in panels]
        everything = [stage, *views, *(panel.layer for panel in panels), self.tiles]
        self.blocks.load(self._opened_first, settings, everything, **_EVENT)
        stage.photo(self._opened, settings, everything, **_EVENT)
        stage.example(self._opened_example, settings, everything, **_EVENT)
        stage.draw(self._drew, settings, [stage, *views], **_EVENT)
        stage.pick(self._picked, settings, [stage, *views], **_EVENT)
        stage.whole(self._took_whole, settings, [stage, *views], **_EVENT)
        for panel in panels:
            panel.method.input(
                self._method_chosen(panel), panel.inputs, [panel.rules, panel.layer, panel.view], **_EVENT
            )
            for one in (panel.target, panel.rules, panel.layer, panel.score):
                one.input(self._chosen(panel), panel.inputs, panel.view, **_EVENT)
            panel.view.download(self._download(panel.place), None, self.courier, **_EVENT)
            panel.view.cancel(self._cancelled, None, None, **_EVENT)
        second = panels[1]
        self.compare.input(self._compared, [self.compare, *second.inputs], [second.column, second.view], **_EVENT)
        self.all_classes.click(self._series("classes"), panels[0].inputs, self.tiles, **_EVENT)
        self.all_layers.click(self._series("layers"), panels[0].inputs, self.tiles, **_EVENT)
        self.tiles.cancel(self._cancelled, None, None, **_EVENT)
        self.blocks.unload(self._left)

    # Photographs

    def _opened_first(self, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)
        yield from self._looked(key, lambda: self.explorer.open_example(key, 0), given)

    def _opened(self, event: gr.EventData, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)

        def steps() -> Iterator[Any]:
            name, content = decoded(event._data)
            return self.explorer.open(key, content, name)

        yield from self._looked(key, steps, given)

    def _opened_example(self, event: gr.EventData, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)
        yield from self._looked(key, lambda: self.explorer.open_example(key, _member(event, "index")), given)

    def _looked(self, key: str, steps: Callable[[], Iterator[Any]], given: tuple[Any, ...]) -> Updates:
        """Open a photograph, then make its maps; a line where that cannot be."""
        found, begun = None, number()
        try:
            for step in steps():
                if isinstance(step, Done):
                    found = step.result
                else:
                    yield {self.stage: {"number": begun, "keep": True, "line": f"Looking at it, {step.seconds:.0f} s"}}
        except InputError as error:
            yield {self.stage: self._stage(key, error)}
            return
        if found is None:  # cancelled, or another one was opened
            yield {self.stage: self._stage(key)}
            return
        choices = layer_choices(found.look.layers)
        lists = {panel.layer: gr.update(choices=choices) for panel in self.panels}
        yield {self.stage: self._stage(key), self.tiles: {"number": number()}, **lists}
        yield from self._maps(key, settings_of(self.explained, given))

    # Regions

    def _drew(self, event: gr.EventData, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)
        yield from self._changed(key, lambda: self.explorer.draw(key, event._data), given)

    def _picked(self, event: gr.EventData, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)
        index, mode = _member(event, "index"), _member(event, "mode")
        if not self.explained.segments:  # a class is what is explained, not where
            yield from self._maps(
                key, {p: replace(s, target=index) for p, s in settings_of(self.explained, given).items()}
            )
            return
        yield from self._changed(key, lambda: self.explorer.pick(key, index, mode), given)

    def _took_whole(self, request: gr.Request, *given: Any) -> Updates:
        key = _key(request)
        yield from self._changed(key, lambda: self.explorer.whole(key), given)

    def _changed(self, key: str, change: Callable[[], None], given: tuple[Any, ...]) -> Updates:
        """Change the region, then make the maps anew; a line where that cannot be."""
        try:
            change()
        except InputError as error:
            yield {self.stage: self._stage(key, error)}
            return
        yield {self.stage: self._stage(key)}
        yield from self._maps(key, settings_of(self.explained, given))

    def _stage(self, key: str, error: InputError | None = None) -> dict[str, Any]:
        own = number()  # before the session is looked at: of two values the later one is not the older state
        line = "" if error is None else str(error)
        value = widgets.stage_value(self.explained, self.explorer.session(key), line, wrong=error is not None)
        return {**value, "number": own}

    # Maps

    def _method_chosen(self, panel: Panel) -> Callable[..., Updates]:
        def run(request: gr.Request, *values: Any) -> Updates:
            setting = setting_of(self.explained, values)
            method = method_of(self.explained, setting.method)
            yield {
                panel.rules: gr.update(visible=method.takes_rules),
                panel.layer: gr.update(visible=method.takes_layer),
            }
            yield from self._maps(_key(request), {panel.place: setting})

        return run

    def _chosen(self, panel: Panel) -> Callable[..., Updates]:
        def run(request: gr.Request, *values: Any) -> Updates:
            yield from self._maps(_key(request), {panel.place: setting_of(self.explained, values)})

        return run

    def _compared(self, request: gr.Request, shown: bool, *values: Any) -> Updates:
        second = self.panels[1]
        yield {second.column: gr.update(visible=shown)}
        if shown:
            yield from self._maps(_key(request), {second.place: setting_of(self.explained, values)})

    def _maps(self, key: str, asked: Mapping[str, Setting]) -> Updates:
        session = self.explorer.session(key)
        tickets = {place: session.ticket(place) for place in asked}  # of all at once: cancelling the first ends all
        for place, setting in asked.items():
            view = next(panel.view for panel in self.panels if panel.place == place)
            ticket, step = tickets[place], None
            try:
                for step in self.explorer.map(key, place, setting, ticket):
                    if isinstance(step, Waiting):
                        yield {view: widgets.busy_value(step, ticket)}
                    else:
                        yield {view: widgets.map_value(self.explained, step.result, ticket)}
                if not isinstance(step, Done):
                    yield {view: _last_word(session, place, ticket)}
            except InputError as error:
                yield {view: widgets.said(str(error), ticket)}

    def _series(self, over: Literal["classes", "layers"]) -> Callable[..., Updates]:
        def run(request: gr.Request, *values: Any) -> Updates:
            key, setting = _key(request), setting_of(self.explained, values)
            title, share = f"{setting.method}: all {over}", 0.0
            session = self.explorer.session(key)
            ticket = session.ticket(MULTIPLES)
            try:
                for tiles, share in self.explorer.multiples(key, setting, over, ticket):
                    yield {self.tiles: widgets.tiles_value(title, ticket, tiles, share if share < 1 else None)}
                if share < 1:
                    yield {self.tiles: _last_word(session, MULTIPLES, ticket)}
            except InputError as error:
                yield {self.tiles: {"title": title, **widgets.said(str(error), ticket)}}

        return run

    def _cancelled(self, request: gr.Request) -> None:
        """Says nothing itself: whoever is at work for the visitor has the last word about it."""
        self.explorer.cancel(_key(request))

    # Everything else

    def _download(self, place: str) -> Callable[..., dict[str, Any]]:
        def run(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            made = self.explorer.session(_key(request)).made.get(place)
            if made is None:
                return {}
            what, opacity = _member(event, "what"), _member(event, "opacity")
            if what == "map":
                file = downloads.map_file(self.explained, made)
            elif what == "settings":
                file = downloads.settings_file(self.explained, made)
            else:
                file = downloads.picture_file(self.explained, made, opacity if isinstance(opacity, int | float) else 1)
            return widgets.file_value(file, number())

        return run

    def _left(self, request: gr.Request) -> None:
        self.explorer.sessions.forget(_key(request))


def _last_word(session: Session, place: str, ticket: int) -> dict[str, Any]:
    """About a wish that came to nothing: that it was cancelled; none where another one has taken the place."""
    return gr.skip() if session.replaced(place, ticket) else widgets.stopped_value(ticket)


def _key(request: gr.Request) -> str:
    return str(request.session_hash)


def _member(event: gr.EventData, name: str) -> Any:
    """What came with an event; anybody may send anything."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def _header(explained: ExplainedModel) -> str:
    asked = "Why does it say that <em>there</em>?" if explained.segments else "Why does it say that?"
    title = f"<p class='title'>{escape(explained.title)}</p>"
    return f"<header><p class='brand'>relseg explorer</p><h1>{asked}</h1>{title}</header>"
