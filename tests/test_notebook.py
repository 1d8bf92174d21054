"""docs/tour.ipynb, run as on a hosted notebook: from recordings to a transcript."""

import ast
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"


def test_the_tour_ends_with_what_was_said(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # finds ds2
    notebook = nbformat.read(TOUR, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # nobody's machine is in the file
    resources = {"metadata": {"path": str(TOUR.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    texts = ast.literal_eval(notebook.cells[-1].outputs[-1]["data"]["text/plain"])
    assert len(texts) > 5
    assert "enter" in " ".join(texts)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "WER" in printed
    assert "utterances" in printed
