"""The demo and the way to it: outlines, command lines, the whole chain with stand-ins, Makefile and CI script."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from wsss.console import run
from wsss.data import load_dataset, read_label_image
from wsss.data.config import load_config
from wsss.store import read_json, read_mask

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("cat", "cow", "dog", "horse", "person", "sheep")
LABELS = {"chelsea": "cat", "astronaut": "person", "camera": "person"}


def _load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_script", ROOT / "demo" / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = _load_demo()
PHOTOGRAPHS = read_json(demo.OUTLINES)["photographs"]
OUTLINES = [(name, index) for name, entry in PHOTOGRAPHS.items() for index in range(len(entry["objects"]))]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that the demo writes."""
    folder = tmp_path_factory.mktemp("photographs")
    demo.write_photographs(folder)
    return folder


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A classifier, an affinity network and a segmentation network with random weights."""
    from affinity.checkpoint import save_affinity_network
    from affinity.network import AffinityNetwork
    from affinity.settings import NetworkConfig
    from cnnseg.models import create_segmentation, save_network
    from cnnseg.segmentation.settings import SegmentationConfig
    from vitseg.models import create_classifier, save_classifier

    folder = tmp_path_factory.mktemp("stand_ins")
    torch.manual_seed(0)
    save_classifier(create_classifier("vit_tiny_patch16_224", CLASSES, "none"), folder / "classifier.safetensors")
    config = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    save_affinity_network(folder / "affinity.safetensors", AffinityNetwork(config))
    tiny = SegmentationConfig(decoder="fpn", encoder="mobilenetv3_small_050", weights="none")
    save_network(create_segmentation(tiny, CLASSES), folder / "segmentation.safetensors")
    return tuple(folder / f"{name}.safetensors" for name in ("classifier", "affinity", "segmentation"))


def _crosses(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two segments (2, 2) have an inner point in common."""

    def side(segment: np.ndarray, point: np.ndarray) -> int:
        (dx, dy), (px, py) = segment[1] - segment[0], point - segment[0]
        return int(np.sign(dx * py - dy * px))

    return side(a, b[0]) * side(a, b[1]) < 0 and side(b, a[0]) * side(b, a[1]) < 0


@pytest.mark.parametrize(("name", "index"), OUTLINES)
def test_outline_is_a_polygon_inside_its_photograph(name: str, index: int) -> None:
    height, width = getattr(data, name)().shape[:2]
    outline = PHOTOGRAPHS[name]["objects"][index]
    points = np.array(outline["polygon"])
    assert outline["class"] in (*CLASSES, "ignore")
    assert points.ndim == 2 and points.shape[1] == 2 and len(points) >= 3
    assert points.min() >= 0 and (points < (width, height)).all()
    sides = np.stack((points, np.roll(points, -1, axis=0)), axis=1)
    crossing = [(i, j) for i, j in combinations(range(len(sides)), 2) if _crosses(sides[i], sides[j])]
    assert not crossing


def test_the_data_set_reads_as_it_was_labelled(photographs: Path) -> None:
    dataset = load_dataset(demo.DATA, "all", photographs)
    assert dataset.class_names == CLASSES
    assert {s.id: [CLASSES[c - 1] for c in s.classes] for s in dataset} == {k: [v] for k, v in LABELS.items()}
    for sample in dataset:
        with Image.open(sample.image_path) as image:
            np.testing.assert_array_equal(np.array(image), getattr(data, sample.id)())
        drawn = set(np.unique(dataset.load_mask(sample)).tolist()) - {255}
        assert drawn == {0, *sample.classes}


@pytest.mark.parametrize(
    ("name", "share", "inside", "outside"),
    [
        ("chelsea", (0.70, 0.78), [(260, 235), (60, 10), (375, 20), (10, 280), (200, 290)], [(10, 30), (430, 150)]),
        ("astronaut", (0.39, 0.44), [(225, 100), (250, 20), (30, 400), (340, 340)], [(400, 430), (60, 100), (410, 60)]),
        ("camera", (0.29, 0.32), [(220, 150), (20, 400), (310, 210), (300, 268)], [(285, 150), (292, 260), (110, 500)]),
    ],
)
def test_masks_cover_what_they_should(
    name: str,
    share: tuple[float, float],
    inside: list[tuple[int, int]],
    outside: list[tuple[int, int]],
    photographs: Path,
) -> None:
    """Points on nose, ears, glove and sleeve, and on helmet, camera, tripod and sky."""
    mask = read_label_image(photographs / "masks" / f"{name}.png")
    index = CLASSES.index(LABELS[name]) + 1
    assert share[0] < (mask == index).mean() < share[1]
    assert [mask[y, x] for x, y in inside] == [index] * len(inside)
    assert [mask[y, x] for x, y in outside] == [0] * len(outside)


