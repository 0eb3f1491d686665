"""How a classifier's code is followed down to its layers, with `torch.fx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import BatchNormAct2d, GroupNormAct
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn

from cnnseg.unroll import spellings
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
        if isinstance(module, BatchNormAct2d) or (kind.__name__ in self.LEAVES and is_published(kind)):
            return True  # somebody's own class of such a name is followed like any code
        if kind.__name__ in spellings.FEATURE_NORMS and isinstance(module, nn.LayerNorm | nn.GroupNorm):
            return True
        if kind.__name__ in spellings.EINOPS and kind.__module__.startswith("einops."):
            return True
        return (
            isinstance(module, nn.Module)
            and spellings.kind_of(module).__module__.startswith("torch.nn")
            and (not isinstance(module, nn.Sequential))
        )

    def call_module(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if isinstance(module, BatchNormAct2d | GroupNormAct):
            normed = super().call_module(module, forward, args, kwargs)
            return module.act(module.drop(normed))
        if isinstance(module, ConvMlp):
            x = at_least(args[0], module.fc1.kernel_size)
            return module.act2(module.fc2(module.drop(module.act1(module.fc1(x)))))
        # not through the module's own call: somebody's hooks on it would be given names instead of tensors
        return super().call_module(module, module.forward, args, kwargs)
