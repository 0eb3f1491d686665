"""Relevance through vision transformers: explanations, and seeds made of them.

Its names are loaded when they are first asked for: the command line shows its help without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from vitseg.convert import to_timm
    from vitseg.explanation import explain
    from wsss.explanation import Explanation
    from wsss.overlay import overlay

__all__ = ["Explanation", "explain", "overlay", "to_timm"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Explanation": "wsss.explanation",
        "explain": "vitseg.explanation",
        "overlay": "wsss.overlay",
        "to_timm": "vitseg.convert",
    },
)
