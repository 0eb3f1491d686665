"""The commands `cnnseg perturbation-test` and `segmentation-test`, with a stand-in for the methods but where said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_run import finish, make_data
from test_perturbation_test import blobs, small_classifier
from torch import Tensor, nn

import cnnseg
import wsss
from cnnseg.classifiers import create_classifier, load_imagenet_cnn
from cnnseg.cli import app
from cnnseg.models import create_network, save_network
from cnnseg.settings import EvaluationConfig, NetworkConfig
from cnnseg.tested import find_explainers, find_model
from vitseg.cli import app as vitseg
from vitseg.models import save_classifier
from wsss.console import run
from wsss.data import load_dataset
from wsss.entries import read_tests
from wsss.errors import InputError
from wsss.explanation import Explanation
from wsss.explanation_tests.figures import paired_difference, read_results
from wsss.explanation_tests.perturbation import perturb
from wsss.explanation_tests.tested import classify, squeeze, stack
from wsss.report import write_report
from wsss.report.explanation import test_sections
from wsss.store import read_json

CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Method:
    name: str
    class_specific: bool = True
    takes_rules: bool = False
    takes_layer: bool = False
    source: str = ""
    compute: Callable[..., object] = create_network
    """any function of the toolkit's own"""


METHODS = {m.name: m for m in (Method("lrp", takes_rules=True), Method("cam", takes_layer=True), Method("gradient"))}


