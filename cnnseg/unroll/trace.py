"""From a classifier to the list of its layers: what each computes, which rule it has, and which layers feed it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from cnnseg.unroll.reading import Reading
from cnnseg.unroll.steps import Step, Trace
from cnnseg.unroll.tracer import Tracer
from wsss.errors import InputError
from wsss.explanation import evaluating

__all__ = ["Step", "Trace", "trace"]

_TRACES: WeakKeyDictionary[nn.Module, tuple[object, Trace]] = WeakKeyDictionary()


def trace(model: nn.Module) -> Trace:
    """The layers of a classifier; the same as long as the model consists of the same modules.

    A batch norm that alone follows a convolution or a fully connected layer is one step with it. Whatever reads a
    tensor after a layer changed it in place takes that layer's output. Layers that the class scores do not hang on are
    left out, and so is a softmax or sigmoid at the end: class scores are what goes into it.

    Raises:
        InputError: the model's code cannot be traced.
    """
    built_of = tuple((id(module), id(vars(module).get("forward"))) for module in model.modules())
    known = _TRACES.get(model)
    if known is None or known[0] != built_of:
        known = built_of, _trace(model)
        if not any(step.layer.function is getattr and step.layer.args[0] is model for step in known[1].calls):
            _TRACES[model] = known  # a trace that holds the model itself would keep it alive
    return known[1]


def _trace(model: nn.Module) -> Trace:
    kind = type(model).__name__
    tracer = Tracer()
    try:
        with evaluating(model):
            graph = tracer.trace(model)
    except Exception as error:  # whatever the model's own code raises when it is given a stand-in for images
        reason = str(error).split("\n")[0]
        raise InputError(f"{kind} cannot be unrolled: its forward function depends on values ({reason})") from None
    return Reading(model, graph).read()
