"""The classifier's own pass over images, step by step, of which heat-maps can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnseg.unroll.decoding import Chunks, Decoding
from cnnseg.unroll.layers import Record, Way
from cnnseg.unroll.steps import Step
from wsss.errors import InputError

if TYPE_CHECKING:
    from cnnseg.unroll.network import UnrolledNetwork

_OTHER_CHANNELS = "channels, but got"
_TOO_SMALL = ("Output size is too small", "Kernel size can't be greater")  # pooling's words, and convolution's


class Encoded:
    """A classifier's pass over a batch of images, of which heat-maps can be asked."""

    def __init__(
        self,
        network: UnrolledNetwork,
        images: Tensor,
        logits: Tensor,
        records: list[Record],
        ways: list[Way],
        kept: dict[int, Tensor],
        activation: Tensor | None,
        ends: tuple[int, ...] = (0,),
    ) -> None:
        self.network, self.images, self.logits = network, images, logits
        self.records, self.ways, self.kept, self.activation = records, ways, kept, activation
        self.ends = ends

    def relevance(self, classes: Sequence[int] | Tensor, *, positive: bool = False) -> tuple[Tensor, ...]:
        """Relevance (B, K, h, w) at each end, of K outputs, or of class vectors (B, K, C), by image."""
        network, images, device = self.network, self.images, self.images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
        with torch.autocast(device, enabled=False):
            weights = network.weights(self.records, dtype, min(self.ends))
            if isinstance(classes, Tensor):
                vectors = classes.to(dtype)
            else:
                total = self.logits.shape[1]
                vectors = torch.eye(total, device=images.device, dtype=dtype)
                if network.contrastive:
                    vectors = vectors - (1 - vectors) / max(total - 1, 1)
                vectors = vectors[list(classes)]
            given = [weight for weight in weights if weight is not None]
            if self.activation is not None:
                given.append(self.activation.to(dtype))
            if network.features == "trained":
                given += [self.kept[place] for place in self.ends if place]
            values = images if network.features == "trained" else images.detach()
            if network.baseline is not None:
                values = values - values.new_tensor(network.baseline)[:, None, None]
            work = Decoding(
                network.steps,
                self.ways,
                values,
                [_constant(record, dtype) for record in self.records],
                [weight is not None for weight in weights],
                vectors,
                network.plan.whole,
                {place: value.detach().to(dtype) for place, value in self.kept.items()},
                network._bottleneck,
                self.ends,
                positive,
            )
            step = network.classes_at_once or vectors.shape[-2]
            if step >= vectors.shape[-2]:
                return work.decode(vectors, given)
            return Chunks.apply(work, step, *given)


def run_step(step: Step, inputs: tuple[Any, ...], way: Way, images: Tensor) -> tuple[Any, Record]:
    """One step's way forward. InputError naming the layer that the images are too small for, or do not fit."""
    try:
        return step.layer.forward(inputs, way)
    except InputError as error:
        raise InputError(f"layer {step.name}: {error}") from None
    except RuntimeError as error:
        if _OTHER_CHANNELS in str(error):
            raise InputError(f"layer {step.name}: {str(error).splitlines()[0]}") from None
        if not any(words in str(error) for words in _TOO_SMALL):
            raise
        height, width = images.shape[2:]
        raise InputError(f"images of {height} x {width} are too small for layer {step.name}") from None


def check_scores(logits: Any, name: str) -> Tensor:
    """Class scores (B, C), single precision or wider. InputError if a classifier gives anything else."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"expected class scores (B, C), {name} gives {found}")
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def check_maps(activation: Tensor, layer: str | None) -> None:
    """InputError, naming the layer, if its output (B, ...) has no height and width."""
    if activation.ndim != 4:
        shape = tuple(activation.shape[1:])
        raise InputError(f"layer {layer!r}: its output is {shape}; expected maps (channels, height, width)")


def _constant(record: Record, dtype: torch.dtype) -> Record:
    factor = None if record.factor is None else record.factor.to(dtype)
    return replace(record, factor=factor, scale=None)
