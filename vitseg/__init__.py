"""Relevance through vision transformers: explanations, and seeds made of them."""

from vitseg.explain import Explanation, explain

__all__ = ["Explanation", "explain"]
