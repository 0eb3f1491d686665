"""LRP's rules and composites, for `cnnseg.explain` and `cnnseg.unroll`: what there is, and how to add one.

import cnnseg
from cnnseg.rules import Epsilon, Flat, Gamma, register_composite

register_composite("mine", {"first": Flat(), "convolution": Gamma(0.5), "linear": Epsilon(), "layer4.*": Epsilon()})
cnnseg.explain(model, images, rules="mine")
"""

from cnnseg.unroll.activations import Activation
from cnnseg.unroll.composites import COMPOSITES, Composite, find_composite, register_composite
from cnnseg.unroll.kinds import register_layer
from cnnseg.unroll.rules import (
    RULES,
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    Term,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)

__all__ = [
    "COMPOSITES",
    "RULES",
    "Activation",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Pass",
    "Rule",
    "Term",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "find_composite",
    "register_composite",
    "register_layer",
]
