"""Execute the notebooks of this folder, each in an empty folder: `make notebooks`.

`python docs/notebooks/execute.py --write` also stores the outputs in the notebooks. Names of notebooks, such
as `network`, select some of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
SECONDS_PER_CELL = 600


def execute(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of its cells, executed in a new folder that is deleted.

    Args:
        path: The notebook.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", resources=resources
        ).execute()
        _clean(notebook, folder)
    return notebook


def _clean(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Remove times, warnings of the kernel, copies of pictures, and the folder's name from the outputs."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = [each for each in cell.get("outputs", []) if each.get("name") != "stderr"]
        joined: list[nbformat.NotebookNode] = []
        for output in outputs:
            data = output.get("data", {})
            if "image/png" in data:
                data.pop("image/jpeg", None)
            for texts in (output, data):
                for kind in ("text", "text/plain", "text/html"):
                    if kind in texts:
                        texts[kind] = texts[kind].replace(f"{folder}/", "")
            if joined and output.get("name") == "stdout" == joined[-1].get("name"):
                joined[-1]["text"] += output["text"]
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell["outputs"] = joined


def main() -> int:
    """Execute the notebooks and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Notebooks to execute, without .ipynb. Default: all.")
    parser.add_argument("--write", action="store_true", help="Store the outputs in the notebooks.")
    given = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in given.names] or sorted(FOLDER.glob("*.ipynb"))
    failed = 0
    for path in paths:
        began = time.monotonic()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
            continue
        if given.write:
            nbformat.write(notebook, path)
        print(f"{path.name}: executed in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
