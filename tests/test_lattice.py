"""The permutohedral lattice against the published algorithm, point by point, and against the Gaussian it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity.lattice import PermutohedralLattice


def filtered(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Adams et al. (2010), one point after the other with a dictionary of vertices, in float64; not normalised."""
    points, d = features.shape
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt((np.arange(d) + 1) * (np.arange(d) + 2))
    vertices: dict[tuple[int, ...], np.ndarray] = {}
    corners = []
    for feature, value in zip(features, values, strict=True):
        f = feature * scale
        elevated = np.array([f.sum() if j == 0 else f[j:].sum() - j * f[j - 1] for j in range(d + 1)])
        nearest = (np.round(elevated / (d + 1)) * (d + 1)).astype(int)
        rest = elevated - nearest
        rank = np.array([sum(rest > one) + sum(rest[:i] == one) for i, one in enumerate(rest)])
        rank += nearest.sum() // (d + 1)
        for i in range(d + 1):
            if rank[i] < 0:
                rank[i], nearest[i] = rank[i] + d + 1, nearest[i] + d + 1
            elif rank[i] > d:
                rank[i], nearest[i] = rank[i] - d - 1, nearest[i] - d - 1
        weights = np.zeros(d + 2)
        for i in range(d + 1):
            part = (elevated[i] - nearest[i]) / (d + 1)
            weights[d - rank[i]] += part
            weights[d + 1 - rank[i]] -= part
        weights[0] += 1 + weights[d + 1]
        for remainder in range(d + 1):
            key = tuple(
                int(nearest[i] + (remainder if rank[i] <= d - remainder else remainder - d - 1)) for i in range(d)
            )
            vertices[key] = vertices.get(key, 0) + weights[remainder] * value
            corners.append((key, weights[remainder]))
    for axis in range(d + 1):
        step = np.full(d, -1)
        if axis < d:
            step[axis] = d
        vertices = {
            key: value
            + 0.5 * vertices.get(tuple((key + step).tolist()), 0)
            + 0.5 * vertices.get(tuple((key - step).tolist()), 0)
            for key, value in vertices.items()
        }
    parts = np.array([weight * vertices[key] for key, weight in corners])
    return parts.reshape(points, d + 1, -1).sum(1) / (1 + 2.0**-d)


def symmetric(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    norm = 1 / np.sqrt(filtered(features, np.ones((len(features), 1))))
    return norm * filtered(features, norm * values)


def run(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    return PermutohedralLattice(torch.tensor(features))(torch.tensor(values, dtype=torch.float32)).numpy()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5, 6])
def test_is_the_published_algorithm(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    features, values = rng.normal(size=(60, dimensions)) * 1.5 + 40, rng.random((60, 3))
    np.testing.assert_allclose(run(features, values), symmetric(features, values), rtol=2e-3, atol=1e-5)


def test_points_on_a_grid_and_points_that_coincide() -> None:
    """Positions of pixels fall onto corners and edges of simplices, where a rounding decides between neighbours."""
    features = np.stack(np.mgrid[:7, :9], -1).reshape(-1, 2).repeat(2, 0) / 3.0
    values = np.random.default_rng(0).random((len(features), 2))
    np.testing.assert_allclose(run(features, values), symmetric(features, values), rtol=1e-4, atol=1e-5)


def test_is_near_the_gaussian_that_it_stands_for() -> None:
    features = np.stack(np.mgrid[:24, :30], -1).reshape(-1, 2) / 3.0
    kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
    norm = 1 / np.sqrt(kernel.sum(1))
    values = np.random.default_rng(1).random((len(features), 1))
    expected = (norm[:, None] * kernel * norm) @ values
    found = run(features, values)
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_columns_do_not_mix() -> None:
    rng = np.random.default_rng(2)
    features, values = rng.normal(size=(40, 3)), rng.random((40, 4))
    together = run(features, values)
    for column in range(4):
        np.testing.assert_allclose(run(features, values[:, column : column + 1])[:, 0], together[:, column], rtol=1e-5)


def test_a_single_point_keeps_its_value() -> None:
    np.testing.assert_allclose(run(np.array([[0.3, -7.0]]), np.array([[2.0]])), [[2.0]], rtol=1e-5)


def test_faults_are_told() -> None:
    with pytest.raises(ValueError, match=r"features: expected \(N, d\), got \(5,\)"):
        PermutohedralLattice(torch.zeros(5))
    with pytest.raises(ValueError, match=r"2 \*\* 63"):
        PermutohedralLattice(torch.tensor([[0.0] * 5, [1e6] * 5]))
