"""What is judged: a named callable that explains, and the check of what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.explanation import Explanation

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor | Explanation]
"""(model, images, targets) -> maps, see `Explainer`."""


@dataclass(frozen=True)
class Explainer:
    """A method under test.

    Attributes:
        name: of the method, for messages, tables and manifests.
        explain: ``explain(model, images, targets)`` of normalised images (B, 3, H, W) and int64 targets gives maps, or
            an `Explanation`: (B, h, w) of targets (B,), on any grid and of any scale, signed or not; the larger the
            more relevant. Where ``many`` is True also (B, K, h, w) of targets (B, K).
        class_specific: it gives another map for another target; if not, one map serves them all.
        many: it takes K targets an image, (B, K); if not, it is called with each image K times.
        options: what else sets its maps apart, for the manifest and the table.
        variants: what they add to the name of its runs, MODEL.METHOD.VARIANT...
        remedy: what helps where a map is not finite, for the message.
        code: file of a method that is not this toolkit's: results are of that file, too.
    """

    name: str
    explain: Explain
    class_specific: bool = True
    many: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    remedy: str = "try float64, model and images"
    code: Path | None = None

    @property
    def label(self) -> str:
        """METHOD.VARIANT..., what tells it from the others of one model."""
        return ".".join((self.name, *self.variants))

    def maps(self, model: nn.Module, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        """Maps (B, K, h, w) of targets (B, K), detached, checked.

        Args:
            images: (B, 3, H, W), normalised, on the model's device.
            ids: B names of the images, for messages.

        Raises:
            InputError: the callable gives something else than maps of these images, or a map is not finite.
        """
        batch, count = targets.shape
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller of the test is in
            images = images.clone() if images.is_inference() else images
            if count == 1:
                found = self._called(model, images, targets[:, 0])[:, None]
            elif self.many:
                found = self._called(model, images, targets)
            else:
                found = self._called(model, images.repeat_interleave(count, 0), targets.flatten())
                found = found.unflatten(0, (batch, count))
        finite = found.isfinite().flatten(1).all(1).cpu()
        if not finite.all():
            image_id = ids[int((~finite).nonzero()[0])]
            raise InputError(f"image {image_id}: the {self.name} map is not finite; {self.remedy}")
        return found

    def _called(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        found = self.explain(model, images, targets)
        maps = found.maps if isinstance(found, Explanation) else found
        due = f"({', '.join(map(str, (*targets.shape, 'h', 'w')))})"
        if not isinstance(maps, Tensor):
            raise InputError(f"explainer {self.name}: expected a torch.Tensor {due}, got a {type(maps).__name__}")
        if maps.ndim != targets.ndim + 2 or maps.shape[: targets.ndim] != targets.shape or maps.numel() == 0:
            channels = maps.ndim == targets.ndim + 3 and maps.shape[: targets.ndim] == targets.shape
            hint = f"; maps.sum({targets.ndim}) adds up channels" if channels else ""
            raise InputError(
                f"explainer {self.name}: gave maps of shape {tuple(maps.shape)} for {len(images)} images and targets "
                f"of shape {tuple(targets.shape)}; expected {due}{hint}"
            )
        if maps.device != images.device:
            raise InputError(
                f"explainer {self.name}: gave maps on {maps.device}; the images are on {images.device}, expected maps "
                "there"
            )
        if maps.is_complex():
            raise InputError(f"explainer {self.name}: expected maps of real numbers, got {maps.dtype}")
        maps = maps.detach()
        return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
