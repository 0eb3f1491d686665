"""The optimiser of the training loop: which parameters are new, and how the learning rate goes."""

from __future__ import annotations

import math

import torch
from torch import nn

from cnnseg.models import Network
from cnnseg.settings import TrainConfig
from wsss.training import parameter_groups

ENCODERS = ("model.", "encoder.")
"""What the names of an encoder's parameters begin with: of a classifier (unrolled or not), and of a baseline."""


def new_layers(network: Network, new_head: bool) -> set[str]:
    """Names of the parameters that start at random: all of a baseline beside its encoder, and the class scores' layer.

    Args:
        new_head: whether that layer starts at random; not so if it came with a trained classifier.
    """
    module, outputs = network.module, len(network.class_names) + 1
    names = [name for name, _ in module.named_parameters()]
    if not any(name.startswith("model.") for name in names):
        kept = ENCODERS if new_head else (*ENCODERS, "classification_head.")
        return {name for name in names if not name.startswith(kept)}
    # An unrolled network's free convolutions start as the encoder's; what is left is the last layer of the classifier.
    heads = [
        name
        for name, part in module.named_modules()
        if name.startswith("model.") and isinstance(part, nn.Linear | nn.Conv2d) and part.weight.shape[0] == outputs
    ]
    return {name for name in names if new_head and heads and name.startswith(f"{heads[-1]}.")}


def make_optimizer(network: Network, config: TrainConfig, new_head: bool) -> torch.optim.AdamW:
    """AdamW; Yu et al. (2024) do not say which parameters they let decay."""
    new = new_layers(network, new_head)
    options = parameter_groups(network.module, lambda name: config.head_lr_factor if name in new else 1.0)
    return torch.optim.AdamW(options, config.lr, weight_decay=config.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Set the learning rate of a step, the first being 0."""
    falling = 0.5 * (1 + math.cos(math.pi * step / config.steps)) if config.schedule == "cosine" else 1.0
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.lr * falling * rising * group["factor"]
