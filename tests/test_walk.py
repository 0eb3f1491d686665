"""The sparse walk against dense matrices in float64, built from the definition with two loops over all nodes."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse

import affinity.walk
from affinity import pair_affinity, random_walk
from affinity.pairs import half_disk, pair_slices

SHAPES = [(7, 9), (1, 6), (6, 1), (3, 2), (1, 1), (12, 5)]


def dense_affinity(features: np.ndarray, radius: int) -> np.ndarray:
    """W_ij = exp(-||f_i - f_j||_1) if the nodes are closer than the radius, else 0."""
    _, height, width = features.shape
    nodes = [(y, x) for y in range(height) for x in range(width)]
    matrix = np.zeros((len(nodes), len(nodes)))
    for i, (y, x) in enumerate(nodes):
        for j, (v, u) in enumerate(nodes):
            if (y - v) ** 2 + (x - u) ** 2 < radius**2:
                matrix[i, j] = math.exp(-sum(abs(features[:, y, x] - features[:, v, u])))
    return matrix


def dense_walk(matrix: np.ndarray, scores: np.ndarray, beta: float, steps: int) -> np.ndarray:
    powered = matrix**beta
    transition = np.linalg.matrix_power(powered / powered.sum(axis=1, keepdims=True), steps)
    return np.stack([(transition @ score.ravel()).reshape(score.shape) for score in scores])


def problem(height: int, width: int, channels: int = 3, dim: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * 100 + width)
    return rng.normal(size=(dim, height, width)) / 4, rng.random((channels, height, width))


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_affinity_is_the_definition(height: int, width: int, radius: int) -> None:
    features, _ = problem(height, width)
    found = pair_affinity(features, radius)
    expected = dense_affinity(features, radius)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-14)
    assert found.nnz == (expected > 0).sum()  # nothing is stored that is not a neighbour
    assert found.format == "csr" and found.dtype == np.float64 and found.has_canonical_format
    assert (found != found.T).nnz == 0 and (found.diagonal() == 1).all()


@pytest.mark.parametrize(("beta", "steps"), [(16, 8), (8, 256), (1, 1), (2.5, 3), (8, 0)])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_walk_is_the_matrix_power(height: int, width: int, beta: float, steps: int) -> None:
    features, scores = problem(height, width)
    expected = dense_walk(dense_affinity(features, 5), scores, beta, steps)
    exact = random_walk(pair_affinity(features), scores, beta, steps)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, expected, atol=1e-12)
    single = random_walk(pair_affinity(features.astype(np.float32)), scores.astype(np.float32), beta, steps)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=2e-6)


def test_walk_of_many_channels_is_the_walk_of_each() -> None:
    features, scores = problem(8, 7, channels=5)
    weights = pair_affinity(features)
    together = random_walk(weights, scores, 8, 20)
    for channel, score in zip(together, scores, strict=True):
        np.testing.assert_array_equal(channel, random_walk(weights, score[None], 8, 20)[0])


def test_no_channels() -> None:
    features, _ = problem(4, 5)
    assert random_walk(pair_affinity(features), np.zeros((0, 4, 5)), 8, 4).shape == (0, 4, 5)


def test_constant_scores_stay_and_inputs_are_left_alone() -> None:
    features, scores = problem(6, 6)
    weights = pair_affinity(features)
    before, kept = weights.copy(), scores.copy()
    np.testing.assert_allclose(random_walk(weights, np.ones((1, 6, 6)), 8, 50), 1, atol=1e-12)
    random_walk(weights, scores, 8, 5)
    assert (weights != before).nnz == 0
    np.testing.assert_array_equal(scores, kept)


def test_a_wall_of_other_features_holds_the_scores_back() -> None:
    features = np.zeros((1, 9, 30))
    features[:, :, 15:] = 50
    scores = np.zeros((1, 9, 30))
    scores[:, 4, 3] = 1
    walked = random_walk(pair_affinity(features), scores, 8, 1000)
    assert walked[0, :, :15].min() > 1e-3 and walked[0, :, 15:].max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_dtype(dtype: torch.dtype) -> None:
    features, scores = (torch.tensor(array, dtype=dtype) for array in problem(5, 6))
    walked = random_walk(pair_affinity(features.requires_grad_()), scores, 4, 3)
    expected = dense_walk(dense_affinity(features.detach().double().numpy(), 5), scores.double().numpy(), 4, 3)
    np.testing.assert_allclose(walked, expected, atol=1e-6)


def test_sparse_matrix_classes_are_taken() -> None:
    features, scores = problem(5, 6)
    weights = pair_affinity(features)
    expected = random_walk(weights, scores, 4, 3)
    for other in (sparse.csr_matrix(weights), sparse.csc_array(weights), sparse.coo_array(weights)):
        np.testing.assert_allclose(random_walk(other, scores, 4, 3), expected, atol=1e-14)


def test_faults_are_told() -> None:
    features, scores = problem(4, 5)
    weights = pair_affinity(features)
    with pytest.raises(ValueError, match=r"expected \(D, h, w\)"):
        pair_affinity(features[0])
    with pytest.raises(ValueError, match="not finite"):
        pair_affinity(np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match="radius 1"):
        pair_affinity(features, radius=1)
    with pytest.raises(ValueError, match="affinity: expected"):
        random_walk(weights, scores[:, :3], 8, 1)
    with pytest.raises(ValueError, match="beta 0"):
        random_walk(weights, scores, 0, 1)
    with pytest.raises(ValueError, match="steps -1"):
        random_walk(weights, scores, 1, -1)
    with pytest.raises(ValueError, match="without any weight"):
        random_walk(sparse.csr_array((20, 20)), scores, 8, 1)


@pytest.mark.parametrize(("radius", "count"), [(2, 4), (3, 12), (5, 34)])
def test_half_disk_and_its_mirror_are_the_disk(radius: int, count: int) -> None:
    half = half_disk(radius)
    full = {*half, *((-dy, -dx) for dy, dx in half)}
    span = range(-radius, radius + 1)
    assert len(half) == count and len(full) == 2 * count
    assert full == {(dy, dx) for dy in span for dx in span if 0 < dy * dy + dx * dx < radius * radius}


def test_pair_slices_meet_every_pair_once() -> None:
    index = np.arange(4 * 6).reshape(4, 6)
    pairs = []
    for offset in half_disk(5):
        first, second = pair_slices(offset, 4, 6)
        pairs += zip(index[first].ravel().tolist(), index[second].ravel().tolist(), strict=True)
    place = [divmod(i, 6) for i in range(24)]
    near = {(i, j) for i in range(24) for j in range(i + 1, 24) if math.dist(place[i], place[j]) < 5}
    assert {tuple(sorted(pair)) for pair in pairs} == near and len(pairs) == len(near)


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(affinity.walk).failed == 0


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, affinity, affinity.cli; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
