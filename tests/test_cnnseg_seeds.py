"""Seeds of CNNs: as the slow way makes them from their definition, in float64, whatever is batched with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from cyclopts import App
from PIL import Image
from safetensors.torch import save_file
from small_run import OWN, VAL, make_data
from torch import Tensor, nn
from torch.nn import functional as F

from cnnseg import explain
from cnnseg.methods import METHODS
from cnnseg.models import Network, PlainClassifier, create_network, load_network, save_network
from cnnseg.seed_commands import seeds
from cnnseg.seeds import averaged, class_maps, explanation, identity, make_seeds, outputs_for, settle
from cnnseg.settings import LAST, PIXELS, RULES, NetworkConfig, SeedConfig
from cnnseg.unroll import unroll
from cnnseg.unroll.decoding import Decoding
from wsss.console import LISTS, run
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.metrics import seed_to_mask
from wsss.store import read_json, read_seed

CLASSES = ("dog", "cat", "cow")
SIZES = ((40, 56), (32, 32), (56, 40), (40, 56), (24, 90))
SMALL = SeedConfig(sizes=(64, 96), cell=8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Small(nn.Module):
    """A CNN that shrinks by 4, without padding tricks, so that it can be written down again in a line."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, outputs)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


def make_network(
    kind: str = "unrolled",
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
    crop: int | None = None,
    masks: int | None = None,
) -> Network:
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = Small()
            nn.init.normal_(model.fc.weight, std=3000)  # or softmax would find next to nothing
    model = model.to(dtype).eval()
    module = PlainClassifier(model) if kind == "classifier" else unroll(model)
    made = Network(module, kind, "small", CLASSES, MEAN, STD, crop, masks)
    if dtype is torch.float64:
        prepare = made.prepare
        object.__setattr__(made, "prepare", lambda image, size: prepare(image, size).double())
    return made


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


@pytest.fixture
def samples(images: list[Image.Image], tmp_path: Path) -> list[Sample]:
    found = []
    for number, (image, shown) in enumerate(zip(images, [(1, 2), (1,), (2,), (), (1, 2)], strict=True)):
        path = tmp_path / f"{number}.png"
        image.save(path)
        found.append(Sample(str(number), path, shown))
    return found


