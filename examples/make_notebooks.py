"""Make the notebooks of the scripts beside this file: `python examples/make_notebooks.py [--run] [NAME ...]`.

Scripts are in the percent format, which jupytext reads. With `--run` the notebooks are executed and keep what they
print and show; without it, cells that did not change keep the outputs that they have. What to install:
`pip install -e ".[notebooks]"`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).parent
LESSONS = ("train", "compare", "own_fusion", "tag_folder", "caption_and_retrain")
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def from_script(name: str) -> Any:
    """The notebook of a script, without outputs; the same script gives the same notebook."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
    return notebook


def keep_outputs(notebook: Any, before: Any) -> None:
    """Copy the outputs of the notebook as it was into cells that did not change."""
    for cell, old in zip(notebook.cells, before.cells, strict=False):
        if cell.cell_type == old.cell_type == "code" and cell.source == old.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count


def run(notebook: Any) -> None:
    """Execute a notebook in an empty folder; what it says on the standard error, which names folders, is dropped."""
    from nbclient import NotebookClient

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.absolute()), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    tidy(notebook)


def tidy(notebook: Any) -> None:
    """Drop the standard error and progress bars, and join what was printed in parts."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = nbformat.from_dict({})
            kept: list[Any] = []
            for output in cell.outputs:
                picture = any(kind.startswith("image/") for kind in output.get("data", {}))
                if output.get("name") == "stderr" or (output.output_type == "display_data" and not picture):
                    continue
                if output.get("name") == "stdout" and kept and kept[-1].get("name") == "stdout":
                    kept[-1].text += output.text
                else:
                    kept.append(output)
            cell.outputs = kept


def main() -> None:
    """Write the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LESSONS)}; without, all of them")
    parser.add_argument("--run", action="store_true", help="execute them")
    given = parser.parse_args()
    for name in given.names or LESSONS:
        path = FOLDER / f"{name}.ipynb"
        notebook = from_script(name)
        if given.run:
            run(notebook)
        elif path.exists():
            keep_outputs(notebook, nbformat.read(path, as_version=4))
            tidy(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
