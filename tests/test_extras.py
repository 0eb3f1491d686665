"""What an installation without extras does, and that every command says which extra it needs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from small_networks import make_networks
from small_run import make_data

from wsss.extras import EXTRAS, MissingExtraError, extra, need

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("wsss", "vitseg", "cnnseg", "affinity")


def distribution(requirement: str) -> str:
    """The name in a requirement, as package indices normalise it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def brings(*requirements: str) -> set[str]:
    """Distributions that these requirements install, with what they need in turn; those that are installed here."""
    found: set[str] = set()
    waiting = [distribution(requirement) for requirement in requirements]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [distribution(line) for line in needed if "extra ==" not in line]
    return found


def modules_of() -> dict[str, set[str]]:
    """Top-level module -> the distributions that have it."""
    return {
        module: {distribution(name) for name in names} for module, names in metadata.packages_distributions().items()
    }


CORE = {distribution(line) for line in PROJECT["dependencies"]} | {"pydantic-core"}  # which pydantic pins


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """(top-level module, the extra that it is said to need) of all absolute imports of a file, but for annotations."""

    def walk(node: ast.AST, named: str | None) -> Iterator[tuple[str, str | None]]:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.Import():
                yield from ((alias.name.split(".")[0], named) for alias in node.names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield module.split(".")[0], named
            case ast.With(items=[ast.withitem(ast.Call(ast.Name(id="extra"), [ast.Constant(value=str(name))]))]):
                named = name
        for child in ast.iter_child_nodes(node):
            yield from walk(child, named)

    return walk(ast.parse(path.read_text()), None)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_of_the_core_or_says_its_extra(package: str) -> None:
    known, wrong = modules_of(), []
    for path in (ROOT / package).rglob("*.py"):
        for module, named in imports(path):
            if module in sys.stdlib_module_names or module in PACKAGES:
                continue
            if module not in EXTRAS[named] if named else not known.get(module, set()) & CORE:
                wrong.append(f"{path.relative_to(ROOT)}: {module} (extra {named})")
    assert wrong == []


def test_such_imports_are_seen(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "import a.b\nif TYPE_CHECKING:\n    import c\nwith extra('wsss'):\n    import d\n"
        "def f():\n    from e import g\n    with extra('cnnseg'):\n        from h.i import j\n"
    )
    assert list(imports(tmp_path / "one.py")) == [("a", None), ("d", "wsss"), ("e", None), ("h", "cnnseg")]


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_brings_its_modules(name: str) -> None:
    brought, core = brings(*PROJECT["optional-dependencies"][name]), brings(*CORE)
    known = modules_of()
    for module in EXTRAS[name]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        assert known[module] & brought
    assert not {module for module in EXTRAS[name] if known[module] & CORE} and core >= CORE


def test_all_is_everything_that_needs_no_compiler() -> None:
    extras = PROJECT["optional-dependencies"]
    named = set(re.fullmatch(r"relseg\[(.*)\]", *extras["all"])[1].split(","))
    assert named == extras.keys() - {"all", "published-crf"}


def test_the_message() -> None:
    line = r"^no_such is not installed: pip install 'relseg\[cnnseg\]'$"
    with pytest.raises(MissingExtraError, match=line), extra("cnnseg"):
        import no_such.module  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extra("wsss"):
        from wsss.extras import none  # noqa: F401


def test_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "wsss", ("os", "no_such"))
    with pytest.raises(MissingExtraError, match=r"^no_such is not installed: pip install 'relseg\[wsss\]'$"):
        need("wsss")
    monkeypatch.setitem(EXTRAS, "wsss", ("os", "sys"))
    need("wsss")


# -- an installation without extras ------------------------------------------------------------------------------------

DATA, PHOTOGRAPH = "data/data.yaml", "data/images/a.png"

HIDE = """
import os, sys
sys.modules.update(dict.fromkeys(os.environ["RELSEG_HIDDEN"].split()))
"""
"""A module that is None in sys.modules is one that is not installed, to `import` and to `find_spec`."""

COMMANDS = """
import contextlib, io, json, sys
from importlib import import_module
from wsss.console import run
results = []
for program, *tokens in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(import_module(f"{program}.cli").app, tokens)
    results.append((status, err.getvalue()))
print("RESULTS", json.dumps(results))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/{vit,cnn,seg}, a data set, a photograph, and a sitecustomize.py that hides modules."""
    folder = tmp_path_factory.mktemp("core")
    make_networks(folder)
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(HIDE)
    make_data(folder / "data")
    return folder


