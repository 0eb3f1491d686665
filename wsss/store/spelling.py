"""What older versions called settings, read as today: in manifests, states of trainings, figures that are kept.

Files are left as they are, and so are their fingerprints; whoever compares their settings with those of today reads
them through this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsss.settings import FORMER_PRECISIONS


def respelt(settings: Any, formerly: Mapping[str, str] | None = None) -> Any:
    """Stored settings, nested or not, with the names and values of today.

    Args:
        settings: a mapping as it was read back; anything else is returned as it is.
        formerly: setting -> what it was called in these settings, at their first level.

    >>> respelt({"network": "unet", "training": {"precision": "bf16"}}, {"kind": "network"})
    {'kind': 'unet', 'training': {'precision': 'bfloat16'}}
    """
    if not isinstance(settings, Mapping):
        return settings
    today = {old: new for new, old in (formerly or {}).items() if new not in settings}
    found = {today.get(name, name): respelt(value) for name, value in settings.items()}
    precision = found.get("precision")
    if isinstance(precision, str):
        found["precision"] = FORMER_PRECISIONS.get(precision, precision)
    return found
