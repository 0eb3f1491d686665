"""The unrolled network: a classifier whose forward pass is followed by its own LRP, as a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnseg.unroll.decoding import Chunks, Decoding
from cnnseg.unroll.rules import Convolution, Options, Record, Relu, scale_of
from cnnseg.unroll.trace import Step, trace
from wsss.errors import InputError

_TOO_SMALL = ("Output size is too small", "Kernel size can't be greater")  # pooling's words, and convolution's


class UnrolledNetwork(nn.Module):
    """LRP through ``model`` written out as a decoder (seed paper, section 2.2); made by `unroll`.

    Its parameters are those of the classifier, each once; with free convolutions, the decoder's own stand beside them
    (``decoder``). Heat-maps are differentiable in the weights of the decoder alone: the gates, indices and statistics
    that it takes from the encoder are constants, so that a loss on heat-maps trains the weights by their use in the
    decoder and a loss on class scores by their use in the encoder (section 2.4).
    """

    classifies = segments = True

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        *,
        classes_at_once: int | None = None,
        contrastive: bool = False,
        baseline: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.classes_at_once = classes_at_once
        self.contrastive = contrastive
        self.baseline = None if baseline is None else tuple(baseline)
        self.steps: tuple[Step, ...] = trace(model)  # holds the model's modules, but does not register them again
        gates = [index for index, step in enumerate(self.steps) if isinstance(step.rule, Relu)]
        self._bottleneck = gates[-1] if gates and not options.tied_relu else None
        if not options.tied_convolutions:
            self.decoder = nn.ParameterDict()
            self.reset_decoder()

    def reset_decoder(self) -> None:
        """Start the free convolutions of the decoder as the encoder's, with its batch norm's running statistics."""
        if self.options.tied_convolutions:
            return
        for index, step in enumerate(self.steps):
            if isinstance(step.rule, Convolution):
                weight, norm = step.rule.convolution.weight.detach(), step.rule.norm
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
        logits, records, activation = self._encode(images, keep)
        if not keep:
            return logits, None
        return logits, self._heatmaps(images[:keep], records, activation, range(logits.shape[1]), logits.shape[1])

    def heatmaps(self, images: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Class scores (B, C), and heat-maps (B, K, H, W) of the K named outputs alone."""
        logits, records, activation = self._encode(images, len(images))
        return logits, self._heatmaps(images, records, activation, classes, logits.shape[1])

    def _encode(self, images: Tensor, keep: int) -> tuple[Tensor, list[Record], Tensor | None]:
        last = {place: index for index, step in enumerate(self.steps) for place in step.inputs}
        values: dict[int, Tensor] = {0: images}
        records: list[Record] = []
        activation = None
        for index, step in enumerate(self.steps):
            try:
                out, record = step.rule.forward(tuple(values[place] for place in step.inputs), keep, self.options)
            except RuntimeError as error:
                if not any(words in str(error) for words in _TOO_SMALL):
                    raise
                height, width = images.shape[2:]
                raise InputError(f"images of {height} x {width} are too small for layer {step.name}") from None
            if not self.options.tied_relu and isinstance(step.rule, Relu):
                record = Record(record.shapes)
                if index == self._bottleneck:
                    activation = out[:keep]
            records.append(record)
            values[index + 1] = out
            for place in step.inputs:
                if last[place] == index:
                    values.pop(place, None)
        logits = values[len(self.steps)]
        if logits.ndim != 2:
            raise InputError(f"class scores are due, (B, C); {step.name} gives {tuple(logits.shape)}")
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, records, activation

    def _heatmaps(
        self, images: Tensor, records: list[Record], activation: Tensor | None, classes: Sequence[int], total: int
    ) -> Tensor:
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
        with torch.autocast(device, enabled=False):
            weights = self._weights(records, dtype)
            records = [_constant(record, dtype) for record in records]
            vectors = torch.eye(total, device=images.device, dtype=dtype)
            if self.contrastive:
                vectors = vectors - (1 - vectors) / max(total - 1, 1)
            vectors = vectors[list(classes)]
            given = [weight for weight in weights if weight is not None]
            if activation is not None:
                given.append(activation.to(dtype))
            values = images.detach()
            if self.baseline is not None:
                values = values - values.new_tensor(self.baseline)[:, None, None]
            weighted = [weight is not None for weight in weights]
            work = Decoding(self.steps, self.options, values, records, weighted, vectors, self._bottleneck)
            step = self.classes_at_once or len(vectors)
            if step >= len(vectors):
                return work.decode(vectors, given)
            return Chunks.apply(work, step, *given)

    def _weights(self, records: list[Record], dtype: torch.dtype) -> list[Tensor | None]:
        """The tensors that the decoder is linear in, by step; batch norm folded into the convolution before it."""
        found: list[Tensor | None] = []
        for index, (step, record) in enumerate(zip(self.steps, records, strict=True)):
            if not self.options.tied_convolutions and isinstance(step.rule, Convolution):
                weight = self.decoder[str(index)]
            else:
                weight = step.rule.weight(record)
            found.append(None if weight is None else weight.to(dtype))
        return found


