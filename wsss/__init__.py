"""The ground floor of relseg: images, labels, files and numbers. It knows no model.

`seed_run`, `write_seeds` and `read_seed` make anybody's maps the seeds of a run (docs/own_seeds.md);
`perturbation_test`, `segmentation_test` and `compare_tests` evaluate any explainer of any model from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from wsss.explanation_tests.api import TestResult, compare_tests, perturbation_test, segmentation_test
    from wsss.own_seeds import SeedRun, read_seed, seed_run, write_seeds

__all__ = [
    "SeedRun",
    "TestResult",
    "compare_tests",
    "perturbation_test",
    "read_seed",
    "seed_run",
    "segmentation_test",
    "write_seeds",
]

# on demand, as commands that need no torch import this package too
__getattr__, __dir__ = lazily(
    __name__,
    {
        "SeedRun": "wsss.own_seeds",
        "TestResult": "wsss.explanation_tests.api",
        "compare_tests": "wsss.explanation_tests.api",
        "perturbation_test": "wsss.explanation_tests.api",
        "read_seed": "wsss.own_seeds",
        "seed_run": "wsss.own_seeds",
        "segmentation_test": "wsss.explanation_tests.api",
        "write_seeds": "wsss.own_seeds",
    },
)
