"""Explanations of convolutional classifiers, LRP unrolled into a network that segments, and segmentation networks.

``adapt``, ``explain``, ``unroll``, ``load_network`` and ``segment`` are loaded when they are first asked for: the
command line shows its help without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from cnnseg.adapter import adapt
    from cnnseg.explanation import explain
    from cnnseg.regions.explaining import explain_segmentation
    from cnnseg.segmentation.api import load_network, segment
    from cnnseg.segmentation.segmenting import Segmentation
    from cnnseg.unroll.api import unroll
    from wsss.explanation import Explanation
    from wsss.overlay import overlay
    from wsss.sheet import sheet

__all__ = [
    "Explanation",
    "Segmentation",
    "adapt",
    "explain",
    "explain_segmentation",
    "load_network",
    "overlay",
    "segment",
    "sheet",
    "unroll",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "adapt": "cnnseg.adapter",
        "explain": "cnnseg.explanation",
        "explain_segmentation": "cnnseg.regions.explaining",
        "Explanation": "wsss.explanation",
        "load_network": "cnnseg.segmentation.api",
        "overlay": "wsss.overlay",
        "segment": "cnnseg.segmentation.api",
        "Segmentation": "cnnseg.segmentation.segmenting",
        "sheet": "wsss.sheet",
        "unroll": "cnnseg.unroll",  # may be called, see there
    },
)
