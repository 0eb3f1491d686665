"""A set of settings on the page, and from its lists to a `Setting`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsss.errors import InputError
from wsss.explorer import widgets
from wsss.explorer.explained import ExplainedModel, LayerChoice, MethodChoice, Setting
from wsss.extras import extra

with extra("explorer"):
    import gradio as gr

PLACES = ("a", "b")
"""Of the page, for a set of settings with its map each; the second is not always shown."""

USUAL = ""
"""What stands in a list for: whatever is usual."""

AS_PREDICTED = -1


@dataclass(frozen=True, eq=False)
class Panel:
    """One set of settings with the map that they make. ``place``: one of `PLACES`."""

    place: str
    column: gr.Column
    target: gr.Dropdown
    method: gr.Dropdown
    rules: gr.Dropdown
    layer: gr.Dropdown
    score: gr.Dropdown
    view: gr.HTML

    @property
    def inputs(self) -> list[gr.Dropdown]:
        """What `setting_of` reads, in its order."""
        return [self.target, self.method, self.rules, self.layer, self.score]


def make_panel(explained: ExplainedModel, place: str, *, shown: bool) -> Panel:
    """The components of a panel, for a model."""
    first, names = explained.methods[0], explained.class_names
    targets = [("as predicted there" if explained.segments else "the most probable", AS_PREDICTED)]
    targets += [(name, index) for index, name in enumerate(names)]
    with gr.Column(visible=shown, elem_classes="card", elem_id=f"panel-{place}", min_width=320, scale=5) as column:
        with gr.Row(elem_classes="settings"):
            method = _list("Method", [(one.name, one.name) for one in explained.methods], first.name)
            target = _list("Class", targets, AS_PREDICTED)
            composites = [("usual", USUAL), *((name, name) for name in explained.rules)]
            rules = _list("Composite", composites, USUAL, visible=first.takes_rules)
            layer = _list("Layer", [("usual", USUAL)], USUAL, visible=first.takes_layer)
            scores = [(name, name) for name in explained.scores]
            score = _list("Score", scores, explained.scores[0], visible=len(scores) > 1)
        view = widgets.map_view(place)
    return Panel(place, column, target, method, rules, layer, score, view)


def setting_of(explained: ExplainedModel, values: Sequence[Any]) -> Setting:
    """What the lists of a panel say; options that the method does not have are left out.

    Raises:
        InputError: values that are in no list.
    """
    target, name, rules, layer, score = values
    method = method_of(explained, name)
    known = target == AS_PREDICTED or target in range(len(explained.class_names))
    if not known or score not in explained.scores or rules not in (USUAL, None, *explained.rules):
        raise InputError("There is no such class, composite or score.")
    return Setting(
        method.name,
        (rules or None) if method.takes_rules else None,
        (layer or None) if method.takes_layer else None,
        None if target == AS_PREDICTED else int(target),
        score,
    )


def settings_of(explained: ExplainedModel, given: Sequence[Any]) -> dict[str, Setting]:
    """Place -> setting, of the panels that are shown: `given` is whether both are, and the values of both."""
    both, values = given[0], given[1:]
    each = len(values) // len(PLACES)
    own = {place: values[n * each : (n + 1) * each] for n, place in enumerate(PLACES)}
    return {place: setting_of(explained, own[place]) for place in (PLACES if both else PLACES[:1])}


def layer_choices(layers: Sequence[LayerChoice]) -> list[tuple[str, str]]:
    """For the list: the layers in order, with their resolution."""
    return [("usual", USUAL), *((f"{one.name} ({one.size[0]} x {one.size[1]})", one.name) for one in layers)]


def method_of(explained: ExplainedModel, name: str) -> MethodChoice:
    """The method of a name. InputError if there is none."""
    found = next((method for method in explained.methods if method.name == name), None)
    if found is None:
        raise InputError("There is no such method.")
    return found


def _list(label: str, choices: list[tuple[str, Any]], value: Any, *, visible: bool = True) -> gr.Dropdown:
    return gr.Dropdown(choices, value=value, label=label, visible=visible, min_width=140)
