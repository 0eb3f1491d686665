"""Zones of a region and the share of relevance in each, against loops and by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks/border_or_body.py"
SPEC = importlib.util.spec_from_file_location("border_or_body", PATH)
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)


def slow_zones(region: np.ndarray, width: float) -> np.ndarray:
    """By the distance of each pixel's centre to the nearest pixel of the other kind."""
    found = np.zeros(region.shape, np.uint8)
    for y, x in np.ndindex(region.shape):
        others = np.argwhere(region != region[y, x])
        near = len(others) and np.hypot(*(others - (y, x)).T).min() <= width
        found[y, x] = (1 if near else 0) if region[y, x] else (2 if near else 3)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_zones_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    region = np.kron(rng.random((4, 5)) < 0.5, np.ones((7, 6))) > 0
    width = max(1.0, 0.1 * np.sqrt(region.sum()))
    assert (bench.zones_of(region, 0.1) == slow_zones(region, width)).all()


def test_the_edge_of_the_photograph_is_no_border() -> None:
    region = np.zeros((20, 20), bool)
    region[:, :10] = True
    zones = bench.zones_of(region)
    assert (zones[0] == [0] * 9 + [1, 2] + [3] * 9).all() and (zones == zones[0]).all()
    assert (bench.zones_of(np.ones((20, 20), bool)) == 0).all()


def test_densities_by_hand() -> None:
    zones = np.repeat(np.arange(4, dtype=np.uint8), [4, 2, 1, 3])[None]
    heat = np.array([[1.0, 1, -5, 0, 3, 3, 0, 2, -1, 0]])
    row = bench.shares(heat, zones)
    np.testing.assert_allclose(row, [0.2, 0.6, 0, 0.2, 0.4, 0.2, 0.1, 0.3])
    found = bench.densities(np.stack([row, row]))
    assert found["body"] == pytest.approx((0.5,) * 3) and found["border, within"] == pytest.approx((3.0,) * 3)
    assert found[bench.RATIO] == pytest.approx((6.0,) * 3) and found["border, outside"] == pytest.approx((0.0,) * 3)
    flat = bench.densities(np.stack([bench.shares(np.ones((1, 10)), zones)] * 2))
    assert all(value == pytest.approx((1.0,) * 3) for value in flat.values())
