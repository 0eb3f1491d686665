"""Training: killed and resumed equals uninterrupted, examples depend on their key alone, and it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from affinity import training
from affinity.augment import Example, Examples
from affinity.checkpoint import load_affinity_network
from affinity.loss import affinity_loss, stride_labels
from affinity.network import AffinityNetwork
from affinity.settings import AugmentConfig, NetworkConfig, TrainConfig
from affinity.training import CHECKPOINT, STATE, train_affinity_network
from wsss.configs import config_root, find_config
from wsss.data import Sample
from wsss.epochs import EpochBatches
from wsss.errors import InputError
from wsss.store import write_mask
from wsss.training import read_batches

NETWORK = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
CONFIG = TrainConfig(
    network=NETWORK, augment=AugmentConfig(crop=48), epochs=3, batch_size=2, lr=1e-3, export="float32", seed=7
)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    """Five small images: a bright block on a dark ground, labelled, with a neutral seam."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(5):
        height, width = 56 + 8 * index, 72
        image = rng.integers(0, 60, (height, width, 3), np.uint8)
        label = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, 16, 2)
        label[top : top + 40, left : left + 44] = 255
        label[top + 4 : top + 36, left + 4 : left + 40] = 1 + index % 2
        image[top + 2 : top + 38, left + 2 : left + 42] += 150
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        write_mask(tmp_path / "labels", str(index), label)
        found.append(Example(Sample(str(index), tmp_path / f"{index}.png", ()), tmp_path / "labels" / f"{index}.png"))
    return found


class Killed(Exception):
    pass


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    done = iter(range(steps))
    step = training._step

    def counted(*args: object) -> list[float]:
        if next(done, None) is None:
            raise Killed
        return step(*args)

    monkeypatch.setattr(training, "_step", counted)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_killed_and_resumed_equals_uninterrupted(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    whole = train_affinity_network(examples, tmp_path / "whole", config)
    folder = tmp_path / "killed"
    for steps in (4, 2):  # 3 steps an epoch: in the midst of the second epoch; again, in the midst of it
        with monkeypatch.context() as patch:
            killed_after(patch, steps)
            with pytest.raises(Killed):
                train_affinity_network(examples, folder, config)
        assert (folder / STATE).exists() and not (folder / CHECKPOINT).exists()
    torch.manual_seed(99)  # what a fresh process would have drawn meanwhile must not matter
    resumed = train_affinity_network(examples, folder, config)
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.losses == whole.losses and len(whole.losses) == 3
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT]


def test_another_seed_gives_another_network(examples: list[Example], tmp_path: Path) -> None:
    one, two = (
        train_affinity_network(examples, tmp_path / str(seed), CONFIG.model_copy(update={"seed": seed, "epochs": 1}))
        for seed in (1, 2)
    )
    assert one.path.read_bytes() != two.path.read_bytes()


