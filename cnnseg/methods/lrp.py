"""LRP with the rules of a composite: the decoder of the unrolled network, for the classes that are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnseg.methods.registry import Question, register
from cnnseg.unroll.layers import Options
from cnnseg.unroll.network import UnrolledNetwork
from cnnseg.unroll.places import INPUT
from wsss.explanation import class_vectors


@register(
    "lrp",
    "Bach, Binder, Montavon, Klauschen, Müller and Samek, PLoS ONE 2015; the composites of Montavon et al., LNCS 2019",
    takes_rules=True,
    takes_layer=True,
    signed=True,
)
@torch.no_grad()
def lrp(question: Question) -> tuple[Tensor, Tensor]:
    """Relevance of the pixels, or of a layer's output, channels summed; it starts as the class score and is handed on
    by the rules."""
    network = UnrolledNetwork(question.model, Options(), question.composite)
    encoded = network.encode(question.images, len(question.images), (question.layer or INPUT,))
    targets = question.chosen(encoded.logits)
    vectors = class_vectors(targets, encoded.logits.shape[1], question.images.dtype)
    return network.decode(encoded, vectors)[0], encoded.logits