def unroll(
    model: nn.Module,
    *,
    rule: str = "lrp0",
    epsilon: float = 0.0,
    alpha: float = 1.0,
    contrastive: bool = False,
    baseline: Sequence[float] | None = None,
    tied_relu: bool = True,
    tied_convolutions: bool = True,
    tied_upsampling: bool = True,
    classes_at_once: int | None = None,
) -> UnrolledNetwork:
    """Write LRP through a convolutional classifier out as a decoder with tied weights.

    Args:
        model: a classifier of timm or torchvision, or another, of convolutions, batch norms, ReLU or ReLU6, pooling,
            fully connected layers, additions and concatenations; maps (B, 3, H, W) to class scores (B, C).
        rule: "lrp0", or "epsilon" with `epsilon` > 0 (equation 1; the stabiliser is a constant to autograd), or
            "alpha_beta" with `alpha` >= 1 and beta = alpha - 1, in convolutions and fully connected layers; elsewhere
            it is LRP-0. The sums that it divides by are constants to autograd.
        contrastive: relevance of a class minus the mean relevance of all others (Gu et al., ACCV 2018); costs nothing.
        baseline: of the three channels, as the network sees them: relevance is that of the difference to this colour,
            (x - baseline) times gradient, which the colour itself has none of. None: 0, for normalised images the mean
            colour; `-mean / std`: black, as if the network took RGB values and normalised them itself.
        tied_relu: the decoder's activations are gates of the encoder's; else ReLUs of their own, and the bottleneck's
            activation in place of its gate (the paper's WS-AE).
        tied_convolutions: else the decoder has convolutions of its own, which start as the encoder's.
        tied_upsampling: max pooling goes back by its indices, strides by transposed convolution; else nearest
            neighbour for both.
        classes_at_once: branches held in memory at once; fewer than there are classes take a quarter to a half longer.

    Raises:
        InputError: a layer without a rule (it is named), or options that do not go together.
    """
    if rule not in ("lrp0", "epsilon", "alpha_beta") or (not epsilon > 0 if rule == "epsilon" else epsilon != 0):
        raise InputError(f"rule {rule!r} with epsilon {epsilon:g}: 'lrp0', 'alpha_beta', or 'epsilon' with more than 0")
    if not alpha >= 1 or (rule != "alpha_beta" and alpha != 1):
        raise InputError(f"rule {rule!r} with alpha {alpha:g}: at least 1, and 'alpha_beta' with more than 1")
    if rule == "alpha_beta" and not (tied_relu and tied_convolutions and tied_upsampling and baseline is None):
        raise InputError("rule 'alpha_beta': everything must be tied, and there is no baseline")
    if baseline is not None and len(baseline) != 3:
        raise InputError(f"baseline {tuple(baseline)}: a value for each of the three channels")
    if classes_at_once is not None and classes_at_once < 1:
        raise InputError(f"classes_at_once {classes_at_once}: at least 1")
    options = Options(epsilon, alpha if rule == "alpha_beta" else None, tied_relu, tied_convolutions, tied_upsampling)
    return UnrolledNetwork(model, options, classes_at_once=classes_at_once, contrastive=contrastive, baseline=baseline)


def _constant(record: Record, dtype: torch.dtype) -> Record:
    factor = None if record.factor is None else record.factor.to(dtype)
    return Record(record.shapes, factor, None, record.extra)
