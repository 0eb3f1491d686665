"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.convert import to_timm
from vitseg.explain import explain
from wsss.explanation import Explanation
from wsss.overlay import overlay
from wsss.sheet import sheet

__all__ = ["Explanation", "explain", "overlay", "sheet", "to_timm"]
