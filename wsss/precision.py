"""Mixed precision by the names that all commands share."""

from __future__ import annotations

from typing import get_args

import torch

from wsss.errors import InputError
from wsss.settings import MixedPrecision, renamed


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes: of "bfloat16" with convolutions and products of matrices in bfloat16.

    Raises InputError if the precision is neither "float32" nor "bfloat16".
    """
    known = get_args(MixedPrecision)
    if precision not in known:
        raise InputError(f"precision: expected {' or '.join(known)}, got {precision!r}{renamed(precision)}")
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
