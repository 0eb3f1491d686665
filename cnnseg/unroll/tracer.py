"""How a classifier's code is followed down to its layers, with `torch.fx`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from timm.layers import BatchNormAct2d, GroupNormAct
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn

from cnnseg.unroll.kinds import EINOPS, FEATURE_NORMS, REGISTERED, kind_of
from cnnseg.unroll.region import RegionMean
from wsss.genuine import is_published


@fx.wrap
def at_least(x: Tensor, size: tuple[int, int]) -> Tensor:
    """What timm's VGG does before its first fully connected layer, as one step of the trace."""
    raise NotImplementedError("a name in a trace; its rule is an average pool")


class Tracer(fx.Tracer):
    """Stops at the modules of torch.nn, and takes apart those of timm whose code cannot be followed."""

    LEAVES = ("Conv2dSame", "DropPath", "StochasticDepth", "Normalize")

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        kind = type(module)
        if kind in REGISTERED:
            return True
        if isinstance(module, BatchNormAct2d | RegionMean) or (kind.__name__ in self.LEAVES and is_published(kind)):
            return True  # somebody's own class of such a name is followed like any code
        if kind.__name__ in FEATURE_NORMS and isinstance(module, nn.LayerNorm | nn.GroupNorm):
            return True
        if kind.__name__ in EINOPS and kind.__module__.startswith("einops."):
            return True
        return (
            isinstance(module, nn.Module)
            and kind_of(module).__module__.startswith("torch.nn")
            and (not isinstance(module, nn.Sequential))
        )

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Whether maps have channels: they do."""
        node = obj.node
        if node.target in (operator.eq, operator.ne, operator.gt) and node.args[1:] == (0,) and _channels(node.args[0]):
            return node.target is not operator.eq
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Height and width, of ``x.shape[2:]``, which a loop runs over."""
        node = obj.node
        if node.target is operator.getitem and _is_shape(node.args[0]) and node.args[1] in (_SIDES, _LAST_SIDES):
            return iter((obj[0], obj[1]))
        return super().iter(obj)

    def call_module(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if isinstance(module, BatchNormAct2d | GroupNormAct):
            normed = super().call_module(module, forward, args, kwargs)
            return module.act(module.drop(normed))
        if isinstance(module, ConvMlp):
            x = at_least(args[0], module.fc1.kernel_size)
            return module.act2(module.fc2(module.drop(module.act1(module.fc1(x)))))
        with _unchecked(module):
            # not through the module's own call: somebody's hooks on it would be given names instead of tensors
            return super().call_module(module, module.forward, args, kwargs)


_SIDES, _LAST_SIDES = slice(2, None), slice(-2, None)


def _is_shape(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is getattr and node.args[1] == "shape"


def _channels(node: Any) -> bool:
    """Whether a node is the number of channels."""
    if not isinstance(node, fx.Node):
        return False
    if node.target is operator.getitem:
        return _is_shape(node.args[0]) and node.args[1] == 1
    return node.op == "call_method" and node.target == "size" and node.args[1:] == (1,)


@contextmanager
def _unchecked(module: nn.Module) -> Iterator[None]:
    """A network of segmentation-models-pytorch without its check of the images' size, which depends on values."""
    if not hasattr(type(module), "check_input_shape"):
        yield
        return
    module.check_input_shape = lambda images: None
    try:
        yield
    finally:
        del module.check_input_shape
