"""Explanation methods of CNNs by name: a classifier, images and targets in, a map for each target out."""

from cnnseg.methods import activations, gradients, lrp  # noqa: F401 (they register their methods)
from cnnseg.methods.registry import METHODS, Method, Question, find_method, register
from cnnseg.methods.running import passes

__all__ = ["METHODS", "Method", "Question", "find_method", "passes", "register"]
