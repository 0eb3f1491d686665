"""High-dimensional Gaussian filtering on the permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010: values of
points are splatted onto the corners of the simplices they lie in, blurred there along the d + 1 axes of the lattice,
and sliced back. The lattice depends on the points alone, so that it is built once for any number of value columns.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class PermutohedralLattice:
    """The Gaussian filter K of N points as a linear map: K_ij is about exp(-|f_i - f_j|^2 / 2).

    It is applied normalised on both sides, D K D with D = diag(K 1)^(-1/2), as Kraehenbuehl and Koltun's code does,
    so that points with many neighbours do not outweigh the others.
    """

    def __init__(self, features: Tensor) -> None:
        """Build the lattice, on the features' device.

        Args:
            features: (N, d) positions, finite, in standard deviations of the kernel.

        Raises:
            ValueError: features of another shape, or that spread over more vertices than 63 bits can number.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features: expected (N, d), got {tuple(features.shape)}")
        keys, weights, strides = _simplices(features.float().T.contiguous())
        size, points = keys.shape
        keys, weights = keys.T.flatten(), weights.T.flatten()
        ordered, order = keys.sort()
        starts = torch.ones_like(ordered, dtype=torch.bool)
        starts[1:] = ordered[1:] != ordered[:-1]
        vertices, places = ordered[starts], torch.empty_like(order)
        places[order] = starts.cumsum(0) - 1
        first = torch.cat([starts.nonzero().flatten(), order.new_tensor([len(order)])])
        self._neighbours = [_neighbours(vertices, step) for step in _steps(strides)]
        self._gain = 1 / (1 + 2.0 ** (1 - size))  # makes up for the blur, as the published code does
        self._splat = _matrix(first, order // size, weights[order], (len(vertices), points))
        rows = torch.arange(0, len(order) + 1, size, device=order.device)
        self._slice = _matrix(rows, places, weights, (points, len(vertices)))
        scale = (self(torch.ones_like(weights[:points, None])) + 1e-20).rsqrt_()
        self._splat.values().mul_(scale[order // size, 0])
        self._slice.values().view(points, size).mul_(scale)

    @property
    def vertices(self) -> int:
        """Number of vertices that the points touch."""
        return self._splat.shape[0]

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values (N, k) float32, column by column: (N, k)."""
        spread = values.new_zeros(self.vertices + 1, values.shape[1])  # the last row stands for where no vertex is
        spread[:-1] = self._splat @ values
        for before, after in self._neighbours:
            spread[:-1].add_(spread[before].add_(spread[after]), alpha=0.5)
        return self._slice @ spread[:-1].mul_(self._gain)


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """The simplex around each point: sections 3.1 and 3.2 of the paper.

    Args:
        points: (d, N).

    Returns:
        Numbers of its d + 1 corners (d + 1, N), their barycentric weights (d + 1, N), which are not negative and sum
        to 1, and what a step in each of the first d coordinates adds to a number.
    """
    size = len(points) + 1
    elevated = _elevate(points)
    nearest = (elevated / size).round_().mul_(size)  # the point of remainder 0 next to it
    rank = _ranks(elevated - nearest)
    # Rounding may have left the plane x . 1 = 0; the coordinates that it changed most bring the point back.
    rank += (nearest.sum(0) / size).round().long()
    shift = size * ((rank < 0).long() - (rank >= size).long())
    nearest, rank = nearest + shift, rank + shift

    ordered = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) / size).flip(0)
    weights = ordered - ordered.roll(1, 0)
    weights[0] += 1

    nearest = nearest[:-1].long()
    low, high = nearest.amin(1) - 2 * size, nearest.amax(1) + 2 * size  # with room for a step over the edge
    strides = [1]
    for extent in (high - low).tolist():
        strides.append(strides[-1] * extent)
    if strides[-1] >= 2**63:
        raise ValueError(f"features spread over {strides[-1]:.1e} places of the lattice, expected fewer than 2 ** 63")
    strides[-1] = 0  # the last coordinate is what is missing to a sum of 0, and is not numbered
    stride = torch.tensor(strides, device=points.device)[:, None]
    base = ((nearest - low[:, None]) * stride[:-1]).sum(0)
    # Corner r adds r to every coordinate, and takes d + 1 off those of the r highest ranks.
    highest = torch.empty_like(rank).scatter_(0, rank, stride.expand_as(rank)).flip(0)
    corner = torch.arange(size, device=points.device)[:, None]
    return base + corner * sum(strides) - size * (highest.cumsum(0) - highest), weights, strides[:-1]


def _elevate(points: Tensor) -> Tensor:
    """Points (d, N) in the plane x . 1 = 0 of d + 1 coordinates, scaled so that the blur is of unit variance."""
    dimensions = len(points)
    axis = torch.arange(1, dimensions + 1, device=points.device, dtype=points.dtype)[:, None]
    scaled = points * ((dimensions + 1) * (2 / 3) ** 0.5 / (axis * (axis + 1)).sqrt())
    behind = scaled.flip(0).cumsum(0).flip(0)  # sums of all coordinates from this one on
    elevated = torch.cat([behind, torch.zeros_like(behind[:1])])
    elevated[1:] -= axis * scaled
    return elevated


def _ranks(rest: Tensor) -> Tensor:
    """Place of each coordinate (d + 1, N) among those of its point, 0 for the largest; of equals the first leads."""
    rank = torch.zeros_like(rest, dtype=torch.long)
    for one in range(len(rest)):
        for other in range(one + 1, len(rest)):
            behind = rest[one] < rest[other]
            rank[one] += behind
            rank[other] += ~behind
    return rank


def _steps(strides: list[int]) -> list[int]:
    """What a step along each of the d + 1 axes adds to a vertex's number: -1 in all coordinates but d in one."""
    back = -sum(strides)
    return [back + stride * (len(strides) + 1) for stride in strides] + [back]


def _neighbours(vertices: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Places of the vertices one step before and after each; that behind the last where there is none."""

    def find(wanted: Tensor) -> Tensor:
        at = torch.searchsorted(vertices, wanted).clamp_(max=len(vertices) - 1)
        return torch.where(vertices[at] == wanted, at, len(vertices))

    return find(vertices - step), find(vertices + step)


def _matrix(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such tensors are in beta
        return torch.sparse_csr_tensor(rows, columns, values, shape, check_invariants=False)
