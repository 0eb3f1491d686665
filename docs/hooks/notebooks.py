"""MkDocs hook: the notebooks (docs/notebooks/*.py, jupytext's percent format) are run, and become pages with outputs.

A cell that fails fails the build. Pictures go beside the page.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/notebooks"
SECONDS = 600
QUIET = ["--Application.log_level=ERROR"]
"""A kernel warns that what it says to this machine alone is not encrypted."""

SHOWN = ["image/png", "text/plain"]


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, and its pictures."""
    for path in sorted(FOLDER.glob("*.py")):
        body, pictures = page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=body))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """The executed notebook as Markdown, and its pictures by name. NOTEBOOKS=no leaves the outputs out, to be quick."""
    notebook = jupytext.read(path)
    if os.environ.get("NOTEBOOKS") != "no":
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        resources = {"metadata": {"path": str(FOLDER)}}
        NotebookClient(
            notebook, timeout=SECONDS, startup_timeout=SECONDS, extra_arguments=QUIET, resources=resources
        ).execute()
    _tidy(notebook)
    exporter = MarkdownExporter(config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}))
    body, resources = exporter.from_notebook_node(notebook, {"unique_key": path.stem, "output_files_dir": "."})
    pictures = {Path(name).name: content for name, content in resources["outputs"].items()}
    return body.replace("](./", "]("), pictures


def _tidy(notebook: NotebookNode) -> None:
    """Warnings of libraries and the colours of a terminal are no part of a page."""
    for cell in notebook.cells:
        outputs = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        for one in outputs:
            if "text" in one:
                one["text"] = strip_ansi(one["text"])
        if "outputs" in cell:
            cell["outputs"] = outputs
