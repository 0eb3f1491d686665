"""Wheel and sdist: what is in them, and that the wheel works in an empty environment, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from skimage import data
from skimage.io import imsave

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("wsss", "vitseg", "cnnseg", "affinity")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def of_packages() -> set[str]:
    """Files of the packages and their configurations that belong into a wheel, as it names them."""
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    found = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    configs = {f"wsss/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    return found | configs


def test_the_wheel_has_what_the_packages_have(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == of_packages()
    for name in PACKAGES:
        assert f"{name}/py.typed" in names
    for suffix in (".j2", ".css", ".js", ".html", ".yaml"):
        assert any(name.endswith(suffix) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_has_what_make_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "demo/demo.py", ".ci/run"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("*.py")} <= names


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and finds all else in that of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # not its .pth files: not the checkout
    return folder / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import wsss, vitseg, cnnseg, affinity; print(*{p.__path__[0] for p in (wsss, vitseg, cnnseg, affinity)})"
    places = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert len(places) == len(PACKAGES) and all(place.startswith(str(installed.parent)) for place in places)
    for name in PACKAGES:
        assert run(installed / name, "--version", cwd=tmp_path).startswith("relseg 0.")
    imsave(tmp_path / "cat.png", data.chelsea()[::4, ::4])
    checkpoint = str(ROOT / "demo/checkpoints/classifier.safetensors")
    run(installed / "vitseg", "explain", "cat.png", "--classifier", checkpoint, "--sizes", "64", cwd=tmp_path)
    assert list((tmp_path / "explanations").glob("cat_*.png"))


def test_its_configurations_and_pages_are_found(installed: Path, tmp_path: Path) -> None:
    code = """
from wsss.configs import find_config
from wsss.explorer.widgets import static
from wsss.report import page
print(find_config("affinity/default"), find_config("voc12", "data"))
assert len(static("page.css")) > 1000
"""
    printed = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert len(printed) == 2 and all("wsss/configs" in path and str(installed.parent) in path for path in printed)
