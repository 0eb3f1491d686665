"""Images, targets and masks as people hold them in Python, read batch by batch and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from wsss.data import IGNORE
from wsss.errors import InputError
from wsss.explanation import check_dense, check_values

Batches: TypeAlias = Tensor | Iterable[Any]
"""Images (N, 3, H, W), or an iterable of such batches, or of pairs (batch, its targets or masks): a data loader."""


def checked_batches(images: Batches, paired: bool, what: str, chunk: int) -> Iterator[tuple[Tensor, Any]]:
    """(images, their own targets or masks if `paired`, else None), every batch checked.

    Args:
        paired: batches are to be pairs.
        what: these hold beside the images: "targets" or "masks", for messages.
        chunk: images of a single tensor that come together.
    """
    if isinstance(images, Tensor) and paired:
        raise InputError(f"{what}: needed, one an image")
    if isinstance(images, Tensor):
        check_dense(images)
    for item in images.split(chunk) if isinstance(images, Tensor) else images:
        pair = isinstance(item, tuple | list)
        if pair != paired or (pair and len(item) != 2):
            due = f"pairs (images, {what})" if paired else f"tensors (B, 3, H, W), as {what} are given"
            got = f"{len(item)} things" if pair else f"a {type(item).__name__}"
            raise InputError(f"images: expected {due} as a batch, got {got}")
        batch, own = item if pair else (item, None)
        if not isinstance(batch, Tensor):
            raise InputError(f"images: expected a torch.Tensor (B, 3, H, W), got a {type(batch).__name__}")
        if batch.ndim != 4 or 0 in batch.shape:
            hint = "; one image is images[None]" if batch.ndim == 3 else ""
            raise InputError(f"images: expected (B, 3, H, W), B >= 1, got {tuple(batch.shape)}{hint}")
        if not batch.is_floating_point():
            raise InputError(f"images: expected normalised ones of a float type, got {batch.dtype}")
        check_values(batch)
        yield batch.detach(), own


def read_targets(given: Any) -> np.ndarray:
    """int64 (N,). InputError if it is anything else than a class an image."""
    found = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or not len(found):
        raise InputError(f"targets: expected integers (N,), a class an image, got {found.dtype} {found.shape}")
    return found.astype(np.int64)


def read_masks(given: Any) -> np.ndarray:
    """uint8 (N, H, W) of 0, 1 and 255. InputError if it is anything else."""
    found = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if found.ndim != 3 or not len(found):
        raise InputError(f"masks: expected (N, H, W), got {found.shape}")
    if not np.isin(found, (0, 1, IGNORE)).all():
        raise InputError("masks: expected 0 background, 1 foreground, 255 ignored; of class c give masks == c")
    return found.astype(np.uint8)
