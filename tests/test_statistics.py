"""Statistics of the tests of explanations, against slow versions straight from their definitions."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from wsss import statistics
from wsss.errors import InputError
from wsss.explanation_tests.figures import paired_difference, perturbation_figures, read_results, segmentation_figures
from wsss.metrics import ConfusionMatrix
from wsss.statistics import FRACTIONS, average_precision, bootstrap_means, interval, perturbation_auc

# --- area under the curve -------------------------------------------------------------------------------------------


def test_auc_by_hand() -> None:
    assert np.allclose(FRACTIONS, np.arange(10) / 10)
    falling = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    by_hand = 0.1 * (0.8 / 2 + (0.7 + 0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.1 + 0.0) + 0.0 / 2) * 100
    assert perturbation_auc(falling) == pytest.approx(by_hand) == pytest.approx(32.0)
    assert perturbation_auc([True] * 10) == pytest.approx(90)
    assert perturbation_auc([1] + [0] * 9) == pytest.approx(5)  # the clean accuracy counts half a step


def test_auc_of_many_curves() -> None:
    curves = np.random.default_rng(0).random((2, 3, 10))
    areas = perturbation_auc(curves)
    assert areas.shape == (2, 3)
    for place in np.ndindex(2, 3):
        y = curves[place]
        slow = sum((y[i] + y[i + 1]) / 2 * (FRACTIONS[i + 1] - FRACTIONS[i]) for i in range(9)) * 100
        assert areas[place] == pytest.approx(slow)
    assert perturbation_auc(curves.mean(axis=0)) == pytest.approx(areas.mean(axis=0))


@pytest.mark.parametrize("bad", [[0.5] * 9, 0.5, [50.0] * 10, [float("nan")] * 10])
def test_auc_refuses(bad: object) -> None:
    with pytest.raises(ValueError, match="accuracies"):
        perturbation_auc(bad)


# --- average precision ----------------------------------------------------------------------------------------------


def slow_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum over the distinct scores, from high to low, of the gain in recall times the precision there."""
    pairs = []
    for score, true in zip(scores.ravel(), truth.ravel(), strict=True):
        if true != 255:
            pairs += [(1 - score, true == 0), (score, true == 1)]
    positives = sum(positive for _, positive in pairs)
    total = recall = 0.0
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        taken = [positive for score, positive in pairs if score >= threshold]
        new = sum(taken) / positives
        total += (new - recall) * sum(taken) / len(taken)
        recall = new
    return total


def test_average_precision_by_hand() -> None:
    # ranking: 0.9 (foreground, right), 0.8 (1 - 0.2 of a foreground pixel, wrong), 0.2 (right), 0.1 (wrong)
    assert average_precision(np.array([[0.9, 0.2]]), np.array([[1, 1]])) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert average_precision(np.array([[1.0, 0.0]]), np.array([[0, 1]])) == pytest.approx(0.5)  # all at the bottom


@pytest.mark.parametrize("ignored", [False, True])
def test_average_precision(ignored: bool) -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 17, (6, 7)) / 16  # many ties, and 1 - score is exact
    truth = generator.integers(0, 2, (6, 7)).astype(np.uint8)
    if ignored:
        truth[:2] = 255
        scores[0] = np.nan  # what is ignored may be anything
    assert average_precision(scores, truth) == pytest.approx(slow_average_precision(scores, truth), abs=1e-12)


def test_average_precision_of_nothing_and_of_bad_input() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(average_precision(np.zeros((2, 2)), np.full((2, 2), 255)))
    with pytest.raises(ValueError, match=r"expected \(H, W\)"):
        average_precision(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="truth: expected"):
        average_precision(np.zeros((2, 2)), np.full((2, 2), 2))
    with pytest.raises(ValueError, match="scores: expected values in"):
        average_precision(np.full((2, 2), 1.5), np.zeros((2, 2)))


# --- bootstrap ------------------------------------------------------------------------------------------------------


def slow_bootstrap(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        drawn = generator.integers(len(columns), size=len(columns))
        rows.append(np.mean([columns[place] for place in drawn], axis=0))
    return np.array(rows)


def test_bootstrap_is_the_mean_of_drawn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(2).random((37, 3)) * [1, 10, 1e6]
    due = slow_bootstrap(columns, 50, seed=4)
    assert np.allclose(bootstrap_means(columns, 50, seed=4), due, rtol=1e-12)
    for rows in (1, 7, 50):  # however many resamples are held at once
        monkeypatch.setattr(statistics, "_CHUNK_BYTES", rows * 8 * len(columns))
        assert np.allclose(bootstrap_means(columns, 50, seed=4), due, rtol=1e-12)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 1)  # less than a row is not possible
    assert np.allclose(bootstrap_means(columns, 50, seed=4), due, rtol=1e-12)
    assert not np.allclose(bootstrap_means(columns, 50, seed=5), due, rtol=1e-3)


def test_bootstrap_draws_are_the_same_for_any_columns() -> None:
    columns = np.random.default_rng(3).random((20, 4))
    both = bootstrap_means(columns, 30)
    apart = [bootstrap_means(columns[:, place : place + 1], 30) for place in range(4)]
    assert np.allclose(both, np.concatenate(apart, axis=1), rtol=1e-12)