def slow_map(
    model: Small, x: Tensor, output: int, others: Sequence[int], config: SeedConfig, crop: int | None
) -> np.ndarray:
    """One map (h, w) of an image (3, H, W), before scaling; relevance of LRP-0 as input times gradient."""
    if config.method == "cam":
        features = model.features(x[None])[0].detach().numpy()
        weight = model.fc.weight[output].detach().numpy()
        return np.maximum(sum(w * plane for w, plane in zip(weight, features, strict=True)), 0)

    def relevance(of: int) -> np.ndarray:
        given = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(given[None])[0, of], given)
        return (given * gradient).sum(0).detach().numpy()

    if config.scores == "relevance":
        pixels = np.maximum(relevance(output), 0)
    else:
        strength = 1 if crop is None else x.shape[1] * x.shape[2] / crop**2
        powers = {of: np.exp(strength * relevance(of)) for of in (0, *others)}
        pixels = powers[output] / sum(powers.values())
    side = config.cell
    height, width = (n // side for n in pixels.shape)
    return np.array(
        [[pixels[i * side :, j * side :][:side, :side].mean() for j in range(width)] for i in range(height)]
    )


def slow_maps(
    network: Network, image: Image.Image, wanted: Sequence[int], config: SeedConfig, shapes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """One class, one size, one direction at a time; shapes from the largest size down."""
    model = network.module.model
    averages = []
    for output in wanted:
        scaled: list[Tensor] = []
        for shape in shapes:
            x = network.prepare(image, shape)
            found = slow_map(model, x, output, wanted, config, network.crop)
            if config.flip:
                found = (found + slow_map(model, x.flip(2), output, wanted, config, network.crop)[:, ::-1]) / 2
            if config.scores == "relevance":
                low, high = found.min(), np.percentile(found, config.percentile)
                found = np.clip((found - low) / (high - low), 0, 1)
            grid = found.shape if not scaled else scaled[0].shape
            power = torch.from_numpy(found**config.exponent)[None, None]
            scaled.append(F.interpolate(power, tuple(grid), mode="bilinear", align_corners=False)[0, 0])
        averages.append(torch.stack(scaled).mean(0))
    return torch.stack(averages).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": False, "percentile": 90},
        {"sizes": (64,), "power": 1, "cell": 24},
        {"scores": "softmax"},
        {"scores": "softmax", "flip": False, "cell": 1},
        {"scores": "softmax", "crop": 48},
        {"method": "cam"},
        {"method": "cam", "flip": False, "power": 0.7},
    ],
    ids=str,
)
def test_maps_of_one_image(images: list[Image.Image], options: dict[str, object]) -> None:
    """40 x 56 pixels: 96^2 pixels in these proportions are about 81 x 114, 64^2 are about 54 x 76; sides in 32s."""
    options = dict(options)
    network = make_network(crop=options.pop("crop", None))
    config = SMALL.model_copy(update=options)
    shapes = [{96: (96, 128), 64: (64, 64)}[size] for size in sorted(config.sizes, reverse=True)]
    if config.cell == 24:
        shapes = [(48, 96)]  # the least multiple of 24 that is not below 32 is 48
    found = class_maps(network, explanation(network, config), images[:1], [[3, 1]], config)[0]
    expected = slow_maps(network, images[0], [3, 1], config, shapes)
    side = 4 if config.method == "cam" else config.cell
    assert found.dtype == np.float32 and found.shape == (2, shapes[0][0] // side, shapes[0][1] // side)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not np.allclose(found[0], found[1], atol=0.02) and 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("options", [{}, {"scores": "softmax"}, {"method": "cam"}], ids=str)
def test_mixed_batch_equals_one_image_at_a_time(
    images: list[Image.Image], options: dict[str, object], batch_size: int
) -> None:
    network, config = make_network(), SMALL.model_copy(update={"sizes": (64,), **options})
    explain = explanation(network, config)
    wanted = [[2, 1], [3], [1, 2, 3], [], [1]]
    images, wanted = [*images, *images[::-1]], [*wanted, *reversed(wanted)]
    sizes_seen: list[int] = []

    def watched(x: Tensor, outputs: Sequence[int]) -> Tensor:
        sizes_seen.append(len(x) * len(outputs))
        return explain(x, outputs)

    together = class_maps(network, watched, images, wanted, config, batch_size=batch_size)
    assert max(sizes_seen) <= max(batch_size, 6) and (batch_size == 1 or max(sizes_seen) > 4)
    for image, outputs, found in zip(images, wanted, together, strict=True):
        alone = class_maps(network, explain, [image], [outputs], config, batch_size=1)[0]
        assert found.shape == alone.shape and len(found) == len(outputs)
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_the_mirror_image_has_the_mirrored_map(images: list[Image.Image]) -> None:
    network = make_network()
    mirrored = images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # 32 x 32, explained at that size
    for options in ({}, {"scores": "softmax"}, {"method": "cam"}):
        differences = []
        for flip in (True, False):
            config = SMALL.model_copy(update={"sizes": (32,), "flip": flip, **options})
            one, other = class_maps(network, explanation(network, config), [images[1], mirrored], [[1], [1]], config)
            differences.append(np.abs(one - other[:, :, ::-1]).max())
        assert differences[0] < 1e-6 and differences[1] > 1e-3


@pytest.mark.parametrize("name", ["timm resnet18", "torchvision resnet18", "timm resnet26"])
def test_activation_maps_add_up_to_the_score(name: str) -> None:
    library, architecture = name.split()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "timm":
            model = timm.create_model(architecture, num_classes=4)
        else:
            model = torchvision.models.get_model(architecture, num_classes=4)
        images = torch.randn(2, 3, 64, 96).double()
    network = make_network("classifier", model)
    (pool,) = (m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d))
    with torch.no_grad():
        maps = explain(model, images, [[3, 1]] * 2, "cam").maps
        logits = model(images)[:, [3, 1]]
        np.testing.assert_allclose(maps.mean((2, 3)) + model.fc.bias[[3, 1]], logits, atol=1e-9)
        assert maps.shape == (2, 2, 2, 3) and not pool._forward_pre_hooks
        found = explanation(network, SeedConfig(method="cam"))(images, [3, 1])
    torch.testing.assert_close(found, maps.clamp(min=0))


