"""Figures of the perturbation, the segmentation and the region test from the results kept for each image.

Results are the arrays of the parts that the commands `perturbation-test`, `segmentation-test` and `region-test` write,
n images, or n pairs of an image and a class of the last one:

- all: ``ids`` (n,) str; the first two: ``predicted`` (n,) int;
- perturbation: ``target`` (n,) int, ``correct`` bool (n, 2, 2, 10): class explained (0 predicted, 1 target), direction
  (0 negative, 1 positive), share of pixels removed (`wsss.statistics.FRACTIONS`);
- segmentation: ``confusion`` int64 (n, 2, 2) [truth, prediction], ``ap`` and ``f1`` float64 (n,) in [0, 1], NaN where
  undefined, ``maps`` float16 (n, h, w) in [0, 1];
- region: ``probability`` and ``logit`` float32 (n, 2, 2, 10): where pixels are removed (0 outside, 1 inside of the
  region), direction, share of those pixels; NaN where undefined; ``pixels`` int64 (n, 2).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss.errors import InputError
from wsss.statistics import FRACTIONS, bootstrap_means, interval, perturbation_auc

CURVES: tuple[str, ...] = ("negative_predicted", "negative_target", "positive_predicted", "positive_target")
"""Keys of the perturbation test that are areas under a curve: pixels removed, class explained."""

REGION_CURVES: tuple[str, ...] = ("outside_negative", "outside_positive", "inside_negative", "inside_positive")
"""Keys of the region test that are areas under a curve: where pixels are removed, and which first."""

Results = Mapping[str, np.ndarray]

_UNREADABLE = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Figures:
    """The figures of one test, all in per cent.

    ``values``: figure by key. ``intervals``: its 95 % bootstrap interval (low, high). Both None where undefined.
    ``curves``: accuracy at each of the ten fractions, perturbation test only.
    """

    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Test:
    """How figures come from results; each is a function of means over images, so a resample needs its means alone.

    ``columns``: results -> (n, k), a row an image. ``figures``: means of the columns (..., k) -> figures by key (...).
    """

    columns: Callable[[Results], np.ndarray]
    figures: Callable[[np.ndarray], dict[str, np.ndarray]]


def perturbation_figures(results: Results) -> Figures:
    """Clean accuracy and the four areas, with their curves (docs/protocols.md).

    Keys: clean_accuracy; negative_predicted, negative_target (higher is better), positive_predicted, positive_target
    (lower is better), each an area in [0, 90].
    """
    figures = _figures(_TESTS["perturbation"], results)
    accuracies = 100 * np.asarray(results["correct"]).mean(axis=0)  # (class, direction, fraction)
    curves = accuracies.transpose(1, 0, 2).reshape(len(CURVES), len(FRACTIONS)).tolist()
    return replace(figures, curves={key: tuple(curve) for key, curve in zip(CURVES, curves, strict=True)})


def segmentation_figures(results: Results) -> Figures:
    """Pixel accuracy and mIoU from sums over all images, mAP and mF1 as means over images (docs/protocols.md).

    Keys: pixel_accuracy, map, miou, mf1 (F1 of the foreground). An image without such a value is left out of that mean.
    """
    return _figures(_TESTS["segmentation"], results)


def region_figures(results: Results) -> Figures:
    """Mean probability of the untouched regions and the four areas under it, with their curves.

    Keys: clean_probability; outside_negative, inside_negative (higher is better), outside_positive, inside_positive
    (lower is better), each an area in [0, 90]; the same with _logit: the mean logit of the regions, of the curves its
    mean over the shares removed, not per cent. Pairs without such a value are left out of that mean.
    """
    figures = _figures(_TESTS["region"], results)
    scores = np.asarray(results["probability"], np.float64).reshape(-1, len(REGION_CURVES), len(FRACTIONS))
    defined: Any = np.isfinite(scores).all(2)
    sums = np.where(defined[..., None], scores, 0).sum(0)
    means = _ratio(sums, np.broadcast_to(defined.sum(0)[:, None], sums.shape))
    curves = {key: tuple((100 * curve).tolist()) for key, curve in zip(REGION_CURVES, means, strict=True)}
    return replace(figures, curves={key: curve for key, curve in curves.items() if np.isfinite(curve).all()})


def paired_difference(test: str, a: Results, b: Results) -> dict[str, tuple[float, float, float]]:
    """Figures of `b` minus those of `a`, each with its 95 % interval: (difference, low, high) in points.

    Both are resampled by the same draws of images, so what is easy or hard for both cancels out. Images are matched by
    id. InputError where the ids differ.

    Args:
        test: "perturbation", "segmentation" or "region".
    """
    if test not in _TESTS:
        raise ValueError(f"test {test!r}: expected one of {', '.join(_TESTS)}")
    kind, order = _TESTS[test], _match(a["ids"], b["ids"])
    first = kind.columns(a)
    pairs = np.concatenate([first, kind.columns(b)[order]], axis=1)

    def difference(means: np.ndarray) -> dict[str, np.ndarray]:
        old, new = kind.figures(means[..., : first.shape[1]]), kind.figures(means[..., first.shape[1] :])
        return {key: new[key] - old[key] for key in old}

    values, resampled = difference(pairs.mean(axis=0)), difference(bootstrap_means(pairs))
    return {key: (float(values[key]), *_interval(resampled[key])) for key in values}


def foreground(heat: np.ndarray) -> np.ndarray:
    """Where a map (H, W) exceeds its own mean over the whole image: bool (H, W)."""
    return heat > heat.mean(dtype=np.float64)


def image_ious(confusion: np.ndarray) -> np.ndarray:
    """The mIoU of each image by itself: the mean of the IoUs of its background and its foreground.

    Args:
        confusion: (n, 2, 2) pixels [truth, prediction].

    Returns:
        float64 (n,) in [0, 1]; a class that neither shows is left out, 0 where every pixel is ignored.
    """
    hit = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    union = confusion.sum(1) + confusion.sum(2) - hit
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=union > 0)
    return iou.sum(1) / np.maximum(1, (union > 0).sum(1))


def read_results(folder: Path, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The results of a stage folder: its ``part-*.npz`` put together in the order of their names.

    Args:
        folder: ``runs/<run>/perturbation/<data>_<split>`` or ``runs/<run>/segmentation/<data>_<split>``.
        keys: the arrays wanted ("ids" comes always), all unless given; the segmentation test's maps can be large.

    Raises InputError naming the folder without parts, or a part that is damaged, missing or holds other arrays.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("part-*.npz"))
    if not paths:
        raise InputError(f"{folder}: no results there (part-*.npz); run the test that writes them")
    for place, path in enumerate(paths):
        if path.name != f"part-{place:05d}.npz":
            raise InputError(f"{folder}: part-{place:05d}.npz is missing; run the test again, it makes that part")
    parts = [_read_part(path, keys) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.keys() != parts[0].keys() or any(part[key].shape[1:] != parts[0][key].shape[1:] for key in part):
            raise _damaged(path, f"other arrays than {paths[0].name}")
    results = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if len(np.unique(results["ids"])) != len(results["ids"]):
        raise InputError(f"{folder}: an image stands there twice; delete the folder and run the test again")
    return results


def _read_part(path: Path, keys: Sequence[str] | None) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = file.files if keys is None else list(dict.fromkeys(["ids", *keys]))
            part = {key: file[key] for key in wanted}
    except _UNREADABLE as error:
        raise _damaged(path, f"not a part of a test or half-written ({' '.join(str(error).split())})") from None
    if "ids" not in part or any(array.ndim == 0 or len(array) != len(part["ids"]) for array in part.values()):
        raise _damaged(path, "not a part of a test (expected a row for each image)")
    return part


def _damaged(path: Path, fault: str) -> InputError:
    return InputError(f"{path}: {fault}; delete it and run the test again, it makes that part")


def _match(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Places in `second` of the ids in `first`. InputError where they are not the same ids."""
    places = {image_id: place for place, image_id in enumerate(second.tolist())}
    known = set(first.tolist())
    missing = [i for i in first.tolist() if i not in places] or [i for i in places if i not in known]
    if missing:
        raise InputError(
            f"image {missing[0]} is in the results of one run alone ({len(first)} and {len(second)} images); "
            "a paired comparison needs the same images, run both tests on the same data and `limit`"
        )
    return np.array([places[image_id] for image_id in first.tolist()])


