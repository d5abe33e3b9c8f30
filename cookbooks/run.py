"""Executes the cookbooks, each in a folder of its own, and leaves the kept outputs alone unless told otherwise.

python -m cookbooks.run              # all of them; fails at the first cell that fails
python -m cookbooks.run 02 06        # those whose names begin so
python -m cookbooks.run --update     # and keep the new outputs
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
CELL_SECONDS = 600
# A cookbook that wanted the internet would fail here, and not on the machine of the one reader who has none.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm misses widgets for its progress bars,
    "TQDM_DISABLE": "1",  # which would be kept frame by frame
}


def cookbooks() -> list[Path]:
    """The notebooks that are executed, in the order of their numbers."""
    return sorted(HERE.glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode, folder: Path, environment: Mapping[str, str] = os.environ) -> NotebookNode:
    """The notebook with fresh outputs, its kernel started in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(("ICCACHE_", "OPENAI_"))}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        startup_timeout=CELL_SECONDS,
        coalesce_streams=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=kept | ENVIRONMENT)
    return tidied(notebook)


def tidied(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from run to run and says nothing: times, the kernel's version, addresses in memory."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = re.sub(r" at 0x[0-9a-f]+", "", output.text)
    return notebook


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names; all if left out")
    parser.add_argument("--update", action="store_true", help="keep the new outputs")
    given = parser.parse_args()
    chosen = [path for path in cookbooks() if path.name.startswith(tuple(given.names or [""]))]
    if not chosen:
        sys.exit(f"no cookbook begins with {' or '.join(given.names)}")
    for path in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read(path), Path(folder))
        if given.update:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