def explain(
    model: nn.Module, images: Tensor, targets: Tensor, method: str, *, rules: str = "", layer: str = ""
) -> Explanation:
    """Signed maps that hang on all that they are asked for."""
    if rules == "impossible":
        raise InputError("layer conv1: has no rule")
    if layer == "nowhere":
        raise InputError("layer 'nowhere' is unknown to the model")
    wanted = targets if targets.ndim == 2 else targets[:, None]
    assert len(wanted) == len(images) and not model.training
    phase = sum(map(ord, method + rules + layer))
    maps = torch.stack([images.mean(1) * torch.cos(phase + c)[:, None, None] for c in wanted.T.to(images.dtype)], 1)
    return Explanation(maps if targets.ndim == 2 else maps[:, 0], targets, torch.zeros(0), method)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The interface of the engine, in place of it; not for tests of the real one."""
    if "real" in request.node.name:
        return
    monkeypatch.setattr(cnnseg, "explain", explain, raising=False)
    for name, content in (
        ("cnnseg.methods", {"METHODS": METHODS}),
        ("cnnseg.unroll.composites", {"COMPOSITES": dict.fromkeys(("zero", "epsilon_plus", "impossible"))}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def classifier(seed: int = 0, network: str = "classifier"):
    torch.manual_seed(seed)
    made = create_network(NetworkConfig(kind=network, architecture="test_resnet", weights="none"), CLASSES)
    if network == "classifier":
        nn.init.normal_(made.module.model.fc.weight, std=1)
        nn.init.constant_(made.module.model.fc.bias[0], 99)  # the background, of which no label tells
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_data(tmp_path / "data")
    save_network(classifier(), tmp_path / "runs/mine/network/last.safetensors")
    return tmp_path


@pytest.fixture
def command(place: Path) -> Callable[..., int]:
    def call(test: str, *options: object) -> int:
        given = [test, "--runs", place / "runs", "--device", "cpu", *options]
        if "--images" not in options and "--data" not in options:
            given += ["--data", place / "data/data.yaml", "--split", "val"]
        if "--classifier" not in options and "--architecture" not in options:
            given += ["--classifier", "mine"]
        if "--size" not in options:
            given += ["--size", 64]
        return run(app, [str(word) for word in given])

    return call


RUNS = ("mine.lrp.zero", "mine.lrp.epsilon_plus", "mine.cam", "mine.gradient")


def test_perturbation_command(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("perturbation-test", "--rules", "zero", "epsilon_plus") == 0
    said = capsys.readouterr().out
    assert "protocol: 3 images; images squeezed to 64 x 64" in said and "minus mine.lrp.zero" in said
    for name in RUNS:
        (entry,) = read_tests(place / "runs" / name)
        assert (entry.test, entry.model, entry.method) == ("perturbation", "mine", name.split(".")[1])
        assert entry.settings == (f"rules {name.split('.')[2]}" if "lrp" in name else "as published")
        assert entry.command.split()[0] == "cnnseg"  # what follows is how the tests were called
        results = read_results(place / "runs" / name / entry.folder)
        assert results["target"].tolist() == [1, 2, 1]  # cat, dog, cat; output 0 is the background
        assert set(results["predicted"].tolist()) <= {1, 2}
        config = read_json(place / "runs" / name / entry.folder / "manifest.json")["config"]
        assert config.get("rules") == (name.split(".")[2] if "lrp" in name else None) and config["size"] == [64, 64]
    assert (place / "runs/mine.perturbation.tiny_val.png").is_file()
    assert command("perturbation-test", "--rules", "zero", "epsilon_plus") == 0
    assert "12 of 12 results (4 methods) are there already" in capsys.readouterr().out
    assert command("perturbation-test", "--methods", "cam", "--layer", "layer3", "--precision", "float64") == 0
    (entry,) = read_tests(place / "runs/mine.cam.layer3.float64")
    assert entry.settings == "layer layer3, float64"


def test_segmentation_command(place: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("segmentation-test", "--rules", "zero", "epsilon_plus", "--batch-size", 2) == 0
    assert "protocol: 3 images; images and masks squeezed to 64 x 64" in capsys.readouterr().out
    for name in RUNS:
        (entry,) = read_tests(place / "runs" / name)
        results = read_results(place / "runs" / name / entry.folder)
        assert results["maps"].shape == (3, 64, 64) and set(results["predicted"].tolist()) <= {1, 2}
        assert (place / "runs" / name / entry.folder / "gallery.jpg").is_file()
    assert command("segmentation-test", "--methods", "gradient", "--limit", 1, "--name", "one") == 0
    assert read_tests(place / "runs/one")[0].images == 1


def test_what_the_model_does_not_have_is_left_out_of_all(
    command: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("perturbation-test", "--rules", "impossible", "zero") == 0
    assert "warning: lrp.impossible is left out: layer conv1: has no rule" in capsys.readouterr().err
    assert not (place / "runs/mine.lrp.impossible").exists() and (place / "runs/mine.lrp.zero").exists()
    assert command("perturbation-test", "--methods", "lrp", "--rules", "impossible") == 2
    assert capsys.readouterr().err == "error: layer conv1: has no rule\n"


def test_mistakes_take_one_line(command: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: object) -> str:
        capsys.readouterr()
        assert command("perturbation-test", *options) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    before = sorted((place / "runs").iterdir())
    assert "expected one of the two" in refused("--classifier", "mine", "--architecture", "resnet50")
    assert "--classifier nobody: no such file" in refused("--classifier", "nobody")
    assert "method 'lrpp' is unknown: did you mean 'lrp'?" in refused("--methods", "lrpp")
    assert "--methods lrp,cam: expected names separated by spaces, got commas: lrp cam" in refused(
        "--methods", "lrp,cam"
    )
    assert "composite 'zeros' is unknown: did you mean 'zero'?" in refused("--rules", "zeros")
    assert "--rules: names none" in refused("--rules")
    assert "--layer layer3: none of the methods looks at a layer" in refused("--methods", "lrp", "--layer", "layer3")
    assert "layer 'nowhere' is unknown" in refused("--layer", "nowhere")
    assert "--name x: a run holds one method, these are 3" in refused("--name", "x")
    assert "--size" in refused("--size", 0)
    assert "unknown to timm: did you mean 'resnet50'?" in refused("--architecture", "resnet5O")
    fcn = create_network(NetworkConfig(kind="fcn", architecture="resnet18", weights="none"), CLASSES)
    save_network(fcn, place / "f.safetensors")
    assert "expected one of `cnnseg train-classifier`, got a fcn" in refused("--classifier", place / "f.safetensors")
    assert sorted((place / "runs").iterdir()) == before


def test_names_and_sizes_of_models(place: Path) -> None:
    runs = place / "runs"
    save_network(classifier(), runs / "mine/network/best.safetensors")
    save_network(classifier(network="unrolled"), place / "other.safetensors")
    for given, name in (
        ("mine", "mine"),
        (str(runs / "mine/network/best.safetensors"), "mine_best"),
        (str(place / "other.safetensors"), "other"),
    ):
        tested = find_model(given, None, "pretrained", runs)
        assert (tested.name, tested.class_names, tested.first_class) == (name, CLASSES, 1)
        assert tested.size == (160, 160)  # what timm says of test_resnet
        assert tested.logits(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert find_model("mine", None, "", runs, 96).size == (96, 96)


@pytest.mark.parametrize("architecture", ["test_resnet", "resnet26_v1", "torchvision.squeezenet1_1"])
def test_imagenet_heads(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_classifier(architecture, 1000)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    cnn = load_imagenet_cnn(architecture, str(tmp_path / "w.safetensors"))
    assert cnn.class_names == tuple(map(str, range(1000))) and not cnn.model.training
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(cnn.model(images), model.eval()(images))
    with pytest.raises(InputError, match=r"`weights` .*w\.safetensors: not the weights of a resnet18"):
        load_imagenet_cnn("resnet18", str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match="no such file"):
        load_imagenet_cnn(architecture, str(tmp_path / "x.safetensors"))


def test_imagenet_model_by_command(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(create_classifier("test_resnet", 1000).state_dict(), tmp_path / "w.safetensors")
    for name in ("n02123045", "n01440764"):
        folder = tmp_path / "imagenet/val" / name
        folder.mkdir(parents=True)
        blobs(1)[0].save(folder / f"ILSVRC2012_{name}.JPEG")
    words = ("--architecture", "test_resnet", "--weights", tmp_path / "w.safetensors", "--methods", "cam")
    words += ("--data", "imagenet", "--root", tmp_path / "imagenet", "--split", "val")
    assert command("perturbation-test", *words) == 0
    assert "test_resnet" in capsys.readouterr().out
    results = read_results(tmp_path / "runs/test_resnet.cam/perturbation/imagenet_val")
    assert sorted(results["target"].tolist()) == [0, 281]


def test_runs_of_both_families_stand_in_one_table(place: Path, command: Callable[..., int]) -> None:
    """Two models on the same images: method, model and settings of each row, differences to the first, one gallery."""
    save_classifier(small_classifier(), place / "runs/vit/classifier/classifier.safetensors")
    common = ("--data", place / "data/data.yaml", "--split", "val", "--runs", place / "runs", "--device", "cpu")
    names = ["vit.rollout", "mine.lrp.zero", "mine.gradient"]
    for test in ("perturbation", "segmentation"):
        words = (f"{test}-test", *common, "--classifier", "vit", "--methods", "rollout")
        assert run(vitseg, [str(word) for word in words]) == 0
        assert command(f"{test}-test", "--methods", "lrp", "gradient", "--rules", "zero") == 0
    folders = {name: place / "runs" / name for name in names}
    for section in test_sections(folders):
        assert [row.label for row in section.rows] == names and section.baseline == names[0]
        assert [(row.entry.model, row.entry.method, row.entry.settings) for row in section.rows] == [
            ("vit", "rollout", "first block 1"),
            ("mine", "lrp", "rules zero"),
            ("mine", "gradient", "as published"),
        ]
        assert any("differ in their model" in note for note in section.notes) and not section.rows[0].differences
        first = section.results[names[0]]
        for row in section.rows[1:]:
            assert row.differences == paired_difference(section.test, first, section.results[row.run])
            assert {column.key for column in section.compared} == set(row.differences)
    files = write_report(list(folders.values()), None, place / "r.html")
    markdown = files.markdown.read_text()
    assert "| rollout | vit.rollout | vit | first block 1 |" in markdown
    assert "| lrp | mine.lrp.zero | mine | rules zero |" in markdown and "| minus vit.rollout |" in markdown
    assert "vit.rollout: 3 images; images squeezed to 160 x 160" in markdown
    assert "mine.lrp.zero, mine.gradient: 3 images; images squeezed to 64 x 64" in markdown
    page = files.html.read_text()
    assert all(f"Map of {name} on image a" in page for name in names)


def test_the_explainers_are_those_of_the_engine(place: Path) -> None:
    """Both classes of an image at once give what they give one after the other."""
    tested = find_model("mine", None, "", place / "runs", 64)
    explainers = find_explainers(tested, EvaluationConfig(methods=("lrp", "cam"), rules=("zero",), layer="layer2"))
    assert [explainer.label for explainer in explainers] == ["lrp.zero", "cam.layer2"]
    photographs = classify(tested, stack([squeeze(image, (64, 64)) for image in blobs(5)]), list("abcde"))
    wrong = 3 - photographs.predicted
    for explainer in explainers:
        _, found = finish(perturb(tested, photographs, wrong, explainer))
        for place_, target in enumerate(wrong.tolist()):
            alone = classify(tested, photographs.pixels[place_ : place_ + 1], ["x"])
            _, one = finish(perturb(tested, alone, torch.tensor([target]), explainer))
            np.testing.assert_array_equal(one["correct"][0], found["correct"][place_])


# --- the engine itself ------------------------------------------------------------------------------------------------


def test_real_methods_by_command(command: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that there are, each composite; figures of the command are those from Python."""
    from cnnseg.methods import METHODS as REAL

    assert command("perturbation-test", "--rules", "zero", "epsilon_plus_flat") == 0
    said = capsys.readouterr()
    labels = {name for name, method in REAL.items() if not method.takes_rules}
    labels |= {f"{name}.{rules}" for name in set(REAL) - labels for rules in ("zero", "epsilon_plus_flat")}
    left_out = {line.split()[1] for line in said.err.splitlines() if "is left out" in line}
    made = {folder.name.removeprefix("mine.") for folder in (place / "runs").glob("mine.*") if folder.is_dir()}
    assert made == labels - left_out and {"lrp.zero", "lrp.epsilon_plus_flat", "gradcam"} <= made
    assert command("segmentation-test", "--methods", "lrp", "gradcam", "--layer", "layer2") == 0
    assert {"mine.lrp.epsilon_plus.layer2", "mine.gradcam.layer2"} <= {path.name for path in (place / "runs").iterdir()}
    tested = find_model("mine", None, "", place / "runs", 64)
    dataset = load_dataset(place / "data/data.yaml", "val")
    shown = [sample for sample in dataset if len(sample.classes) == 1]
    images = tested.inputs(stack([squeeze(dataset.load_image(sample), tested.size) for sample in shown]))
    kept = read_results(place / "runs/mine.lrp.zero/perturbation/tiny_val")
    of_classes = Classes(tested.model)

    def lrp(model: Classes, images: Tensor, targets: Tensor) -> Explanation:
        return cnnseg.explain(model.model, images, targets + 1, "lrp", rules="zero")

    normal = {"mean": tested.mean, "std": tested.std, "ids": [sample.id for sample in shown]}
    result = wsss.perturbation_test(of_classes, lrp, images, kept["target"] - 1, **normal)
    np.testing.assert_array_equal(result.results["correct"], kept["correct"])


