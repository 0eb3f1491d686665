"""What a test from Python gives, and what two of them differ by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wsss.errors import InputError
from wsss.explanation_tests.figures import paired_difference, perturbation_figures, segmentation_figures
from wsss.words import counted

_FIGURES = {"perturbation": perturbation_figures, "segmentation": segmentation_figures}


@dataclass(frozen=True, eq=False)
class TestResult:
    """One test of one explainer on one model.

    Attributes:
        test: "perturbation" or "segmentation".
        method: its name, for tables.
        model: its name, likewise.
        figures: in per cent, None where undefined. Perturbation: clean_accuracy; negative_predicted, negative_target
            (areas in [0, 90], higher is better), positive_predicted, positive_target (lower is better). Segmentation:
            pixel_accuracy, map, miou, mf1.
        intervals: the 95 % bootstrap interval (low, high) of each, None where undefined.
        curves: of the perturbation test, the accuracy in per cent at 0, 10, ... 90 % of the pixels removed.
        results: arrays with a row an image (`wsss.explanation_tests.figures`): ids, predicted; of the perturbation
            test target and correct (n, 2, 2, 10), of the segmentation test confusion (n, 2, 2), ap and f1.
        protocol: how the figures came about, to be said beside them.
    """

    __test__: ClassVar[bool] = False  # or pytest takes the name for a test

    test: str
    method: str
    model: str
    figures: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    curves: dict[str, tuple[float, ...]]
    results: dict[str, np.ndarray]
    protocol: str

    def __str__(self) -> str:
        """The figures with their intervals, one a line."""
        lines = [f"{self.test} test of {self.method} on {self.model}, {counted(len(self.results['ids']), 'image')}"]
        for key, value in self.figures.items():
            interval = self.intervals[key]
            span = f"  ({interval[0]:.2f} to {interval[1]:.2f})" if interval is not None else ""
            lines.append(f"  {key:20s} {'undefined' if value is None else f'{value:.2f}'}{span}")
        return "\n".join(lines)


def result_of(test: str, method: str, model: str, results: dict[str, np.ndarray], protocol: str) -> TestResult:
    """Figures, intervals and curves from results per image."""
    found = _FIGURES[test](results)
    return TestResult(test, method, model, found.values, found.intervals, found.curves, results, protocol)


def compare_tests(first: TestResult, second: TestResult) -> dict[str, tuple[float, float, float]]:
    """Figures of `second` minus those of `first`, each with its 95 % interval: (difference, low, high) in points.

    Paired, image by image: what is easy or hard for both cancels out, so that a difference may be sure where the
    intervals of the two figures overlap. Images are matched by their ids; the two may be of different models.

    Raises:
        InputError: two different tests, other images, or other targets of them.
    """
    if first.test != second.test:
        raise InputError(f"a {first.test} test and a {second.test} test do not compare; give two of one kind")
    differences = paired_difference(first.test, first.results, second.results)
    if first.test == "segmentation":
        return differences
    targets = dict(zip(first.results["ids"].tolist(), first.results["target"].tolist(), strict=True))
    for image_id, target in zip(second.results["ids"].tolist(), second.results["target"].tolist(), strict=True):
        if first.model == second.model and targets[image_id] != target:  # other models may number classes otherwise
            raise InputError(f"image {image_id}: target {targets[image_id]} in one test, {target} in the other")
    return differences
