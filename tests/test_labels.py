"""Confident labels: the rule of the two alphas on constructed seeds, files, and faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from affinity.crf import DenseCRF
from affinity.labels import LabelsConfig, check_seed, confident_labels, label_images
from affinity.settings import CRFConfig
from wsss.data import Sample
from wsss.errors import InputError
from wsss.store import Seed, read_mask, write_seed

OFF = CRFConfig(smooth_weight=0, colour_weight=0)
"""No pairwise terms: the label is the rule of the two alphas at every pixel by itself."""


def ramp(width: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """A grey image and one class whose score grows from 0 at the left to 1 at the right."""
    return np.full((5, width, 3), 128, np.uint8), np.tile(np.linspace(0, 1, width, dtype=np.float32), (1, 5, 1))


def test_low_alpha_makes_foreground_and_high_alpha_background() -> None:
    """Without pairwise terms the limits are where (1 - m)^alpha = m."""
    image, scores = ramp()
    label = confident_labels(image, scores, np.array([3]), LabelsConfig(crf=OFF))
    m = scores[0]
    np.testing.assert_array_equal(label[m > (1 - m) ** 4], 3)
    np.testing.assert_array_equal(label[m < (1 - m) ** 32], 0)
    np.testing.assert_array_equal(label[(m < (1 - m) ** 4) & (m > (1 - m) ** 32)], 255)
    assert set(np.unique(label)) == {0, 3, 255}


def test_is_the_original_rule_with_the_crf() -> None:
    """AffinityNet's VOC12AffDataset, re-implemented: an own CRF object for each alpha."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 26, 3), np.uint8)
    scores = rng.random((2, 20, 26)).astype(np.float32) ** 6  # peaky, so that all three kinds of label come out
    config = LabelsConfig(crf=CRFConfig(smooth_weight=1, colour_weight=1))
    votes = []
    for alpha in (4, 32):
        background = (1 - scores.max(axis=0)) ** alpha
        votes.append(DenseCRF(image, config.crf)(np.stack([background, *scores])).argmax(axis=0))
    expected = np.array([0, 2, 5])[votes[0]]
    expected[votes[0] == 0] = 255
    expected[votes[1] == 0] = 0
    found = confident_labels(image, scores, np.array([2, 5], np.uint8), config)
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {0, 2, 5, 255}


def test_without_classes_everything_is_background() -> None:
    image, _ = ramp()
    label = confident_labels(image, np.zeros((0, *image.shape[:2]), np.float32), np.zeros(0, np.uint8))
    assert label.dtype == np.uint8 and label.shape == image.shape[:2] and (label == 0).all()


def test_alphas_in_the_wrong_order() -> None:
    with pytest.raises(ValidationError, match="expected at most alpha_high"):
        LabelsConfig(alpha_low=32, alpha_high=4)


def photographs(folder: Path, count: int = 3) -> tuple[list[Sample], Path]:
    rng = np.random.default_rng(1)
    samples = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (30, 40 + index, 3), np.uint8)).save(path)
        classes = (1, 4)[: index % 3]
        scores = rng.random((len(classes), 6, 7)).astype(np.float16)
        write_seed(folder / "seeds", str(index), Seed(scores, np.array(classes, np.uint8), (30, 40 + index)))
        samples.append(Sample(str(index), path, classes))
    return samples, folder / "seeds"


def test_files_by_one_and_by_two_processes(tmp_path: Path) -> None:
    samples, seeds = photographs(tmp_path)
    one = label_images(samples, seeds, tmp_path / "one", workers=1)
    two = label_images(samples, seeds, tmp_path / "two", workers=2)
    assert one == two and one.images == 3 and one.images_without_classes == 1
    masks = [read_mask(tmp_path / "one", sample.id) for sample in samples]
    for sample, mask in zip(samples, masks, strict=True):
        np.testing.assert_array_equal(mask, read_mask(tmp_path / "two", sample.id))
        assert mask.shape == np.asarray(Image.open(sample.image_path)).shape[:2]
        assert set(np.unique(mask)) <= {0, 255, *sample.classes}
    assert one.background == sum((mask == 0).sum() for mask in masks)
    assert one.neutral == sum((mask == 255).sum() for mask in masks)
    assert one.foreground == sum(mask.size for mask in masks) - one.background - one.neutral


def test_seed_of_another_image_size_is_named(tmp_path: Path) -> None:
    samples, seeds = photographs(tmp_path)
    write_seed(seeds, "1", Seed(np.zeros((1, 6, 7), np.float16), np.array([1], np.uint8), (31, 41)))
    with pytest.raises(InputError, match=r"seed of image 1 .*41 x 31 and 41 x 30"):
        label_images(samples, seeds, tmp_path / "out")


def test_seed_of_other_labels_is_named(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    seed = Seed(np.zeros((1, 2, 2), np.float16), np.array([2], np.uint8), (8, 9))
    check_seed(Sample("a", tmp_path / "a.png", (2,)), image, seed)
    with pytest.raises(InputError, match=r"seed of image a shows the classes \[2\], its labels are \[1\]"):
        check_seed(Sample("a", tmp_path / "a.png", (1,)), image, seed)
