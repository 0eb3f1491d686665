"""Anybody's seeds to pseudo-masks: dense CRF, AffinityNet, random walk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsss.lazy import lazily

if TYPE_CHECKING:
    from affinity.walk import pair_affinity, random_walk

__all__ = ["pair_affinity", "random_walk"]

__getattr__, __dir__ = lazily(__name__, dict.fromkeys(__all__, "affinity.walk"))
