"""Seeds: as the slow way makes them, whatever is batched with what; a bad image costs itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import noise
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vitseg import explain, seeds
from vitseg.methods import METHODS
from vitseg.models import Classifier, create_classifier
from vitseg.seeds import class_maps, make_seeds, outputs_for
from vitseg.settings import SeedConfig
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.explanation import Explanation
from wsss.maps import compete, input_size, scale_maps
from wsss.store import read_seed

EXACT = SeedConfig(sizes=(32, 48), first_block=1, precision="float64", attention_walk=0)
"""Without what changes the maps of a method: walk and competition."""
SIZES = ((40, 56), (32, 32), (56, 40), (40, 56), (24, 90))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = create_classifier("test_vit", ("dog", "cat", "cow"), "none")
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return Classifier(made.model.double(), made.architecture, made.class_names, made.mean, made.std)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


@pytest.fixture
def samples(images: list[Image.Image], tmp_path: Path) -> list[Sample]:
    classes = [(1, 2), (1,), (2,), (), (1, 2)]
    found = []
    for number, (image, shown) in enumerate(zip(images, classes, strict=True)):
        path = tmp_path / f"{number}.png"
        image.save(path)
        found.append(Sample(str(number), path, shown))
    return found


def slow_maps(
    classifier: Classifier,
    image: Image.Image,
    wanted: Sequence[int],
    config: SeedConfig,
    shapes: Sequence[tuple[int, int]],
) -> np.ndarray:
    """One class, one size, one direction at a time; shapes from the largest size down."""

    def one_map(x: Tensor, output: int) -> np.ndarray:
        found = explain(classifier.model, x[None], output, config.method, first_block=config.first_block, rules="exact")
        return found.maps[0].numpy()

    grid = (shapes[0][0] // 16, shapes[0][1] // 16)
    averages = []
    for output in wanted:
        scaled = []
        for shape in shapes:
            x = classifier.prepare(image, shape).double()
            found = one_map(x, output)
            if config.flip:
                found = (found + one_map(x.flip(2), output)[:, ::-1]) / 2
            low, high = found.min(), np.percentile(found, config.percentile)
            unit = torch.from_numpy(np.clip((found - low) / (high - low), 0, 1) ** config.exponent)
            scaled.append(F.interpolate(unit[None, None], grid, mode="bilinear", align_corners=False)[0, 0])
        averages.append(torch.stack(scaled).mean(0))
    return torch.stack(averages).numpy()


@pytest.mark.parametrize("power", [1, 0.5])
@pytest.mark.parametrize("percentile", [100, 95])
def test_scale_maps(percentile: float, power: float) -> None:
    maps = noise(3, 7, 5)
    maps[1] = 0.25  # constant: 0
    found = scale_maps(maps, percentile, power)
    expected = np.zeros((3, 7, 5))
    for k in (0, 2):
        one = maps[k].numpy()
        high = np.percentile(one, percentile)
        expected[k] = np.clip((one - one.min()) / (high - one.min()), 0, 1) ** power
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == torch.float32 and found[0].max() == 1 and found[0].min() == 0
    broken = maps.clone()
    broken[0, 0, 0], broken[1, 0, 0] = torch.nan, torch.inf
    found = scale_maps(broken, percentile, power)
    assert found[:2].isnan().all()  # not hidden, and no other map's business
    np.testing.assert_allclose(found[2], expected[2], atol=1e-6)


def test_classes_compete() -> None:
    maps = noise(3, 4, 5).abs().double()
    found = compete(maps)
    m = (maps - maps.flatten(1).min(1).values[:, None, None]).numpy()
    for y in range(4):
        for x in range(5):
            densities = [m[k, y, x] / m[k].sum() for k in range(3)]
            for k in range(3):
                assert float(found[k, y, x]) == pytest.approx(m[k, y, x] * densities[k] / sum(densities), rel=1e-12)
    alone = maps[:1]
    np.testing.assert_allclose(scale_maps(compete(alone)), scale_maps(alone), atol=1e-6)
    assert compete(torch.zeros(0, 1, 1)).shape == (0, 1, 1)
    constant = torch.stack([torch.full((4, 5), 0.5, dtype=torch.float64), maps[0]])
    assert compete(constant)[0].abs().max() == 0 and compete(constant)[1].max() > 0
    broken = torch.stack([maps[0], torch.full((4, 5), torch.nan, dtype=torch.float64)])
    assert scale_maps(compete(broken)).isnan().all()


def test_a_map_on_two_objects_leaves_the_one_that_another_map_has_alone() -> None:
    """The dog's map lies on the dog; the person's as strongly on dog and person."""
    dog, person = torch.zeros(2, 4, 8, dtype=torch.float64)
    dog[:, :3] = person[:, :3] = person[:, 4:] = 1
    found = scale_maps(compete(torch.stack([dog, person])))
    assert (found.argmax(0)[:, :3] == 0).all() and (found.argmax(0)[:, 4:] == 1).all()
    assert found[0, :, :3].min() == found[1, :, 4:].min() == 1 and found[1, :, :3].max() < 0.5


def test_input_size_keeps_area_and_proportions() -> None:
    for size, target in (((300, 500), 224), ((500, 300), 384), ((64, 64), 224), ((20, 900), 224)):
        height, width = input_size(Image.new("RGB", (size[1], size[0])), target, (16, 16))
        assert height % 16 == width % 16 == 0 and min(height, width) >= 16
        ideal = np.array(size) * target / np.sqrt(size[0] * size[1])
        assert np.abs(np.array([height, width]) - ideal).max() <= 16


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": False},
        {"sizes": (48,), "power": 1},
        {"method": "rollout"},
        {"percentile": 90},
    ],
    ids=str,
)
def test_class_maps_of_one_image(classifier: Classifier, images: list[Image.Image], options: dict[str, object]) -> None:
    """40 x 56 pixels: 48^2 pixels in these proportions are about 40 x 57, 32^2 are about 27 x 38."""
    config = EXACT.model_copy(update=options)
    shapes = [{48: (48, 64), 32: (32, 32)}[size] for size in sorted(config.sizes, reverse=True)]
    found = class_maps(classifier, images[:1], [[2, 0]], config)[0]
    expected = slow_maps(classifier, images[0], [2, 0], config, shapes)
    assert found.dtype == np.float32 and found.shape == (2, 3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (not np.allclose(found[0], found[1], atol=1e-3)) == METHODS[config.method].class_specific


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_mixed_batch_equals_one_image_at_a_time(
    classifier: Classifier, images: list[Image.Image], method: str, batch_size: int
) -> None:
    config = EXACT.model_copy(update={"method": method, "attention_walk": None})
    wanted = [[1, 0], [2], [0, 1, 2], [], [1]]
    together = class_maps(classifier, images, wanted, config, batch_size=batch_size)
    for image, outputs, found in zip(images, wanted, together, strict=True):
        alone = class_maps(classifier, [image], [outputs], config, batch_size=1)[0]
        assert found.shape[0] == len(outputs) and 0 not in found.shape[1:]
        np.testing.assert_allclose(found, alone, atol=1e-5)
        assert not len(outputs) or 0 <= found.min() < found.max() <= 1


def test_classes_of_an_image_share_a_forward_pass(
    classifier: Classifier, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both 40 x 56 images with two classes go together, the one with one class apart; each with its mirror image."""
    calls = []

    def counted(model: object, x: Tensor, targets: Sequence[Sequence[int]], *arguments: object, **options: object):
        calls.append((len(x), [list(row) for row in targets]))
        return explain(model, x, targets, *arguments, **options)

    monkeypatch.setattr(seeds, "explain", counted)
    config = EXACT.model_copy(update={"sizes": (32,)})
    alike = [images[0], images[3], images[0]]
    class_maps(classifier, alike, [[2, 0], [0, 1], [1]], config, batch_size=8)
    assert sorted(calls) == [(2, [[1]] * 2), (4, [[2, 0], [0, 1]] * 2)]
    calls.clear()
    class_maps(classifier, alike, [[2, 0], [0, 1], [1]], config, batch_size=4)  # maps made at once
    assert [count for count, _ in calls] == [2, 2, 2]


