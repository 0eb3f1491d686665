"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights; tests that want it skip where it is absent."""
    path = Path(os.environ.get("RELSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path}: set RELSEG_SHARED to run this test")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Contents of files are remembered in a folder of the tests, not in the user's."""
    os.environ["RELSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
