"""The command `affinity` on a few photographs: the chain, its resumption, and one line for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from affinity import pair_affinity, random_walk
from affinity.checkpoint import load_affinity_network, save_affinity_network
from affinity.cli import app
from affinity.crf import DenseCRF
from affinity.network import AffinityNetwork
from affinity.refine import grid_scores, refine_seed
from affinity.settings import NetworkConfig, RefineConfig
from wsss.console import run
from wsss.data import load_dataset, read_image
from wsss.metrics import seed_to_mask
from wsss.store import Seed, Stage, read_json, read_mask, read_seed, write_seed

CLASSES = ("cat", "dog")
SIZES = {"a": (40, 56), "b": (40, 56), "c": (37, 50), "d": (40, 56)}
LABELS = {"a": (1,), "b": (1, 2), "c": (2,), "d": ()}
TRAIN = """
network: {backbone: test_resnet, weights: WEIGHTS, levels: [1, 2], widths: [8, 8], dim: 16, groups: 4}
augment: {crop: 48}
epochs: 2
batch_size: 2
"""


@pytest.fixture
def train(tmp_path: Path) -> tuple[object, ...]:
    """The command that trains a very small network, by way of a YAML file."""
    import timm

    torch.manual_seed(0)
    weights = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    (tmp_path / "train.yaml").write_text(TRAIN.replace("WEIGHTS", str(weights)))
    return ("train", "--config", tmp_path / "train.yaml", "--device", "cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """data.yaml with four images (one shows no class, one has another size), and runs/seedy/seeds."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    lines = ["image,classes"]
    stage = Stage.open(tmp_path / "runs/seedy/seeds", kind="seeds", config={}, class_names=CLASSES, suffix=".npz")
    for name, (height, width) in SIZES.items():
        image = rng.integers(0, 40, (height, width, 3), np.uint8)
        image[8:30, 10:40] += 170
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{name}.png")
        lines.append(f"{name}.png,{';'.join(CLASSES[c - 1] for c in LABELS[name]) or 'background'}")
        scores = np.full((len(LABELS[name]), 5, 7), 0.02, np.float16)
        for index, score in enumerate(scores):
            score[1:4, 1 + 2 * index : 3 + 2 * index] = 0.9
        write_seed(stage.folder, name, Seed(scores, np.array(LABELS[name], np.uint8), (height, width)))
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "data.yaml").write_text("name: small\nlayout: folder\nroot: data\nclasses: [cat, dog]\n")
    return tmp_path


@pytest.fixture
def affinity(place: Path) -> Callable[..., int]:
    def call(command: str, *options: object) -> int:
        common = ["--data", place / "data.yaml", "--split", "all", "--runs", place / "runs"]
        named = [] if "--seeds" in options else ["--seeds", "seedy"]
        return run(app, [str(token) for token in (command, *named, *common, *options)])

    return call


def times(folder: Path, suffix: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(f"*{suffix}")}


