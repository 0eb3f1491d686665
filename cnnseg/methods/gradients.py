"""Methods made of the gradient by the image: input times gradient, integrated gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnseg.methods.registry import Question, register
from cnnseg.methods.running import passes

NODES = 20
"""Points of the integral of integrated gradients."""

AT_ONCE = 8
"""Images that go through the model at once for several points, if the batch is smaller."""


@register("input_x_gradient", "Shrikumar, Greenside, Shcherbina and Kundaje, arXiv 1605.01713, 2016", signed=True)
def input_x_gradient(question: Question) -> tuple[Tensor, Tensor]:
    """Each pixel times the gradient of the class score, the three channels summed; LRP-0 in a ReLU network."""
    run = passes(question.model).at_images(question.images)
    gradients = run.gradients(question.chosen(run.logits))
    return (gradients * question.images[:, None]).sum(2), run.logits


@register("integrated_gradients", "Sundararajan, Taly and Yan, ICML 2017", signed=True)
def integrated_gradients(question: Question) -> tuple[Tensor, Tensor]:
    """Pixels times the mean gradient on the straight line from 0 (the mean colour, of normalised images) to the image.

    The integral is taken at `NODES` Gauss-Legendre points. The map sums to the class score minus that of the baseline.
    """
    images = question.images
    model: Any = passes(question.model)
    run = model.scores(images)
    targets = question.chosen(run.logits)
    at_once = max(1, AT_ONCE // len(images))
    points, weights = (images.new_tensor(values) for values in _points(NODES))
    total = images.new_zeros(len(images), targets.shape[1], *images.shape[1:])
    for some, of_some in zip(points.split(at_once), weights.split(at_once), strict=True):
        scaled = (some[:, None, None, None, None] * images).flatten(0, 1)  # points outermost
        gradients = model.at_images(scaled, run).gradients(targets.repeat(len(some), 1))
        total += torch.einsum("p, pb... -> b...", of_some, gradients.unflatten(0, (len(some), -1)))
    return (total * images[:, None]).sum(2), run.logits


@cache
def _points(count: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()
