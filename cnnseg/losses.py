"""The two losses of the seed paper, section 2.3."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from wsss.data import IGNORE


def segmentation_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Softmax cross-entropy of each pixel's class scores, the mean over all pixels of the batch that count.

    Without any such pixel the loss is 0, and so is its gradient.

    Args:
        maps: (B, C+1, H, W), channel 0 is background.
        masks: (B, H, W) in 0..C, 255 where a pixel does not count; any integer type.
    """
    masks = masks.long()
    total = F.cross_entropy(maps.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid cross-entropy of each class score, the mean over images and classes.

    Background, column 0 of `logits`, has no label and takes no part.

    Args:
        logits: (B, C+1).
        labels: (B, C) of 0 and 1.
    """
    return F.binary_cross_entropy_with_logits(logits[:, 1:].float(), labels.float())
