"""The ground floor of relseg: images, labels, files and numbers. It knows no model.

`perturbation_test`, `segmentation_test` and `compare_tests` evaluate any explainer of any model from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from wsss.explanation_tests.api import TestResult, compare_tests, perturbation_test, segmentation_test

__all__ = ["TestResult", "compare_tests", "perturbation_test", "segmentation_test"]

# on demand, as commands that need no torch import this package too
__getattr__, __dir__ = lazily(__name__, dict.fromkeys(__all__, "wsss.explanation_tests.api"))
