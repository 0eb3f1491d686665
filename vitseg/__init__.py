"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.explain import explain
from wsss.explanation import Explanation

__all__ = ["Explanation", "explain"]