def _figures(test: _Test, results: Results) -> Figures:
    columns = test.columns(results)
    values, resampled = test.figures(columns.mean(axis=0)), test.figures(bootstrap_means(columns))
    spans = {key: _interval(resampled[key]) for key in values}
    return Figures(
        {key: float(value) if np.isfinite(value) else None for key, value in values.items()},  # NaN is no JSON
        {key: span if np.isfinite(span).all() else None for key, span in spans.items()},
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = interval(values)
    return float(low), float(high)


def _perturbation_columns(results: Results) -> np.ndarray:
    correct = np.asarray(results["correct"])
    areas = perturbation_auc(correct).transpose(0, 2, 1).reshape(len(correct), len(CURVES))  # in the order of CURVES
    return np.concatenate([100.0 * correct[:, 0, 0, :1], areas], axis=1)


def _perturbation_means(means: np.ndarray) -> dict[str, np.ndarray]:
    return {key: means[..., place] for place, key in enumerate(("clean_accuracy", *CURVES))}


def _segmentation_columns(results: Results) -> np.ndarray:
    """Four counts, then value and "is defined" of average precision and of F1."""
    counts = np.asarray(results["confusion"], np.float64).reshape(-1, 4)
    columns = [counts]
    for key in ("ap", "f1"):
        values = np.asarray(results[key], np.float64)
        columns += [np.nan_to_num(values)[:, None], np.isfinite(values)[:, None]]
    return np.concatenate(columns, axis=1)


def _segmentation_means(means: np.ndarray) -> dict[str, np.ndarray]:
    right_back, false_front, missed, right_front, ap, with_ap, f1, with_f1 = np.moveaxis(means, -1, 0)
    wrong = false_front + missed
    ious = np.stack([_ratio(right_back, right_back + wrong), _ratio(right_front, right_front + wrong)])
    defined = np.isfinite(ious)
    return {
        "pixel_accuracy": 100 * _ratio(right_back + right_front, right_back + right_front + wrong),
        "map": 100 * _ratio(ap, with_ap),
        "miou": 100 * _ratio(np.where(defined, ious, 0).sum(axis=0), defined.sum(axis=0)),
        "mf1": 100 * _ratio(f1, with_f1),
    }


def _region_columns(results: Results) -> np.ndarray:
    """For each figure its value and "is defined"."""
    columns = []
    for key in ("probability", "logit"):
        scores = np.asarray(results[key], np.float64).reshape(-1, len(REGION_CURVES), len(FRACTIONS))
        defined: Any = np.isfinite(scores).all(2)
        known = np.where(defined[..., None], scores, 0)
        # untouched, all four curves begin with one and the same score
        clean = _ratio(known[:, :, 0].sum(1), defined.sum(1))
        if key == "probability":
            clean, areas = 100 * clean, perturbation_auc(known)
        else:
            areas = np.trapezoid(known, FRACTIONS) / FRACTIONS[-1]
        columns += [np.nan_to_num(clean)[:, None], defined.any(1)[:, None], areas, defined]
    return np.concatenate(columns, axis=1)


def _region_means(means: np.ndarray) -> dict[str, np.ndarray]:
    count, found = len(REGION_CURVES), {}
    for half, suffix in zip(np.split(means, 2, axis=-1), ("", "_logit"), strict=True):
        clean, with_clean, areas, with_areas = np.split(half, (1, 2, 2 + count), axis=-1)
        found["clean_logit" if suffix else "clean_probability"] = _ratio(clean[..., 0], with_clean[..., 0])
        areas = np.moveaxis(_ratio(areas, with_areas), -1, 0)
        found |= {f"{key}{suffix}": area for key, area in zip(REGION_CURVES, areas, strict=True)}
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


_TESTS: dict[str, _Test] = {
    "perturbation": _Test(_perturbation_columns, _perturbation_means),
    "segmentation": _Test(_segmentation_columns, _segmentation_means),
    "region": _Test(_region_columns, _region_means),
}
