"""A running average of a network's weights, which mostly generalises better than the last ones."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Exponential moving average of the weights and statistics of a module, in a copy of it (`module`).

    After step t = 1, 2, ... average = d average + (1 - d) weights, d = min(decay, t / (t + 9)): at first it follows the
    weights closely, so that the random start is soon forgotten (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after the `step`-th step, the first being 1. Whole numbers (counters) are copied."""
        mine, theirs = self.module.state_dict(), module.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        average = get_ema_multi_avg_fn(min(self.decay, step / (step + 9)))
        average([mine[name] for name in floating], [theirs[name] for name in floating], step)
        for name in mine.keys() - set(floating):
            mine[name].copy_(theirs[name])