def test_later_outlines_are_drawn_over_earlier_ones() -> None:
    def rectangle(name: str, left: int, right: int) -> dict:
        return {"class": name, "polygon": [[left, 1], [right, 1], [right, 3], [left, 3]]}

    mask = demo.draw_mask([rectangle("dog", 0, 4), rectangle("ignore", 3, 6), rectangle("cat", 5, 7)], (9, 5))
    expected = np.zeros((5, 9), np.uint8)
    expected[1:4] = [3, 3, 3, 255, 255, 1, 1, 1, 0]
    np.testing.assert_array_equal(mask, expected)


def _in_process(command: str) -> int:
    """The command without a process of its own: eleven times the start of PyTorch would take a minute."""
    import affinity.cli
    import cnnseg.cli
    import vitseg.cli
    import wsss.cli

    name, *tokens = shlex.split(command)
    apps = {"wsss": wsss.cli.app, "vitseg": vitseg.cli.app, "affinity": affinity.cli.app, "cnnseg": cnnseg.cli.app}
    app = apps[name]
    return run(app, tokens)


def test_the_chain_and_a_second_run_of_it(
    stand_ins: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands = []

    def call(command: str) -> int:
        commands.append(command)
        return _in_process(command)

    monkeypatch.setattr(demo, "call", call)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # no pool: it would start PyTorch for each command
    options = ["--classifier", str(stand_ins[0]), "--affinity", str(stand_ins[1]), "--segmentation", str(stand_ins[2])]
    options += ["--out", "first run"]
    assert run(demo.app, options) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line[2:] for line in printed.out.splitlines() if line.startswith("$ ")] == commands
    assert printed.out.splitlines()[-1].endswith("first run/report.html")
    assert commands[-1].startswith("cnnseg segment 'first run/new/grace_hopper.jpg' --network")
    unseen = read_mask(Path("first run/segmented/masks"), "grace_hopper")
    with (
        Image.open("first run/new/grace_hopper.jpg") as photograph,
        Image.open("first run/segmented/overlays/grace_hopper.jpg") as drawn,
    ):
        assert photograph.size == drawn.size == unseen.shape[::-1]
    shown = {name for index, name in enumerate(("background", *CLASSES)) if (unseen == index).any()}
    (line,) = (line for line in printed.out.splitlines() if line.startswith("first run/segmented/masks"))
    assert {part.split()[-3] for part in line.split(",")} == shown
    page = Path("first run/report.html").read_text()
    assert all(text in page for text in ("lrp_vit", "rollout_vit", *LABELS))
    for name in ("lrp_vit", "rollout_vit"):
        folder = Path("first run/runs") / name
        masks = {image_id: read_mask(folder / "masks", image_id) for image_id in LABELS}
        for image_id, mask in masks.items():
            assert mask.shape == getattr(data, image_id)().shape[:2]
            assert set(np.unique(mask).tolist()) <= {0, CLASSES.index(LABELS[image_id]) + 1}
        assert {entry["images"] for entry in read_json(folder / "metrics.json")["entries"]} == {3}

    made = {path: path.stat().st_mtime_ns for path in Path("first run/runs").glob("*/*/*") if path.stem in LABELS}
    metrics = Path("first run/runs/lrp_vit/metrics.json").read_text()
    assert len(made) == 3 * (4 + 3)  # seeds, labels, refined and masks of one run; no labels in the other
    assert run(demo.app, options) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert Path("first run/runs/lrp_vit/metrics.json").read_text() == metrics


