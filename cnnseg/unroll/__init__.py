"""LRP through a convolutional classifier, written out as a decoder with tied weights (Yu et al. 2024, section 2).

The package is its main function as well: ``cnnseg.unroll(model)`` is ``cnnseg.unroll.unroll(model)``.
"""

import sys
from types import ModuleType

from cnnseg.unroll.api import unroll
from cnnseg.unroll.network import UnrolledNetwork

__all__ = ["UnrolledNetwork", "unroll"]


class _Callable(ModuleType):
    """A module that can be called."""

    __call__ = staticmethod(unroll)


sys.modules[__name__].__class__ = _Callable
