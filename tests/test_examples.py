"""The examples run: of docstrings, of README and docs, and the notebooks. No network is used.

An example says what a reader with a connection would write. What stands in for that here is listed below: `STAND_INS`
for models that would be fetched or take long, `reader` for the folder that examples find their files in.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import runpy
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from documentation import ALL, ROOT
from PIL import Image
from skimage import data

import cnnseg

CHECKPOINTS = ROOT / "demo/checkpoints"
PACKAGES = ("wsss", "vitseg", "cnnseg", "affinity")
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))

STAND_INS = {"vit_base_patch16_224": "vit_tiny_patch16_224", "resnet50": "test_resnet"}
"""Smaller models for those of the examples; of all of them the weights are random, whatever `pretrained` says."""

WRITTEN_OUT = ("docs/howto_", "docs/own_seeds.md")
"""Pages whose blocks are files of the reader's: tests/test_howto.py and test_own_seeds_page.py write and run them."""

PYTHON = [block for block in ALL if block.language == "python" and not block.page.startswith(WRITTEN_OUT)]


def documented_modules() -> list[str]:
    """Modules with an example in a docstring."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = [path for path in paths if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has at hand: a photograph, a data set of one, and a run with a trained network."""
    folder = tmp_path_factory.mktemp("reader")
    Image.fromarray(data.chelsea()).save(folder / "cat.jpg")
    (folder / "my_data/images").mkdir(parents=True)
    Image.fromarray(data.chelsea()).save(folder / "my_data/images/cat_01.jpg")
    (folder / "my_data/labels.csv").write_text("image,classes\ncat_01.jpg,cat\n")
    (folder / "my_data.yaml").write_text("name: my_data\nlayout: folder\nroot: my_data\nclasses: [cat, dog]\n")
    run = folder / "runs/segmentation/network"
    run.mkdir(parents=True)
    (run / "last.safetensors").symlink_to(CHECKPOINTS / "segmentation_cnn.safetensors")
    return folder


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Examples run in the reader's folder, with stand-ins for models, and without a network."""
    monkeypatch.chdir(folder)
    create = timm.create_model

    def stand_in(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
        torch.manual_seed(0)
        return create(STAND_INS.get(name, name), **options)

    def refuse(*_: Any) -> None:
        raise OSError("an example asks for the network")

    monkeypatch.setattr(timm, "create_model", stand_in)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return folder


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is forgotten after it."""
    from cnnseg.unroll.composites import COMPOSITES

    before = dict(COMPOSITES)
    yield
    COMPOSITES.clear()
    COMPOSITES.update(before)


@pytest.mark.parametrize("name", documented_modules())
def test_docstrings(reader: Path, name: str) -> None:
    module = importlib.import_module(name)
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed
    assert "+SKIP" not in inspect.getsource(module)


def tying(_: pytest.MonkeyPatch) -> dict[str, Any]:
    model = timm.create_model("resnet50", num_classes=7)
    return {"cnnseg": cnnseg, "model": model, "images": torch.randn(1, 3, 96, 96)}


def explorer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """app.py of a Space starts a server: its arguments are looked at, no more."""
    from cnnseg.explorer import commands

    monkeypatch.setattr(commands, "explore", inspect.signature(commands.explore).bind)
    return {}


def segmentation_networks(_: pytest.MonkeyPatch) -> dict[str, Any]:
    """The exported network, in the reader's folder."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra export is not installed")
    from cnnseg.segmentation.export import export_onnx

    export_onnx(cnnseg.load_network("segmentation"), Path("segmentation.onnx"), [Image.open("cat.jpg")])
    return {}


GIVEN = {
    "docs/tying.md": tying,
    "docs/explorer.md": explorer,
    "docs/segmentation_networks.md": segmentation_networks,
}
"""What the text around the blocks of a page speaks of, and they do not make themselves."""


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_blocks_of_a_page(reader: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = GIVEN[page](monkeypatch) if page in GIVEN else {}
    names: dict[str, Any] = {"__name__": page} | given
    for block in PYTHON:
        if block.page == page:
            exec(compile("\n" * block.line + block.text, ROOT / page, "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs as a script, and is the text of a notebook: there and back it is the same."""
    jupytext = pytest.importorskip("jupytext", reason="the extra docs is not installed")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    runpy.run_path(str(path))
    text = path.read_text(encoding="utf-8")
    again = jupytext.writes(jupytext.reads(text, "py:percent"), "py:percent")
    assert _body(again) == _body(text)  # the header names the version of jupytext


def _body(text: str) -> str:
    return text.split("# ---\n", 2)[2]
