"""What is loaded for a package, and for the help of a command: nothing that takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "cv2", "scipy", "sklearn", "matplotlib", "gradio", "jinja2", "h5py")
PACKAGES = ("wsss", "vitseg", "cnnseg", "affinity")

LOADED = """
import contextlib, io, sys
from importlib import import_module
program, *tokens = sys.argv[1:]
module = import_module(program)
if tokens:
    from wsss.console import run
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert run(import_module(f"{program}.cli").app, tokens) == 0
    assert "Usage" in shown.getvalue() or "PyTorch" in shown.getvalue()
print(*{name.partition(".")[0] for name in sys.modules})
"""


def loaded(*arguments: str) -> set[str]:
    """Top-level modules after a package was imported, and a command line of it run."""
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_loads_what_is_asked_of_it(package: str) -> None:
    assert not loaded(package) & {*HEAVY, "numpy", "PIL", "pydantic", "cyclopts"}


@pytest.mark.parametrize(
    "command",
    ["wsss --help", "vitseg --help", "vitseg explain --help", "vitseg --version", "cnnseg --help", "affinity --help"],
)
def test_help_loads_no_library_that_takes_seconds(command: str) -> None:
    assert not loaded(*command.split()) & set(HEAVY)
