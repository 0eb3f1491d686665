"""The mechanics of the rules: relevance through a linear layer, for whatever `Rule` it is given.

The decoder carries p = R / x, relevance divided by activation (`cnnseg.unroll.layers`), as long as it can: an input of
0 has no relevance then, and nothing is divided by an activation. Rules that give relevance to an input of 0 (flat, z^B)
hand on R itself, and so do all layers below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cnnseg.unroll.branches import times
from cnnseg.unroll.rules import Rule, Term, ZBox
from wsss.errors import InputError


class LinearLayer(Protocol):
    """What the mechanics ask of a layer."""

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer without its bias."""

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Its transpose, to inputs of `shape` (without the batch)."""

    def along_channels(self, values: Tensor, ndim: int) -> Tensor:
        """One number a channel, shaped so that it meets outputs of `ndim` dimensions."""


@dataclass(frozen=True)
class Shares:
    """What a rule needs of a layer's way forward.

    ``terms``: those that are at work. ``factors`` (B, ...): what p or R of the outputs is multiplied by for each term;
    None where all terms share the record's factor. ``weights``: of each term, if nothing is to be trained. ``below``:
    where inputs are negative (B, ...), None if nowhere. ``inputs``: of each term, for rules that are not proportional;
    None for 1.
    """

    terms: tuple[Term, ...]
    factors: tuple[Tensor | None, ...] | None
    weights: tuple[Tensor, ...] | None
    below: Tensor | None
    inputs: tuple[Tensor | None, ...] | None


def quotient(numerator: Tensor | float, z: Tensor, stabiliser: float) -> Tensor:
    """numerator / (z + stabiliser sign z); 0 where z is 0 if there is no stabiliser."""
    if stabiliser:
        return numerator / (z + torch.where(z < 0, -stabiliser, stabiliser))
    nothing = z == 0
    return torch.where(nothing, 0, numerator / torch.where(nothing, 1, z))


@torch.no_grad()
def shares(
    rule: Rule,
    layer: LinearLayer,
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    whole: bool,
    keep: bool,
) -> tuple[Tensor | None, Shares]:
    """(factor that all terms share, record) of a layer's way forward.

    Args:
        x: inputs (B, ...). z: outputs, bias included.
        weight, bias: batch norm folded in.
        whole: R of the outputs will come, not p.
        keep: keep the terms' weights.
    """
    x = x.detach()  # the record holds it
    terms = rule.terms()
    split = any(term.inputs in ("positive", "negative") for term in terms)
    signed = split and bool(x.amin() < 0)
    weights = [term.weight(weight) for term in terms]
    products: list[Tensor | float] = []
    inputs: list[Tensor | None] = []
    for term, own in zip(terms, weights, strict=True):
        given = _inputs(term, rule, x, signed)
        inputs.append(given)
        if term.is_forward:
            products.append(z)
        elif given is None:
            products.append(0.0)
        else:
            product = layer.apply(given.expand_as(x) if term.inputs in ("low", "high") else given, own)
            if term.bias is not None and bias is not None:
                product += layer.along_channels(term.bias(bias), product.ndim)
            products.append(product)
    found: list[tuple[tuple[float | Tensor, Tensor], Tensor | None]] = []
    factors = []
    for coefficient, denominator in _checked(rule, rule.denominators(products, z), len(terms)):
        known = [factor for (c, d), factor in found if c is coefficient and d is denominator]
        if not known:
            known = [_factor(coefficient, denominator, z, rule.stabiliser, whole)]
            found.append(((coefficient, denominator), known[0]))
        factors.append(known[0])
    kept = [place for place, term in enumerate(terms) if signed or term.inputs != "negative"]
    shared = len(found) == 1
    if not rule.proportional:
        unchanged = x.clone()  # a later layer may change x in place
        inputs = [unchanged if given is x else given for given in inputs]
    return (found[0][1] if shared else None), Shares(
        tuple(terms[place] for place in kept),
        None if shared else tuple(factors[place] for place in kept),
        tuple(weights[place] for place in kept) if keep else None,
        (x < 0) if signed and rule.proportional else None,
        None if rule.proportional else tuple(None if terms[p].inputs == "ones" else inputs[p] for p in kept),
    )


def _checked(rule: Rule, given: object, count: int) -> Sequence[tuple[float | Tensor, Tensor]]:
    """What a rule divides by. InputError, naming the rule, unless it is a coefficient and a denominator a term."""
    pairs = list(given) if isinstance(given, list | tuple) else []
    if len(pairs) != count or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise InputError(
            f"rule {type(rule).__name__}: denominators() gives {type(given).__name__} of {len(pairs)}; expected a "
            f"tuple of {count} pairs (coefficient, denominator), one for each term"
        )
    return pairs


def _inputs(term: Term, rule: Rule, x: Tensor, signed: bool) -> Tensor | None:
    """The term's version of the input; None where there is none of it."""
    if term.inputs in ("low", "high"):
        assert isinstance(rule, ZBox)
        return rule.end(term.inputs, x)
    if term.inputs == "ones":
        return torch.ones_like(x)
    if term.inputs == "negative":
        return x.clamp(max=0) if signed else None
    return x.clamp(min=0) if term.inputs == "positive" and signed else x


def _factor(
    coefficient: float | Tensor, denominator: Tensor, z: Tensor, stabiliser: float, whole: bool
) -> Tensor | None:
    """What p (or R, if `whole`) is multiplied by; None for 1."""
    plain = not isinstance(coefficient, Tensor) and coefficient == 1
    if not whole and denominator is z and not stabiliser and plain:
        return None
    factor = quotient(1.0 if whole else z, denominator, stabiliser)
    return factor if plain else factor * coefficient


def spread(p: Tensor, weight: Tensor, record: Shares, layer: LinearLayer, shape: torch.Size) -> Tensor:
    """p, or R, of the inputs (B * K, ...) from that of the outputs, which the shared factor has multiplied already."""
    weights = record.weights or tuple(term.weight(weight) for term in record.terms)
    factors: Sequence[Tensor | None] = record.factors or [None] * len(weights)
    parts = []
    for term, own, factor in zip(record.terms, weights, factors, strict=True):
        given = p if factor is None else times(p, factor.to(p.dtype))
        part = layer.transpose(given, own.to(p.dtype), shape)
        parts.append(part if term.sign == 1 else -part)
    if record.inputs is not None:
        pairs = zip(parts, record.inputs, strict=True)
        return _sum([part if given is None else times(part, given.to(p.dtype)) for part, given in pairs])
    nothing = [p.new_zeros(())]
    above = _sum([part for part, term in zip(parts, record.terms, strict=True) if term.inputs != "negative"] or nothing)
    if record.below is None:
        return above.expand(len(p), *shape)
    under = _sum([part for part, term in zip(parts, record.terms, strict=True) if term.inputs != "positive"] or nothing)
    above, under = above.expand(len(p), *shape), under.expand(len(p), *shape)
    below, by_image = record.below[:, None], (len(record.below), -1)
    return torch.where(below, under.unflatten(0, by_image), above.unflatten(0, by_image)).flatten(0, 1)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