def test_bootstrap_spread_is_that_of_a_mean() -> None:
    values = np.random.default_rng(6).normal(size=(400, 1))
    spread = bootstrap_means(values, 4000).std()
    assert spread == pytest.approx(values.std() / 20, rel=0.05)  # sigma / sqrt(n); 4000 draws know it to 1.1 %


def test_bootstrap_refuses() -> None:
    for bad in (np.zeros(3), np.zeros((0, 2)), np.array([[1.0, np.nan]])):
        with pytest.raises(ValueError, match="columns"):
            bootstrap_means(bad)
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap_means(np.zeros((3, 1)), 0)


def test_interval() -> None:
    values = np.random.default_rng(7).permuted(np.arange(1001.0))
    assert interval(values, 0.9) == pytest.approx((50, 950))
    table = np.stack([values, -values, np.full(1001, np.nan)], axis=1)
    table[values == 1000] = np.nan  # a figure that one resample leaves undefined: 0..999 remain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = interval(table)
    assert low[:2] == pytest.approx([24.975, -974.025]) and high[:2] == pytest.approx([974.025, -24.975])
    assert np.isnan([low[2], high[2]]).all()
    with pytest.raises(ValueError, match="level"):
        interval(values, 95)


# --- figures --------------------------------------------------------------------------------------------------------


