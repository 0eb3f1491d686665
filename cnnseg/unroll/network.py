"""The unrolled network: a classifier whose forward pass is followed by its own LRP, as a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cnnseg.unroll.activations import Relu
from cnnseg.unroll.composites import Composite, Rules, find_composite
from cnnseg.unroll.encoded import Encoded, check_maps, check_scores, run_step
from cnnseg.unroll.layers import Options, Record
from cnnseg.unroll.places import INPUT, find_end
from cnnseg.unroll.plan import plan
from cnnseg.unroll.readout import Features, Readout, find_readout
from cnnseg.unroll.rules import AlphaBeta, Epsilon
from cnnseg.unroll.steps import Step
from cnnseg.unroll.trace import trace
from cnnseg.unroll.weighted import Convolution, scale_of
from wsss.errors import InputError, did_you_mean
from wsss.explanation import unwrap


class UnrolledNetwork(nn.Module):
    """LRP through ``model`` written out as a decoder (Yu et al. 2024, section 2.2); made by `unroll`.

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
        self.traced = trace(model)  # holds the model's modules, but does not register them again
        self.traced.check()
        self.plan = plan(self.traced, composite, options)
        self.ends = tuple(ends)
        self.places = tuple(find_end(self.traced, name) for name in ends)
        self.readout = find_readout("sum", ends) if readout is None else readout
        self.features: Features = features
        gates = [index for index, step in enumerate(self.steps) if isinstance(step.layer, Relu)]
        self._bottleneck = gates[-1] if gates and not options.tied_relu else None
        if not options.tied_convolutions:
            self.decoder = nn.ParameterDict()
            self.reset_decoder()
        self.training = False

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
        relevance = encoded.relevance(range(encoded.logits.shape[1]))
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
        return encoded.logits, encoded.relevance(classes, positive=positive)[0]

    def relevance(self, images: Tensor, classes: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Class scores (B, C), and by the name of each end the relevance (B, K, h, w) there of the K named outputs.

        Channels are summed. All come from one pass through the decoder.
        """
        encoded = self.encode(images, len(images), self.ends)
        return encoded.logits, dict(zip(self.ends, encoded.relevance(classes), strict=True))

    def read(self, images: Tensor, classes: Sequence[int]) -> Tensor:
        """Heat-maps (B, K, H, W) of the K named outputs, as `forward` makes them of all."""
        relevance = self.encode(images, len(images), self.ends).relevance(classes)
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
        for index, (step, way) in enumerate(zip(self.steps, ways, strict=True)):
            out, record = run_step(step, tuple(values[place] for place in step.inputs), way, images)
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
            if place:
                check_maps(kept[place], name)
        return Encoded(self, images[:keep], logits, records, ways, kept, activation, places)

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


def unroll(
    model: nn.Module,
    *,
    rules: Rules | None = None,
    rule: str = "lrp0",
    epsilon: float = 0.0,
    alpha: float = 1.0,
    contrastive: bool = False,
    baseline: Sequence[float] | None = None,
    tied_relu: bool = True,
    tied_convolutions: bool = True,
    tied_upsampling: bool = True,
    ends: Sequence[str] | Mapping[str, float] = (INPUT,),
    readout: str = "sum",
    learn_weights: bool = False,
    smooth: bool = False,
    features: Features = "constant",
    classes_at_once: int | None = None,
) -> UnrolledNetwork:
    """Write LRP through a convolutional classifier out as a decoder with tied weights.

    Args:
        model: a classifier of timm or torchvision, or another, that `torch.fx` can trace, of the layers in
            `cnnseg.unroll.spellings`; maps (B, 3, H, W) to class scores (B, C). A softmax or sigmoid at the end is left
            out: class scores are what goes into it. DataParallel, DistributedDataParallel and torch.compile are taken
            off. Its mode does not matter and is left as it is, see `UnrolledNetwork`.
        rules: the name of a composite (`cnnseg.unroll.composites.COMPOSITES`), a `Rule`, or a mapping from kinds or
            names of layers to rules. Everywhere the denominators are constants to autograd. None: as `rule` says.
        rule: "lrp0", or "epsilon" with `epsilon` > 0 (equation 1), or "alpha_beta" with `alpha` >= 1 and beta = alpha -
            1, without biases, in convolutions and fully connected layers; elsewhere it is LRP-0.
        contrastive: relevance of a class minus the mean relevance of all others (Gu et al., ACCV 2018); costs nothing.
        baseline: of the three channels, as the network sees them: relevance is that of the difference to this colour,
            (x - baseline) times gradient, which the colour itself has none of. None: 0, for normalised images the mean
            colour; `-mean / std`: black, as if the network took RGB values and normalised them itself.
        tied_relu: the decoder's activations are gates of the encoder's; else ReLUs of their own, and the bottleneck's
            activation in place of its gate (the paper's WS-AE).
        tied_convolutions: else the decoder has convolutions of its own, which start as the encoder's.
        tied_upsampling: max pooling goes back by its indices, strides by transposed convolution; else nearest
            neighbour for both.
        ends: where the decoder reads relevance out: names of layers, the image being "input"; one pass gives them all,
            and layers below the last of them have no part in it. A mapping says the weight of each in the readout; 1 /
            their number unless given.
        readout: how the heat-maps are made of them: "sum", "mean" or "asinh", see `cnnseg.unroll.readout`.
        learn_weights: the weights of the ends are parameters, which start there and stay above 0.
        smooth: relevance at all ends but the first is averaged over neighbouring cells first, see `Readout`.
        features: what relevance at a layer multiplies the decoder's last field by: "constant" to autograd, so that a
            loss on heat-maps trains weights by their use in the decoder alone; or "trained", so that it reaches the
            layers below each end as well, by their use in the encoder. At the image they are the same.
        classes_at_once: branches held in memory at once; fewer than there are classes take a quarter to a half longer.

    Raises:
        InputError: a layer without a rule (it is named), or options that do not go together.
    """
    if rule not in ("lrp0", "epsilon", "alpha_beta") or (not epsilon > 0 if rule == "epsilon" else epsilon != 0):
        raise InputError(
            f"rule {rule!r} with epsilon {epsilon:g}: expected 'lrp0', 'alpha_beta', or 'epsilon' with more than 0"
        )
    if not alpha >= 1 or (rule != "alpha_beta" and alpha != 1):
        raise InputError(f"rule {rule!r} with alpha {alpha:g}: expected at least 1, and 'alpha_beta' with more than 1")
    if rules is not None and rule != "lrp0":
        raise InputError(f"rule {rule!r} and rules: expected one of the two, got both")
    if rules is None:
        rules = "zero"
        if rule == "epsilon":
            rules = Epsilon(epsilon)
        elif rule == "alpha_beta":
            rules = AlphaBeta(alpha, zero_bias=True, stabiliser=0.0)
    composite = find_composite(rules)
    everything_tied = tied_relu and tied_convolutions and tied_upsampling and baseline is None
    if not composite.is_plain and not everything_tied:
        what = f"rule {rule!r}" if rule != "lrp0" else f"rules {composite.name!r}"
        raise InputError(f"{what}: everything must be tied, and there is no baseline")
    if baseline is not None and len(baseline) != 3:
        raise InputError(f"baseline {tuple(baseline)}: expected a value for each of the three channels")
    if classes_at_once is not None and classes_at_once < 1:
        raise InputError(f"`classes_at_once` {classes_at_once}: expected at least 1")
    if (
        not isinstance(ends, Sequence | Mapping)
        or isinstance(ends, str)
        or not ends
        or not all(isinstance(name, str) for name in ends)
    ):
        raise InputError(f"ends {ends!r}: expected names of layers, such as ('layer4', 'layer2'), or ('input',)")
    if len(set(ends)) < len(ends):
        raise InputError(f"ends {tuple(ends)}: expected each once")
    if features not in get_args(Features):
        raise InputError(f"features {features!r}: {did_you_mean(str(features), get_args(Features))}")
    unwrapped = unwrap(model)
    whole = model if unwrapped.front else unwrapped.model  # what prepares the images is a part of what is unrolled
    return UnrolledNetwork(
        whole,
        Options(tied_relu, tied_convolutions, tied_upsampling),
        composite,
        classes_at_once=classes_at_once,
        contrastive=contrastive,
        baseline=baseline,
        ends=tuple(ends),
        readout=find_readout(readout, ends, learnt=learn_weights, smooth=smooth),
        features=features,
    )