def test_a_failing_command_ends_the_demo_with_its_status(
    stand_ins: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands = []

    def call(command: str) -> int:
        commands.append(command)
        return 7 if len(commands) == 3 else 0

    monkeypatch.setattr(demo, "call", call)
    assert demo.demo(classifier=stand_ins[0], affinity=stand_ins[1], out=tmp_path) == 7
    assert len(commands) == 3
    assert "report.html" not in capfd.readouterr().out


def test_commands_run_with_their_own_messages_and_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.call("wsss data-check --data 'no such set'") == 2
    message = capfd.readouterr().err
    assert message.startswith("error: configuration no such set: no such file") and message.count("\n") == 1
    assert demo.call("wsss --help") == 0
    assert "data-check" in capfd.readouterr().out


def test_mistakes_are_one_line(
    stand_ins: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(demo.app, ["--classifier", "nowhere.safetensors", "--out", str(tmp_path / "out")]) == 2
    assert capfd.readouterr().err == "error: --classifier nowhere.safetensors: no such file\n"
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(demo, "BIN", tmp_path)
    options = ["--classifier", str(stand_ins[0]), "--affinity", str(stand_ins[1]), "--out", str(tmp_path / "out")]
    assert run(demo.app, options) == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'wsss'}: no such command; `make env` installs the toolkit\n"


def test_shipped_checkpoints_fit_the_demo() -> None:
    from affinity.checkpoint import load_affinity_network
    from cnnseg import load_network
    from vitseg.models import load_classifier

    folder = demo.HERE / "checkpoints"
    assert max(path.stat().st_size for path in folder.iterdir()) < 15e6
    assert sum(path.stat().st_size for path in folder.iterdir()) < 45e6
    for name in ("segmentation", "segmentation_cnn"):
        network = load_network(folder / f"{name}.safetensors", device="cpu")
        assert network.class_names == load_config(demo.DATA).class_names()
        maps = network.module(torch.rand(1, 3, 64, 96))[1]
        assert maps.shape == (1, 7, 64, 96) and maps.isfinite().all()
    assert load_classifier(folder / "classifier.safetensors").class_names == load_config(demo.DATA).class_names()
    features = load_affinity_network(folder / "affinity.safetensors")(torch.rand(1, 3, 64, 96))
    assert features.shape[2:] == (8, 12) and features.isfinite().all()


INSTALL = "python -m pip install --disable-pip-version-check -q -e"
INSTALLS = [f"{INSTALL} .[all] OMP=", f"{INSTALL} .[published-crf] OMP="]
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" OMP=$OMP_NUM_THREADS >> "{log}"
case "$*" in {failing}) exit {status};; esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for make: the environment is a folder whose programs write down how they were called."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("python", "ruff", "mypy"):
        _fake(tmp_path / "venv" / "bin" / name, tmp_path / "log")
    # An outer `make test` hands its own settings down in these.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "OMP_NUM_THREADS", "PYTHON", "CPU", "PROCESSES")
    variables = {key: value for key, value in os.environ.items() if key not in outer}
    return variables | {"VENV": str(tmp_path / "venv")}


def _fake(program: Path, log: Path, failing: str = "nothing", status: int = 1) -> None:
    program.write_text(FAKE.format(log=log, failing=failing, status=status))
    program.chmod(0o755)


