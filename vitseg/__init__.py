"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.convert import to_timm
from vitseg.explanation import explain
from vitseg.photographs import explain_photograph
from wsss.explanation import Explanation
from wsss.overlay import overlay

__all__ = ["Explanation", "explain", "explain_photograph", "overlay", "to_timm"]
