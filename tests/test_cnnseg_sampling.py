"""Mask budgets: the rule as it is written down, its quotas, its nesting; labels and masks that disagree."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cnnseg.sampling import check_agreement, sample_masks
from wsss.data import Dataset, Sample, load_dataset
from wsss.errors import InputError
from wsss.store import write_mask


def made(classes: list[tuple[int, ...]], count: int, masks: bool = True) -> Dataset:
    """A data set of images that show these classes; every seventh has no mask unless all have."""
    samples = tuple(
        Sample(f"{row:04d}", Path("a.jpg"), shown, Path("a.png") if masks or row % 7 else None)
        for row, shown in enumerate(classes)
    )
    names = tuple(f"class {c}" for c in range(1, count + 1))
    return Dataset("made", "train", Path("."), names, samples, np.arange(256, dtype=np.uint8))


def mixed(images: int, count: int, seed: int, masks: bool = True) -> Dataset:
    """Images of one to three classes, the first class ten times as frequent as the last; some show none."""
    rng = np.random.default_rng(seed)
    weights = np.linspace(10, 1, count)
    classes = []
    for _ in range(images):
        shown = rng.choice(count, rng.integers(0, 4), replace=False, p=weights / weights.sum())
        classes.append(tuple(sorted(int(c) + 1 for c in shown)))
    return made(classes, count, masks)


def slowly(dataset: Dataset, budget: int, seed: int) -> set[str]:
    """The docstring of sample_masks, word by word."""
    pool = [sample for sample in dataset if sample.mask_path is not None]
    size = dataset.num_classes
    total = Counter(c for sample in pool for c in sample.classes)
    everything = sum(total.values())
    random_order = [pool[row] for row in np.random.default_rng(seed).permutation(len(pool))]
    have: Counter[int] = Counter()
    chosen: list[Sample] = []
    level = 1
    while len(chosen) < budget:
        left = [sample for sample in random_order if sample not in chosen]
        quota = {}
        for c in range(1, size + 1):
            weight = 1 / size
            if level > 5 and budget >= 25 * size:
                weight = (1 / size + total[c] / everything) / 2
            quota[c] = level * size * weight
        with_images = [c for c in quota if any(c in sample.classes for sample in left)]
        if not with_images:
            chosen += left[: budget - len(chosen)]
            break
        needy = [c for c in with_images if have[c] < quota[c] - 1e-9]
        if not needy:
            level += 1
            continue
        turn = min(needy, key=lambda c: total[c])
        candidates = [sample for sample in left if turn in sample.classes]

        def excess(sample: Sample, turn: int = turn, quota: dict[int, float] = quota) -> int:
            others = [c for c in sample.classes if c != turn]
            return sum(max(0, have[c] + 1 - math.ceil(quota[c] - 1e-9)) for c in others)

        best = min(candidates, key=excess)  # the first in the random order
        chosen.append(best)
        have.update(best.classes)
    return {sample.id for sample in chosen}


@pytest.mark.parametrize("budget", [0, 1, 4, 20, 57, 99, 100, 130, 171])
def test_the_rule_as_written(budget: int) -> None:
    dataset = mixed(200, 4, seed=1, masks=False)
    found = sample_masks(dataset, budget, seed=5)
    assert len(found) == budget and {sample.id for sample in found} == slowly(dataset, budget, 5)
    assert all(sample.mask_path is not None for sample in found)
    assert [sample.id for sample in found] == sorted(sample.id for sample in found)  # in the order of the data set


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_rule_as_written_for_a_large_budget(seed: int) -> None:
    """Pools in which it shows at which level the mixed distribution begins."""
    dataset = mixed(600, 6, seed)
    assert {sample.id for sample in sample_masks(dataset, 150, seed)} == slowly(dataset, 150, seed)


def test_small_budgets_are_uniform() -> None:
    """With images of one class each: exactly 1, then 5 of each, however skewed the data set."""
    dataset = made([(1,)] * 300 + [(2,)] * 40 + [(3,)] * 6, 3)
    for each in (1, 5):
        for seed in range(5):
            shown = Counter(sample.classes for sample in sample_masks(dataset, 3 * each, seed))
            assert shown == {(1,): each, (2,): each, (3,): each}
    assert sample_masks(dataset, 3, 0) != sample_masks(dataset, 3, 1)
    assert sample_masks(dataset, 3, 0) == sample_masks(dataset, 3, 0)


def test_large_budgets_are_the_average_of_uniform_and_data_set() -> None:
    dataset = made([(1,)] * 800 + [(2,)] * 150 + [(3,)] * 50, 3)
    for budget in (75, 120):
        shown = Counter(sample.classes for sample in sample_masks(dataset, budget))
        for c, share in ((1, 0.8), (2, 0.15), (3, 0.05)):
            assert abs(shown[(c,)] - budget * (1 / 3 + share) / 2) <= 2
    just_below = Counter(sample.classes for sample in sample_masks(dataset, 74))
    assert sorted(just_below.values()) == [24, 25, 25]


@pytest.mark.parametrize("seed", range(4))
def test_each_class_once_and_nested(seed: int) -> None:
    dataset = mixed(600, 6, seed)
    budgets = [sample_masks(dataset, budget, seed) for budget in (6, 30, 150, None)]
    assert [len(found) for found in budgets] == [6, 30, 150, 600]
    assert {c for sample in budgets[0] for c in sample.classes} == set(range(1, 7))
    for small, large in pairwise(budgets):
        assert set(small) < set(large)
    assert budgets[-1] == dataset.samples
    several = [sample for sample in budgets[1] if len(sample.classes) > 1]
    assert several  # images of several classes are not shunned


def slowly_by_deficit(dataset: Dataset, budget: int, seed: int) -> list[str]:
    """The draw of the published code, image by image and class by class; of its own accord it stops at no image."""
    pool = [sample for sample in dataset if sample.mask_path is not None]
    size, generator = dataset.num_classes, np.random.default_rng(seed)
    total = Counter(c for sample in pool for c in sample.classes)
    share = dict.fromkeys(range(1, size + 1), 1 / size)
    if budget >= 25 * size:
        share = {c: (1 / size + total[c] / sum(total.values())) / 2 for c in share}
    have: Counter[int] = Counter()
    chosen: list[Sample] = []
    due = budget
    while len(chosen) < budget:
        lack = {c: max(0.0, share[c] * due - have[c]) for c in share}
        weights: list[float] = []
        for turn in sorted(lack, key=lambda c: -lack[c]):
            weights = [
                min(lack[c] for c in sample.classes) if turn in sample.classes and sample not in chosen else 0.0
                for sample in pool
            ]
            if sum(weights) > 0:
                break
        else:
            weights = [float(sample not in chosen) for sample in pool]
        sample = pool[generator.choice(len(pool), p=np.array(weights) / sum(weights))]
        chosen.append(sample)
        have.update(sample.classes)
        due += max(0, len(sample.classes) - 1)
    return sorted(sample.id for sample in chosen)


@pytest.mark.parametrize("budget", [1, 4, 20, 60, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_draw_by_deficit(budget: int, seed: int) -> None:
    dataset = mixed(150, 4, seed)
    found = sorted(sample.id for sample in sample_masks(dataset, budget, seed, rule="deficit"))
    assert found == slowly_by_deficit(dataset, budget, seed)
    assert len(set(found)) == budget


def test_the_draw_by_deficit_evens_the_classes_out() -> None:
    dataset = mixed(150, 4, 3)
    counts = Counter(c for sample in sample_masks(dataset, 24, rule="deficit") for c in sample.classes)
    assert max(counts.values()) - min(counts.values()) <= 3
    assert {s.id for s in sample_masks(dataset, 24, rule="deficit")} != {s.id for s in sample_masks(dataset, 24)}


def test_impossible_budgets_are_refused() -> None:
    dataset = mixed(50, 3, seed=0, masks=False)
    with pytest.raises(InputError, match=r"^`budget` 43: expected at most 42, .* with masks of data set made/train$"):
        sample_masks(dataset, 43)
    with pytest.raises(InputError, match="`budget` -1: expected 0 or more"):
        sample_masks(dataset, -1)


def test_disagreement_is_told(tmp_path: Path) -> None:
    masks = {"fine": [0, 1, 255], "more": [0, 1, 2, 3], "less": [0, 255], "both": [3]}
    labels = {"fine": (1,), "more": (2,), "less": (1, 3), "both": (1,)}
    for name, values in masks.items():
        write_mask(tmp_path, name, np.array([values], np.uint8))
    samples = tuple(Sample(name, tmp_path / f"{name}.png", labels[name], tmp_path / f"{name}.png") for name in masks)
    without = Sample("without", Path("a.jpg"), (2,))
    table = np.arange(256, dtype=np.uint8)
    dataset = Dataset("small", "train", tmp_path, ("cat", "dog", "cow"), (*samples, without), table)
    assert check_agreement(dataset, dataset.samples) == [
        "image more of small/train: the mask shows cat, cow, which the labels lack",
        "image less of small/train: the labels name cat, cow, of which the mask shows nothing",
        "image both of small/train: the mask shows cow, which the labels lack; the labels name cat, of which the mask "
        "shows nothing",
    ]
    assert check_agreement(dataset, samples[:1]) == []


def test_voc12_animals(shared: Path) -> None:
    """The budgets of PROTOCOLS section 4 on real labels: 1 and 5 a class as even as labels that go together allow."""
    dataset = load_dataset("voc12_animals", "train_aug", shared / "data" / "voc12-animals")
    found = {budget: sample_masks(dataset, budget) for budget in (6, 30, 150, 437)}
    counts = {n: Counter(c for sample in chosen for c in sample.classes) for n, chosen in found.items()}
    assert set(found[6]) < set(found[30]) < set(found[150]) < set(found[437])
    assert all(1 <= counts[6][c] <= 2 for c in range(1, 7)) and all(5 <= counts[30][c] <= 7 for c in range(1, 7))
    assert len(sample_masks(dataset, None)) == 437
    with pytest.raises(InputError, match="expected at most 437, the images with masks"):
        sample_masks(dataset, 438)
