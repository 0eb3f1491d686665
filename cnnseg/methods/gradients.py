"""Methods made of the gradient by the image: input times gradient, integrated gradients."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from cnnseg.methods.registry import Question, register
from cnnseg.methods.running import IMAGES, Run
from cnnseg.unroll.trace import trace

NODES = 20
"""Points of the integral of integrated gradients."""


@register("input_x_gradient", "Shrikumar, Greenside, Shcherbina and Kundaje, arXiv 1605.01713, 2016", signed=True)
def input_x_gradient(question: Question) -> tuple[Tensor, Tensor]:
    """Each pixel times the gradient of the class score, the three channels summed; LRP-0 in a ReLU network."""
    run = Run(trace(question.model), question.images, IMAGES)
    gradients = run.gradients(question.chosen(run.logits))
    return (gradients * question.images[:, None]).sum(2), run.logits


@register("integrated_gradients", "Sundararajan, Taly and Yan, ICML 2017", signed=True)
def integrated_gradients(question: Question) -> tuple[Tensor, Tensor]:
    """Pixels times the mean gradient on the straight line from 0 (the mean colour, of normalised images) to the image.

    The integral is taken at `NODES` Gauss-Legendre points. The map sums to the class score minus that of the baseline.
    """
    images, traced = question.images, trace(question.model)
    with torch.no_grad():
        logits = Run(traced, images, len(traced.steps)).logits
    targets = question.chosen(logits)
    total = images.new_zeros(len(images), targets.shape[1], *images.shape[1:])
    for point, weight in _points(NODES):
        total.add_(Run(traced, images * point, IMAGES).gradients(targets), alpha=weight)
    return (total * images[:, None]).sum(2), logits


@cache
def _points(count: int) -> tuple[tuple[float, float], ...]:
    """Gauss-Legendre points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return tuple(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
