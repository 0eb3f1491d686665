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
    stride_weights: tuple[float, ...]
    learn_weights: bool
    readout: str
    features: str
    rules: str | None = None

    @property
    def has_pixels(self) -> bool:
        """Whether the image is among the places that are read."""
        return 1 in self.strides

    def ends(self, model: nn.Module) -> dict[str, float]:
        """Layer and weight of each stride, for `cnnseg.unroll`. InputError if a stride has no layer of its own."""
        from cnnseg.methods.running import layers_at_strides
        from cnnseg.unroll.places import INPUT

        layers = layers_at_strides(model, [stride for stride in self.strides if stride > 1])
        found: dict[str, float] = {}
        for stride, weight in zip(self.strides, self.stride_weights, strict=True):
            name = INPUT if stride == 1 else layers[stride]
            if name is None or name in found:
                what = "no layer" if name is None else f"{name} again"
                raise InputError(f"--strides {_words(self.strides)}: {what} at stride {stride} of this network")
            found[name] = weight
        return found

    def options(self, model: nn.Module) -> dict[str, Any]:
        """Arguments of `cnnseg.unroll`."""
        return {
            "ends": self.ends(model),
            "learn_weights": self.learn_weights,
            "readout": self.readout,
            "features": self.features,
            "rules": self.rules,
        }

    def described(self) -> dict[str, Any]:
        """What files and manifests say of it; nothing where it is as it was before there was a choice."""
        return {} if self == AT_THE_PIXELS else {"reading": asdict(self)}


AT_THE_PIXELS = Reading(PIXELS, (1.0,), False, "sum", "constant")
"""The paper's: relevance of pixels, as it is."""


def find_reading(config: NetworkConfig) -> Reading:
    """What a config says of an unrolled network, its gaps filled by what is usual for its kind.

    Raises:
        InputError: weights that do not go with the strides, or strides twice.
    """
    strides = config.strides or READ_AT.get(config.network, PIXELS)
    usual = (1.0, *[0.5] * (len(strides) - 1))
    weights = usual if config.stride_weights is None else tuple(config.stride_weights)
    if len(set(strides)) < len(strides):
        raise InputError(f"--strides {_words(strides)}: each once")
    if len(weights) != len(strides):
        raise InputError(f"--stride-weights {_words(weights)}: expected one for each of --strides {_words(strides)}")
    pixels = strides == PIXELS
    return Reading(
        strides,
        weights,
        config.learn_weights,
        config.readout or ("sum" if pixels else "asinh"),
        config.features or ("constant" if pixels else "trained"),
        config.rules,
    )


def read_reading(description: dict[str, Any]) -> Reading:
    """What a network's file says of it. KeyError, TypeError or ValueError if it makes no sense."""
    if "reading" not in description:
        return AT_THE_PIXELS
    said = dict(description["reading"])
    strides, weights = tuple(said.pop("strides")), tuple(said.pop("stride_weights"))
    if not all(isinstance(stride, int) and stride > 0 for stride in strides):
        raise ValueError("strides are whole numbers")
    return Reading(strides, weights, **said)


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
