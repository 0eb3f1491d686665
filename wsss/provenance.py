"""What results say of where they come from: the command, the versions of its libraries, the commit."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path


def command_line(program: str) -> str:
    """The command as it was typed, for manifests and reports."""
    return shlex.join([program, *sys.argv[1:]])


@cache
def versions() -> dict[str, str]:
    """Versions of Python, this toolkit, NumPy, and PyTorch if it is loaded."""
    found = {"python": sys.version.split()[0]}
    for package in ("relseg", "numpy", *(("torch",) if "torch" in sys.modules else ())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


@cache
def commit() -> str | None:
    """The commit of the checkout this package runs from ("-dirty" if changed), None outside a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # installed: a repository further up is somebody else's
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
