"""The two losses of Yu et al. (2024), section 2.3, and what they are with targets that are soft or in part unknown.

Of several processes (`wsss.processes`) each gets what its own images add to the loss of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss.data import IGNORE
from wsss.distributed import all_sum


def segmentation_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Softmax cross-entropy of each pixel's class scores, the mean over all pixels of the batch that count.

    Without any such pixel the loss is 0, and so is its gradient.

    Args:
        maps: (B, C+1, H, W), channel 0 is background.
        masks: (B, H, W) in 0..C, 255 where a pixel does not count; any integer type. Or soft: uint8 (B, C+2, H, W), the
            first channel such a mask (of which only the 255 matters), the others each class's probability times 255.
    """
    if masks.ndim == 4:
        counts = masks[:, 0] != IGNORE
        targets = masks[:, 1:].float()
        targets = targets / targets.sum(1, keepdim=True).clamp(min=1)  # rounded, they do not sum to 1
        total = F.cross_entropy(maps.float(), targets, reduction="none")
        return torch.where(counts, total, 0).sum() / all_sum(counts.sum()).clamp(min=1)
    masks = masks.long()
    total = F.cross_entropy(maps.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / all_sum((masks != IGNORE).sum()).clamp(min=1)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid cross-entropy of each class score, the mean over the images and classes whose label is known.

    Background, column 0 of `logits`, has no label and takes no part. Without any known label the loss is 0.

    Args:
        logits: (B, C+1).
        labels: (B, C) of 0 and 1, or less than 0 where nobody knows.
    """
    scores, labels = logits[:, 1:].float(), labels.float()
    known = labels >= 0
    total = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return torch.where(known, total, 0).sum() / all_sum(known.sum()).clamp(min=1)
