"""LRP's rules as declarations: which products a linear layer's relevance is shared out by, and what divides them.

A rule hands the relevance R_j of a layer's outputs on to its inputs as

    R_i = sum over terms t of  sign_t  input_t(x)_i  sum_j weight_t(w)_ij  c_tj R_j / stabilised(d_tj),

with a term for each product that it tells apart and a coefficient c and a denominator d for each term. A rule says no
more than that; `cnnseg.unroll.spread` is the one place that computes it. A rule of your own is a subclass:

    >>> class Absolute(Rule):  # shares of absolute contributions
    ...     def terms(self):
    ...         return Term("positive", Tensor.abs), Term("negative", Tensor.abs, sign=-1)
    ...     def denominators(self, products, z):
    ...         return ((1.0, products[0] - products[1]),) * 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from wsss.errors import InputError, did_you_mean

Inputs = Literal["all", "positive", "negative", "ones", "low", "high"]
"""Which version of the input a term multiplies: x, its positive or negative part, 1, or the ends of its box."""

Map = Callable[[Tensor], Tensor]
Share = tuple[float | Tensor, Tensor]
"""Coefficient and denominator of a term."""


def same(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor


def positive(tensor: Tensor) -> Tensor:
    """The positive part."""
    return tensor.clamp(min=0)


def negative(tensor: Tensor) -> Tensor:
    """The negative part."""
    return tensor.clamp(max=0)


@dataclass(frozen=True)
class Term:
    """A product of a rule. ``bias``: how the layer's bias joins the product; None: it takes no part."""

    inputs: Inputs
    weight: Map = same
    bias: Map | None = None
    sign: int = 1

    def __post_init__(self) -> None:
        if self.inputs not in get_args(Inputs):
            raise InputError(f"Term: inputs {self.inputs!r}: {did_you_mean(str(self.inputs), get_args(Inputs))}")

    @property
    def is_forward(self) -> bool:
        """Whether the product is the layer's own output, which is there already."""
        return self.inputs == "all" and self.weight is same and self.bias is same


@dataclass(frozen=True)
class Rule:
    """How relevance goes through a linear layer; see the module.

    ``stabiliser``: added to each denominator with the denominator's sign; 0: what would be divided by 0 is 0.
    """

    stabiliser: float = field(default=1e-6, kw_only=True)

    def __post_init__(self) -> None:
        if not self.stabiliser >= 0:
            raise InputError(f"{type(self).__name__}: expected a stabiliser of 0 or more, got {self.stabiliser}")

    def terms(self) -> tuple[Term, ...]:
        """The products, in a fixed order."""
        raise NotImplementedError

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        """For each term its coefficient and what divides it.

        Args:
            products: of the terms, shaped as z; 0.0 of a term whose part of the input is nowhere.
            z: outputs of the layer (B, ...), bias included.
        """
        raise NotImplementedError

    @property
    def proportional(self) -> bool:
        """Whether an input of 0 gets no relevance, so that relevance divided by the input can be handed on."""
        return all(term.inputs in ("all", "positive", "negative") for term in self.terms())


@dataclass(frozen=True)
class Zero(Rule):
    """LRP-0: R_i = x_i sum_j w_ij R_j / z_j (Bach et al., PLoS ONE 2015); input times gradient in a ReLU network."""

    stabiliser: float = field(default=0.0, kw_only=True)

    def terms(self) -> tuple[Term, ...]:
        return (Term("all", same, same),)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        return ((1.0, z),)


