"""The two faces of a message: arguments for a Python program, options where a command runs."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App, Parameter
from small_run import make_data

from cnnseg.cli import app as cnnseg
from vitseg.cli import app as vitseg
from wsss import naming
from wsss.console import LISTS, Flat, run
from wsss.data import load_dataset
from wsss.errors import InputError
from wsss.progress import note, warn
from wsss.settings import Config
from wsss.training import choose_device


class Inner(Config):
    levels: tuple[int, ...] = (1,)
    size: int = 1


class Outer(Config):
    inner: Inner = Inner()
    batch_size: int = 4


def app_that(says: str) -> App:
    app = App(name="made", default_parameter=LISTS)

    @app.command
    def go(
        *,
        size: int = 0,
        class_name: Annotated[str, Parameter(name="--class")] = "",
        former: Annotated[str, Parameter(show=False)] = "",
        cfg: Annotated[Outer, Flat] = Outer(),
    ) -> None:
        note(says)
        warn(says)
        raise InputError(says)

    return app


def test_the_example_of_the_docstring() -> None:
    found = doctest.testmod(naming)
    assert found.attempted and not found.failed


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        ("`batch_size` 0: expected at least 1", "--batch-size 0: expected at least 1"),
        ("`size` 3, `class_name` cat", "--size 3, --class cat"),  # the command's own before that of nested settings
        ("`levels` 3 1: expected ascending ones", "--inner.levels 3 1: expected ascending ones"),
        ("`config` x: no such file", "--config x: no such file"),
        ("lower `lr`; `made go` has `former`", "lower `lr`; `made go` has `former`"),  # no option of this command
        ("an image of 3 x 4", "an image of 3 x 4"),
    ],
)
def test_options_where_a_command_runs(says: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_that(says), ["go", "--batch-size", "2"]) == 2
    out, err = capsys.readouterr()
    assert out == f"{shown}\n" and err == f"warning: {shown}\nerror: {shown}\n"
    note(says)
    assert capsys.readouterr().out == f"{says}\n"  # as before, once the command has ended


def test_one_mistake_from_python_and_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data")
    with pytest.raises(InputError, match=r"^`precision` float64: `device` mps has single precision alone"):
        choose_device("mps", "float64")
    with pytest.raises(InputError, match=r"^`foreground_value` 0: expected a pixel value from 1 to 255"):
        load_dataset(data, "val", foreground_value=0)
    options = ["--split", "val", "--data", str(data), "--runs", str(tmp_path)]
    devices = ["--device", "mps", "--precision", "float64"]
    assert run(vitseg, ["perturbation-test", "--architecture", "test_vit", *options, *devices]) == 2
    assert capsys.readouterr().err.startswith("error: --precision float64: --device mps has single precision alone")
    assert run(cnnseg, ["evaluate", "--network", "x", *options, "--foreground-value", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --foreground-value 0: expected a pixel value from 1 to 255")


def test_what_a_validator_of_an_option_says_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(vitseg, ["explain", "a.png", "--classifier", "x", "--out", str(tmp_path / "file")]) == 2
    line = f"error: --out {tmp_path / 'file'}: expected a folder, or a name that is free, got a file\n"
    assert capsys.readouterr().err == line