def test_a_classifier_is_unrolled_for_its_heat_maps(images: list[Image.Image]) -> None:
    plain, unrolled = make_network("classifier"), make_network()
    config = SMALL.model_copy(update={"rules": "zero", "layer": "pixels"})
    one, other, usual = (
        class_maps(network, explanation(network, config), images[:1], [[1, 2]], config)[0]
        for network, config in ((plain, config), (unrolled, SMALL), (plain, SMALL))
    )
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, usual, atol=0.05)  # of a classifier not of the pixels
    with pytest.raises(InputError, match="`scores` softmax: this classifier has not learnt what background is"):
        explanation(plain, SeedConfig(scores="softmax"))
    with pytest.raises(InputError, match="softmax: this unrolled was trained without masks and has not learnt what b"):
        explanation(make_network(masks=0), SeedConfig(scores="softmax"))
    explanation(make_network(masks=0), SeedConfig())
    explanation(make_network(masks=5), SeedConfig(scores="softmax"))


@pytest.mark.parametrize("kind", ["classifier", "unrolled"])
def test_branches_in_memory_change_no_map(
    tmp_path: Path, images: list[Image.Image], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=4)
    module = PlainClassifier(model) if kind == "classifier" else unroll(model)
    save_network(Network(module, kind, "test_resnet", CLASSES, MEAN, STD), tmp_path / LAST)
    chunks: list[int] = []
    decode = Decoding.decode
    monkeypatch.setattr(Decoding, "decode", lambda *args: (chunks.append(len(args[1])), decode(*args))[1])
    maps = []
    for at_once in (None, 1):
        network = load_network(tmp_path / LAST, classes_at_once=at_once)
        maps += class_maps(network, explanation(network, SMALL), images[1:2], [[1, 3]], SMALL)
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-6)
    assert chunks == [2, 2, 1, 1, 1, 1]  # two sizes


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match="`scores` softmax: of `method` lrp alone"):
        explanation(make_network(), SeedConfig(method="cam", scores="softmax"))
    with torch.device("meta"):
        model = torchvision.models.vgg11(num_classes=4)
    vgg = Network(PlainClassifier(model), "classifier", "vgg11", CLASSES, MEAN, STD)
    with pytest.raises(
        InputError, match=r"method cam: needs a CNN that ends in a global av.*gradcam and lrp work on others"
    ):
        explanation(vgg, SeedConfig(method="cam"))
    explanation(vgg, SeedConfig())
    small, trained = make_network("classifier"), make_network()
    for network, config, line in (
        (
            small,
            SeedConfig(method="gradcam", scores="softmax"),
            "`scores` softmax: of `method` lrp alone; gradcam has no",
        ),
        (small, SeedConfig(method="camm"), r"method 'camm' is unknown: did you mean 'cam'"),
        (small, SeedConfig(rules="epsilon_pluss"), r"rules 'epsilon_pluss' are unknown: did you mean 'epsilon_plus'"),
        (small, SeedConfig(method="cam", rules="zero"), "rules: method cam has none; lrp has"),
        (small, SeedConfig(method="cam", layer="conv1"), "layer 'conv1': method cam looks at none"),
        (small, SeedConfig(layer="conv3"), r"layer 'conv3' is unknown to the model: did you mean 'conv"),
        (
            make_network(masks=5),
            SeedConfig(layer="conv1", scores="softmax"),
            "`layer` conv1: `scores` softmax is of pixels",
        ),
        (
            small,
            SeedConfig(method="layercam", layer="conv3"),
            r"layer 'conv3' is unknown to the model: did you mean 'conv",
        ),
        (trained, SeedConfig(rules="zero"), "`rules` zero: this unrolled keeps the rules that it was trained with"),
        (trained, SeedConfig(method="cam", rules="zero"), "rules"),
    ):
        with pytest.raises(InputError, match=line) as caught:
            explanation(network, config)
        assert "\n" not in str(caught.value)
    other = Network(nn.Conv2d(3, 4, 1), "unet", "resnet18", CLASSES, MEAN, STD)
    for method in ("lrp", "cam"):
        with pytest.raises(InputError, match="`network`: a unet is no classifier that could be explained"):
            explanation(other, SeedConfig(method=method))


