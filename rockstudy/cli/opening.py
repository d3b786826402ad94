"""`rockstudy open`: a copy of a notebook in JupyterLab, wired to the reference or to a run.

The numbered notebooks stay as they are committed. A copy lies in ``my_notebooks/``, where it may be
changed freely, and is opened again as it is.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

import nbformat

from rockstudy import paths, runs
from rockstudy.cli import messages, parameters
from rockstudy.errors import StudyError
from rockstudy.notebooks import read

FOLDER = "my_notebooks"


def needs_jupyterlab() -> None:
    """Refuse to open anything where JupyterLab is not installed."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise StudyError(
            "jupyterlab: must be installed to open a notebook; `pip install jupyterlab` brings it, "
            "and `rockstudy view --reference lab` needs only a browser"
        )


def copied(notebook: Path, run_id: str) -> tuple[Path, bool]:
    """Return the copy of a notebook that opens a run, and whether it has just been made.

    `StudyError`: a file that is no notebook of ours, a copy that cannot be written.
    """
    parameters.parameters(notebook)  # which refuses a notebook without its one cell of them
    folder = paths.home() / FOLDER
    wired = "" if run_id == runs.REFERENCE else f"-{run_id}"
    copy = folder / f"{notebook.stem}{wired}.ipynb"
    if copy.exists():
        return copy, False
    made = read(notebook)
    for cell in made.cells:
        if "parameters" in cell.metadata.get("tags", []):
            line = f"run_id = {run_id!r}".replace("'", '"')
            cell.source = re.sub(r"^run_id = .*$", line, cell.source, count=1, flags=re.MULTILINE)
    try:
        folder.mkdir(exist_ok=True)
        nbformat.write(made, copy)
    except OSError as error:
        raise StudyError(f"{copy}: cannot be written, {error.strerror}") from None
    return copy, True


def in_jupyterlab(notebook: Path, browser: bool) -> None:
    """Replace this process by JupyterLab with a notebook open in it."""
    options = ["--log-level=WARN"] + ["--no-browser"] * (not browser)
    if getattr(os, "geteuid", lambda: 1)() == 0:
        options.append("--allow-root")  # a container's only user, which JupyterLab else refuses
    messages.release()
    sys.stdout.flush()
    place = quote(notebook.relative_to(paths.home()).as_posix())
    where = [f"--ServerApp.root_dir={paths.home()}", f"--LabApp.default_url=/lab/tree/{place}"]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *where, *options])
