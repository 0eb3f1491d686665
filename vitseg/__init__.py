"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.explain import explain
from wsss.explanation import Explanation
from wsss.overlay import overlay

__all__ = ["Explanation", "explain", "overlay"]