def test_the_chain(place: Path, affinity: Callable[..., int], train: tuple[object, ...]) -> None:
    folder = place / "runs/seedy"
    assert affinity("labels", "--workers", 1) == 0
    labels = {name: read_mask(folder / "affinity_labels", name) for name in SIZES}
    assert all(labels[name].shape == size for name, size in SIZES.items())
    assert (labels["d"] == 0).all() and 1 in labels["a"] and 0 in labels["a"]

    assert affinity(*train) == 0
    net = folder / "affinity_net/affinity_net.safetensors"
    network = load_affinity_network(net)
    assert network.config.dim == 16 and network.config.levels == (1, 2)
    assert str(place).encode() not in net.read_bytes()  # a checkpoint that is handed on names no folder of this machine
    history = read_json(folder / "affinity_net/manifest.json")["history"]
    assert len(history) == 1 and len(history[0]["losses"]) == 2 and history[0]["counts"]["images"] == 4
    before = times(folder / "affinity_net", ".safetensors")
    assert affinity(*train) == 0  # already trained
    assert times(folder / "affinity_net", ".safetensors") == before

    assert affinity("refine", "--workers", 1, "--device", "cpu") == 0
    dataset = load_dataset(place / "data.yaml", "all")
    for sample in dataset:
        # strides as in the command: another memory layout takes another convolution and rounds otherwise
        image = torch.tensor(np.asarray(read_image(sample.image_path))[None]).movedim(-1, 1).float() / 255
        with torch.inference_mode():
            features = network(image)[0].numpy()
        result = refine_seed(features, read_seed(folder / "seeds", sample.id))
        np.testing.assert_array_equal(read_mask(folder / "masks", sample.id), result.mask)
        np.testing.assert_array_equal(read_seed(folder / "refined", sample.id).scores, result.seed.scores)
    manifest = read_json(folder / "masks/manifest.json")
    assert (manifest["config"]["beta"], manifest["config"]["steps"]) == (8, 256)
    assert manifest["inputs"]["seeds"] == Stage.read(folder / "seeds", kind="seeds").fingerprint

    # Workers, batches and the way a setting is written do not change a mask.
    walk = ("--beta", 8, "--steps", 256, "--rescale", "--alpha", 1, "--preset", "seed")
    options = ("--into", "other", "--network", net, *walk)
    assert affinity("refine", *options, "--workers", 2, "--batch-size", 3, "--device", "cpu") == 0
    for name in SIZES:
        np.testing.assert_array_equal(read_mask(place / "runs/other/masks", name), read_mask(folder / "masks", name))
    assert read_json(place / "runs/other/masks/manifest.json")["config"] == manifest["config"]


@pytest.fixture
def net(place: Path) -> Path:
    """A checkpoint without training."""
    config = NetworkConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    torch.manual_seed(0)
    save_affinity_network(place / "net.safetensors", AffinityNetwork(config))
    return place / "net.safetensors"


def test_a_stopped_stage_goes_on(place: Path, affinity: Callable[..., int], net: Path) -> None:
    commands = {"affinity_labels": ("labels",), "masks": ("refine", "--network", net, "--device", "cpu", "--crf")}
    for stage, (command, *options) in commands.items():
        folder = place / "runs/seedy" / stage
        assert affinity(command, *options, "--workers", 1) == 0
        whole = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        assert len(whole) == 4
        (folder / "a.png").unlink()
        (folder / "b.png").write_bytes(whole["b.png"][:-20])  # cut short by a full disk
        before = times(folder, ".png")
        assert affinity(command, *options, "--workers", 1) == 0
        assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == whole
        after = times(folder, ".png")
        assert after["c.png"] == before["c.png"] and after["d.png"] == before["d.png"]
        assert after["b.png"] != before["b.png"]


