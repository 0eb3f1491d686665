"""Training: killed and resumed equals uninterrupted, crops depend on their key alone, and it learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vitseg import classifier as training
from vitseg.classifier import CHECKPOINT, STATE, predict, train_classifier
from vitseg.models import create_classifier, load_classifier
from vitseg.settings import ClassifierConfig
from wsss.configs import config_root
from wsss.data import Dataset, load_dataset
from wsss.errors import InputError

CONFIG = ClassifierConfig(
    architecture="test_vit",
    weights="none",
    sizes=(32, 48),
    epochs=3,
    batch_size=2,
    warmup=2,
    precision="float32",
    seed=3,
)
POLY = {"optimizer": "sgd", "schedule": "poly", "lr": 5e-3, "weight_decay": 1e-4, "crop_min": 1.0, "warmup": 0}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six small photographs: red ones show a cat, blue ones a dog, the last both, the first none."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    labels = ["background", "cat", "dog", "cat", "dog", "cat;dog"]
    rows = ["image,classes"]
    for number, label in enumerate(labels):
        image = rng.integers(0, 80, (40 + 3 * number, 50, 3), np.uint8)
        image[:, :25, 0] += 150 * ("cat" in label)
        image[:, 25:, 2] += 150 * ("dog" in label)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "data.yaml").write_text("name: small\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    return load_dataset(tmp_path / "data.yaml", "all")


class Killed(Exception):
    pass


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    done = iter(range(steps))
    step = training._step

    def counted(*args: object) -> float:
        if next(done, None) is None:
            raise Killed
        return step(*args)

    monkeypatch.setattr(training, "_step", counted)


@pytest.mark.parametrize("options", [{}, POLY], ids=["adamw_cosine", "sgd_poly"])
def test_killed_and_resumed_equals_uninterrupted(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    config = CONFIG.model_copy(update=options)
    torch.manual_seed(1)
    whole = train_classifier(dataset, None, tmp_path / "whole", config)
    folder = tmp_path / "killed"
    for steps in (4, 2):  # 3 steps an epoch: in the midst of the second epoch; again, in the midst of it
        with monkeypatch.context() as patch:
            killed_after(patch, steps)
            with pytest.raises(Killed):
                train_classifier(dataset, None, folder, config)
        assert (folder / STATE).exists() and not (folder / CHECKPOINT).exists()
    torch.manual_seed(99)  # what a fresh process would have drawn meanwhile must not matter
    resumed = train_classifier(dataset, None, folder, config)
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.losses == whole.losses and len(whole.losses) == 3
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT]


def test_goes_on_from_a_state_that_an_older_version_left(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_classifier(dataset, None, tmp_path / "whole", CONFIG)
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        killed_after(patch, 4)
        with pytest.raises(Killed):
            train_classifier(dataset, None, folder, CONFIG)
    state = torch.load(folder / STATE, weights_only=True)
    older = {"model": state.pop("network"), "losses": [loss for (loss,) in state.pop("history")]}
    torch.save(state | older, folder / STATE)
    resumed = train_classifier(dataset, None, folder, CONFIG)
    assert resumed.path.read_bytes() == whole.path.read_bytes() and resumed.losses == whole.losses


def test_seed_and_workers(dataset: Dataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    other = CONFIG.model_copy(update={"epochs": 1, "seed": 4})
    alone = train_classifier(dataset, None, tmp_path / "alone", config).path.read_bytes()
    assert train_classifier(dataset, None, tmp_path / "other", other).path.read_bytes() != alone
    assert train_classifier(dataset, None, tmp_path / "helped", config, workers=1).path.read_bytes() == alone


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(dataset: Dataset, tmp_path: Path, precision: str) -> None:
    config = CONFIG.model_copy(update={"epochs": 25, "lr": 1e-3, "precision": precision, "flip": False})
    trained = train_classifier(dataset, dataset, tmp_path / "c", config)
    assert trained.losses[-1] < 0.5 * trained.losses[0] < math.log(2)
    assert trained.scores is not None and trained.scores.macro_f1 == 1
    again = load_classifier(trained.path)
    assert again.class_names == ("cat", "dog")
    probabilities = predict(again, dataset, 48, batch_size=4)
    assert ((probabilities > 0.5) == dataset.labels()).all()


def test_predict_is_a_sigmoid_of_every_image(dataset: Dataset) -> None:
    model = create_classifier("test_vit", dataset.class_names, "none")
    found = predict(model, dataset, 32, batch_size=4)
    image = Image.open(dataset.samples[5].image_path)
    with torch.no_grad():
        expected = model.model(model.prepare(image, (32, 32))[None])[0].sigmoid()
    assert found.shape == (6, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found[5], expected, rtol=1e-5)


def test_crops_depend_on_their_key_alone(dataset: Dataset) -> None:
    crops = training._Crops(dataset.samples, dataset.labels(), CONFIG)
    keys = [(0, 0, 32), (0, 1, 32), (1, 0, 32), (1, 5, 48)]
    forwards = [crops[key] for key in keys]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    backwards = [crops[key] for key in reversed(keys)][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # and leave the global generator alone
    for (epoch, index, size), (image, label), (again, _) in zip(keys, forwards, backwards, strict=True):
        assert torch.equal(image, again), (epoch, index)
        assert image.shape == (3, size, size) and image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
        assert label.tolist() == dataset.labels()[index].tolist()
    assert not torch.equal(forwards[0][0], forwards[2][0])


def test_every_batch_has_one_size_and_every_epoch_all_images() -> None:
    batches = training._SizedBatches(20, CONFIG)
    orders, sizes = [], set()
    for epoch in (0, 1, 0):
        found = list(batches.of_epoch(epoch))
        assert len(found) == batches.steps == 10
        assert all(len({size for _, _, size in batch}) == 1 for batch in found)
        sizes |= {size for batch in found for _, _, size in batch}
        flat = [key for batch in found for key in batch]
        assert {key[0] for key in flat} == {epoch} and sorted(key[1] for key in flat) == list(range(20))
        orders.append(flat)
    assert orders[0] == orders[2] and [key[1] for key in orders[0]] != [key[1] for key in orders[1]]
    assert sizes == {32, 48}


@pytest.mark.parametrize("options", [{}, POLY], ids=["adamw_cosine", "sgd_poly"])
def test_learning_rate_and_decay(options: dict[str, object]) -> None:
    config = CONFIG.model_copy(update=options)
    classifier = create_classifier("test_vit", ("a", "b"), "none")
    model = classifier.model
    optimizer = training._optimizer(classifier, config)
    decayed, plain = optimizer.param_groups
    assert plain["weight_decay"] == 0 and decayed["weight_decay"] == config.weight_decay
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())  # none twice, none forgotten
    rates = []
    for step in range(12):
        training._set_lr(optimizer, config, step, 12)
        assert decayed["lr"] == plain["lr"]
        rates.append(decayed["lr"] / config.lr)
    if options:
        np.testing.assert_allclose(rates, [(1 - step / 12) ** 0.9 for step in range(12)])
    else:
        cosine = [(1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
        np.testing.assert_allclose(rates, [0.5 * cosine[0], *cosine[1:]])  # two steps of warm-up


def test_faults_are_told(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^step \d+: loss .*(nan|inf).*: not finite; lower `lr`"):
        wild = {**POLY, "lr": 1e30, "clip": 1e30}
        train_classifier(dataset, None, tmp_path / "wild", CONFIG.model_copy(update=wild))
    assert not (tmp_path / "wild" / CHECKPOINT).exists()
    bare = Dataset("small", "all", dataset.root, dataset.class_names, dataset.samples[:1], dataset.mask_values)
    for nothing in (bare, Dataset("small", "all", dataset.root, dataset.class_names, (), dataset.mask_values)):
        with pytest.raises(InputError, match="data set small/all: no image shows any of the classes cat, dog"):
            train_classifier(nothing, None, tmp_path / "bare", CONFIG)
    folder = tmp_path / "killed"
    killed_after(monkeypatch, 3)
    with pytest.raises(Killed):
        train_classifier(dataset, None, folder, CONFIG)
    with pytest.raises(InputError, match="other settings or images; delete it to train from the start"):
        train_classifier(dataset, None, folder, CONFIG.model_copy(update={"lr": 1e-3}))
    with pytest.raises(InputError, match="other settings or images"):
        fewer = Dataset("small", "all", dataset.root, dataset.class_names, dataset.samples[1:], dataset.mask_values)
        train_classifier(fewer, None, folder, CONFIG)
    state = folder / STATE
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"resume\.pt: cannot be read"):
        train_classifier(dataset, None, folder, CONFIG)


def test_configurations_that_ship() -> None:
    """The YAML files hold options of the command with valid values."""
    files = sorted((config_root() / "vitseg").glob("classifier*.yaml"))
    assert files
    for file in files:
        options = yaml.safe_load(file.read_text())
        known = {key: value for key, value in options.items() if key in ClassifierConfig.model_fields}
        assert known and ClassifierConfig.model_validate(known)