def test_the_mirror_image_has_the_mirrored_map(classifier: Classifier, images: list[Image.Image]) -> None:
    image = images[1]  # 32 x 32, explained at that size: nothing is resized
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    differences = []
    for flip in (True, False):
        config = EXACT.model_copy(update={"sizes": (32,), "flip": flip})
        one, other = class_maps(classifier, [image, mirrored], [[0], [0]], config)
        differences.append(np.abs(one - other[:, :, ::-1]).max())
    assert differences[0] < 1e-6 and differences[1] > 1e-2


def test_classes_are_matched_by_name(classifier: Classifier, samples: list[Sample], tmp_path: Path) -> None:
    """The data set's class 1 is a cat, the classifier's output 1 as well; class 2, a dog, is output 0."""
    dataset = Dataset("small", "all", tmp_path, ("cat", "dog"), tuple(samples), np.zeros(256, np.uint8))
    outputs = outputs_for(classifier, dataset)
    assert outputs == {1: 1, 2: 0}
    counts = make_seeds(classifier, samples, outputs, tmp_path / "seeds", EXACT, batch_size=2)
    assert (counts.images, counts.maps, counts.failed) == (5, 6, ())
    for sample, (height, width) in zip(samples, SIZES, strict=True):
        seed = read_seed(tmp_path / "seeds", sample.id)
        assert seed.classes.tolist() == list(sample.classes) and seed.size == (height, width)
        with Image.open(sample.image_path) as image:
            wanted = [[{1: 1, 2: 0}[c] for c in sample.classes]]
            expected = class_maps(classifier, [image.convert("RGB")], wanted, EXACT)[0]
        np.testing.assert_allclose(seed.scores, expected, atol=1e-3)  # float16
    strange = Dataset("zoo", "all", tmp_path, ("cat", "cows"), (), np.zeros(256, np.uint8))
    with pytest.raises(InputError, match=r"class 'cows' of data set zoo .*did you mean 'cow'"):
        outputs_for(classifier, strange)


