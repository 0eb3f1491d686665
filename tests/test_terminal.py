"""What all commands share in a terminal: how lists are given, how progress is told, how help reads."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App, Argument
from small_networks import APPS

from wsss import progress
from wsss.console import run
from wsss.options import suggest
from wsss.progress import track
from wsss.words import agreeing, counted


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


# Help


def help_of(program: str, *words: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run(APPS[program], [*words, "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("program", "name"), [(program, name) for program, name, _ in commands()])
def test_help_fits_a_terminal(
    program: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(program, name, capsys=capsys)
    assert max(map(len, lines)) <= 80
    usage = " ".join(" ".join(lines[: lines.index("")]).split())
    assert usage.startswith(f"Usage: {program} {name} ") and usage.endswith(" [OPTIONS]")
    panels = [line.strip("╭─╮ ") for line in lines if line.startswith("╭")]
    assert panels[-1] == "Options of every command"
    assert not any(text in "\n".join(lines) for text in ("default: (", "default: False", "default: True"))


def test_positional_arguments_stand_before_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of("vitseg", "explain", capsys=capsys)[0] == "Usage: vitseg explain IMAGES... [OPTIONS]"
    usage = help_of("wsss", "evaluate", capsys=capsys)[0]
    assert usage == "Usage: wsss evaluate NAME --data DATA --split SPLIT [OPTIONS]"


@pytest.mark.parametrize(
    ("program", "order"),
    [
        ("wsss", ["data-check", "evaluate", "compare", "status"]),
        ("vitseg", ["explain", "train-classifier", "seeds", "perturbation-test", "list-methods", "--version"]),
        ("affinity", ["labels", "train", "refine", "combine"]),
        ("cnnseg", ["explain", "train-classifier", "seeds", "segment", "train-unrolled", "region-test", "list-rules"]),
    ],
)
def test_commands_stand_in_the_order_of_their_use(
    program: str, order: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(program, capsys=capsys)
    places = [next(place for place, line in enumerate(lines) if line.startswith(f"│ {name} ")) for name in order]
    assert places == sorted(places)
    assert next(line for line in reversed(lines) if line.startswith("╭")).startswith("╭─ Options of every command")


# Faults


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("vitseg explain", "explain: expected IMAGES"),
        ("vitseg explain --classes cat a.png", "explain: expected IMAGES; give them before the options, as a list "),
        ("vitseg explain a.png --clases cat", "--clases: unknown option; did you mean --classes?"),
        ("vitseg explain a.png --quux cat", "--quux: unknown option; --help lists them"),
        ("vitseg explain a.png --top many", "--top: expected a whole number, got 'many'"),
        (
            "vitseg explain a.png --preset sead",
            "--preset: expected 'plain' or 'seed', got 'sead'; did you mean",
        ),
        ("vitseg explain a.png --sizes 32 2.5", "--sizes: expected a whole number, got 2.5"),
        ("vitseg explain a.png --sizes", "--sizes: expected a list of at least 1, got []"),
        ("vitseg explain a.png --method", "--method: expected a value"),
        ("vitseg explain a.png --power -1", "--power: expected more than 0, got -1"),
        ("vitseg seeds --data d --split s", "seeds: expected --classifier"),
        ("vitseg seeds --clasifier c --data d --split s", "seeds: expected --classifier, got --clasifier"),
        ("vitseg seeds --classifier c --data d --split s more", "more: unexpected; options are --NAME VALUE"),
        ("vitseg sedes", 'Unknown command "sedes". Did you mean "seeds"?'),
        ("wsss evaluate run --data d --split s --alpha x", "--alpha: expected a number, got 'x'"),
        (
            "cnnseg evaluate --network n --data d --split s --which lst",
            "--which: expected 'last' or 'best', got 'lst'; did",
        ),
    ],
)
def test_faults_of_a_command_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = line.split()
    assert run(APPS[program], words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("mehtod: rollout", "given.yaml: mehtod: unknown; did you mean 'method'?"),
        ("quux: 3", "given.yaml: quux: unknown; --help lists the options"),
        ("flip: maybe", "--flip: expected true or false, got 'maybe'"),
        ("sizes: [224, big]", "--sizes: expected a whole number, got 'big'"),
        ("- method", "given.yaml: expected keys such as the options of the command, got a list"),
        ("a: [", "given.yaml: not valid YAML (while parsing"),
    ],
)
def test_faults_of_a_file_of_options(
    content: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.yaml").write_text(content)
    assert run(APPS["vitseg"], ["explain", "a.png", "--config", "given.yaml"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert told in said.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("classes: cat", "data.yaml: classes: expected a list, got 'cat'"),
        ("classes: [cat, 3]", "data.yaml: classes.1: expected text, got 3"),
        ("classes: [no]", "data.yaml: classes.0: expected text, got false"),
        ("clases: [cat]", "data.yaml: clases: unknown; did you mean 'classes'? known: "),
        ("3: x", "data.yaml: 3: unknown; known: "),
        ("foreground_value: many", "data.yaml: foreground_value: expected a whole number, got 'many'"),
    ],
)
def test_faults_of_a_description_of_data(
    keys: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.yaml").write_text(f"name: mine\nlayout: folder\nroot: .\n{keys}\n")
    assert run(APPS["wsss"], ["data-check", "--data", "data.yaml"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {told}")


# Numbers


def test_nouns_and_verbs_fit_their_number() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert (counted(1, "class"), counted(7, "class")) == ("1 class", "7 classes")
    assert (agreeing(1, "is", "are"), agreeing(0, "is", "are"), agreeing(2, "is", "are")) == ("is", "are", "are")


# What comes next


@pytest.mark.parametrize("terminal", [True, False])
def test_somebody_at_a_terminal_is_told_what_comes_next(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    suggest("affinity", "labels", "--seeds", "my run", data="my.yaml", split="all", root=None, runs=Path("runs"))
    suggest("affinity", "train", data="d", split="s", root=Path("here"), runs=Path("elsewhere"))
    told = capsys.readouterr().out.splitlines()
    assert told == terminal * [
        "next: affinity labels --seeds 'my run' --data my.yaml --split all",
        "next: affinity train --data d --split s --root here --runs elsewhere",
    ]
