"""What all commands share in a terminal: how lists are given, how progress is told, how help reads."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from cyclopts import App, Argument
from small_networks import APPS

from wsss import progress
from wsss.progress import track


def commands() -> Iterator[tuple[str, str, App]]:
    for program, app in APPS.items():
        for name in app:
            if not name.startswith("-"):
                yield program, name, app[name]


def arguments(command: App) -> list[Argument]:
    return list(command.assemble_argument_collection())


def is_list(hint: object) -> bool:
    if typing.get_origin(hint) in (list, tuple):
        return True
    return any(is_list(one) for one in typing.get_args(hint))


def example(hint: object) -> tuple[str, str]:
    """Two values of the type that a list holds, as they are typed."""
    return ("8", "16") if "int" in str(hint) or "float" in str(hint) else ("x", "y")


def needed(command: App, but: str) -> list[str]:
    """Something for every argument that a command does not go without, the positional ones last."""
    asked = [one for one in arguments(command) if one.required and one.name != but]
    named = [word for one in asked if one.index is None for word in (one.name, example(one.hint)[0])]
    return [*named, *(["--", "here.png"] if any(one.index is not None for one in asked) else [])]


TOGETHER = {"--network.levels": ["--network.widths", "8", "8"], "--network.widths": ["--network.levels", "1", "2"]}
"""Lists of one length, so that the one is not taken without the other."""

LISTS = [
    pytest.param(program, name, one.name, example(one.hint), id=f"{program} {name} {one.name}")
    for program, name, command in commands()
    for one in arguments(command)
    if is_list(one.hint) and one.index is None
]


@pytest.mark.parametrize(("program", "name", "option", "values"), LISTS)
def test_lists_are_given_at_once_and_one_by_one(program: str, name: str, option: str, values: tuple[str, str]) -> None:
    def parsed(*words: str) -> object:
        app = APPS[program]
        line = [name, *words, *TOGETHER.get(option, []), *needed(app[name], option)]
        bound = app.parse_args(line, exit_on_error=False, print_error=False)[1]
        return bound.arguments

    first, second = values
    at_once, one_by_one = parsed(option, first, second), parsed(option, first, option, second)
    assert at_once == one_by_one == parsed(f"{option}={first}", f"{option}={second}")
    assert first in str(at_once) and second in str(at_once)


def test_the_list_options_are_all_there() -> None:
    assert len(LISTS) > 35
    assert {"vitseg explain --classes", "cnnseg evolution --images", "wsss compare --images"} <= {
        str(one.id) for one in LISTS
    }


# Progress


@pytest.mark.parametrize(
    ("total", "told"),
    [
        (0, []),
        (1, []),
        (3, ["3/3"]),
        (10, [f"{n}/10" for n in range(1, 11)]),
        (95, [*(f"{n}/95" for n in range(10, 91, 10)), "95/95"]),
        (1000, [f"{n}/1000" for n in range(100, 1001, 100)]),
    ],
)
def test_a_file_gets_a_line_per_tenth(total: int, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(total), "look")) == list(range(total))
    assert capsys.readouterr().out.splitlines() == [f"look: {one}" for one in told]
    assert list(track(iter(range(total)), "look", total=total)) == list(range(total))
    assert capsys.readouterr().out.splitlines() == [f"look: {one}" for one in told]


def test_progress_of_unknown_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(track(iter(range(250)), "look"))) == 250
    assert capsys.readouterr().out.splitlines() == ["look: 100/?", "look: 200/?", "look: 250/250"]


def test_few_slow_items_are_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    list(track(range(3), "look"))
    assert capsys.readouterr().out.splitlines() == ["look: 1/3", "look: 2/3", "look: 3/3"]
