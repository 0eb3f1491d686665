"""Methods that weigh the maps of a layer: CAM, GradCAM, LayerCAM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnseg.methods.registry import Question, register
from cnnseg.methods.running import Run, passes
from cnnseg.unroll.mixing import AveragePool, Linearly
from cnnseg.unroll.trace import Trace, trace
from cnnseg.unroll.weighted import Linear
from cnnseg.unroll.weightless import Drop, Reshape
from wsss.errors import InputError
from wsss.explanation import class_vectors


def pooled_head(traced: Trace) -> tuple[int, Linear]:
    """(place of the maps that are averaged, the fully connected layer that reads the averages) of a classifier.

    Raises:
        InputError: it does not end in a global average pooling and one fully connected layer.
    """
    steps = traced.steps
    head = steps[-1] if steps else None
    if head is not None and isinstance(head.layer, Linear) and head.layer.norm is None:
        place = head.inputs[0]
        while place:
            step = steps[place - 1]
            if isinstance(step.layer, AveragePool) and step.layer.is_global:
                return step.inputs[0], head.layer
            if isinstance(step.layer, Linearly) and _averages(step.layer):
                return step.inputs[0], head.layer
            if not isinstance(step.layer, Reshape | Drop):
                break
            place = step.inputs[0]
    raise InputError(
        "method cam: needs a CNN that ends in a global average pooling and one fully connected layer; gradcam and lrp "
        "work on others"
    )


def _averages(layer: Linearly) -> bool:
    """Whether a layer is ``mean`` over height and width."""
    function: Any = layer.call.function
    name = function.args[0] if hasattr(function, "func") else getattr(function, "__name__", "")
    rest = dict(layer.call.kwargs)
    dims = layer.call.args[1] if len(layer.call.args) > 1 else rest.get("dim", rest.get("axis"))
    return name == "mean" and isinstance(dims, list | tuple) and sorted(dim % 4 for dim in dims) == [2, 3]


@register("cam", "Zhou, Khosla, Lapedriza, Oliva and Torralba, CVPR 2016", signed=True, needs=pooled_head)
def cam(question: Question) -> tuple[Tensor, Tensor]:
    """Activations in front of the global average pooling, weighed by the class's row of the fully connected layer.

    Signed; the mean over the grid, plus the bias, is the class score.
    """
    traced = trace(question.model)
    place, linear = pooled_head(traced)
    run = Run(traced, question.images, place)
    vectors = class_vectors(question.chosen(run.logits), run.logits.shape[1], run.activation.dtype)
    weights = vectors @ linear.module.weight.detach()
    return torch.einsum("bdhw, bkd -> bkhw", run.activation.detach(), weights), run.logits


@register("gradcam", "Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, ICCV 2017", takes_layer=True)
def gradcam(question: Question) -> tuple[Tensor, Tensor]:
    """Activations of a layer (the last one with spatial maps), weighed by their mean gradients; the positive part."""
    run = passes(question.model).at_layer(question.images, question.layer)
    gradients = run.gradients(question.chosen(run.logits))
    maps = torch.einsum("bkd, bdhw -> bkhw", gradients.mean((3, 4)), run.activation.detach())
    return maps.clamp(min=0), run.logits


@register("layercam", "Jiang, Zhang, Hou, Cheng and Wei, IEEE TIP 2021", takes_layer=True)
def layercam(question: Question) -> tuple[Tensor, Tensor]:
    """Activations of a layer (the last one with spatial maps), each weighed by its own positive gradient."""
    run = passes(question.model).at_layer(question.images, question.layer)
    gradients = run.gradients(question.chosen(run.logits))
    maps = torch.einsum("bkdhw, bdhw -> bkhw", gradients.clamp(min=0), run.activation.detach())
    return maps.clamp(min=0), run.logits
