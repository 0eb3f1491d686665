"""Masks and figures of a network, against networks whose answer is known from the pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnseg.evaluation import (
    Evaluation,
    Prediction,
    check_classes,
    evaluate_network,
    predict,
    predict_masks,
)
from cnnseg.models import Network
from cnnseg.scores import read_scores, save_scores
from wsss.classification import classification_scores
from wsss.data import Dataset, Sample, evenly_spread, load_dataset
from wsss.errors import InputError
from wsss.store import read_mask

SIZES = {"a": (40, 52), "b": (40, 52), "c": (31, 20), "d": (300, 270), "e": (40, 52), "f": (24, 24)}
SHOWN = {"a": (1,), "b": (2,), "c": (1, 2), "d": (2,), "e": (), "f": (1,)}


class Colours(nn.Module):
    """Maps are the colour channels; class scores the brightest red and green less a half. Keeps what it was given."""

    classifies = segments = True

    def __init__(self, segments: bool = True) -> None:
        super().__init__()
        self.segments = segments
        self.seen: list[tuple[int, ...]] = []
        self.decoded = 0

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor | None]:
        self.seen.append(tuple(images.shape))
        keep = (len(images) if decode is None else decode) if self.segments else 0
        self.decoded += keep
        blue_red_green = images[:, [2, 0, 1]]
        return blue_red_green.amax((2, 3)) - 0.5, blue_red_green[:keep] if keep else None


def network(module: nn.Module | None = None, names: tuple[str, ...] = ("cat", "dog")) -> Network:
    return Network(module or Colours(), "unrolled", "colours", names, (0, 0, 0), (1, 1, 1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Noise in colour; masks at random with a band to be ignored, none for image e."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["image,classes"]
    for image_id, (height, width) in SIZES.items():
        image = rng.integers(0, 120, (height, width, 3), np.uint8)
        for c in SHOWN[image_id]:  # red is a cat, green a dog; one of them is hard to see
            image[5:15, 5 * c : 5 * c + 9, c - 1] = 110 if image_id == "b" else 240
        Image.fromarray(image).save(folder / f"images/{image_id}.png")
        mask = rng.integers(0, 3, (height, width), np.uint8)
        mask[::5] = 255
        if image_id != "e":
            Image.fromarray(mask).save(folder / f"masks/{image_id}.png")
        names = ";".join(("cat", "dog")[c - 1] for c in SHOWN[image_id]) or "background"
        rows.append(f"{image_id},{names}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "data.yaml").write_text("name: noise\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    return load_dataset(folder / "data.yaml", "all")


def pixels(dataset: Dataset, image_id: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Image uint8 (H, W, 3), and mask, read afresh."""
    (sample,) = (s for s in dataset if s.id == image_id)
    mask = None if sample.mask_path is None else np.asarray(Image.open(sample.mask_path))
    return np.asarray(Image.open(sample.image_path)), mask


def iou(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """mIoU in per cent over (prediction, truth), straight from the definition; 255 does not count."""
    found = np.concatenate([prediction[truth != 255] for prediction, truth in pairs])
    due = np.concatenate([truth[truth != 255] for _, truth in pairs])
    return 100 * float(
        np.mean([((found == c) & (due == c)).sum() / ((found == c) | (due == c)).sum() for c in range(3)])
    )


def strongest(image: np.ndarray) -> np.ndarray:
    return image[..., [2, 0, 1]].argmax(-1)


def by_id(found: list[Prediction]) -> dict[str, Prediction]:
    assert len({one.sample.id for one in found}) == len(found)
    return {one.sample.id: one for one in found}


def test_masks_and_probabilities_of_known_images(dataset: Dataset) -> None:
    module = Colours()
    found = by_id(list(predict(network(module), dataset, dataset.samples, batch_size=2)))
    assert set(found) == set(SIZES)
    for image_id, one in found.items():
        image, _ = pixels(dataset, image_id)
        assert one.mask.dtype == np.uint8 and np.array_equal(one.mask, strongest(image)), image_id
        bright = image.reshape(-1, 3).max(0)[:2] / 255 - 0.5
        np.testing.assert_allclose(one.probabilities, 1 / (1 + np.exp(-bright)), rtol=1e-5)
    # a, b and e are of one size: two in a batch, then one
    assert sorted(module.seen) == sorted([(2, 3, 40, 52), (1, 3, 40, 52), *((1, 3, *SIZES[i]) for i in "cdf")])


class Convolution(nn.Module):
    """A network whose maps depend on the neighbourhood, to tell batches and sizes apart."""

    classifies = segments = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor]:
        maps = self.layer(images)
        return maps.mean((2, 3)), maps[:decode]