@dataclass(frozen=True)
class Epsilon(Zero):
    """LRP-epsilon: R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign z_j) (Bach et al. 2015)."""

    epsilon: float = 1e-6
    stabiliser: float = field(default=0.0, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stabiliser", self.epsilon)  # the stabiliser is the rule
        super().__post_init__()


@dataclass(frozen=True)
class Biased(Rule):
    """Rules that part positive from negative contributions; ``zero_bias``: the bias takes no relevance."""

    zero_bias: bool = field(default=False, kw_only=True)

    def _bias(self, part: Map) -> Map | None:
        return None if self.zero_bias else part


@dataclass(frozen=True)
class ZPlus(Biased):
    """z+ rule: positive contributions alone, signed inputs included (Montavon et al., Pattern Recognition 2017)."""

    def terms(self) -> tuple[Term, ...]:
        return Term("positive", positive, self._bias(positive)), Term("negative", negative)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        return ((1.0, products[0] + products[1]),) * 2


@dataclass(frozen=True)
class AlphaBeta(Biased):
    """Positive contributions times alpha minus negative ones times beta, beta = alpha - 1 (Bach et al. 2015)."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 1:
            raise InputError(f"AlphaBeta: expected an alpha of 1 or more (beta is alpha - 1), got {self.alpha:g}")

    def terms(self) -> tuple[Term, ...]:
        helping = Term("positive", positive, self._bias(positive)), Term("negative", negative)
        if self.alpha == 1:
            return helping
        return *helping, Term("positive", negative, self._bias(negative)), Term("negative", positive)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        helping = ((self.alpha, products[0] + products[1]),) * 2
        if self.alpha == 1:
            return helping
        return *helping, *(((1 - self.alpha, products[2] + products[3]),) * 2)


@dataclass(frozen=True)
class Gamma(Biased):
    """LRP-gamma: contributions of the output's sign weigh 1 + gamma (Montavon et al., LNCS 11700, 2019; for signed
    inputs and outputs in the form of Andéol et al., "Learning domain invariant representations ...", 2021)."""

    gamma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise InputError(f"Gamma: expected a gamma of 0 or more, got {self.gamma:g}")

    def terms(self) -> tuple[Term, ...]:
        above, below = self._above, self._below
        return (
            Term("positive", above, self._bias(above)),
            Term("negative", below),
            Term("positive", below, self._bias(below)),
            Term("negative", above),
        )

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        raised, lowered = products[0] + products[1], products[2] + products[3]
        return *(((z > 0, raised),) * 2), *(((z < 0, lowered),) * 2)

    def _above(self, weight: Tensor) -> Tensor:
        return weight + self.gamma * weight.clamp(min=0)

    def _below(self, weight: Tensor) -> Tensor:
        return weight + self.gamma * weight.clamp(max=0)


@dataclass(frozen=True)
class Flat(Rule):
    """Every input of a window gets the same (Lapuschkin et al., Nature Communications 2019); for the first layer."""

    def terms(self) -> tuple[Term, ...]:
        return (Term("ones", torch.ones_like),)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        return ((1.0, products[0]),)


@dataclass(frozen=True)
class WSquare(Rule):
    """w^2 rule: shares of squared weights, whatever the input (Montavon et al. 2017); for the first layer."""

    def terms(self) -> tuple[Term, ...]:
        return (Term("ones", torch.square, torch.square),)

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        return ((1.0, products[0]),)


@dataclass(frozen=True)
class ZBox(Rule):
    """z^B rule of a first layer whose inputs lie in a box: shares of x w - low w+ - high w- (Montavon et al. 2017).

    ``low``, ``high``: a value, or one for each channel, as the layer sees them (normalised); None: the least and the
    largest value of each image in each channel.
    """

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    def terms(self) -> tuple[Term, ...]:
        return (
            Term("all", same, same),
            Term("low", positive, positive, sign=-1),
            Term("high", negative, negative, sign=-1),
        )

    def denominators(self, products: Sequence[Tensor | float], z: Tensor) -> tuple[Share, ...]:
        return ((1.0, products[0] - products[1] - products[2]),) * 3

    def end(self, which: Inputs, x: Tensor) -> Tensor:
        """The low or high end of the box of x (B, C, H, W), broadcast along it."""
        given = self.low if which == "low" else self.high
        if given is None:
            dims = tuple(range(2, x.ndim)) or 1  # of a fully connected layer's inputs all are one channel
            return x.amin(dims, keepdim=True) if which == "low" else x.amax(dims, keepdim=True)
        ends = x.new_tensor(given)
        if ends.ndim and len(ends) not in (1, x.shape[1]):
            raise InputError(
                f"ZBox: {which} has {len(ends)} values; expected one, or one for each of {x.shape[1]} channels"
            )
        return ends.view(1, -1, *[1] * (x.ndim - 2))


@dataclass(frozen=True)
class Pass(Rule):
    """Relevance is handed on as it is; for layers that work on each value by itself, such as a lone batch norm."""

    def terms(self) -> tuple[Term, ...]:
        return ()


RULES: dict[str, Callable[[], Rule]] = {
    "zero": Zero,
    "epsilon": Epsilon,
    "gamma": Gamma,
    "zplus": ZPlus,
    "alpha2_beta1": AlphaBeta,
    "flat": Flat,
    "wsquare": WSquare,
    "zbox": ZBox,
}
"""Rules by name, as they are without arguments."""