def _make(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _calls(tmp_path: Path) -> list[str]:
    """What was called, less the looks at the environment."""
    log = tmp_path / "log"
    return [line for line in log.read_text().splitlines() if " -c " not in line] if log.exists() else []


def test_make_installs_once(environment: dict[str, str], tmp_path: Path) -> None:
    assert _make(environment, "env").returncode == 0
    assert _calls(tmp_path) == INSTALLS
    assert _make(environment, "demo").returncode == 0
    assert _calls(tmp_path)[2:] == ["python demo/demo.py OMP="]


def test_what_has_to_be_compiled_need_not_be_there(environment: dict[str, str], tmp_path: Path) -> None:
    _fake(tmp_path / "venv" / "bin" / "python", tmp_path / "log", failing="*published-crf*")
    done = _make(environment, "demo")
    assert done.returncode == 0 and "C++ compiler" in done.stdout and "skipped" in done.stdout
    assert _calls(tmp_path) == [*INSTALLS, "python demo/demo.py OMP="]


def test_an_installation_that_failed_is_tried_again(environment: dict[str, str], tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    _fake(python, tmp_path / "log", failing="*install*")
    done = _make(environment, "demo")
    assert done.returncode == 2 and "error: the installation failed, see above" in done.stderr
    assert not any("demo.py" in call for call in _calls(tmp_path))
    _fake(python, tmp_path / "log")
    assert _make(environment, "demo").returncode == 0
    assert _calls(tmp_path)[-3:] == [*INSTALLS, "python demo/demo.py OMP="]


def test_make_ends_as_the_demo_does(environment: dict[str, str], tmp_path: Path) -> None:
    _fake(tmp_path / "venv" / "bin" / "python", tmp_path / "log", failing="demo/demo.py", status=2)
    assert _make(environment, "demo").returncode == 2


def test_make_says_that_no_python_fits(environment: dict[str, str], tmp_path: Path) -> None:
    old = tmp_path / "python3.99"
    _fake(old, tmp_path / "log", failing="*")
    done = _make(environment | {"VENV": str(tmp_path / "new")}, "env", f"PYTHON={old} nonesuch")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no Python 3.11 or newer among: {old} nonesuch; install one")
    assert not (tmp_path / "new").exists()


def test_make_builds_the_environment_with_a_python_that_fits(environment: dict[str, str], tmp_path: Path) -> None:
    """The Python of these tests fits; its venv is made for real, with an installer that only writes down its call."""
    new = tmp_path / "new"
    wrapper = tmp_path / "maker"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$1" in -c) exec "{sys.executable}" "$@";; esac\n'
        f'echo "maker $*" >> "{tmp_path / "log"}"\nmkdir -p "{new}/bin"\ncp "{tmp_path}/venv/bin/python" "{new}/bin"\n'
    )
    wrapper.chmod(0o755)
    done = _make(environment | {"VENV": str(new)}, "env", f"PYTHON=nonesuch {wrapper}")
    assert done.returncode == 0, done.stderr
    calls = _calls(tmp_path)
    assert calls[0] == f"maker -m venv --clear {new}"
    assert calls[1:] == INSTALLS


@pytest.mark.parametrize(
    ("torch", "torchvision", "taken"),
    [
        ("2.6.0+cpu", "0.21.0+cpu", True),
        ("2.10.1", "0.25.0", True),
        ("2.5.1", "0.21.0", False),
        ("2.6.0", "0.9", False),
    ],
)
def test_a_pytorch_that_is_there_is_taken(
    environment: dict[str, str], tmp_path: Path, torch: str, torchvision: str, taken: bool
) -> None:
    for name, version in (("torch", torch), ("torchvision", torchvision)):
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    new, wrapper = tmp_path / "new", tmp_path / "maker"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$1" in -c) PYTHONPATH="{tmp_path}/site" exec "{python}" "$@";; esac\n'
        f'echo "maker $*" >> "{tmp_path / "log"}"\nmkdir -p "{new}/bin"\ncp "{tmp_path}/venv/bin/python" "{new}/bin"\n'
    )
    wrapper.chmod(0o755)
    done = _make(environment | {"VENV": str(new)}, "env", f"PYTHON={wrapper}")
    assert done.returncode == 0, done.stderr
    shared = "--system-site-packages " if taken else ""
    assert _calls(tmp_path)[0] == f"maker -m venv --clear {shared}{new}"


def test_the_oldest_pytorch_is_that_of_the_project() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = re.findall(r'of\("(\w+)"\) < \((\d+), (\d+)\)', (ROOT / "Makefile").read_text())
    assert len(bounds) == 2 and {f"{name}>={major}.{minor}" for name, major, minor in bounds} <= set(needed)


def test_make_asks_for_pytorch_without_cuda(environment: dict[str, str], tmp_path: Path) -> None:
    assert _make(environment, "env", "CPU=1").returncode == 0
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert _calls(tmp_path) == [line.replace(" -e", f" {index} -e") for line in INSTALLS]


def test_continuous_integration_installs_lints_and_tests(environment: dict[str, str], tmp_path: Path) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run([script], cwd=tmp_path, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    calls = _calls(tmp_path)
    assert calls[:2] == INSTALLS
    assert calls[2:] == [
        "ruff check . OMP=",
        "ruff format --check . OMP=",
        "mypy  OMP=",
        "python -m mkdocs build --strict OMP=1",
        "python -m pytest -n 2 --dist loadfile OMP=1",
    ]
    _fake(tmp_path / "venv" / "bin" / "ruff", tmp_path / "log", failing="check*")
    assert subprocess.run([script], env=environment, check=False, capture_output=True).returncode != 0
    assert _calls(tmp_path)[-1] == "ruff check . OMP="
