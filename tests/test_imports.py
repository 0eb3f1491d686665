"""What importing needs: floors import downwards only, and the libraries load no command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"wsss": (), "affinity": ("wsss",), "cnnseg": ("wsss",), "vitseg": ("wsss",)}


def imported(module: Path) -> set[str]:
    """The packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_downwards(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        upwards = imported(module) & set(FLOORS) - {package, *FLOORS[package]}
        assert not upwards, f"{module} imports {upwards}"


def test_the_libraries_load_no_command_line() -> None:
    code = (
        "import sys, affinity.crf, affinity.refine, vitseg, cnnseg, wsss\n"
        "vitseg.explain, cnnseg.explain, cnnseg.load_network, wsss.perturbation_test\n"
        "sys.exit(' '.join({'cyclopts', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
