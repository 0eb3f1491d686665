"""The unrolled network: a classifier whose forward pass is followed by its own LRP, as a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.unroll.activations import Relu
from cnnseg.unroll.composites import Composite
from cnnseg.unroll.decoding import Chunks, Decoding
from cnnseg.unroll.encoding import Encoded, check_maps, check_scores, run_step
from cnnseg.unroll.following import Following
from cnnseg.unroll.layers import Options, Record
from cnnseg.unroll.places import INPUT, find_end
from cnnseg.unroll.plan import plan
from cnnseg.unroll.readout import Features, Readout, find_readout
from cnnseg.unroll.steps import Step
from cnnseg.unroll.trace import trace
from cnnseg.unroll.weighted import Convolution, scale_of
from wsss.errors import InputError

_TRACED = ("traced", "plan", "places", "_bottleneck")
"""What an unrolled network knows from its classifier's code: functions among it that do not pickle."""


class UnrolledNetwork(nn.Module):
    """LRP through ``model`` written out as a decoder (Yu et al. 2024, section 2.2); made by `cnnseg.unroll`.

    Its parameters are those of the classifier, each once; with free convolutions, the decoder's own stand beside them
    (``decoder``). Heat-maps are differentiable in the weights of the decoder alone: the gates, indices and statistics
    that it takes from the encoder are constants, so that a loss on heat-maps trains the weights by their use in the
    decoder and a loss on class scores by their use in the encoder (section 2.4).

    It starts in evaluation mode, whatever mode the classifier is in, and leaves that as it is: fixed statistics, no
    dropout. After ``train()`` each batch norm in training mode uses and keeps the batch's statistics, as in any
    network.
    """

    classifies = segments = True

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        composite: Composite = Composite(),
        *,
        classes_at_once: int | None = None,
        contrastive: bool = False,
        baseline: Sequence[float] | None = None,
        ends: Sequence[str] = (INPUT,),
        readout: Readout | None = None,
        features: Features = "constant",
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.composite = composite
        self.classes_at_once = classes_at_once
        self.contrastive = contrastive
        self.baseline = None if baseline is None else tuple(baseline)
        self.ends = tuple(ends)
        self.readout = find_readout("sum", ends) if readout is None else readout
        self.features: Features = features
        self._trace()
        if not options.tied_convolutions:
            self.decoder = nn.ParameterDict()
            self.reset_decoder()
        self.training = False

    def _trace(self) -> None:
        """Find what follows from the classifier's modules and code."""
        self.traced = trace(self.model)  # holds the model's modules, but does not register them again
        self.traced.check()
        self.plan = plan(self.traced, self.composite, self.options)
        self.places = tuple(find_end(self.traced, name) for name in self.ends)
        gates = [index for index, step in enumerate(self.steps) if isinstance(step.layer, Relu)]
        self._bottleneck = gates[-1] if gates and not self.options.tied_relu else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _TRACED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._trace()  # a copy's layers are those of its own modules

    @property
    def steps(self) -> tuple[Step, ...]:
        """The layers of the classifier, in the order of their computation."""
        return self.traced.steps

    def reset_decoder(self) -> None:
        """Start the free convolutions of the decoder as the encoder's, with its batch norm's running statistics."""
        if self.options.tied_convolutions:
            return
        for index, step in enumerate(self.steps):
            if isinstance(step.layer, Convolution) and index >= min(self.places):
                weight, norm = step.layer.module.weight.detach(), step.layer.norm
                if norm is not None:
                    weight = weight * scale_of(norm, norm.running_var).detach()[:, None, None, None]
                self.decoder[str(index)] = nn.Parameter(weight.clone())

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Class scores and heat-maps.

        Args:
            images: (B, 3, H, W), normalised, of any size.
            decode: only the first `decode` images get heat-maps (0: none, and no time spent on them); None: all.

        Returns:
            logits (B, C) and heat-maps (decode, C, H, W) in float32 or wider, relevance of each pixel for each class,
            its three channels summed; None for heat-maps if `decode` is 0.
        """
        keep = len(images) if decode is None else min(decode, len(images))
        encoded = self.encode(images, keep, self.ends)
        if not keep:
            return encoded.logits, None
        relevance = self.decode(encoded, range(encoded.logits.shape[1]))
        return encoded.logits, self.readout(relevance, images.shape[-2:])

    def heatmaps(
        self, images: Tensor, classes: Sequence[int], layer: str | None = None, *, positive: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Class scores (B, C), and heat-maps (B, K, H, W) of the K named outputs alone.

        Args:
            layer: relevance is that of this layer's output, its channels summed, on its grid; the pixels' unless given.
            positive: sum the positive part of each channel's relevance.
        """
        encoded = self.encode(images, len(images), (layer or INPUT,))
        return encoded.logits, self.decode(encoded, classes, positive=positive)[0]

    def relevance(self, images: Tensor, classes: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Class scores (B, C), and by the name of each end the relevance (B, K, h, w) there of the K named outputs.

        Channels are summed. All come from one pass through the decoder.
        """
        encoded = self.encode(images, len(images), self.ends)
        return encoded.logits, dict(zip(self.ends, self.decode(encoded, classes), strict=True))

    def read(self, images: Tensor, classes: Sequence[int]) -> Tensor:
        """Heat-maps (B, K, H, W) of the K named outputs, as `forward` makes them of all."""
        relevance = self.decode(self.encode(images, len(images), self.ends), classes)
        return self.readout(relevance, images.shape[-2:])

    def encode(self, images: Tensor, keep: int, ends: Sequence[str]) -> Encoded:
        """The classifier's own pass, and what the decoder needs of it for the first `keep` images.

        Args:
            ends: where the relevance is asked for: names of layers, or "input".

        Raises:
            InputError: no such layer, or one without maps.
        """
        places = self.places if ends is self.ends else tuple(find_end(self.traced, name) for name in ends)
        if not self.options.tied_convolutions and min(places) < min(self.places):
            where = self.ends[self.places.index(min(self.places))]
            raise InputError(
                f"layer {ends[places.index(min(places))]!r}: the decoder has no convolutions below {where!r}"
            )
        constant = not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled(images.device.type))
        ways = self.plan.at(keep=keep, training=self.training, constant=constant, end=min(places))
        last = {place: index for index, step in enumerate(self.steps) for place in step.inputs}
        values: dict[int, Any] = {0: images.clone()}  # the first layers may work in place
        records: list[Record] = []
        kept: dict[int, Tensor] = {}
        activation = None
        following = Following(images) if any(places) else None
        for index, (step, way) in enumerate(zip(self.steps, ways, strict=True)):
            inputs = tuple(values[place] for place in step.inputs)
            out, record = run_step(step, inputs, way, images)
            if following is not None:
                following.step(index + 1, step, inputs, out)
            if not self.options.tied_relu and isinstance(step.layer, Relu):
                record = Record(record.shapes)
                if index == self._bottleneck:
                    activation = out[:keep]
            records.append(record)
            values[index + 1] = out
            if index + 1 in self.plan.kept or index + 1 in places:
                there = out[:keep].clone()  # later layers may work in place
                kept[index + 1] = there if self.features == "trained" and index + 1 in places else there.detach()
            for place in step.inputs:
                if last[place] == index:
                    values.pop(place, None)
        logits = check_scores(values[len(self.steps)], self.steps[-1].name if self.steps else "the input")
        for place, name in zip(places, ends, strict=True):
            if following is not None and place:
                check_maps(kept[place], name, following.of(place))
        return Encoded(images[:keep], logits, records, ways, kept, activation, places)

    def decode(
        self, encoded: Encoded, classes: Sequence[int] | Tensor, *, positive: bool = False
    ) -> tuple[Tensor, ...]:
        """Relevance (B, K, h, w) at each end of a pass, of K outputs, or of class vectors (B, K, C), by image.

        Args:
            positive: sum the positive part of each channel's relevance.
        """
        images, device = encoded.images, encoded.images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
        with torch.autocast(device, enabled=False):
            weights = self.weights(encoded.records, dtype, min(encoded.ends))
            vectors = self._class_vectors(classes, encoded.logits.shape[1], images.device, dtype)
            given = [weight for weight in weights if weight is not None]
            if encoded.activation is not None:
                given.append(encoded.activation.to(dtype))
            if self.features == "trained":
                given += [encoded.kept[place] for place in encoded.ends if place]
            values = images if self.features == "trained" else images.detach()
            if self.baseline is not None:
                values = values - values.new_tensor(self.baseline)[:, None, None]
            work = Decoding(
                self.steps,
                encoded.ways,
                values,
                [_constant(record, dtype) for record in encoded.records],
                [weight is not None for weight in weights],
                vectors,
                self.plan.whole,
                {place: value.detach().to(dtype) for place, value in encoded.kept.items()},
                self._bottleneck,
                encoded.ends,
                positive,
            )
            step = self.classes_at_once or vectors.shape[-2]
            if step >= vectors.shape[-2]:
                return work.decode(vectors, given)
            return Chunks.apply(work, step, *given)

    def _class_vectors(
        self, classes: Sequence[int] | Tensor, total: int, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """What the decoder starts with: (K, C) of K outputs, or the class vectors that are given."""
        if isinstance(classes, Tensor):
            return classes.to(dtype)
        vectors = torch.eye(total, device=device, dtype=dtype)
        if self.contrastive:
            vectors = vectors - (1 - vectors) / max(total - 1, 1)
        return vectors[list(classes)]

    def weights(self, records: list[Record], dtype: torch.dtype, end: int = 0) -> list[Tensor | None]:
        """The tensors that the decoder is linear in, by step; batch norm folded into the convolution before it.

        Args:
            end: the last place of the decoder; weights of the steps before it are left out.
        """
        found: list[Tensor | None] = []
        for index, (step, record) in enumerate(zip(self.steps, records, strict=True)):
            if index < end:
                found.append(None)
                continue
            if not self.options.tied_convolutions and isinstance(step.layer, Convolution):
                weight = self.decoder[str(index)]
            else:
                weight = step.layer.weight(record)
            found.append(None if weight is None else weight.to(dtype))
        return found


def _constant(record: Record, dtype: torch.dtype) -> Record:
    factor = None if record.factor is None else record.factor.to(dtype)
    return replace(record, factor=factor, scale=None)
