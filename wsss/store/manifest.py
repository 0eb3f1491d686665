"""The manifest of a stage: how it is read and compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss.errors import InputError
from wsss.store.atomic import read_json

MANIFEST = "manifest.json"

IDENTITY = ("kind", "config", "class_names", "inputs")
"""What all results of a stage depend on."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a stage folder. InputError if it is no manifest of this toolkit."""
    manifest = read_json(folder / MANIFEST)
    missing = [key for key in (*IDENTITY, "suffix", "history") if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise InputError(f"{folder / MANIFEST}: not a manifest of this toolkit ({', '.join(missing)} missing)")
    return {"protocol": 1, "sources": {}, **manifest}  # as of versions that did not say


def relative_sources(folder: Path, sources: Mapping[str, Path]) -> dict[str, str]:
    """Paths for a manifest: within the folder of runs they are relative, so that it can be moved."""
    runs = folder.resolve().parent.parent
    found = {}
    for name, path in sources.items():
        whole = Path(path).resolve()
        found[name] = os.path.relpath(whole, folder.resolve()) if whole.is_relative_to(runs) else str(whole)
    return found


def check_same(folder: Path, key: str, old: Any, new: Any, otherwise: str) -> None:
    """InputError with the first key, however deep, at which two manifests differ."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            check_same(folder, f"{key}.{name}", old.get(name), new.get(name), otherwise)
    change = f"{key} was {old!r}, is {new!r} now"
    raise InputError(f"{folder}: made with other settings: {change}; {otherwise}")
