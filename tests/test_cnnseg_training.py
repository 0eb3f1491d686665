"""The training loop: resumed equals uninterrupted, the loss step by step, what is trained and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from small_networks import Normed
from torch import Tensor, nn

from cnnseg import training
from cnnseg.evaluation import Evaluation
from cnnseg.examples import Examples, StepBatches
from cnnseg.history import HISTORY, read_history
from cnnseg.models import Network
from cnnseg.optimiser import make_optimizer, new_layers, set_lr
from cnnseg.settings import BEST, LAST, STATE, TrainConfig
from cnnseg.snapshots import SNAPSHOTS, read_snapshot
from cnnseg.training import is_finished, train_network
from cnnseg.unroll import unroll
from wsss.data import Dataset, Sample, load_dataset
from wsss.errors import InputError
from wsss.metrics import ConfusionMatrix

NAMES = ("cat", "dog")
CONFIG = TrainConfig(
    steps=6, batch_size=4, crop=32, lr=1e-2, evaluate_every=2, save_every=1, seed=3, scale_min=1, scale_max=1.2
)


class Plain(nn.Module):
    """The classifier alone."""

    classifies, segments = True, False

    def __init__(self) -> None:
        super().__init__()
        self.model = Normed()

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, None]:
        return self.model(images), None


class Decoder(nn.Module):
    """A baseline: encoder and decoder, each with batch norm; dropout draws random numbers."""

    classifies, segments = False, True

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.segmentation_head = nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[None, Tensor | None]:
        if decode == 0:
            return None, None
        return None, self.segmentation_head(self.decoder(self.encoder(images[:decode])))


MAKE: dict[str, Callable[[], nn.Module]] = {
    "unrolled": lambda: unroll(Normed()),
    "classifier": Plain,
    "unet": Decoder,
}


def network(kind: str = "unrolled", seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(MAKE[kind](), kind, "tiny", NAMES, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Twelve photographs of red (cat) and blue (dog) rectangles on grey; eight to train on, four with mask each."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["image,classes,split"]
    for number in range(12):
        height, width = 40 + number % 3, 44
        image, mask = rng.integers(80, 140, (height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        shown = ([1], [2], [1, 2], [])[number % 4]
        for c in shown:
            top, left = rng.integers(3, 12), 2 + 20 * (c - 1)
            image[top : top + 22, left : left + 18] = (230, 30, 30) if c == 1 else (30, 30, 230)
            mask[top : top + 22, left : left + 18] = c
        Image.fromarray(image).save(folder / f"images/{number:02d}.png")
        if number % 2 == 0 or number >= 8:
            mask[:2] = 255
            Image.fromarray(mask).save(folder / f"masks/{number:02d}.png")
        names = ";".join(NAMES[c - 1] for c in shown) or "background"
        rows.append(f"{number:02d},{names},{'train' if number < 8 else 'val'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "data.yaml").write_text("name: small\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    return {split: load_dataset(folder / "data.yaml", split) for split in ("train", "val")}


def masked(data: dict[str, Dataset], kind: str = "unrolled") -> tuple[Sample, ...]:
    return () if kind == "classifier" else tuple(s for s in data["train"] if s.mask_path is not None)


class Killed(Exception):
    pass


def killed_in(monkeypatch: pytest.MonkeyPatch, function: str, calls: int) -> None:
    """The training's use of `function` fails after so many calls."""
    count, original = iter(range(calls)), getattr(training, function)

    def counted(*args: object, **keywords: object) -> object:
        if next(count, None) is None:
            raise Killed
        return original(*args, **keywords)

    monkeypatch.setattr(training, function, counted)