@pytest.mark.parametrize("size", [None, 33])
def test_batch_equals_loop(dataset: Dataset, size: int | None) -> None:
    torch.manual_seed(0)
    net = network(Convolution())
    alone, together = (
        by_id(list(predict(net, dataset, dataset.samples, batch_size=count, size=size))) for count in (1, 3)
    )
    for image_id, one in alone.items():
        other = together[image_id]
        assert one.mask.shape == SIZES[image_id] and (one.mask != other.mask).mean() < 1e-3
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)


def test_size_is_an_area_and_maps_are_enlarged_bilinearly(dataset: Dataset) -> None:
    module = Colours()
    found = by_id(list(predict(network(module), dataset, dataset.samples, size=36)))
    for image_id, (height, width) in SIZES.items():
        seen = (round(height * 36 / (height * width) ** 0.5), round(width * 36 / (height * width) ** 0.5))
        assert any(shape[2:] == seen for shape in module.seen)
        small = np.asarray(Image.fromarray(pixels(dataset, image_id)[0]).resize(seen[::-1], Image.Resampling.BICUBIC))
        maps = small[..., [2, 0, 1]].astype(np.float64)
        for axis, (old, new) in enumerate(zip(seen, (height, width), strict=True)):  # pixels are areas, not points
            place = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
            low = np.floor(place).astype(int)
            high, part = (low + 1).clip(max=old - 1), (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
            maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
        assert (maps.argmax(-1) != found[image_id].mask).mean() < 1e-3, image_id  # but for ties


def test_figures_of_the_standard_rule(dataset: Dataset) -> None:
    found = evaluate_network(network(), dataset, batch_size=2)
    pairs = [(strongest(image), mask) for image, mask in (pixels(dataset, i) for i in SIZES) if mask is not None]
    assert len(pairs) == 5 and found.images == 6
    assert found.miou == pytest.approx(iou(pairs), abs=1e-3)
    probabilities = np.stack(
        [p.probabilities for p in by_id(list(predict(network(), dataset, dataset.samples))).values()]
    )
    order = list(by_id(list(predict(network(), dataset, dataset.samples))))
    labels = np.array([[c in SHOWN[i] for c in (1, 2)] for i in order], float)
    expected = classification_scores(probabilities, labels)
    assert found.macro_f1 == pytest.approx(100 * expected.macro_f1, abs=1e-3)
    assert 0 < found.macro_f1 < 100 and found.mean_average_precision == pytest.approx(
        100 * expected.mean_average_precision, abs=1e-3
    )
    some = evaluate_network(network(), dataset, dataset.samples[:2])
    assert some.miou == pytest.approx(iou(pairs[:2]), abs=1e-3) and some.images == 2


def test_figures_of_the_papers_rule(dataset: Dataset) -> None:
    """The largest square in the middle, resized to 256 (linear; masks nearest), and 255 counted as background."""
    module = Colours()
    found = evaluate_network(network(module), dataset, protocol="paper")
    assert {shape[2:] for shape in module.seen} == {(256, 256)}
    pairs, labels = [], {image_id: set(SHOWN[image_id]) for image_id in SIZES}
    for image_id, (height, width) in SIZES.items():
        image, mask = pixels(dataset, image_id)
        if mask is None:
            continue
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = slice(top, top + short), slice(left, left + short)
        seen = cv2.resize(np.asarray(image)[square], (256, 256), interpolation=cv2.INTER_LINEAR)
        nearest = np.floor(np.arange(256) * short / 256).astype(int)
        truth = np.where(mask == 255, 0, mask)[square][nearest][:, nearest]
        pairs.append((strongest(seen), truth))
        labels[image_id] = {c for c in (1, 2) if (truth == c).any()}
    told = list(predict(network(), dataset, dataset.samples, centre=256))
    expected = classification_scores(
        np.stack([one.probabilities for one in told]),
        np.array([[c in labels[one.sample.id] for c in (1, 2)] for one in told], float),
    )
    assert labels != {image_id: set(SHOWN[image_id]) for image_id in SIZES}  # squares show what the label does not say
    assert found.macro_f1 == pytest.approx(100 * expected.macro_f1, abs=1e-3)
    alone = evaluate_network(network(Colours(segments=False)), dataset, protocol="paper")
    assert alone.miou is None and alone.macro_f1 == found.macro_f1
    assert found.miou == pytest.approx(iou(pairs), abs=1e-3)
    assert found.miou != pytest.approx(evaluate_network(network(), dataset).miou, abs=0.5)


def test_no_decoder_where_it_is_not_needed(dataset: Dataset) -> None:
    module = Colours()
    found = list(predict(network(module), dataset, dataset.samples, masks=False))
    assert module.decoded == 0 and all(one.mask is None and one.probabilities is not None for one in found)
    (unmasked,) = (s for s in dataset if s.id == "e")
    assert evaluate_network(network(module), dataset, [unmasked]).matrix is None and module.decoded == 0
    plain = evaluate_network(network(Colours(segments=False)), dataset)
    assert plain.miou is None and plain.macro_f1 == evaluate_network(network(), dataset).macro_f1


def test_written_masks_go_on(dataset: Dataset, tmp_path: Path) -> None:
    scores = predict_masks(network(), dataset, tmp_path, dataset.samples)
    for image_id in SIZES:
        assert np.array_equal(read_mask(tmp_path, image_id), strongest(pixels(dataset, image_id)[0]))
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "c.png").unlink()
    module = Colours()
    again = predict_masks(network(module), dataset, tmp_path, [s for s in dataset if s.id == "c"])
    assert (
        module.decoded == 1
        and scores.macro_f1 == again.macro_f1 == evaluate_network(network(), dataset).scores.macro_f1
    )
    assert {p.name for p in tmp_path.iterdir() if p.stat().st_mtime_ns != times.get(p.name)} == {"c.png"}


