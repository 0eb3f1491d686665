"""Imports run downwards: vitseg, cnnseg and affinity stand on wsss, and know nothing of each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {"wsss": {"wsss"}, "vitseg": {"vitseg", "wsss"}, "cnnseg": {"cnnseg", "wsss"}, "affinity": {"affinity", "wsss"}}


def imported(path: Path) -> set[str]:
    """The packages that a module imports, at its top or inside its functions, by statement or by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {str(one.value).split(".")[0] for one in node.args if isinstance(one, ast.Constant)}
    return found


@pytest.mark.parametrize("package", BELOW)
def test_imports_run_downwards(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for path in modules:
        above = (imported(path) & set(BELOW)) - BELOW[package]
        assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))}"


def test_an_import_upwards_is_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n    from vitseg.explain import explain\n    return explain\n")
    assert imported(tmp_path / "module.py") == {"vitseg"}
