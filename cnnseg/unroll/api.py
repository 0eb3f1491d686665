"""Write LRP through a classifier out as a network: what ``cnnseg.unroll`` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from torch import nn

from cnnseg.unroll.composites import Rules, find_composite
from cnnseg.unroll.layers import Options
from cnnseg.unroll.network import UnrolledNetwork
from cnnseg.unroll.places import INPUT
from cnnseg.unroll.readout import Features, find_readout
from cnnseg.unroll.rules import AlphaBeta, Epsilon
from wsss.errors import InputError, did_you_mean
from wsss.explanation import unwrap


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
    composite = find_composite(_rules(rules, rule, epsilon, alpha))
    everything_tied = tied_relu and tied_convolutions and tied_upsampling and baseline is None
    if not composite.is_plain and not everything_tied:
        what = f"rule {rule!r}" if rule != "lrp0" else f"rules {composite.name!r}"
        raise InputError(f"{what}: everything must be tied, and there is no baseline")
    if baseline is not None and len(baseline) != 3:
        raise InputError(f"baseline {tuple(baseline)}: expected a value for each of the three channels")
    if classes_at_once is not None and classes_at_once < 1:
        raise InputError(f"`classes_at_once` {classes_at_once}: expected at least 1")
    _check_ends(ends)
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


def _rules(rules: Rules | None, rule: str, epsilon: float, alpha: float) -> Rules:
    """The rules that are meant, by either way of saying so."""
    if rule not in ("lrp0", "epsilon", "alpha_beta") or (not epsilon > 0 if rule == "epsilon" else epsilon != 0):
        raise InputError(
            f"rule {rule!r} with epsilon {epsilon:g}: expected 'lrp0', 'alpha_beta', or 'epsilon' with more than 0"
        )
    if not alpha >= 1 or (rule != "alpha_beta" and alpha != 1):
        raise InputError(f"rule {rule!r} with alpha {alpha:g}: expected at least 1, and 'alpha_beta' with more than 1")
    if rules is not None:
        if rule != "lrp0":
            raise InputError(f"rule {rule!r} and rules: expected one of the two, got both")
        return rules
    if rule == "epsilon":
        return Epsilon(epsilon)
    return AlphaBeta(alpha, zero_bias=True, stabiliser=0.0) if rule == "alpha_beta" else "zero"


def _check_ends(ends: Sequence[str] | Mapping[str, float]) -> None:
    if (
        not isinstance(ends, Sequence | Mapping)
        or isinstance(ends, str)
        or not ends
        or not all(isinstance(name, str) for name in ends)
    ):
        raise InputError(f"ends {ends!r}: expected names of layers, such as ('layer4', 'layer2'), or ('input',)")
    if len(set(ends)) < len(ends):
        raise InputError(f"ends {tuple(ends)}: expected each once")
