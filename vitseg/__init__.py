"""Relevance through vision transformers: explanations, and seeds made of them.

Its names are loaded when they are first asked for: the command line shows its help without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from vitseg.convert import to_timm
    from vitseg.explanation import explain
    from vitseg.photographs import explain_photograph
    from wsss.explanation import Explanation
    from wsss.overlay import overlay
    from wsss.sheet import sheet

__all__ = ["Explanation", "explain", "explain_photograph", "overlay", "sheet", "to_timm"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Explanation": "wsss.explanation",
        "explain": "vitseg.explanation",
        "explain_photograph": "vitseg.photographs",
        "overlay": "wsss.overlay",
        "sheet": "wsss.sheet",
        "to_timm": "vitseg.convert",
    },
)
