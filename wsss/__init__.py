"""The ground floor of relseg: images, labels, files and numbers. It knows no model.

`perturbation_test`, `segmentation_test` and `compare_tests` evaluate any explainer of any model from Python.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TestResult", "compare_tests", "perturbation_test", "segmentation_test"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on demand, as commands that need no torch import this package too
        from wsss.explanation_tests import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
