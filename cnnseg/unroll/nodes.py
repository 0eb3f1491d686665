"""What a node of a traced graph says of itself: its name, whether it works in place, and what stands around it."""

from __future__ import annotations

from torch import fx, nn

from cnnseg.unroll import spellings

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "setitem")
"""Operators that change what they are given; so do functions and methods whose names end in _."""


def before_softmax(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """The node whose output are class scores: what goes into a softmax or sigmoid at the end."""
    module = modules.get(node.target) if node.op == "call_module" else None
    ends = isinstance(module, spellings.END_MODULES) or (module is None and plain_name(node)[0] in spellings.ENDS)
    return before_softmax(node.args[0], modules) if ends and node.args else node


def plain_name(node: fx.Node) -> tuple[str, bool]:
    """Name of a function of PyTorch or of a method, without the mark of work in place; whether it works so."""
    if node.op not in ("call_function", "call_method"):
        return "", False
    name = label(node)
    if node.op == "call_function":
        origin = getattr(node.target, "__module__", None) or "torch"
        if origin.split(".")[0] not in ("torch", "_operator", "builtins", "timm"):
            return "", False  # somebody's own function of that name
    marked = name.endswith("_") and not name.startswith("_")
    flagged = node.kwargs.get("inplace") is True or True in node.args[1:2]
    return (name[:-1] if marked else name), marked or flagged or name in _IN_PLACE


def label(node: fx.Node) -> str:
    """Name of what a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def scope_of(node: fx.Node) -> str:
    """Name of the module whose code calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack)[-1] if stack else ""


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a layer changes its input, so that whoever reads that afterwards gets the layer's output."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    relu = label(node) in ("relu", "relu6") and True in node.args[1:2]
    return relu or bool(node.kwargs.get("inplace")) or label(node) in _IN_PLACE or label(node).endswith("_")


def stacked_branches(node: fx.Node) -> tuple[fx.Node, ...] | None:
    """The branches whose sum a node is, as ``torch.stack(branches).sum(0)``."""
    stack = node.args[0] if node.args else None
    if plain_name(node)[0] != "sum" or not isinstance(stack, fx.Node) or plain_name(stack)[0] != "stack":
        return None
    along = [(*one.args[1:], *one.kwargs.values()) for one in (stack, node)]
    return tuple(stack.args[0]) if along[0] in ((), (0,)) and along[1] == (0,) else None
