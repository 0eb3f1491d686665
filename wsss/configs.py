"""Where the YAML files that ship with the toolkit lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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


def read_yaml(path: Path, such_as: str) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises InputError naming the file, and the keys that it might have (`such_as`) if it has none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        kind = {list: "a list", str: "text", type(None): "nothing"}.get(type(content), f"a {type(content).__name__}")
        raise InputError(f"{path}: expected keys such as {such_as}, got {kind}")
    return content
