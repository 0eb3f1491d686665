"""One preset, one map: from the command, from Python, from the tests of explanations, and from `vitseg seeds`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_run import make_data

import vitseg
from vitseg.cli import app
from vitseg.methods import METHODS
from vitseg.models import Classifier, create_classifier, load_classifier, save_classifier
from vitseg.settings import EvaluationConfig, ExplainConfig, SeedConfig
from vitseg.tested import find_explainers, model_under_test
from wsss.console import run
from wsss.data import load_dataset
from wsss.errors import InputError
from wsss.maps import input_size, scale_maps
from wsss.store import read_seed

NAMES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("presets")
    make_data(folder / "data")
    torch.manual_seed(0)
    save_classifier(create_classifier("test_vit", NAMES, "none"), folder / "vit.safetensors")
    return folder


@pytest.fixture(scope="module")
def classifier(place: Path) -> Classifier:
    return load_classifier(place / "vit.safetensors")


def maps_of_command(place: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> np.ndarray:
    """What `vitseg explain` draws over a.png."""
    from vitseg import pictures

    drawn, made = [], pictures.class_maps

    def seen(*args: object, **keywords: object) -> list[np.ndarray]:
        drawn.extend(made(*args, **keywords))
        return drawn

    monkeypatch.setattr(pictures, "class_maps", seen)
    command = ["explain", str(place / "data/images/a.png"), "--classifier", str(place / "vit.safetensors")]
    assert run(app, [*command, "--out", str(place / "out"), "--device", "cpu", *options]) == 0
    (found,) = drawn
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_command_draws_the_map_of_the_function(
    place: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    drawn = maps_of_command(place, monkeypatch, "--method", method, "--classes", "bird")
    with Image.open(place / "data/images/a.png") as photograph:
        image = photograph.convert("RGB")
    size = input_size(image, max(classifier.model.patch_embed.img_size), (16, 16))
    plain = vitseg.explain(classifier.model, classifier.prepare(image, size)[None], 2, method)
    np.testing.assert_array_equal(drawn, scale_maps(plain.maps))
    again = vitseg.explain_photograph(classifier, image, 2, method)
    np.testing.assert_array_equal(drawn, again.maps)
    torch.testing.assert_close(again.logits, plain.logits)


def test_the_seed_preset_is_what_seeds_makes(
    place: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(place / "data/data.yaml")
    command = ["seeds", "--classifier", str(place / "vit.safetensors"), "--data", data, "--split", "val"]
    assert run(app, [*command, "--runs", str(place / "runs"), "--device", "cpu"]) == 0
    (sample,) = (one for one in load_dataset(data, "val") if one.id == "a")
    seed, names = read_seed(place / "runs/lrp_vit/seeds", "a"), [("cat", "dog")[c - 1] for c in sample.classes]
    targets = [NAMES.index(name) for name in names]
    found = vitseg.explain_photograph(classifier, sample.load_image(), targets, preset="seed")
    np.testing.assert_array_equal(found.maps[0].numpy().astype(np.float16), seed.scores)
    chosen = [word for name in names for word in ("--classes", name)]
    drawn = maps_of_command(place, monkeypatch, "--preset", "seed", *chosen)
    np.testing.assert_array_equal(drawn, found.maps[0])
    one = vitseg.explain_photograph(classifier, sample.load_image(), targets, preset="plain")
    assert one.maps.shape[2:] != found.maps.shape[2:] or not torch.equal(one.maps, found.maps)


def test_the_tests_of_explanations_look_at_the_plain_map(classifier: Classifier) -> None:
    images = torch.randn(2, 3, *classifier.model.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    tested = model_under_test(classifier, "vit", "")
    for explainer in find_explainers(classifier.model, EvaluationConfig()):
        found = explainer.explain(tested.model, images, torch.tensor([1, 2]))
        torch.testing.assert_close(found, vitseg.explain(classifier.model, images, [1, 2], explainer.name).maps)


def test_options_change_single_settings_of_a_preset() -> None:
    assert ExplainConfig(preset="seed").settled(224, 0) == SeedConfig()
    assert ExplainConfig(preset="seed", method="rollout", flip=False).settled(224, 1) == SeedConfig(
        method="rollout", flip=False
    )
    plain = ExplainConfig(rules="exact").settled(224, 1)
    assert (plain.sizes, plain.flip, plain.rules, plain.first_block) == ((224,), False, "exact", 1)
    assert (plain.walk_steps, plain.competes, plain.exponent, plain.dtype) == (0, False, 1, "float64")
    assert ExplainConfig().settled(224, 1).dtype == "float32"
    assert ExplainConfig(attention_walk=1, sizes=(32,)).settled(224, 1).walk_steps == 1


def test_a_model_of_timm_is_explained_and_left_as_found() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", dynamic_img_size=True, num_classes=5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8))
    found = vitseg.explain_photograph(model, image, rules="exact")  # in double precision, unlike the model
    assert found.maps.shape[0] == 1 and found.targets.tolist() == [int(found.logits.argmax())]
    assert model.training and all(tensor.equal(model.state_dict()[name]) for name, tensor in before.items())
    assert vitseg.explain_photograph(model, image, [1, 3, 4]).maps.shape[:2] == (1, 3)
    with pytest.raises(InputError, match=r"one size alone.*dynamic_img_size=True"):
        vitseg.explain_photograph(timm.create_model("test_vit", dynamic_img_size=False), image)
    with pytest.raises(InputError, match=r"targets: expected classes 0 to 4, got 5 to 5"):
        vitseg.explain_photograph(model, image, 5)
    with pytest.raises(InputError, match=r"preset: .*'plain' or 'seed'.*'sead'"):
        vitseg.explain_photograph(model, image, preset="sead")
    with pytest.raises(InputError, match="fliip"):
        vitseg.explain_photograph(model, image, fliip=True)
    with pytest.raises(InputError, match="expected a timm VisionTransformer"):
        vitseg.explain_photograph(torch.nn.Linear(2, 2), image)