def test_a_state_of_an_older_version_is_gone_on_with(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = (data["train"], masked(data), None)
    config = CONFIG.model_copy(update={"save_every": 2})
    with monkeypatch.context() as patch:
        killed_in(patch, "_step", 3)
        with pytest.raises(Killed):
            train_network(network(), *sets, tmp_path, config)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state["identity"]["config"]["precision"] == "float32"
    state["identity"]["config"]["precision"] = "bf16"
    torch.save(state, tmp_path / STATE)
    with pytest.raises(InputError, match="of a training with other settings"):
        train_network(network(), *sets, tmp_path, config)
    state["identity"]["config"]["precision"] = "fp32"
    torch.save(state, tmp_path / STATE)
    train_network(network(), *sets, tmp_path, config)
    assert "going on after step 2 of" in capsys.readouterr().out


@pytest.mark.parametrize("kind", MAKE)
def test_killed_and_resumed_equals_uninterrupted(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sets = (data["train"], masked(data, kind), data["val"])
    config = CONFIG.model_copy(update={"save_every": 3, "snapshots": ("08",) if kind != "classifier" else ()})
    whole = train_network(network(kind), *sets, tmp_path / "whole", config)
    folder = tmp_path / "killed"
    # before any state; between two saves; while a state is written; after the state, before the checkpoint
    for function, calls in (("_step", 1), ("_step", 3), ("save_state", 0), ("save_network", 1)):
        with monkeypatch.context() as patch:
            killed_in(patch, function, calls)
            with pytest.raises(Killed):
                train_network(network(kind), *sets, folder, config)
        assert not is_finished(folder)
    torch.manual_seed(99)  # what a fresh process would have drawn meanwhile must not matter
    resumed = train_network(network(kind, seed=5), *sets, folder, config)
    assert is_finished(folder) and is_finished(tmp_path / "whole")
    assert resumed.history == whole.history and len(whole.history) == 4 and resumed.best == whole.best
    for name in (LAST, BEST, HISTORY):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for step in (0, 2, 4, 6) if config.snapshots else ():
        maps = [np.load(place / SNAPSHOTS / f"{step}/08.npz")["maps"] for place in (folder, tmp_path / "whole")]
        assert np.array_equal(*maps) and maps[0].dtype == np.float16 and maps[0].shape == (3, 42, 44)
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted((BEST, HISTORY, LAST))


def test_seed_workers_and_state_of_another_training(data: dict[str, Dataset], tmp_path: Path) -> None:
    sets = (data["train"], masked(data), None)
    config = CONFIG.model_copy(update={"steps": 2})
    alone = train_network(network(), *sets, tmp_path / "alone", config).path.read_bytes()
    assert train_network(network(), *sets, tmp_path / "helped", config, workers=1).path.read_bytes() == alone
    other = train_network(network(), *sets, tmp_path / "o", config.model_copy(update={"seed": 4}))
    assert other.path.read_bytes() != alone and other.best_path is None and not (tmp_path / "o" / BEST).exists()
    fewer = train_network(network(), data["train"], masked(data)[:1], None, tmp_path / "fewer", config)
    assert fewer.path.read_bytes() != alone
    torch.save({"identity": {}}, tmp_path / "alone" / STATE)
    with pytest.raises(InputError, match=r"resume\.pt: is of a training with other settings"):
        train_network(network(), *sets, tmp_path / "alone", config)


def reference_losses(net: Network, batch: Sequence[Tensor], places: int) -> tuple[float, float]:
    """Both losses of Yu et al. (2024), section 2.3, in float64 straight from their definitions."""
    images, masks, labels = batch
    with torch.no_grad():
        logits, maps = net.module(net.normalise(images))
    scores, maps = logits[:, 1:].double().numpy(), maps[:places].double().numpy()
    truth = labels.numpy()
    probability = 1 / (1 + np.exp(-scores))
    classification = -(truth * np.log(probability) + (1 - truth) * np.log(1 - probability)).mean()
    terms = []
    for place in range(places):
        for y, x in np.argwhere(masks[place].numpy() != 255):
            column = maps[place, :, y, x]
            terms.append(np.log(np.exp(column).sum()) - column[masks[place, y, x]])
    return float(classification), float(np.mean(terms))


def test_the_loss_is_the_papers(data: dict[str, Dataset], tmp_path: Path) -> None:
    weights = {"classification_weight": 0.5, "segmentation_weight": 2.0}
    config = CONFIG.model_copy(update={"steps": 1, "evaluate_every": 1, "mask_share": 0.75, **weights})
    examples = Examples(data["train"], masked(data), config)
    (keys,) = StepBatches(data["train"], masked(data), config, 3)
    batch = [torch.stack(part) for part in zip(*(examples[key] for key in keys), strict=True)]
    assert (batch[1][:3] != 255).any((1, 2)).all() and (batch[1][3] == 255).all()
    net = network()
    net.module.eval()
    expected = reference_losses(net, batch, 3)
    row = train_network(network(), data["train"], masked(data), data["val"], tmp_path, config).history[-1]
    assert row["classification_loss"] == pytest.approx(expected[0], rel=1e-4)
    assert row["segmentation_loss"] == pytest.approx(expected[1], rel=1e-4)
    assert row["loss"] == pytest.approx(0.5 * expected[0] + 2 * expected[1], rel=1e-4)


def test_history_holds_means_between_evaluations(data: dict[str, Dataset], tmp_path: Path) -> None:
    sets = (data["train"], masked(data), data["val"])
    each = train_network(network(), *sets, tmp_path / "1", CONFIG.model_copy(update={"evaluate_every": 1})).history
    pairs = train_network(network(), *sets, tmp_path / "4", CONFIG.model_copy(update={"evaluate_every": 4})).history
    assert [row["step"] for row in each] == list(range(7)) and [row["step"] for row in pairs] == [0, 4, 6]
    for key in ("loss", "classification_loss", "segmentation_loss"):
        assert key not in pairs[0]
        assert pairs[1][key] == pytest.approx(np.mean([row[key] for row in each[1:5]]), rel=1e-9)
        assert pairs[2][key] == pytest.approx(np.mean([row[key] for row in each[5:]]), rel=1e-9)
    assert pairs[1]["miou"] == each[4]["miou"] and pairs[0]["macro_f1"] == each[0]["macro_f1"]
    assert read_history(tmp_path / "4") == list(pairs)
    (tmp_path / "4" / HISTORY).write_text('{"step": 0}\n{"st')
    with pytest.raises(InputError, match=r"history\.jsonl: not lines of JSON"):
        read_history(tmp_path / "4")


@pytest.mark.parametrize(
    ("kind", "precision"), [("unrolled", "float32"), ("unrolled", "bfloat16"), ("unet", "float32")]
)
def test_it_learns(data: dict[str, Dataset], tmp_path: Path, kind: str, precision: str) -> None:
    update = {"steps": 70, "lr": 3e-2, "precision": precision, "evaluate_every": 35, "colour_jitter": 0}
    config = CONFIG.model_copy(update=update)
    rows = train_network(network(kind), data["train"], masked(data, kind), data["val"], tmp_path, config).history
    assert rows[2]["segmentation_loss"] < 0.95 * rows[1]["segmentation_loss"] < np.log(3)
    assert rows[2]["miou"] > max(60, rows[0]["miou"] + 20)
    if kind == "unrolled":
        assert rows[2]["macro_f1"] == 100 and rows[2]["classification_loss"] < 0.5 * np.log(2)
    else:
        assert rows[2]["macro_f1"] is None and rows[2]["classification_loss"] == 0


def test_labels_alone_train_no_background(data: dict[str, Dataset], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"weight_decay": 0.0, "snapshots": ("08",)})
    for kind in ("classifier", "unrolled"):  # an unrolled network without masks is a classifier
        net = network(kind)
        before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
        trained = train_network(net, data["train"], (), data["val"], tmp_path / kind, config)
        after = load_file(trained.path)
        assert torch.equal(after["model.fc.weight"][0], before["model.fc.weight"][0])
        assert not torch.equal(after["model.fc.weight"][1], before["model.fc.weight"][1])
        assert all(row["miou"] is None for row in trained.history)  # best is what it has learnt best, not its masks
        assert trained.best["macro_f1"] == max(row["macro_f1"] for row in trained.history[1:])
        assert described(trained.path) == described(trained.best_path) == (32, 0)
    same = [load_file(tmp_path / kind / LAST) for kind in ("classifier", "unrolled")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    assert not (tmp_path / "classifier" / SNAPSHOTS).exists() and (tmp_path / "unrolled" / SNAPSHOTS).exists()


def described(path: Path) -> tuple[int | None, int | None]:
    """Crop and number of masks that a checkpoint says it was trained with."""
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["relseg"])
    return description["crop"], description["masks"]


def test_weights_of_the_losses_and_the_learning_rate(data: dict[str, Dataset], tmp_path: Path) -> None:
    """Labels alone leave the background's class weights as they are, masks alone all biases of the class scores."""
    update = {"steps": 1, "weight_decay": 0.0, "warmup": 5}
    for part, same in (("segmentation", {"weight": 0}), ("classification", {"bias": slice(None)})):
        net = network()
        before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
        config = CONFIG.model_copy(update=update | {f"{part}_weight": 0.0})
        train_network(net, data["train"], masked(data), None, tmp_path / part, config)
        change = {name: tensor - before[name] for name, tensor in net.module.state_dict().items()}
        for name in ("weight", "bias"):
            rows = change[f"model.fc.{name}"]
            assert torch.equal(rows[same[name]], torch.zeros_like(rows[same[name]])) if name in same else rows.any()
        assert change["model.conv2.weight"].abs().max() == pytest.approx(1e-2 / 5, rel=1e-3)  # Adam's first step


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_the_encoder(data: dict[str, Dataset], tmp_path: Path, frozen: bool) -> None:
    config = CONFIG.model_copy(update={"steps": 1, "frozen_statistics": frozen})
    for kind, encoder in (("unrolled", "model.norm"), ("unet", "encoder.1")):
        net = network(kind)
        train_network(net, data["train"], masked(data), None, tmp_path / kind, config)
        state = net.module.state_dict()
        assert torch.equal(state[f"{encoder}.running_mean"], torch.zeros(8)) is frozen
        assert not torch.equal(state[f"{encoder}.weight"], torch.ones(8))  # trained either way
    assert not torch.equal(state["decoder.1.running_mean"], torch.zeros(8))


@pytest.mark.parametrize("save_every", [1, 100])
def test_a_loss_that_is_not_finite(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    sets = (data["train"], masked(data), data["val"])
    train_network(network(), *sets, tmp_path / "good", CONFIG.model_copy(update={"steps": 4}))
    original, calls = training.segmentation_loss, iter(range(1, 10))

    def broken(maps: Tensor, masks: Tensor) -> Tensor:
        # a finite loss with an infinite gradient: the square root at 0
        loss = original(maps, masks)
        return loss + (maps - maps.detach()).sum().abs().sqrt() if next(calls) == 5 else loss

    monkeypatch.setattr(training, "segmentation_loss", broken)
    net = network()
    with pytest.raises(InputError, match=r"^step 5: .*not finite; lower `lr` \(now 0\.01\)"):
        train_network(net, *sets, tmp_path / "bad", CONFIG.model_copy(update={"save_every": save_every}))
    assert all(tensor.isfinite().all() for tensor in net.module.state_dict().values())  # not taken in
    good = load_file(tmp_path / "good" / LAST)
    kept = load_file(tmp_path / "bad" / LAST)
    assert all(torch.equal(kept[name], good[name]) for name in good)
    assert not is_finished(tmp_path / "bad")


def test_best_is_chosen_on_the_validation_split(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.9, 0.1, 0.3, float("nan"), 0.3, 0.2, 0.25])
    asked: list[int] = []

    def judged(net: Network, dataset: Dataset, samples: Sequence[Sample], **how: object) -> Evaluation:
        assert dataset is data["val"]
        asked.append(len(samples))
        value = next(figures)
        matrix = ConfusionMatrix(1, [[0]])
        return Evaluation(len(samples), type("Given", (), {"miou": value, "counts": matrix.counts})(), None)

    monkeypatch.setattr(training, "evaluate_network", judged)
    config = CONFIG.model_copy(update={"evaluate_every": 1, "evaluate_images": 3})
    trained = train_network(network(), data["train"], masked(data), data["val"], tmp_path / "all", config)
    assert [row["miou"] for row in trained.history] == [90, 10, 30, None, 30, 20, 25] and asked == [3] * 7
    assert trained.best == trained.history[2] and trained.best_path == tmp_path / "all" / BEST  # the first of equals
    monkeypatch.undo()
    short = train_network(network(), data["train"], masked(data), None, tmp_path / "two", config_of(2))
    best, two, last = (load_file(path) for path in (trained.best_path, short.path, trained.path))
    assert all(torch.equal(best[name], two[name]) for name in best)
    assert not torch.equal(best["model.fc.weight"], last["model.fc.weight"])


def config_of(steps: int) -> TrainConfig:
    return CONFIG.model_copy(update={"steps": steps})


def test_which_layers_are_new_and_their_rates() -> None:
    assert new_layers(network("unrolled"), True) == {"model.fc.weight", "model.fc.bias"}
    assert new_layers(network("classifier"), False) == set()
    decoder = {name for name, _ in network("unet").module.named_parameters() if not name.startswith("encoder.")}
    assert new_layers(network("unet"), False) == decoder and "decoder.0.weight" in decoder
    free = Network(unroll(Normed(), tied_convolutions=False), "free_convolutions", "tiny", NAMES, (0,) * 3, (1,) * 3)
    assert new_layers(free, False) == set()
    config = CONFIG.model_copy(update={"head_lr_factor": 10, "schedule": "cosine", "warmup": 2, "steps": 8})
    module = network().module
    optimizer = make_optimizer(Network(module, "unrolled", "tiny", NAMES, (0,) * 3, (1,) * 3), config, True)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    rates = {}
    for step in (0, 1, 4, 7):
        set_lr(optimizer, config, step)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rates[names[id(parameter)], step] = group["lr"]
                assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0)
    assert len(rates) == 4 * len(names)  # each parameter once
    assert rates["model.conv1.weight", 0] == pytest.approx(0.5 * 1e-2)
    assert rates["model.conv1.bias", 4] == pytest.approx(0.5 * 1e-2)
    assert rates["model.fc.weight", 4] == pytest.approx(10 * 0.5 * 1e-2)
    assert rates["model.norm.weight", 7] == pytest.approx(1e-2 * (1 + np.cos(np.pi * 7 / 8)) / 2)
    set_lr(optimizer, CONFIG, 5)
    assert {group["lr"] / group["factor"] for group in optimizer.param_groups} == {1e-2}  # constant, as in the paper


