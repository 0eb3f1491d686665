"""Where an unrolled network reads relevance out, and what it makes of it: what its file keeps of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cnnseg.settings import READ_AT, NetworkConfig
from wsss.errors import InputError

if TYPE_CHECKING:
    from torch import nn

PIXELS = (1,)
"""The strides of a network that is read at the image alone."""


@dataclass(frozen=True)
class Reading:
    """The settings of `NetworkConfig` of the same names, nothing left open."""

    strides: tuple[int, ...]
    stride_layers: str
    stride_weights: tuple[float, ...]
    learn_weights: bool
    readout: str
    smooth: bool
    features: str
    rules: str | None = None

    @property
    def has_pixels(self) -> bool:
        """Whether the image is among the places that are read."""
        return 1 in self.strides

    def ends(self, model: nn.Module) -> dict[str, float]:
        """Layer and weight of each stride, for `cnnseg.unroll`: the last layer of the first stride, which is CAM's, and
        as ``stride_layers`` says the last or the first ones of the others.

        At the last layer of a stride all relevance lies on the places that the next strided convolution looks at: one
        in four, if its kernel is 1 x 1. On the way to the first layer of that stride it is spread out.

        Raises:
            InputError: a stride that no layer has which all relevance passes through.
        """
        from cnnseg.methods.running import layers_with_maps
        from cnnseg.unroll.places import INPUT

        if self.strides == PIXELS:  # no layer needs to be looked for
            return {INPUT: self.stride_weights[0]}
        layers = layers_with_maps(model, max(self.strides))
        smaller = layers_with_maps(model, max(self.strides), halved=True)
        # a grid that does not follow the image, as of pooling to a fixed size, has no stride
        layers = {name: round(own) for name, own in layers.items() if round(own) == round(smaller.get(name, own))}
        found: dict[str, float] = {}
        for stride, weight in zip(self.strides, self.stride_weights, strict=True):
            names = [INPUT] if stride == 1 else [name for name, own in layers.items() if own == stride]
            if not names:
                known = _words(sorted({*layers.values(), 1}))
                raise InputError(
                    f"`strides` {_words(self.strides)}: this network has no layer of stride {stride}; it has {known}"
                )
            found[names[0] if found and self.stride_layers == "first" else names[-1]] = weight
        return found

    def options(self, model: nn.Module) -> dict[str, Any]:
        """Arguments of `cnnseg.unroll`."""
        return {
            "ends": self.ends(model),
            "learn_weights": self.learn_weights,
            "readout": self.readout,
            "smooth": self.smooth,
            "features": self.features,
            "rules": self.rules,
        }

    def described(self) -> dict[str, Any]:
        """What files and manifests say of it; nothing where it is as it was before there was a choice."""
        return {} if self == AT_THE_PIXELS else {"reading": asdict(self)}


LARGEST = 128
"""Stride that is looked for; strides are read off an image of several times that side."""

AT_THE_PIXELS = Reading(PIXELS, "last", (1.0,), False, "sum", False, "constant")
"""The paper's: relevance of pixels, as it is."""


def find_reading(config: NetworkConfig) -> Reading:
    """What a config says of an unrolled network, its gaps filled by what is usual for its kind.

    Raises:
        InputError: weights that do not go with the strides, or strides twice.
    """
    strides = config.strides or READ_AT.get(config.kind, PIXELS)
    usual = (1.0, *[0.5] * (len(strides) - 1))
    weights = usual if config.stride_weights is None else tuple(config.stride_weights)
    if list(strides) != sorted(set(strides), reverse=True) or strides[0] > LARGEST:
        raise InputError(f"`strides` {_words(strides)}: expected each once, coarsest first, {LARGEST} at most")
    if len(weights) != len(strides):
        raise InputError(f"`stride_weights` {_words(weights)}: expected one for each of `strides` {_words(strides)}")
    pixels = strides == PIXELS
    return Reading(
        strides,
        config.stride_layers,
        weights,
        config.learn_weights,
        config.readout or ("sum" if pixels else "asinh"),
        config.smooth,
        config.features or ("constant" if pixels else "trained"),
        config.rules,
    )


def check_options(config: NetworkConfig) -> None:
    """InputError naming the first option of unrolled networks that is given for a network that is none."""
    for name in ("strides", "stride_weights", "readout", "features", "rules", "smooth", "learn_weights"):
        if getattr(config, name) not in (None, False):
            raise InputError(f"`{name}`: of unrolled networks; `kind` {config.kind} has none")


def read_reading(description: dict[str, Any]) -> Reading:
    """What a network's file says of it. KeyError, TypeError or ValueError if it makes no sense."""
    if "reading" not in description:
        return AT_THE_PIXELS
    said = dict(description["reading"])
    strides, weights = tuple(said.pop("strides")), tuple(said.pop("stride_weights"))
    if not all(isinstance(stride, int) and stride > 0 for stride in strides):
        raise ValueError("strides: expected whole numbers")
    return Reading(strides=strides, stride_weights=weights, **said)


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