def refused(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert status == 2 and len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def test_a_result_of_another_seed_is_made_again(place: Path, affinity: Callable[..., int], net: Path) -> None:
    folder = place / "runs/seedy"
    commands = (("labels",), ("refine", "--network", net, "--device", "cpu"))
    for command in commands:
        assert affinity(*command, "--workers", 1) == 0
    stages = {name: times(folder / name, suffix) for name, suffix in (("affinity_labels", ".png"), ("masks", ".png"))}
    seed = read_seed(folder / "seeds", "b")
    write_seed(folder / "seeds", "b", seed)  # the same once more
    for command in commands:
        assert affinity(*command, "--workers", 1) == 0
    assert all(times(folder / name, ".png") == before for name, before in stages.items())
    write_seed(folder / "seeds", "b", Seed(seed.scores / 2, seed.classes, seed.size))
    for command in commands:
        assert affinity(*command, "--workers", 1) == 0
    for name, before in stages.items():
        after = times(folder / name, ".png")
        assert [file for file in sorted(after) if after[file] != before[file]] == ["b.png"]


def test_mistakes_are_one_line(
    place: Path,
    affinity: Callable[..., int],
    net: Path,
    train: tuple[object, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = place / "runs/seedy"
    refine = ("refine", "--workers", 1, "--device", "cpu")
    refused(capsys, affinity(*train), "affinity_labels", "`affinity labels` makes it")
    refused(capsys, affinity(*refine), "affinity_net.safetensors", "affinity train", "--network")
    refused(capsys, affinity(*refine, "--network", "none.safetensors"), "--network none.safetensors")
    refused(capsys, affinity("labels", "--seeds", "seady"), "seady", "did you mean 'seedy'")
    refused(capsys, affinity("labels", "--alpha-low", 40), "alpha_low 40")
    refused(capsys, affinity("labels", "--workers", 0), "--workers 0")
    refused(capsys, affinity("refine", "--network", net, "--device", "tpu9"), "--device tpu9")
    refused(capsys, affinity(*refine, "--network", net, "--batch-size", 0), "--batch-size 0")
    refused(capsys, affinity(*refine, "--network", net, "--preset", "sead"), "sead", "affinitynet")

    save_file({"w": torch.zeros(1)}, place / "other.safetensors")
    refused(capsys, affinity(*refine, "--network", place / "other.safetensors"), "other.safetensors", "another model")

    assert not (runs / "masks").exists()  # a mistake leaves no folder that the next call would trip over
    assert affinity("labels", "--workers", 1) == 0
    capsys.readouterr()
    refused(capsys, affinity(*train, "--network.weights", "none.safetensors"), "none.safetensors: no such")
    assert not (runs / "affinity_net").exists()
    refused(capsys, affinity("labels", "--alpha-low", 2), "config.alpha_low was 4", "delete the folder")
    (runs / "affinity_labels/c.png").unlink()
    refused(capsys, affinity(*train), "1 of 4 images", "no affinity label (c is the first)")
    (runs / "seeds/a.npz").write_bytes(b"PK")
    refused(capsys, affinity(*refine, "--network", net), "seeds/a.npz: damaged", "run again")
    (place / "data.yaml").write_text("name: small\nlayout: folder\nroot: data\nclasses: [dog, cat]\n")
    refused(capsys, affinity("labels"), "seeds made for other classes: cat, dog")


def test_unreadable_image_is_named_and_nothing_is_lost(
    place: Path, affinity: Callable[..., int], net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (place / "data/images/c.png").read_bytes()
    (place / "data/images/c.png").write_bytes(b"")
    for command in (("labels",), ("refine", "--network", net, "--device", "cpu")):
        refused(capsys, affinity(*command, "--workers", 1), "c.png", "empty")
    (place / "data/images/c.png").write_bytes(good)
    before = times(place / "runs/seedy/affinity_labels", ".png")
    assert {"a.png", "b.png"} <= set(before)
    assert affinity("labels", "--workers", 1) == 0
    assert times(place / "runs/seedy/affinity_labels", ".png").items() > before.items()


def test_a_network_that_went_wrong_is_told(
    affinity: Callable[..., int], net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_affinity_network(net)
    torch.nn.init.constant_(network.join.weight, torch.nan)
    save_affinity_network(net, network)
    refused(
        capsys, affinity("refine", "--network", net, "--workers", 1, "--device", "cpu"), "join.weight", "not finite"
    )


# What refine does to one image ----------------------------------------------------------------------------------------


def features_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((6, height, width), np.float32) / 4


def one_seed(size: tuple[int, int] = (37, 50), channels: int = 2) -> Seed:
    scores = np.random.default_rng(1).random((channels, 6, 5)).astype(np.float16) ** 3
    return Seed(scores, np.array([2, 7][:channels], np.uint8), size)


def test_grid_scores_are_cell_means() -> None:
    seed = one_seed()
    full = seed.upsample()
    full = np.concatenate([((1 - full.max(axis=0)) ** 5)[None], full])
    found = grid_scores(seed, 5)
    assert found.shape == (3, 5, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 1, 2], full[:, 8:16, 16:24].mean(axis=(1, 2)), rtol=1e-5)
    rows, columns = [*range(32, 37), 36, 36, 36], [48, 49, 49, 49, 49, 49, 49, 49]
    np.testing.assert_allclose(found[:, 4, 6], full[:, rows][:, :, columns].mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("preset", ["relseg", "seed"])
def test_one_image_step_by_step(preset: str, crf: bool) -> None:
    seed, features = one_seed(), features_of(5, 7)
    image = np.random.default_rng(2).integers(0, 256, (37, 50, 3), np.uint8)
    config = RefineConfig(preset=preset, steps=8, alpha=4, crf=crf, crf_sharpness=2)  # 256 would level so small a grid
    found = refine_seed(features, seed, config, image)
    beta = {"relseg": 8, "seed": 16}[preset]
    walked = random_walk(pair_affinity(features, 5), grid_scores(seed, 4), beta, 8)
    full = torch.nn.functional.interpolate(torch.tensor(walked)[None], scale_factor=8, mode="bilinear")[0]
    scores = full[:, :37, :50].double().numpy()
    if preset == "relseg":  # the classes alone count, each from 0 to 1 over the image but for 2 % of it
        for one in scores[1:]:
            one[:] = ((one - one.min()) / (np.percentile(one, 98) - one.min())).clip(0, 1)
        scores[0] = (1 - scores[1:].max(axis=0)) ** 4
    if crf:
        scores = DenseCRF(image, config.crf_settings)(scores**2 / (scores**2).sum(axis=0))
    expected = np.array([0, 2, 7])[scores.argmax(axis=0)]
    assert (found.mask == expected).mean() > 0.999  # two ways to interpolate may break a tie apart
    assert found.mask.dtype == np.uint8 and len(np.unique(found.mask)) > 1


@pytest.mark.parametrize("preset", ["relseg", "seed"])
@pytest.mark.parametrize("size", [(40, 56), (33, 49)])  # a grid that ends with the image, and one that reaches 7 beyond
def test_refined_seed_with_alpha_one_is_the_decision(preset: str, size: tuple[int, int]) -> None:
    features = features_of(5, 7)
    ramp = np.linspace(1, 0, 30, dtype=np.float16)[None, None].repeat(20, axis=1)  # one straight edge
    seed = Seed(ramp, np.array([2], np.uint8), size)
    found = refine_seed(features, seed, RefineConfig(preset=preset, steps=0, alpha=2))
    read = seed_to_mask(found.seed.upsample(), found.seed.classes, alpha=1)
    edges = [(mask > 0).sum(axis=1) for mask in (found.mask, read)]  # in pixels from the left
    assert found.seed.size == size and edges[0].min() > 0 and edges[0].max() < size[1]
    assert np.abs(edges[0] - edges[1]).max() <= 1


def test_a_constant_map_is_background_after_the_walk() -> None:
    seed = Seed(np.full((1, 5, 7), 0.5, np.float16), np.array([2], np.uint8), (40, 56))
    assert (refine_seed(features_of(5, 7), seed).mask == 0).all()


def test_image_without_classes_is_background() -> None:
    found = refine_seed(
        features_of(5, 7), one_seed(channels=0), RefineConfig(crf=True), np.zeros((37, 50, 3), np.uint8)
    )
    assert found.mask.shape == (37, 50) and (found.mask == 0).all() and found.seed.scores.shape == (0, 5, 7)


def test_presets_and_their_overrides() -> None:
    assert RefineConfig().walk() == (8, 256, True, 1)
    assert RefineConfig(preset="seed").walk() == (16, 8, False, 16)
    assert RefineConfig(preset="affinitynet").walk() == (8, 256, False, 16)
    assert RefineConfig(preset="seed", steps=0).walk() == (16, 0, False, 16)
    assert RefineConfig(preset="seed", beta=2, rescale=True, alpha=5).walk() == (2, 8, True, 5)


def test_features_of_another_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(D, \*\(5, 7\)\)"):
        refine_seed(features_of(7, 5), one_seed())
    with pytest.raises(ValueError, match="needs the image"):
        refine_seed(features_of(5, 7), one_seed(), RefineConfig(crf=True))
