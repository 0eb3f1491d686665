"""Files of one's own: what `--extension` loads, what is refused, and that results are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from pages import as_it_was
from small_networks import make_networks
from small_run import make_data
from torch import nn

import cnnseg
import vitseg
from cnnseg.cli import app as cnnseg_commands
from cnnseg.methods import register as register_cnn
from cnnseg.rules import Activation, register_layer
from vitseg.cli import app as vitseg_commands
from vitseg.methods import register
from wsss.console import run
from wsss.data import load_dataset, register_layout
from wsss.data.config import DataConfig
from wsss.errors import InputError
from wsss.extensions import load_extension, source_file

CONSTANT = """
import torch
from vitseg.methods import register

@register("constant", class_specific=False)
def constant(trace, targets, first, rules):
    return torch.ones(targets.numel(), *trace.grid){}
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with as_it_was(tmp_path, monkeypatch):
        yield tmp_path


FAULTS = {
    "nowhere.py": (None, "--extension nowhere.py: no such file"),
    "nowhere_at_all": (None, "--extension nowhere_at_all: expected a file that ends in .py or an installed module"),
    "my-method.py": ("", "expected a name of letters, digits and _, such as my_method.py"),
    "json.py": ("", "there is another module of that name; call the file otherwise"),
    "wrong.py": ("a = 1\nb = c\n", "--extension wrong.py, line 2: cannot be imported: NameError: name 'c' is not"),
    "leaves.py": ("raise SystemExit(0)\n", "--extension leaves.py, line 1: cannot be imported: SystemExit: 0"),
    "half.py": ("def f(:\n", "--extension half.py, line 1: cannot be imported: SyntaxError"),
    "lacks.py": (
        "import nowhere_at_all\n",
        "lacks.py, line 1: cannot be imported: ModuleNotFoundError: No module named",
    ),
    "taken.py": (CONSTANT.replace("constant", "rollout").format(""), "'rollout': is one of this toolkit's; register"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_cannot_be_taken_is_one_line(name: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content, line = FAULTS[name]
    if content is not None:
        (place / name).write_text(content)
    assert run(vitseg_commands, ["list-methods", "--extension", name]) == 2
    err = capfd.readouterr().err
    assert line in err
    assert err.count("\n") == 1


def test_by_option_by_environment_and_by_name(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "one.py").write_text(CONSTANT.replace("constant", "first_of_mine").format(""))
    (place / "two.py").write_text(CONSTANT.replace("constant", "second_of_mine").format(""))
    assert run(vitseg_commands, ["list-methods", "--extension", "one.py", "--extension", "two"]) == 0
    out = capfd.readouterr().out
    assert "first_of_mine            one map for all classes; of one" in out
    assert "second_of_mine" in out


def test_environment(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "mine.py").write_text(CONSTANT.format(""))
    monkeypatch.setenv("RELSEG_EXTENSION", "mine.py")
    assert run(vitseg_commands, ["list-methods"]) == 0
    assert "constant" in capfd.readouterr().out


def test_seeds_are_made_of_the_file_too(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_data(place / "data")
    make_networks(place)
    (place / "mine.py").write_text(CONSTANT.format(""))
    seeds = ["seeds", "--classifier", "vit", "--data", "data/data.yaml", "--split", "val", "--method", "constant"]
    seeds += ["--sizes", "32", "--device", "cpu", "--extension", "mine.py"]
    assert run(vitseg_commands, seeds) == 0
    assert run(vitseg_commands, seeds) == 0
    (place / "mine.py").write_text(CONSTANT.format(" * 2"))
    capfd.readouterr()
    assert run(vitseg_commands, seeds) == 2
    assert "made with other settings: inputs.method was" in capfd.readouterr().err


def test_what_a_method_of_ones_own_may_not_give() -> None:
    register("flat")(lambda trace, targets, first, rules: torch.ones(1, 2))
    register("nothing")(lambda trace, targets, first, rules: None)
    vit, images = timm.create_model("test_vit"), torch.rand(2, 3, 160, 160)
    for name, got in (("flat", r"shape \(1, 2\)"), ("nothing", "a NoneType")):
        with pytest.raises(InputError, match=rf"method {name}: expected maps of shape \(2, h, w\), got {got}"):
            vitseg.explain(vit, images, method=name)
    cnn, images = timm.create_model("test_resnet", num_classes=4), torch.rand(2, 3, 64, 64)
    faults = {
        "maps_alone": (lambda question: torch.ones(2, 1, 3, 3), r"expected \(maps, class scores\), two tensors, got"),
        "no_classes": (
            lambda question: (torch.ones(2, 3, 3), torch.ones(2, 4)),
            r"shape \(2, 1, h, w\), got \(2, 3, 3\)",
        ),
        "no_scores": (lambda question: (torch.ones(2, 1, 3, 3), torch.ones(2)), r"expected class scores \(B, C\)"),
    }
    for name, (compute, line) in faults.items():
        register_cnn(name)(compute)
        with pytest.raises(InputError, match=f"method {name}: .*{line}"):
            cnnseg.explain(cnn, images, method=name)


def test_ones_own_may_be_replaced_and_the_toolkits_not() -> None:
    for value in (1.0, 2.0):  # as a notebook does that runs a cell again
        register("again")(lambda trace, targets, first, rules, v=value: torch.full((targets.numel(), 2, 2), v))
    vit = timm.create_model("test_vit")
    assert vitseg.explain(vit, torch.rand(1, 3, 160, 160), method="again").maps.unique().tolist() == [2]
    for add, name in ((register, "gradcam"), (register_cnn, "lrp")):
        with pytest.raises(InputError, match=f"'{name}': is one of this toolkit's"):
            add(name)(lambda *given: None)
    with pytest.raises(InputError, match="layout 'folder': is one of this toolkit's"):
        register_layout("folder", splits=())(lambda *given: [])


def test_a_layer_of_ones_own() -> None:
    """Registered after the model was looked at: the rule counts from then on."""

    class Cube(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z.pow(3)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Cube(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(InputError, match="has no rule"):
        cnnseg.explain(model, images, 0)
    register_layer(Cube)(lambda module: Activation(module, torch.square))
    maps = cnnseg.explain(model, images, 0, rules="zero").maps
    bias = model[4].bias[0] + 0 * maps.sum()
    scores = model(images)[0, 0]
    hidden = model[1](model[0](images)) * model[4].weight[0][:, None, None] / 36
    kept = (hidden * (1 - model[0].bias[:, None, None] / model[0](images))).sum()  # what its bias does not take
    torch.testing.assert_close(scores - bias, hidden.sum())
    torch.testing.assert_close(maps.sum(), kept)
    for wrong, line in ((nn.ReLU, "ReLU is PyTorch's"), ("Cube", "expected a class of torch.nn.Module")):
        with pytest.raises(InputError, match=line):
            register_layer(wrong)


def test_layouts(place: Path) -> None:
    with pytest.raises(ValueError, match=r"layout: 'foldr' is unknown: did you mean 'folder'\? .*`extension` FILE"):
        DataConfig(name="x", layout="foldr", classes=("cat",))
    with pytest.raises(ValueError, match="options: of layouts that were registered, not of layout 'folder'"):
        DataConfig(name="x", layout="folder", classes=("cat",), options={"a": 1})
    register_layout("mine", splits=lambda config, root: config.options["splits"])(lambda *given: [])
    with pytest.raises(ValueError, match="classes: layout 'mine' needs the list of class names"):
        DataConfig(name="x", layout="mine")
    config = DataConfig(name="x", layout="mine", root=place, classes=("cat",), options={"splits": ["a"]})
    assert len(load_dataset(config, "a")) == 0


def test_the_code_of_this_toolkit_is_no_input(place: Path) -> None:
    assert source_file(vitseg.explain) is None
    assert source_file(test_layouts) == Path(__file__)
    (place / "mine.py").write_text(CONSTANT.format(""))
    load_extension("mine.py")
    load_extension("mine.py")  # once more changes nothing
    assert run(cnnseg_commands, ["list-methods", "--extension", "mine.py"]) == 0
