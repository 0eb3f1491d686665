"""Anybody's seeds to pseudo-masks: dense CRF, AffinityNet, random walk."""

from affinity.walk import pair_affinity, random_walk

__all__ = ["pair_affinity", "random_walk"]
