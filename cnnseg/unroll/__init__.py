"""LRP through a convolutional classifier, written out as a decoder with tied weights (seed paper, section 2)."""

from cnnseg.unroll.network import UnrolledNetwork, unroll

__all__ = ["UnrolledNetwork", "unroll"]