class Classes(nn.Module):
    """A classifier without its output of the background."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[:, 1:]


def test_real_methods_of_a_binary_model() -> None:
    torch.manual_seed(0)
    model = create_classifier("test_resnet", 1).double().eval()
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64) * torch.linspace(0.2, 3, 8)[:, None, None, None]
    with torch.no_grad():
        model.fc.bias -= model(images).median()
        truth = torch.where(model(images)[:, 0] > 0, 0, -1)
    assert set(truth.tolist()) == {0, -1}

    def lrp(model: nn.Module, images: Tensor, targets: Tensor) -> Explanation:
        return cnnseg.explain(model, images, targets, "lrp", rules="zero")

    normal = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    result = wsss.perturbation_test(model, lrp, images, truth, **normal)
    assert result.results["predicted"].tolist() == truth.tolist() and result.figures["clean_accuracy"] == 100
    flipped = wsss.perturbation_test(model, lrp, images, -1 - truth, many=True, **normal)
    assert flipped.figures["clean_accuracy"] == 0
    # the other class's map is minus the map: what one removes first, the other removes last
    negative, positive = flipped.results["correct"][:, 1, 0, 1:], flipped.results["correct"][:, 1, 1, 1:]
    np.testing.assert_array_equal(~positive, result.results["correct"][:, 0, 0, 1:])
    np.testing.assert_array_equal(~negative, result.results["correct"][:, 0, 1, 1:])
