"""Several processes train what one process trains: 1, 2 and 4 of them, on CPUs with gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_networks import Normed
from torch import Tensor, nn
from torch.nn import functional as F

import affinity.training
import cnnseg.training
import vitseg.classifier
from affinity.augment import Example
from affinity.settings import AugmentConfig, NetworkConfig
from affinity.settings import TrainConfig as AffinityConfig
from cnnseg.models import Network
from cnnseg.settings import TrainConfig
from cnnseg.unroll import unroll
from vitseg.cli import app
from vitseg.settings import ClassifierConfig
from wsss.console import run
from wsss.data import load_dataset
from wsss.distributed import all_sum, part_of, sum_gradients, whole_batch
from wsss.errors import InputError
from wsss.processes import from_first, gathered, processes, rank, share, size
from wsss.store import write_mask

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of the server that all processes here are forks of
multiprocessing.set_forkserver_preload(["vitseg.classifier", "cnnseg.training", "affinity.training"])

NAMES = ("cat", "dog")
COUNTS = (2, 4)


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def member(job: Callable[..., Any], args: tuple[Any, ...], variables: dict[str, str], results: Any) -> None:
    """What runs in each of the processes that `together` starts."""
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        with processes():
            results.put((rank(), job(*args)))
    except SystemExit as end:  # of a command
        results.put((int(variables["RANK"]), end.code))


def together(count: int, job: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function (of this module) returns in each of `count` processes that work together."""
    context = multiprocessing.get_context("forkserver")
    results = context.SimpleQueue()
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    started = []
    for number in range(count):
        variables = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
        started.append(context.Process(target=member, args=(job, args, variables, results)))
        started[-1].start()
    for process in started:
        process.join(300)
        assert process.exitcode == 0, f"a process ended with {process.exitcode}"
    return [result for _, result in sorted((results.get() for _ in started), key=lambda pair: pair[0])]


# --- the pieces ---


def words(items: list[int]) -> tuple[int, int, list[int], list[int], str]:
    return rank(), size(), list(share(items)), gathered(rank() ** 2), from_first(lambda: f"of {rank()}")


def test_processes_share_items_and_talk() -> None:
    found = together(3, words, list(range(8)))
    assert [row[:2] for row in found] == [(0, 3), (1, 3), (2, 3)]
    assert [row[2] for row in found] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert all(row[3:] == ([0, 1, 4], "of 0") for row in found)
    assert words([1, 2]) == (0, 1, [1, 2], [0], "of 0")  # alone


def gradients(used: bool) -> list[Tensor | None]:
    weights = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    loss = (weights[0] * (rank() + 1)).sum()
    if rank() == 1:  # one process alone has a gradient of the second; none has one of the third
        loss = loss + 5 * weights[1].sum()
    loss.backward()
    sum_gradients(weights)
    return [None if weight.grad is None else weight.grad.tolist() for weight in weights]


def test_gradients_are_added_up() -> None:
    assert together(3, gradients, True) == [[[6.0, 6.0], [5.0, 5.0, 5.0], None]] * 3


class Layers(nn.Module):
    """Batch norm, three kinds of drop-out, and a part that sees the first images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drops = nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.4))
        self.last = nn.BatchNorm2d(4, affine=False)

    def forward(self, images: Tensor, decode: int) -> tuple[Tensor, Tensor]:
        x = self.drops(F.relu(self.norm(self.first(images)))).double()
        scores = x.mean((2, 3))
        return scores, self.last(self.drops(x[:decode]))


def layers(count: int, places: int, order: torch.memory_format) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs, gradients and statistics after a step with `count` images, the first `places` of them decoded."""
    torch.manual_seed(0)
    module = Layers().double().to(memory_format=order)
    images, goal = torch.randn(count, 3, 8, 9).double(), torch.randn(count, 4).double()
    mine = part_of(range(count), places) or [0]
    idle = rank() >= count
    torch.manual_seed(1)
    with whole_batch(count, places):
        scores, maps = module(images[mine].to(memory_format=order), len(part_of(range(places))))
        loss = 0 * scores.sum() if idle else ((scores - goal[mine]) ** 2).sum() / count
        loss = loss + (maps**3).sum() / all_sum(torch.tensor(maps.numel()))
        loss.backward()
    sum_gradients(module.parameters())
    found = {name: p.grad.numpy() for name, p in module.named_parameters()}
    found |= {name: b.numpy() for name, b in module.named_buffers()}
    return [scores.detach().numpy(), maps.detach().numpy()], found | {"loss": all_sum(loss).numpy()}


