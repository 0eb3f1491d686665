"""The random walk of AffinityNet on sparse matrices.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018, section 3.3; here
a node reaches only its neighbours, so the transition matrix has at most 69 entries a row (radius 5) and is
applied to the score vectors step by step: neither a dense (hw x hw) matrix nor a power of the matrix is ever
formed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from affinity.pairs import half_disk, pair_slices
from wsss.extras import extra

with extra("wsss"):
    from scipy import sparse


def pair_affinity(features: ArrayLike, radius: int = 5) -> sparse.csr_array:
    """Affinity of every pair of neighbouring nodes, W_ij = exp(-||f_i - f_j||_1).

    Args:
        features: (D, h, w) array or tensor. The norm is the plain sum over D, as the paper writes it. AffinityNet's
            code takes the mean instead; `affinity.network.AffinityNetwork` returns features that are already divided by
            D, so that on its output both are the same number.
        radius: two nodes are neighbours if their distance on the grid is < radius.

    Returns:
        scipy.sparse CSR array (h*w, h*w), float32 (float64 for float64 features), nodes in row-major
        order; symmetric, values in [0, 1], 1 on the diagonal, sorted column indices.

    Raises:
        ValueError: if `features` is not three-dimensional or not finite, or `radius` < 2.

    Example:
        >>> W = pair_affinity(np.zeros((3, 2, 2)), radius=2)
        >>> W.toarray().tolist()  # 4-neighbourhood: nodes 0 and 3 are sqrt(2) < 2 apart, so they are neighbours as well
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    grid = _array(features)
    if grid.ndim != 3:
        raise ValueError(f"features: expected (D, h, w), got {grid.shape}")
    if not np.isfinite(grid).all():
        raise ValueError("features are not finite")
    height, width = grid.shape[1:]
    grid = np.ascontiguousarray(np.moveaxis(grid, 0, -1))  # the sum over D then runs over adjacent memory

    half = half_disk(radius)
    # Negative half, the node itself, positive half: ascending column order within every row.
    ordered = sorted([(-dy, -dx) for dy, dx in half] + [(0, 0), *half])
    place = {offset: index for index, offset in enumerate(ordered)}
    values = np.zeros((height, width, len(ordered)), grid.dtype)
    present: np.ndarray = np.zeros(values.shape, bool)
    values[..., place[0, 0]] = 1
    present[..., place[0, 0]] = True
    for dy, dx in half:
        first, second = pair_slices((dy, dx), height, width)
        difference = grid[first] - grid[second]
        affinity = np.exp(-np.abs(difference, out=difference).sum(axis=-1))
        for ends, offset in ((first, (dy, dx)), (second, (-dy, -dx))):
            values[(*ends, place[offset])] = affinity
            present[(*ends, place[offset])] = True

    nodes = height * width
    present = present.reshape(nodes, -1)
    steps = np.array([dy * width + dx for dy, dx in ordered], np.int32)
    columns = np.arange(nodes, dtype=np.int32)[:, None] + steps
    pointers = np.zeros(nodes + 1, np.int32)
    np.cumsum(present.sum(axis=1), out=pointers[1:])
    return sparse.csr_array((values.reshape(nodes, -1)[present], columns[present], pointers), shape=(nodes, nodes))


def random_walk(affinity: sparse.sparray | sparse.spmatrix, scores: ArrayLike, beta: float, steps: int) -> np.ndarray:
    """Spread scores along the affinities: vec(M_new) = T^steps vec(M), T = D^-1 W^(beta) (elementwise power).

    Athanasiadis et al. 2021, section 3.3.3. Every row of T sums to 1, so a result is a weighted mean of the
    scores and keeps their range. The background goes through the walk as one more channel.

    Args:
        affinity: sparse (h*w, h*w), non-negative, no empty row (`pair_affinity`).
        scores: (K, h, w) array or tensor, K >= 0.
        beta: exponent > 0; the larger, the more a weak affinity is ignored.
        steps: number of steps t >= 0. AffinityNet's code squares T `logt` times: t = 2^logt.

    Returns:
        (K, h, w) float32; float64 if both inputs are float64.

    Raises:
        ValueError: if the shapes disagree, `beta` <= 0 or `steps` < 0.

    Example:
        >>> W = pair_affinity(np.zeros((3, 1, 2)), radius=2)
        >>> random_walk(W, np.array([[[0.0, 1.0]]]), beta=8, steps=1).tolist()
        [[[0.5, 0.5]]]
    """
    vectors = _array(scores)
    if vectors.ndim != 3:
        raise ValueError(f"scores: expected (K, h, w), got {vectors.shape}")
    channels, height, width = vectors.shape
    if affinity.shape != (height * width, height * width):
        raise ValueError(
            f"affinity: expected {(height * width,) * 2} for scores of {height} x {width}, got {affinity.shape}"
        )
    if beta <= 0 or steps < 0:
        raise ValueError(f"beta {beta}, steps {steps}: expected beta above 0, steps of at least 0")
    exact = affinity.dtype == np.float64 and vectors.dtype == np.float64

    transition = transition_matrix(affinity, beta)
    # Double precision costs no time here (index and vector traffic rule), and 256 steps of float32 lose up to 1e-4.
    # (nodes, K) contiguous: one pass over the matrix serves every channel.
    vectors = np.ascontiguousarray(vectors.reshape(channels, height * width).T, dtype=np.float64)
    if channels:
        for _ in range(steps):
            vectors = transition @ vectors
    result = np.ascontiguousarray(vectors.T, dtype=np.float64 if exact else np.float32)
    return result.reshape(channels, height, width)


def transition_matrix(affinity: sparse.sparray | sparse.spmatrix, beta: float) -> sparse.csr_array:
    """T = D^-1 W^(beta): elementwise power, then every row divided by its sum. float64, sparse as `affinity`.

    Raises ValueError if a row has no weight.
    """
    matrix = sparse.csr_array(affinity, dtype=np.float64, copy=True)
    matrix.data **= beta
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    if not (totals > 0).all():
        raise ValueError("affinity has a row without any weight")
    matrix.data /= np.repeat(totals, np.diff(matrix.indptr))
    return matrix


def _array(values: Any) -> np.ndarray:
    """A float32 or float64 array of an array or of a tensor of any device and float dtype."""
    if hasattr(values, "detach"):  # a torch tensor; numpy does not know bfloat16
        values = values.detach().cpu()
        values = values.double().numpy() if values.element_size() == 8 else values.float().numpy()
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