@pytest.mark.parametrize("where", ["maps", "logits"])
def test_values_that_are_not_finite_are_named(dataset: Dataset, where: str) -> None:
    class Broken(Colours):
        def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor]:
            logits, maps = super().forward(images, decode)
            (maps if where == "maps" else logits)[0, 1] = float("nan")
            return logits, maps

    with pytest.raises(InputError, match="image a: the network gives NaN or infinite values"):
        list(predict(network(Broken()), dataset, dataset.samples[:1]))


def test_other_classes_and_sizes_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made for other classes: dog, cat; data set noise has: cat, dog"):
        check_classes(network(names=("dog", "cat")), dataset)
    wrong = tmp_path / "a.png"
    Image.fromarray(np.ones((40, 50), np.uint8)).save(wrong)
    sample = Sample("a", dataset.samples[0].image_path, (1,), wrong)
    with pytest.raises(InputError, match=r"a\.png: 50 x 40 pixels, its image 52 x 40"):
        evaluate_network(network(), dataset, [sample])


def test_evenly_spread() -> None:
    samples = [Sample(str(i), Path(), ()) for i in range(10)]
    assert [s.id for s in evenly_spread(samples, 4)] == ["0", "3", "6", "9"]
    assert len(evenly_spread(samples, None)) == len(evenly_spread(samples, 10)) == len(evenly_spread(samples, 11)) == 10


def test_scores_file(dataset: Dataset, tmp_path: Path) -> None:
    scores = classification_scores(np.array([[0.9, 0.2], [0.1, 0.8]]), np.eye(2))
    entry = {"data": "noise", "split": "all", "checkpoint": "last", "protocol": "voc", "size": None, "miou": 1.0}
    saved = save_scores(tmp_path, entry, scores, dataset.class_names)
    assert saved["macro_f1"] == 100 and saved["f1"] == {"cat": 100, "dog": 100} and "f1" not in entry
    save_scores(tmp_path, {**entry, "size": 64, "miou": 3.0}, None, dataset.class_names)
    save_scores(tmp_path, {**entry, "miou": 2.0}, None, dataset.class_names)  # in place of the first
    assert [(row["size"], row["miou"], "f1" in row) for row in read_scores(tmp_path)] == [
        (64, 3.0, False),
        (None, 2.0, False),
    ]
    assert read_scores(tmp_path / "none") == []
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(InputError, match=r"scores\.json: no list of entries"):
        read_scores(tmp_path)


def test_undefined_figures_are_none() -> None:
    assert Evaluation(3, None, None).miou is None and Evaluation(3, None, None).macro_f1 is None
    nothing = classification_scores(np.array([[0.1]]), np.array([[0]]))
    assert Evaluation(1, None, nothing).macro_f1 is None and Evaluation(1, None, nothing).mean_average_precision is None