def test_workers_do_not_change_the_result(examples: list[Example], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    alone = train_affinity_network(examples, tmp_path / "alone", config)
    helped = train_affinity_network(examples, tmp_path / "helped", config, workers=2)
    assert alone.path.read_bytes() == helped.path.read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(examples: list[Example], tmp_path: Path, precision: str) -> None:
    config = CONFIG.model_copy(update={"epochs": 15, "precision": precision, "lr": 2e-3})
    trained = train_affinity_network(examples, tmp_path / "net", config)
    assert trained.losses[-1].total < 0.6 * trained.losses[0].total
    network = load_affinity_network(trained.path)
    image = torch.tensor(np.asarray(Image.open(examples[4].sample.image_path)))[None].movedim(-1, 1) / 255
    label = torch.tensor(np.asarray(Image.open(examples[4].label_path)))[None]
    with torch.no_grad():
        after = affinity_loss(network(image), stride_labels(label))
        torch.manual_seed(0)
        before = affinity_loss(AffinityNetwork(NETWORK).eval()(image), stride_labels(label))
    assert after.total < 0.6 * before.total


def test_examples_depend_on_their_key_alone(examples: list[Example]) -> None:
    dataset = Examples(examples, CONFIG.augment, seed=3)
    keys = [(0, 0), (0, 1), (1, 0)]
    forwards = [dataset[key] for key in keys]
    torch.manual_seed(123)
    torch.rand(5)
    state = torch.get_rng_state()
    backwards = [dataset[key] for key in reversed(keys)][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # and leave the global generator alone
    for (image, label), (image_again, label_again) in zip(forwards, backwards, strict=True):
        assert torch.equal(image, image_again) and torch.equal(label, label_again)
    assert not torch.equal(forwards[0][0], forwards[2][0])
    assert not torch.equal(dataset[0, 0][0], Examples(examples, CONFIG.augment, seed=4)[0, 0][0])
    for image, label in forwards:
        assert image.shape == (3, 48, 48) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
        assert label.shape == (48, 48) and label.dtype == torch.uint8 and set(label.unique().tolist()) <= {0, 1, 2, 255}


def test_image_and_label_move_together(examples: list[Example]) -> None:
    """Blocks are bright and ground is dark, in every crop, at every scale, mirrored or not; padding is neutral."""
    dataset = Examples(examples, AugmentConfig(crop=96, scale_min=0.5, scale_max=2, colour_jitter=0), seed=0)
    for epoch in range(12):
        image, label = dataset[epoch, 2]
        inside, ground = (label == 1) | (label == 2), label == 0
        assert image[:, inside].min() > 0.5 > 0.3 > image[:, ground].max()
        padding = (image == 128 / 255).all(0)
        assert (label[padding] == 255).all()


def test_batches_are_a_permutation_of_every_epoch() -> None:
    batches = EpochBatches(7, 3, seed=1, epochs=3)
    orders = []
    for epoch in (0, 1, 0):
        found = list(batches.of_epoch(epoch))
        assert [len(batch) for batch in found] == [3, 3, 1] == [batches.images(step) for step in range(batches.steps)]
        flat = [key for batch in found for key in batch]
        assert {key[0] for key in flat} == {epoch} and sorted(index for _, index in flat) == list(range(7))
        orders.append([index for _, index in flat])
    assert orders[0] == orders[2] != orders[1]
    whole = list(batches)
    assert len(whole) == len(batches) == 9
    batches.start = 1
    assert list(batches) == whole[3:] and len(batches) == 6


def test_reading_processes_see_the_epoch(examples: list[Example]) -> None:
    batches = EpochBatches(len(examples), 2, seed=1, epochs=2)
    dataset = Examples(examples, CONFIG.augment, 1)
    loader = read_batches(dataset, batches, workers=1, device="cpu")
    for batch, (images, _) in zip(list(batches), loader, strict=True):
        torch.testing.assert_close(images, torch.stack([dataset[key][0] for key in batch]), atol=0, rtol=0)


def test_faults_are_told(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no images"):
        train_affinity_network([], tmp_path / "net", CONFIG)
    with pytest.raises(InputError, match=r"^step \d+: loss .*(nan|inf).*: not finite; lower `lr`"):
        train_affinity_network(examples, tmp_path / "net", CONFIG.model_copy(update={"optimizer": "sgd", "lr": 1e30}))
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(Killed):
            train_affinity_network(examples, tmp_path / "killed", CONFIG)
    with pytest.raises(InputError, match="other settings or images; delete it"):
        train_affinity_network(examples[1:], tmp_path / "killed", CONFIG)
    resume = tmp_path / "killed" / STATE
    resume.write_bytes(resume.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        train_affinity_network(examples, tmp_path / "killed", CONFIG)
    write_mask(tmp_path / "labels", "0", np.zeros((8, 8), np.uint8))
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^affinity label .*0\.png: 8 x 8 pixels, its image 72 x 56"):
            train_affinity_network(examples, tmp_path / "net", CONFIG, workers=workers)


def test_learning_rates(examples: list[Example]) -> None:
    """Ten times as much for the head; (1 - step / steps)^0.9 of it all."""
    network = AffinityNetwork(NETWORK)
    optimizer = training._optimizer(network, CONFIG)
    training._set_lr(optimizer, CONFIG, step=3, steps=12)
    head, trunk = (group["lr"] for group in optimizer.param_groups)
    assert trunk == pytest.approx(1e-3 * 0.75**0.9) and head == pytest.approx(10 * trunk)
    listed = sum(len(group["params"]) for group in optimizer.param_groups)
    assert listed == sum(p.requires_grad for p in network.parameters())  # none twice, none forgotten


def test_configurations_that_ship() -> None:
    """The YAML files are valid; the default one is what the command does without it."""
    import yaml

    files = sorted((config_root() / "affinity").glob("*.yaml"))
    assert {"default", "seed"} <= {file.stem for file in files}
    default = yaml.safe_load(find_config("affinity/default").read_text())
    assert TrainConfig.model_validate(default) == TrainConfig()
    seed = TrainConfig.model_validate(yaml.safe_load(find_config("affinity/seed").read_text()))
    assert (seed.optimizer, seed.lr, seed.epochs, seed.batch_size) == ("sgd", 0.1, 7, 8)
    assert (seed.weight_decay, seed.poly_power, seed.augment.crop) == (1e-4, 0.9, 448)