def test_bad_images_are_reported_and_the_others_made(
    classifier: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = Image.new("RGB", (56, 40))
    black.save(samples[2].image_path)
    samples[1].image_path.write_bytes(samples[1].image_path.read_bytes()[:200])

    def explain_but_black(model: object, x: Tensor, *arguments: object, **options: object) -> Explanation:
        found = explain(model, x, *arguments, **options)
        uniform = x.flatten(2).std(2).max(1).values < 1e-6
        maps = found.maps.clone()
        maps[uniform, 0, 0] = torch.nan
        return Explanation(maps, found.targets, found.logits, found.method)

    monkeypatch.setattr(seeds, "explain", explain_but_black)
    counts = make_seeds(classifier, samples, {1: 0, 2: 1}, tmp_path / "seeds", EXACT)
    assert counts.images == 3 and counts.maps == 4 and len(counts.failed) == 2
    assert counts.failed[0].startswith(f"image {samples[1].image_path}: cannot be read")
    assert counts.failed[1] == (
        f"image {samples[2].image_path}: the transformer_attribution map is not finite; try `precision` float64"
    )
    assert sorted(path.stem for path in (tmp_path / "seeds").glob("*.npz")) == ["0", "3", "4"]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision_of_the_walk(classifier: Classifier, samples: list[Sample], tmp_path: Path, precision: str) -> None:
    config = EXACT.model_copy(update={"precision": precision})
    torch.manual_seed(0)
    own = create_classifier("test_vit", ("cat", "dog"), "none")
    make_seeds(own, samples[:1], {1: 0, 2: 1}, tmp_path / "seeds", config)
    assert next(own.model.parameters()).dtype == getattr(torch, precision)
    assert read_seed(tmp_path / "seeds", "0").scores.max() > 0
