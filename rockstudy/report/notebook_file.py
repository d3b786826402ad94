"""Reading a notebook's file."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rockstudy.errors import StudyError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def read(notebook: Path) -> "NotebookNode":
    """Return a notebook of format 4; `StudyError` where the file is not one."""
    import nbformat  # builds grammars for seconds, which most commands need not wait for

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbformat adds missing cell ids
            return nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises many kinds of errors
        reason, *_ = str(error).strip().splitlines() or [type(error).__name__]
        line = f"notebook: must be a Jupyter notebook; got {notebook}: {reason}"
        raise StudyError(line) from None
