"""The losses against their definitions in float64, and what does not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnnseg.losses import classification_loss, segmentation_loss


def test_segmentation_loss_is_the_mean_over_pixels_that_count() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 4, 5, 6)) * 5
    masks = rng.choice([0, 1, 2, 3, 255], size=(3, 5, 6)).astype(np.uint8)
    masks[1] = 255  # pixels are pooled over the batch: an image without masks does not lower the mean
    total, count = 0.0, 0
    for image, row, column in np.argwhere(masks != 255):
        pixel = scores[image, :, row, column]
        total -= pixel[masks[image, row, column]] - np.log(np.exp(pixel).sum())
        count += 1
    for kind in (torch.uint8, torch.int64):
        loss = segmentation_loss(torch.tensor(scores, dtype=torch.float32), torch.tensor(masks).to(kind))
        assert loss.ndim == 0 and loss.item() == pytest.approx(total / count, rel=1e-5)
    half = segmentation_loss(torch.tensor(scores, dtype=torch.bfloat16), torch.tensor(masks))
    assert half.dtype == torch.float32


def test_pixels_that_do_not_count_have_no_gradient() -> None:
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0, 0] = 255
    segmentation_loss(maps, masks).backward()
    assert (maps.grad[0, :, 0] == 0).all() and (maps.grad[0, :, 1:] != 0).all() and (maps.grad[1] != 0).all()
    maps.grad = None
    loss = segmentation_loss(maps, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0 and (maps.grad == 0).all()


def test_classification_loss_leaves_background_out() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(4, 6)) * 3, rng.integers(0, 2, (4, 5))
    expected = 0.0
    for row in range(4):
        for c in range(5):
            probability = 1 / (1 + np.exp(-scores[row, c + 1]))
            expected -= np.log(probability if labels[row, c] else 1 - probability)
    logits = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    loss = classification_loss(logits, torch.tensor(labels, dtype=torch.float32))
    loss.backward()
    assert loss.ndim == 0 and loss.item() == pytest.approx(expected / 20, rel=1e-5)
    assert (logits.grad[:, 0] == 0).all() and (logits.grad[:, 1:] != 0).all()