def without_extras(place: Path, code: str, text: str = "") -> str:
    """What Python code prints where nothing is installed that the core does not bring."""
    core = brings(*CORE)
    hidden = sorted(module for module, names in modules_of().items() if not names & core and module not in PACKAGES)
    assert {"sklearn", "scipy", "matplotlib", "gradio", "segmentation_models_pytorch", "pytest"} <= set(hidden)
    environment = os.environ | {
        "RELSEG_HIDDEN": " ".join(hidden),
        "PYTHONPATH": os.pathsep.join([str(place / "site"), str(ROOT)]),
    }
    how: dict[str, Any] = {"cwd": place, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", code], input=text, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


_VAL = ("--data", DATA, "--split", "val")
_TRAIN = ("--data", DATA, "--train-split", "val")
_SEEN = (*_TRAIN, "--val-split", "val")
_VIT, _CNN, _SEG = ("--classifier", "vit"), ("--classifier", "cnn"), ("--network", "seg")
WORKING = (
    ("vitseg", "explain", PHOTOGRAPH, *_VIT, "--sizes", "64", "--out", "one"),
    ("cnnseg", "explain", PHOTOGRAPH, *_CNN, "--size", "64", "--out", "two"),
    ("cnnseg", "explain", PHOTOGRAPH, *_CNN, "--method", "lrp", "--size", "64"),
    ("vitseg", "seeds", *_VAL, *_VIT, "--sizes", "64"),
    ("wsss", "data-check", "--data", DATA),
    ("wsss", "status", "lrp_vit"),
)
"""Command lines that need the core alone."""

NEEDING = {
    ("vitseg", "train-classifier", *_SEEN): "wsss",
    ("vitseg", "evaluate-classifier", *_VIT, *_VAL): "wsss",
    ("vitseg", "perturbation-test", *_VIT, *_VAL): "wsss",
    ("vitseg", "segmentation-test", *_VIT, *_VAL): "wsss",
    ("vitseg", "explore", *_VIT): "explorer",
    ("cnnseg", "train-classifier", *_SEEN, "--architecture", "test_resnet", "--weights", "none"): "wsss",
    ("cnnseg", "train-unrolled", *_SEEN, "--architecture", "test_resnet", "--weights", "none"): "wsss",
    ("cnnseg", "train-unrolled", *_TRAIN, "--kind", "unet", "--weights", "none"): "cnnseg",
    ("cnnseg", "perturbation-test", *_CNN, *_VAL): "wsss",
    ("cnnseg", "segmentation-test", *_CNN, *_VAL): "wsss",
    ("cnnseg", "region-test", *_SEG, *_VAL): "wsss",
    ("cnnseg", "evaluate", *_SEG, *_VAL): "wsss",
    ("cnnseg", "train-segmentation", *_VAL, "--masks", "truth"): "cnnseg",
    ("cnnseg", "segment", PHOTOGRAPH, *_SEG, "--out", "found"): "cnnseg",
    ("cnnseg", "pseudo-masks", *_VAL, *_SEG, "--name", "own"): "cnnseg",
    ("cnnseg", "export", *_SEG, "--out", "x.onnx"): "cnnseg",
    ("cnnseg", "explain-segmentation", PHOTOGRAPH, *_SEG): "cnnseg",
    ("cnnseg", "list-layers", *_SEG): "cnnseg",
    ("cnnseg", "explore", *_CNN): "explorer",
    ("cnnseg", "explore", *_SEG): "cnnseg",
    ("affinity", "refine", *_VAL, "--seeds", "lrp_vit", "--network", "affinity.safetensors"): "wsss",
}
"""Command line -> the extra that it says it needs."""

Command = tuple[str, ...]


@pytest.fixture(scope="module")
def outcomes(place: Path) -> dict[Command, tuple[int, str]]:
    """Exit status and standard error of all these command lines, in the order in which they stand here."""
    commands = [*WORKING, *NEEDING]
    printed = without_extras(place, COMMANDS, json.dumps(commands))
    results: list[Any] = json.loads(printed.rsplit("RESULTS", 1)[1])
    return {command: (status, error) for command, (status, error) in zip(commands, results, strict=True)}


def test_explaining_needs_the_core_alone(place: Path, outcomes: dict[Command, tuple[int, str]]) -> None:
    assert [outcomes[command] for command in WORKING] == [(0, "")] * len(WORKING)
    assert len(list(place.glob("one/*.png"))) == len(list(place.glob("two/*.png"))) == 2  # overlay and sheet


@pytest.mark.parametrize("command", NEEDING, ids=" ".join)
def test_a_command_says_which_extra_it_needs(command: Command, outcomes: dict[Command, tuple[int, str]]) -> None:
    status, error = outcomes[command]
    line = rf"error: [\w, ]+ not installed: pip install 'relseg\[{NEEDING[command]}\]'\n"
    assert status == 2 and re.fullmatch(line, error), error


def test_python_needs_the_core_alone(place: Path) -> None:
    code = """
import torch, timm, vitseg, cnnseg, wsss, affinity
images = torch.randn(1, 3, 64, 64)
vit = timm.create_model("test_vit", num_classes=3, img_size=64).eval()
cnn = timm.create_model("test_resnet", num_classes=3).eval()
assert vitseg.explain(vit, images).maps.shape[0] == 1
found = cnnseg.explain(cnn, images, rules="epsilon_plus_flat")
assert cnnseg.overlay(torch.zeros(3, 64, 64), found.maps[0]).size == (64, 64)
for name in ("pair_affinity", "random_walk"):
    try:
        getattr(affinity, name)
    except ImportError as error:
        print(error)
"""
    assert without_extras(place, code).splitlines() == ["scipy is not installed: pip install 'relseg[wsss]'"] * 2