def test_snapshots_are_the_heat_maps(data: dict[str, Dataset], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"snapshots": ("09", "00"), "evaluate_size": 64, "steps": 2})
    net = network()
    train_network(net, data["train"], masked(data), data["val"], tmp_path, config)
    for dataset, image_id in ((data["val"], "09"), (data["train"], "00")):
        (sample,) = (s for s in dataset if s.id == image_id)
        image = dataset.load_image(sample)
        factor = 64 / (image.width * image.height) ** 0.5
        size = (round(image.height * factor), round(image.width * factor))
        with torch.no_grad():
            maps = net.module(net.prepare(image, size)[None])[1][0].numpy()
        stored, strength = read_snapshot(tmp_path / SNAPSHOTS / "2" / f"{image_id}.npz", 3)
        np.testing.assert_allclose(stored, maps, rtol=2e-3, atol=1e-6)
        assert strength == pytest.approx(size[0] * size[1] / 32**2) and described(tmp_path / LAST) == (32, 4)
        assert not np.array_equal(stored, read_snapshot(tmp_path / SNAPSHOTS / "0" / f"{image_id}.npz", 3)[0])


def test_what_cannot_be_trained(data: dict[str, Dataset], tmp_path: Path) -> None:
    def refused(match: str, kind: str = "unrolled", **options: object) -> None:
        given = {"train": data["train"], "masked": masked(data), "val": data["val"], "config": CONFIG} | options
        with pytest.raises(InputError, match=match):
            train_network(network(kind), folder=tmp_path / "none", **given)
        assert not (tmp_path / "none").exists()

    def without(dataset: Dataset, **change: object) -> Dataset:
        samples = tuple(Sample(s.id, s.image_path, s.classes, None) for s in dataset)
        return Dataset(**{**vars(dataset), "samples": samples, **change})

    refused("network unet learns from masks alone: give a `budget`", "unet", masked=())
    refused("`workers` -1: expected 0 or more", workers=-1)
    refused("`snapshots` nowhere: no such image", config=CONFIG.model_copy(update={"snapshots": ("nowhere",)}))
    refused("split val: no image has a mask to evaluate against", val=without(data["val"]))
    refused("network made for other classes: cat, dog; .* has: x, y", val=without(data["val"], class_names=("x", "y")))
    empty = tuple(Sample(s.id, s.image_path, (), None) for s in data["train"])
    refused("no image shows any of the classes cat, dog", train=without(data["train"], samples=empty), masked=())


def test_history_is_json_lines(data: dict[str, Dataset], tmp_path: Path) -> None:
    train_network(network(), data["train"], masked(data), data["val"], tmp_path, config_of(2))
    rows = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert [sorted(row) for row in rows] == [
        ["images", "macro_f1", "map", "miou", "step"],
        ["classification_loss", "images", "loss", "macro_f1", "map", "miou", "segmentation_loss", "step"],
    ]
