"""Which rule each layer gets: composites, by zennit's names, and how to make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from cnnseg.unroll.rules import RULES, AlphaBeta, Epsilon, Flat, Gamma, Pass, Rule, Term, ZBox, Zero, ZPlus
from wsss.errors import InputError, did_you_mean

KINDS = ("convolution", "linear", "batch_norm", "layer_norm", "sum", "average_pool")
"""Kinds of layers that have a rule. ``batch_norm`` is one that follows no convolution and no fully connected layer."""

FIRST = "first"
"""In a composite: the convolution or fully connected layer that reads the image (each, if several do)."""

WEIGHTLESS = ("layer_norm", "sum", "average_pool")
"""Kinds whose contributions cannot be told apart by weights: their rule is `Zero` or `Epsilon`."""


@dataclass(frozen=True)
class Composite:
    """A mapping from layers to rules.

    ``rules``: kind of layer (`KINDS`, `FIRST`) or name of a layer (with wildcards: ``layer4.*``) to its rule. A name
    counts before `FIRST`, and that before a kind; of several names that fit the first one. Kinds left out have `Zero`.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    name: str = "custom"

    def __post_init__(self) -> None:
        for key, rule in self.rules.items():
            if not isinstance(rule, Rule):
                raise InputError(f"rules[{key!r}]: expected a Rule, such as cnnseg.rules.ZPlus(), got {rule!r:.60}")
            _check_terms(rule)
            if isinstance(rule, Pass) and key != "batch_norm" and key in (*KINDS, FIRST):
                raise InputError(f"rules[{key!r}]: Pass is for layers that work on each value by itself (batch_norm)")
            if key in WEIGHTLESS and not isinstance(rule, Zero):
                raise InputError(f"rules[{key!r}]: expected Zero() or Epsilon(), got {type(rule).__name__}()")

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that are names of layers."""
        return tuple(key for key in self.rules if key not in (*KINDS, FIRST))

    def rule(self, kind: str, names: tuple[str, ...], first: bool = False) -> Rule:
        """The rule of a layer of that kind with these names (that of a convolution and that of its batch norm)."""
        for key in self.names:
            if any(fnmatchcase(name, key) for name in names):
                rule = self.rules[key]
                if kind in WEIGHTLESS and not isinstance(rule, Zero):  # of a name with wildcards, meant for others
                    continue
                return rule
        if first and FIRST in self.rules:
            return self.rules[FIRST]
        return self.rules.get(kind, Zero())

    @property
    def is_plain(self) -> bool:
        """LRP-0 or LRP-epsilon throughout."""
        return all(isinstance(rule, Zero) for rule in self.rules.values())


def _check_terms(rule: Rule) -> None:
    """InputError, naming the rule, unless its terms are a tuple of `Term`."""
    name = type(rule).__name__
    try:
        terms = rule.terms()
    except NotImplementedError:
        raise InputError(f"rule {name}: has no terms(); see cnnseg.rules.Rule for what a rule says") from None
    if not isinstance(terms, tuple) or not all(isinstance(term, Term) for term in terms):
        raise InputError(f"rule {name}: expected terms() to give Terms, such as (Term('all'),), got {terms!r:.60}")


def _zennit(convolution: Rule, first: Rule | None = None) -> dict[str, Rule]:
    """What those composites share: epsilon in fully connected layers, contributions in sums, batch norms passed."""
    shared = {"linear": Epsilon(), "sum": Epsilon(), "average_pool": Epsilon(), "batch_norm": Pass()}
    return shared | {"convolution": convolution} | ({FIRST: first} if first is not None else {})


COMPOSITES: dict[str, Composite] = {}
"""Composites by name; `register_composite` adds one."""

_BUILT_IN: frozenset[str] = frozenset()


def register_composite(name: str, rules: Mapping[str, Rule | str] | Rule) -> Composite:
    """Make a composite known by a name, to `explain`, `unroll` and the command line.

    Args:
        rules: see `Composite`, rules also by name (`RULES`); a single rule is that of all convolutions and fully
            connected layers.
    """
    if name in _BUILT_IN:
        raise InputError(f"composite {name!r}: is one of this toolkit's; register yours under another name")
    COMPOSITES[name] = Composite(_everywhere(rules) if isinstance(rules, Rule) else _named(rules), name)
    return COMPOSITES[name]


def _named(rules: Mapping[str, Rule | str]) -> dict[str, Rule]:
    """A mapping in which rules may be given by their names."""
    found: dict[str, Rule] = {}
    for key, rule in rules.items():
        if isinstance(rule, str):
            if rule not in RULES:
                raise InputError(f"rules[{key!r}]: rule {rule!r} is unknown: {did_you_mean(rule, RULES)}")
            rule = RULES[rule]()
        found[key] = rule
    return found


def _everywhere(rule: Rule) -> dict[str, Rule]:
    """A rule for all layers with weights, also in sums if it is LRP-epsilon."""
    kinds = ("convolution", "linear", "batch_norm", "sum") if isinstance(rule, Zero) else ("convolution", "linear")
    return dict.fromkeys(kinds, rule)


for _name, _make in RULES.items():
    if _name not in ("flat", "wsquare", "zbox"):  # these are for first layers
        register_composite(_name, _make())
register_composite("epsilon_plus", _zennit(ZPlus()))
register_composite("epsilon_plus_flat", _zennit(ZPlus(), Flat()))
register_composite("epsilon_alpha2_beta1", _zennit(AlphaBeta(2)))
register_composite("epsilon_alpha2_beta1_flat", _zennit(AlphaBeta(2), Flat()))
register_composite("epsilon_gamma_box", _zennit(Gamma(0.25), ZBox()))
_BUILT_IN = frozenset(COMPOSITES)

Rules = str | Rule | Composite | Mapping[str, Rule | str]
"""What may be given as rules: the name of a composite, one rule, a composite, or a mapping that makes one."""


def find_composite(rules: Rules) -> Composite:
    """The composite that is meant. InputError, with the nearest name, if there is none."""
    if isinstance(rules, Composite):
        return rules
    if isinstance(rules, Rule):
        return Composite(_everywhere(rules), repr(rules))
    if isinstance(rules, Mapping):
        return Composite(_named(rules))
    if not isinstance(rules, str):
        raise InputError(f"rules: expected a name, a Rule, a Composite or a mapping, got a {type(rules).__name__}")
    if rules not in COMPOSITES:
        raise InputError(f"rules {rules!r} are unknown: {did_you_mean(rules, COMPOSITES)}")
    return COMPOSITES[rules]
