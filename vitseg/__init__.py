"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.convert import to_timm
from vitseg.explain import explain
from wsss.explanation import Explanation

__all__ = ["Explanation", "explain", "to_timm"]