@pytest.mark.parametrize(
    ("count", "places", "order"),
    [(7, 4, torch.channels_last), (6, 3, torch.contiguous_format), (4, 4, torch.contiguous_format)],
)
def test_layers_see_the_whole_batch(count: int, places: int, order: torch.memory_format) -> None:
    (scores, maps), alone = layers(count, places, order)
    for number in (2, 3):
        for own, (outputs, found) in enumerate(together(number, layers, count, places, order)):
            mine = list(range(places))[own::number] + list(range(places, count))[own::number]
            np.testing.assert_allclose(outputs[0], scores[mine], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(outputs[1], maps[own::number], rtol=1e-9, atol=1e-12)
            assert found.keys() == alone.keys()
            for name, value in found.items():
                np.testing.assert_allclose(value, alone[name], rtol=1e-9, atol=1e-12, err_msg=name)


def idle_norm(count: int) -> dict[str, np.ndarray]:
    """One batch norm, with fewer images than processes."""
    torch.manual_seed(0)
    norm, images = nn.BatchNorm1d(3).double(), torch.randn(count, 3).double()
    with whole_batch(count):
        loss = (norm(images[part_of(range(count)) or [0]]) ** 3).sum() * (rank() < count)
        loss.backward()
    sum_gradients(norm.parameters())
    return {"grad": norm.weight.grad.numpy(), "mean": norm.running_mean.numpy(), "var": norm.running_var.numpy()}


def test_a_filler_counts_nowhere() -> None:
    alone = idle_norm(3)
    for found in together(4, idle_norm, 3):
        for name, value in found.items():
            np.testing.assert_allclose(value, alone[name], rtol=1e-9, atol=1e-12, err_msg=name)


# --- the trainings ---


def killed_after(module: Any, steps: int | None) -> None:
    """The steps of a training beyond this number fail, in this process."""
    original, done = module._step, iter(range(10**6 if steps is None else steps))

    def counted(*args: object) -> Any:
        if next(done, None) is None:
            raise InputError("killed")
        return original(*args)

    module._step = counted


def trained(kind: str, data: Path, folder: Path, steps: int | None = None) -> list[float] | None:
    """Train one of the loops in this process, or in the group that it belongs to; its losses, None if killed."""
    module = {"vit": vitseg.classifier, "affinity": affinity.training}.get(kind, cnnseg.training)
    original = module._step
    killed_after(module, steps)
    try:
        return TRAIN.get(kind, train_cnn)(data, folder, kind)
    except InputError as error:
        assert str(error) == "killed"
        return None
    finally:
        module._step = original


def train_vit(data: Path, folder: Path, kind: str) -> list[float]:
    config = ClassifierConfig(
        architecture="test_vit", weights="none", sizes=(32, 48), epochs=2, batch_size=5, warmup=2, precision="float32"
    )
    dataset = load_dataset(data, "train")  # 8 images: the second batch has 3, fewer than four processes
    return list(vitseg.classifier.train_classifier(dataset, None, folder, config).losses)


def train_affinity(data: Path, folder: Path, kind: str) -> list[float]:
    network = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    config = AffinityConfig(
        network=network, augment=AugmentConfig(crop=48), epochs=2, batch_size=5, lr=1e-3, export="float32"
    )
    examples = [Example(s, data.parent / f"masks/{s.id}.png") for s in load_dataset(data, "train")]
    return [epoch.total for epoch in affinity.training.train_affinity_network(examples, folder, config).losses]


class Decoder(nn.Module):
    """Encoder, decoder with drop-out, and class scores; in double precision, as Adam takes rounding for gradients."""

    classifies, segments = True, True

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.segmentation_head, self.classification_head = nn.Conv2d(8, 3, 1), nn.Linear(8, 3)
        self.double()

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.encoder(images.double())
        logits = self.classification_head(x.mean((2, 3)))
        return logits, None if decode == 0 else self.segmentation_head(self.decoder(x[:decode]))


def train_cnn(data: Path, folder: Path, kind: str) -> list[float]:
    torch.manual_seed(0)
    module = Decoder() if kind == "unet" else unroll(Normed()).double()
    if kind == "unrolled":
        forward = module.forward
        module.forward = lambda images, decode=None: forward(images.double(), decode)
    network = Network(module, kind, "tiny", NAMES, (0.5,) * 3, (0.25,) * 3)
    config = TrainConfig(
        steps=4, batch_size=8, crop=32, lr=1e-2, evaluate_every=2, save_every=1, scale_min=1, scale_max=1.2, warmup=0
    )
    train, val = (load_dataset(data, split) for split in ("train", "val"))
    masked = [sample for sample in train if sample.mask_path is not None]
    found = cnnseg.training.train_network(network, train, masked, val, folder, config, ema=0.9)
    return [value for row in found.history for key, value in row.items() if value is not None and key != "images"]


TRAIN = {"vit": train_vit, "affinity": train_affinity}
KINDS = ("vit", "affinity", "unet", "unrolled")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of red (cat) and blue (dog) rectangles; eight to train on, all with masks, some ignored."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    rows = ["image,classes,split"]
    for number in range(12):
        height, width = 40 + number % 3, 44
        image, mask = rng.integers(80, 140, (height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        shown = ([1], [2], [1, 2], [])[number % 4]
        for c in shown:
            top, left = rng.integers(3, 12), 2 + 20 * (c - 1)
            image[top : top + 22, left : left + 18] = (230, 30, 30) if c == 1 else (30, 30, 230)
            mask[top : top + 22, left : left + 18] = c
        mask[: 5 * (number % 5)] = 255  # so that images count for unequally many pixels
        Image.fromarray(image).save(folder / f"images/{number:02d}.png")
        write_mask(folder / "masks", f"{number:02d}", mask)
        names = ";".join(NAMES[c - 1] for c in shown) or "background"
        rows.append(f"{number:02d},{names},{'train' if number < 8 else 'val'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "data.yaml").write_text("name: small\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    return folder / "data.yaml"


def weights(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("[!b]*.safetensors")  # not best
    return load_file(file)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[float], Path]]:
    """Kind -> losses and folder of the training in one process, made once."""
    made: dict[str, tuple[list[float], Path]] = {}

    def make(kind: str) -> tuple[list[float], Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = (trained(kind, data, folder), folder)
        return made[kind]

    return make


def assert_same(losses: list[float], folder: Path, expected: tuple[list[float], Path]) -> None:
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    mine, theirs = weights(folder), weights(expected[1])
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=2e-6, msg=lambda line, n=name: f"{n}: {line}")


@pytest.mark.parametrize("number", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_train_what_one_trains(
    data: Path, tmp_path: Path, alone: Callable[[str], tuple[list[float], Path]], kind: str, number: int
) -> None:
    expected = alone(kind)
    found = together(number, trained, kind, data, tmp_path)
    assert_same(found[0], tmp_path, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_with_another_number_of_processes(
    data: Path, tmp_path: Path, alone: Callable[[str], tuple[list[float], Path]], kind: str
) -> None:
    assert together(2, trained, kind, data, tmp_path, 1 if kind in ("unet", "unrolled") else 2) == [None, None]
    assert trained(kind, data, tmp_path, 1) is None
    found = together(4, trained, kind, data, tmp_path)
    assert_same(found[0], tmp_path, alone(kind))


def test_too_many_processes_for_a_batch_are_refused(data: Path, tmp_path: Path) -> None:
    found = together(5, refused, data, tmp_path)
    assert len(found) == 5
    assert set(found) == {
        "5 processes: a batch of 8, 4 of them with masks, can be shared by at most 4; start fewer, "
        "or raise `batch_size`"
    }


def refused(data: Path, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        train_cnn(data, folder, "unet")
    return str(caught.value)


# --- the commands ---


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes, as torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = tuple(map(str, arguments))
    return subprocess.run([*command, "-m", *arguments], capture_output=True, text=True, timeout=400, env=environment)


def options(data: Path, runs: Path) -> list[str]:
    return (
        f"train-classifier --data {data} --train-split train --val-split val --runs {runs} --architecture test_vit "
        "--weights none --sizes 32 --epochs 1 --batch-size 5 --warmup 0 --precision float32 --device cpu"
    ).split()


def test_torchrun_trains_what_the_command_trains(data: Path, tmp_path: Path) -> None:
    assert run(app, options(data, tmp_path / "one")) == 0
    ended = torchrun("vitseg.cli", *options(data, tmp_path / "two"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 1/1") == 1  # the first process alone prints
    one, two = (tmp_path / name / "classifier/classifier" for name in ("one", "two"))
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, two)]
    assert [len(manifest["history"]) for manifest in manifests] == [1, 1]
    np.testing.assert_allclose(*(manifest["history"][0]["losses"] for manifest in manifests), rtol=1e-5)
    scores = [json.loads((folder / "scores.json").read_text())["map"] for folder in (one, two)]
    assert scores[0] == pytest.approx(scores[1])
    mine, theirs = weights(two), weights(one)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)  # written in float16


def test_what_one_process_cannot_read_ends_all_with_one_line(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data.parent, broken)
    (broken / "images/03.png").write_bytes(b"no image")
    ended = torchrun("vitseg.cli", *options(broken / "data.yaml", tmp_path / "runs"))
    assert ended.returncode != 0
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert "03.png" in line
    assert 'Traceback (most recent call last):\n  File "' + str(Path(__file__).parents[1]) not in ended.stderr
