"""Where the YAML files that ship with the toolkit lie."""

from __future__ import annotations

from pathlib import Path

from wsss.errors import InputError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """The folder ``configs/``: beside the package in a checkout, inside it when installed from a wheel."""
    checkout = _PACKAGE.parent / "configs"
    return checkout if (checkout / "data").is_dir() else _PACKAGE / "configs"


def find_config(name: str | Path, folder: str = "") -> Path:
    """The YAML file of that path, or of that name below ``configs/<folder>`` (suffix optional).

    Raises InputError naming the nearest known configuration.
    """
    path = Path(name)
    if path.is_file():
        return path
    base = config_root() / folder
    for candidate in (base / path, base / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    known = [str(file.relative_to(base).with_suffix("")) for file in base.rglob("*.yaml")]
    raise InputError(f"configuration {name}: no such file; {did_you_mean(str(name), known)}")