def perturbation_results(images: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    correct = generator.random((images, 2, 2, 10)) < np.linspace(0.7, 0.1, 10)
    correct[:, 0, 1] &= generator.random((images, 10)) < 0.5  # each of the four curves is another
    correct[:, 1, 1] &= generator.random((images, 10)) < 0.2
    correct[:, 1, 0, 1:] |= generator.random((images, 9)) < 0.5
    correct[..., 0] = correct[:, :1, :1, 0]  # the clean image is the same for all
    ids = np.array([f"image{place}" for place in range(images)])
    return {"ids": ids, "predicted": np.arange(images), "target": np.arange(images), "correct": correct}


def segmentation_results(images: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "ids": np.array([f"image{place}" for place in range(images)]),
        "predicted": np.zeros(images, int),
        "confusion": generator.integers(0, 3000, (images, 2, 2)),
        "ap": generator.random(images),
        "f1": generator.random(images),
        "maps": generator.random((images, 4, 4)).astype(np.float16),
    }


def take(results: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {key: array[rows] for key, array in results.items()}


def slow_perturbation(results: dict[str, np.ndarray]) -> dict[str, float]:
    figures = {"clean_accuracy": 100 * np.mean([row[0, 0, 0] for row in results["correct"]])}
    for direction, name in enumerate(("negative", "positive")):
        for explained, of in enumerate(("predicted", "target")):
            y = [np.mean([row[explained, direction, step] for row in results["correct"]]) for step in range(10)]
            figures[f"{name}_{of}"] = 100 * sum((y[i] + y[i + 1]) / 2 * 0.1 for i in range(9))
    return figures


def slow_segmentation(results: dict[str, np.ndarray]) -> dict[str, float]:
    matrix = ConfusionMatrix(2)
    for counts in results["confusion"]:
        matrix.add(counts)
    return {
        "pixel_accuracy": 100 * matrix.pixel_accuracy,
        "map": 100 * float(np.nanmean(results["ap"])),
        "miou": 100 * matrix.miou,
        "mf1": 100 * float(np.nanmean(results["f1"])),
    }


def slow_resamples(results: dict[str, np.ndarray], count: int = 2000) -> list[np.ndarray]:
    images, generator = len(results["ids"]), np.random.default_rng(0)
    return [generator.integers(images, size=images) for _ in range(count)]


def test_perturbation_figures() -> None:
    results = perturbation_results()
    figures = perturbation_figures(results)
    assert figures.values == pytest.approx(slow_perturbation(results))
    assert len(set(figures.values.values())) == 5  # so that no two can be mixed up
    keys = ["negative_predicted", "negative_target", "positive_predicted", "positive_target"]
    assert list(figures.curves) == keys and list(figures.values) == ["clean_accuracy", *keys]
    for key, place in zip(keys, [(0, 0), (1, 0), (0, 1), (1, 1)], strict=True):
        assert figures.curves[key] == pytest.approx(100 * results["correct"][:, *place].mean(axis=0))
        assert perturbation_auc(np.array(figures.curves[key]) / 100) == pytest.approx(figures.values[key])


def test_segmentation_figures() -> None:
    results = segmentation_results()
    figures = segmentation_figures(results)
    assert figures.values == pytest.approx(slow_segmentation(results))
    assert figures.curves == {}
    results["ap"][3] = results["f1"][5] = np.nan  # left out of the mean, not taken for 0
    assert segmentation_figures(results).values == pytest.approx(slow_segmentation(results))


def test_segmentation_figures_without_foreground() -> None:
    """A class that is nowhere has no IoU; the mean is over what is defined, as in the confusion matrix."""
    results = segmentation_results(3)
    results["confusion"][:] = [[5, 0], [0, 0]]
    results["f1"][:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = segmentation_figures(results)
    assert figures.values["miou"] == 100 and figures.values["mf1"] is None
    assert figures.intervals["miou"] == (100, 100) and figures.intervals["mf1"] is None


@pytest.mark.parametrize("test", ["perturbation", "segmentation"])
def test_intervals_by_resampling_images(test: str) -> None:
    """The whole figure computed anew on each resample, sums over the set included."""
    make, slow, fast = {
        "perturbation": (perturbation_results, slow_perturbation, perturbation_figures),
        "segmentation": (segmentation_results, slow_segmentation, segmentation_figures),
    }[test]
    results = make(12)
    if test == "segmentation":
        results["ap"][2] = np.nan
    resampled = [slow(take(results, rows)) for rows in slow_resamples(results)]
    for key, found in fast(results).intervals.items():
        assert found == pytest.approx(np.nanquantile([figures[key] for figures in resampled], (0.025, 0.975)))
        assert found[0] < found[1]


@pytest.mark.parametrize("test", ["perturbation", "segmentation"])
def test_paired_difference(test: str) -> None:
    make, slow = {
        "perturbation": (perturbation_results, slow_perturbation),
        "segmentation": (segmentation_results, slow_segmentation),
    }[test]
    a, b = make(12), make(12, seed=1)
    shuffled = take(b, np.random.default_rng(8).permutation(12))
    found = paired_difference(test, a, shuffled)
    resampled = [(slow(take(a, rows)), slow(take(b, rows))) for rows in slow_resamples(a)]
    for key, (value, low, high) in found.items():
        assert value == pytest.approx(slow(b)[key] - slow(a)[key])
        differences = [new[key] - old[key] for old, new in resampled]
        assert (low, high) == pytest.approx(np.quantile(differences, (0.025, 0.975)))
    assert all(triple == (0, 0, 0) for triple in paired_difference(test, a, a).values())  # not the spread of one run


def test_paired_difference_of_other_images() -> None:
    a, b = segmentation_results(12), segmentation_results(11)
    for first, second in ((a, b), (b, a)):
        with pytest.raises(InputError, match=r"image image11 is in the results of one run alone \(1[12] and 1[12]"):
            paired_difference("segmentation", first, second)
    with pytest.raises(ValueError, match="test 'speed'"):
        paired_difference("speed", a, a)


# --- files ----------------------------------------------------------------------------------------------------------


def write_parts(folder: Path, results: dict[str, np.ndarray], size: int) -> None:
    for number, start in enumerate(range(0, len(results["ids"]), size)):
        rows = np.arange(start, min(start + size, len(results["ids"])))
        np.savez(folder / f"part-{number:05d}.npz", **take(results, rows))


def test_read_results(tmp_path: Path) -> None:
    results = segmentation_results(150)  # ids of several lengths: part 0 has shorter strings than part 2
    write_parts(tmp_path, results, 64)
    (tmp_path / "manifest.json").write_text("{}")
    found = read_results(tmp_path)
    assert found.keys() == results.keys()
    for key, array in results.items():
        assert np.array_equal(found[key], array) and found[key].dtype.kind == array.dtype.kind
    assert read_results(tmp_path, ["ap"]).keys() == {"ids", "ap"}
    assert segmentation_figures(found) == segmentation_figures(results)


def test_read_results_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no results there \(part-\*\.npz\)"):
        read_results(tmp_path)
    results = segmentation_results(150)
    write_parts(tmp_path, results, 64)
    second = tmp_path / "part-00001.npz"
    whole = second.read_bytes()
    for content in (whole[:-200], whole[:10], b"", whole[:1200] + bytes(100) + whole[1300:]):
        second.write_bytes(content)
        with pytest.raises(InputError, match=r"part-00001\.npz: .*delete it and run the test again") as caught:
            read_results(tmp_path)
        assert "\n" not in str(caught.value)
    np.savez(second, **{key: array for key, array in take(results, np.arange(64, 128)).items() if key != "ap"})
    with pytest.raises(InputError, match=r"part-00001\.npz: other arrays than part-00000\.npz"):
        read_results(tmp_path)
    with pytest.raises(InputError, match=r"part-00001\.npz"):
        read_results(tmp_path, ["ap"])
    np.savez(second, ids=results["ids"][64:128], ap=results["ap"][:3])
    with pytest.raises(InputError, match=r"part-00001\.npz: not a part of a test"):
        read_results(tmp_path)
    np.savez(second, ids=np.array([{"a": 1}], dtype=object))  # a pickle is never opened
    with pytest.raises(InputError, match=r"part-00001\.npz: not a part"):
        read_results(tmp_path)
    second.unlink()
    with pytest.raises(InputError, match=r"part-00001\.npz is missing; run the test again"):
        read_results(tmp_path)
    second.write_bytes((tmp_path / "part-00000.npz").read_bytes())
    with pytest.raises(InputError, match="an image stands there twice"):
        read_results(tmp_path)
