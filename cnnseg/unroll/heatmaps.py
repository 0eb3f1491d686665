"""An unrolled network's heat-maps as a function of the image and of the features that they are read at."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from cnnseg.unroll.network import UnrolledNetwork
from cnnseg.unroll.region import OverRegion, RegionMean
from cnnseg.unroll.steps import Step, Trace

_NO_LRP = (
    "the maps of an unrolled network are relevance already, and LRP does not go through LRP; input_x_gradient, "
    "integrated_gradients, gradcam and layercam work"
)


class HeatMaps(Layer):
    """Inputs: the image, then the features at each end below it. Relevance there is features times p, and p a constant.

    In a network whose activations are ReLUs, with LRP-0, p does not change with the image but where a gate opens, so
    that this is its heat-maps' own gradient; with other rules it is that with the rules' denominators held constant.
    """

    def __init__(self, network: UnrolledNetwork) -> None:
        self.network = network

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        images, *features = inputs
        network = copy.copy(self.network)  # shares everything, and is told otherwise
        network.features, network.classes_at_once = "trained", None
        with torch.no_grad():
            encoded = network.encode(images, len(images), network.ends)
        there = dict(zip(filter(None, network.places), features, strict=True))
        encoded = replace(encoded, images=images, kept={**encoded.kept, **there})
        relevance = network.decode(encoded, range(encoded.logits.shape[1]))
        return network.readout(relevance, images.shape[-2:]), Record(shapes_of(inputs))


def trace_heatmaps(network: UnrolledNetwork, pool: RegionMean) -> Trace:
    """The layers of the scores that `pool` makes of a network's heat-maps: those up to the last end, then these two."""
    deepest = max(network.places)
    maps = Step("heat-maps", HeatMaps(network), (0, *filter(None, network.places)), fault=_NO_LRP)
    scores = Step("pool", OverRegion(pool), (deepest + 1,))
    return Trace((*network.steps[:deepest], maps, scores), (*network.traced.carries[:deepest], True, True))