def by_hand(network: Network, image: Image.Image, wanted: Sequence[int], config: SeedConfig) -> np.ndarray:
    """Maps of one image at 64 x 96, one class and one direction at a time, over cells of 8 pixels but for cam."""
    model = network.module.model
    averages = []
    for output in wanted:
        found = []
        for x in (network.prepare(image, (64, 96)), network.prepare(image, (64, 96)).flip(2)):
            if config.method == "lrp" and config.layer != "pixels":
                maps = unroll(model, rules=config.rules).heatmaps(x[None], [output], config.layer, positive=True)[1][0]
            else:
                layer = None if config.layer == "pixels" else config.layer
                maps = explain(model, x[None], output, config.method, rules=config.rules, layer=layer).maps
            side = 1 if config.method == "cam" else 8 * maps.shape[1] // 64
            found.append(maps.clamp(min=0).unflatten(2, (-1, side)).unflatten(1, (-1, side)).mean((2, 4))[0])
        total = found[0] + found[1].flip(1)
        averages.append(((total - total.min()) / (total.max() - total.min())) ** config.exponent)
    return torch.stack(averages).detach().numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "lrp", "rules": "zero", "layer": "pixels"},
        {"method": "lrp", "rules": "epsilon_plus_flat", "layer": "pixels"},
        {"method": "lrp", "rules": "epsilon_gamma_box", "layer": "pixels"},
        {"method": "lrp", "rules": "zero", "layer": "conv1"},
        {"method": "lrp", "rules": "epsilon_alpha2_beta1", "layer": "conv1"},
        *({"method": method} for method in METHODS if method != "lrp"),
        {"method": "gradcam", "layer": "conv1"},
        {"method": "layercam", "layer": "conv1"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_seeds_of_any_explanation(images: list[Image.Image], options: dict[str, str]) -> None:
    network = make_network("classifier")
    config = SMALL.model_copy(update={"sizes": (72,), **options})
    found = class_maps(network, explanation(network, config), images[:1], [[3, 1]], config)[0]
    assert found.shape == (2, *((16, 24) if config.method == "cam" else (8, 12)))
    np.testing.assert_allclose(found, by_hand(network, images[0], [3, 1], config), atol=2e-6)
    assert not np.allclose(found[0], found[1], atol=0.02)


def test_averaged_over_cells_of_any_grid() -> None:
    images, fine = torch.zeros(1, 3, 60, 80), torch.rand(1, 2, 15, 20)
    found = averaged(fine, images, 16)  # a value for 4 pixels; the last row of cells is 12 pixels high
    assert found.shape == (1, 2, 4, 5)
    torch.testing.assert_close(found[0, :, 3, 0], fine[0, :, 12:, :4].mean((1, 2)))
    torch.testing.assert_close(found[0, :, 0, 4], fine[0, :, :4, 16:].mean((1, 2)))
    for cell in (1, 3, 4):
        assert averaged(fine, images, cell) is fine or torch.equal(averaged(fine, images, cell), fine)


@pytest.mark.parametrize("kind", ["classifier", "unrolled"])
def test_rules_unless_given(images: list[Image.Image], kind: str) -> None:
    """Of a classifier the best ones at a layer, of a network that was trained unrolled its own; cam has none."""
    network = make_network(kind)
    settled = settle(network, SMALL)
    assert (settled.rules, settled.layer) == ((RULES, "relu_1") if kind == "classifier" else (None, None))
    assert settle(network, settled) == settled
    maps = [
        class_maps(network, explanation(network, config), images[:1], [[1, 2]], config)[0]
        for config in (SMALL, settled)
    ]
    np.testing.assert_array_equal(*maps)
    cam = SMALL.model_copy(update={"method": "cam"})
    assert settle(network, cam) == cam
    given = SeedConfig(rules="zplus", layer="pixels")
    assert settle(make_network("classifier"), given) == given


def test_usual_powers() -> None:
    """A probability of 1/2 lies where the alpha rule at 8 puts the border of the background."""
    powers = {
        (config.method, config.scores): config.exponent
        for config in (SeedConfig(), SeedConfig(method="cam"), SeedConfig(scores="softmax"))
    }
    assert powers == {("lrp", "relevance"): 0.75, ("cam", "relevance"): 1, ("lrp", "softmax"): 2.4}
    assert SeedConfig(method="cam", power=0.3).exponent == 0.3
    for options, power in (
        ({"rules": "zero", "layer": "pixels"}, 0.75),
        ({"rules": "zero", "layer": "layer2"}, 0.85),
        ({"method": "layercam", "layer": "layer2"}, 0.85),  # the same maps
        ({"rules": "epsilon_plus", "layer": "layer2"}, 0.5),
        ({"method": "gradcam"}, 1),
        ({"method": "input_x_gradient"}, 0.75),
    ):
        assert SeedConfig(**options).exponent == power
    maps = np.array([[[0.48, 0.52]]], np.float32) ** SeedConfig(scores="softmax").exponent
    assert seed_to_mask(maps, np.array([5], np.uint8), alpha=8).tolist() == [[0, 5]]


def test_files_of_seeds(samples: list[Sample], tmp_path: Path) -> None:
    """The data set's class 1 is a cat, output 2 of the network; class 2, a dog, is output 1; 0 is the background."""
    network = make_network()
    dataset = Dataset("small", "all", tmp_path, ("cat", "dog"), tuple(samples), np.zeros(256, np.uint8))
    outputs = outputs_for(network, dataset)
    assert outputs == {1: 2, 2: 1}
    samples[3].image_path.write_bytes(samples[3].image_path.read_bytes()[:100])
    counts = make_seeds(network, samples, outputs, tmp_path / "seeds", SMALL, batch_size=3)
    assert (counts.images, counts.maps) == (4, 6)
    assert len(counts.failed) == 1 and counts.failed[0].startswith(f"image {samples[3].image_path}: cannot be read")
    for sample, size in zip(samples, SIZES, strict=True):
        if sample is samples[3]:
            continue
        seed = read_seed(tmp_path / "seeds", sample.id)
        assert seed.classes.tolist() == list(sample.classes) and seed.size == size
        with Image.open(sample.image_path) as image:
            wanted = [[{1: 2, 2: 1}[c] for c in sample.classes]]
            expected = class_maps(network, explanation(network, SMALL), [image.convert("RGB")], wanted, SMALL)[0]
        np.testing.assert_allclose(seed.scores, expected, atol=1e-3)  # float16
    with pytest.raises(InputError, match=r"class 'cows' of data set zoo .*did you mean 'cow'"):
        outputs_for(network, Dataset("zoo", "all", tmp_path, ("cat", "cows"), (), np.zeros(256, np.uint8)))


@pytest.mark.parametrize("method", ["lrp", "cam"])
def test_maps_that_are_not_finite_are_reported(
    samples: list[Sample], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsss.explanation.check_values", lambda images: None)  # as if the network made them of it
    Image.new("RGB", (56, 40)).save(samples[0].image_path)
    network = make_network()
    prepare = network.prepare
    object.__setattr__(network, "prepare", lambda image, size: prepare(image, size) / bool(np.any(image)))
    config = SMALL.model_copy(update={"method": method})
    counts = make_seeds(network, samples, {1: 2, 2: 1}, tmp_path / "seeds", config)
    assert sorted(path.stem for path in (tmp_path / "seeds").glob("*.npz")) == ["1", "2", "3", "4"]
    assert (counts.images, counts.maps) == (4, 4)
    (line,) = counts.failed
    assert line.startswith(f"image {samples[0].image_path}: the {method} map is not finite; look at the network's")


Cnnseg = Callable[..., int]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """data/data.yaml, and runs/trained with a classifier (that lists the classes in another order)."""
    make_data(tmp_path / "data")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=4)
    network = Network(unroll(model), "unrolled", "test_resnet", ("dog", "bird", "cat"), MEAN, STD)
    save_network(network, tmp_path / "runs/trained/network" / LAST)
    return tmp_path


@pytest.fixture
def cnnseg(place: Path) -> Cnnseg:
    app = App(name="cnnseg", default_parameter=LISTS)
    app.command(seeds)

    def call(*options: object) -> int:
        common = {
            "--network": "trained",
            "--data": place / "data/data.yaml",
            "--split": "val",
            "--runs": place / "runs",
            "--device": "cpu",
            "--sizes": 32,
        }
        for option, value in common.items():
            if option not in options:
                options += (option, value)
        return run(app, ["seeds", *map(str, options)])

    return call


def test_the_command(place: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnnseg("--shard", "2/3") == 0
    folder = place / "runs/lrp_cnn/seeds"
    assert {path.stem for path in folder.glob("*.npz")} == {"b"}
    assert capsys.readouterr().out.startswith("seeds of 1 image, at 1 size and mirrored\n")
    first = (folder / "b.npz").stat().st_mtime_ns
    assert cnnseg() == cnnseg("--split", "own") == 0
    assert {path.stem for path in folder.glob("*.npz")} == {*VAL, *OWN}
    assert (folder / "b.npz").stat().st_mtime_ns == first
    manifest = read_json(folder / "manifest.json")
    assert manifest["kind"] == "seeds" and manifest["config"]["power"] == 0.75
    assert [entry["counts"]["images"] for entry in manifest["history"]] == [3, 2]  # none of a shard among others
    assert read_seed(folder, "c").classes.tolist() == [1, 2] and read_seed(folder, "c").scores.any()
    assert cnnseg("--method", "cam") == 0
    assert read_json(place / "runs/cam_cnn/seeds/manifest.json")["config"]["power"] == 1
    assert cnnseg("--classes-at-once", 1) == 0  # the run is the same
    assert read_seed(place / "runs/cam_cnn/seeds", "a").scores.shape == (1, 1, 1)  # 32 pixels at stride 32

    capsys.readouterr()
    for options, line in (
        (("--power", 1), "config.power was 0.75, is 1.0 now; write into another run"),
        (("--network", "nowhere"), "--network nowhere: no such file, and no"),
        (("--which", "best"), f"{LAST} is there"),
        (("--batch-size", 0), "--batch-size 0: expected at least 1"),
        (("--classes-at-once", 0), "--classes-at-once 0: expected at least 1"),
        (("--shard", "4/3"), "--shard 4/3: expected i/n with 1 <= i <= n"),
        (("--method", "cam", "--scores", "softmax", "--name", "new"), "--scores softmax: of --method lrp alone"),
    ):
        assert cnnseg(*options) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and line in error
    assert not (place / "runs/new").exists()
    save_file({"w": torch.zeros(1)}, place / "plain.safetensors")
    assert cnnseg("--network", place / "plain.safetensors") == 2
    assert "expected a network of cnnseg" in capsys.readouterr().err


@torch.no_grad()
def test_pixels_of_a_network_that_is_read_elsewhere() -> None:
    """They are relevance of the image, not the network's heat-maps, and a manifest tells the two apart."""
    torch.manual_seed(0)
    made = create_network(NetworkConfig(architecture="test_resnet", weights="none"), ("dog", "cat"))
    made.module.eval()
    images = torch.randn(1, 3, 64, 64)
    usual, pixels = (explanation(made, SeedConfig(cell=1, layer=layer))(images, [1]) for layer in (None, PIXELS))
    torch.testing.assert_close(usual, made.module(images)[1][:, [1]].clamp(min=0))
    torch.testing.assert_close(pixels, unroll(made.module.model)(images)[1][:, [1]].clamp(min=0))
    assert identity(made, SeedConfig()) != identity(made, SeedConfig(layer=PIXELS))
    strict = create_network(
        NetworkConfig(kind="unrolled_pixels", architecture="test_resnet", weights="none"), ("dog", "cat")
    )
    assert identity(strict, SeedConfig()) == identity(strict, SeedConfig(layer=PIXELS)) == SeedConfig().identity


def test_seeds_of_before_there_were_rules(place: Path, cnnseg: Cnnseg, capsys: pytest.CaptureFixture[str]) -> None:
    """Their manifests do not say which rules: LRP-0. It is that which goes on there, and cam and unrolled networks."""
    before = {"scores", "method", "sizes", "flip", "cell", "power", "percentile"}
    network = load_network(place / "runs/trained/network" / LAST)
    plain = Network(PlainClassifier(network.module.model), "classifier", "test_resnet", network.class_names, MEAN, STD)
    save_network(plain, place / "runs/plain/network" / LAST)
    for options, run_name in (
        (("--network", "trained"), "one"),
        (("--network", "plain", "--method", "cam"), "two"),
        (("--network", "plain", "--rules", "zero", "--layer", "pixels"), "three"),
    ):
        assert cnnseg(*options, "--name", run_name) == 0
        assert set(read_json(place / "runs" / run_name / "seeds/manifest.json")["config"]) == before
    capsys.readouterr()
    assert cnnseg("--network", "plain", "--name", "three") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "made with other settings: config." in error and "write into another run or delete the folder" in error

    assert cnnseg("--network", "plain") == 0
    assert read_json(place / "runs/lrp_cnn/seeds/manifest.json")["config"]["layer"] == "layer2"
    assert cnnseg("--network", "plain", "--rules", RULES, "--layer", "layer2") == 0  # the same said aloud
    assert cnnseg("--network", "plain", "--rules", "epsilon_plus", "--name", "five") == 0
    assert read_json(place / "runs/five/seeds/manifest.json")["config"]["rules"] == "epsilon_plus"
    assert cnnseg("--network", "plain", "--method", "layercam", "--layer", "layer2", "--name", "four") == 0
    config = read_json(place / "runs/four/seeds/manifest.json")["config"]
    assert config["layer"] == "layer2" and "rules" not in config
    capsys.readouterr()
    for options, line in (
        (("--method", "layercam", "--name", "four"), "config.layer was 'layer2', is None now"),
        (("--method", "cam", "--rules", "zero", "--name", "new"), "error: rules: method cam has none; lrp has"),
        (("--layer", "layer9", "--name", "new"), "error: layer 'layer9' is unknown to the model: did you mean 'layer"),
        (("--method", "x", "--name", "new"), "error: method 'x' is unknown"),
        (("--rules", "x", "--name", "new"), "error: rules 'x' are unknown"),
        (
            ("--network", "trained", "--rules", "zplus", "--name", "new"),
            "error: --rules zplus: this unrolled keeps the rules",
        ),
    ):
        assert cnnseg("--network", "plain", *options) == 2 if "--network" not in options else cnnseg(*options) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert line in error
    assert not (place / "runs/new").exists()
    for method in ("gradcam", "input_x_gradient"):
        assert cnnseg("--network", "plain", "--method", method) == 0
        assert (place / f"runs/{method}_cnn/seeds/a.npz").is_file()
