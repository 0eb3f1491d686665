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

_OF_SEEDS = ("SeedRun", "read_seed", "seed_run", "write_seeds")

# on demand, as commands that need no torch import this package too
__getattr__, __dir__ = lazily(
    __name__,
    {name: "wsss.own_seeds" if name in _OF_SEEDS else "wsss.explanation_tests.api" for name in __all__},
)
