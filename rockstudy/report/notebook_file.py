"""Reading a notebook's file."""

import warnings
from pathlib import Path

import nbformat

from rockstudy.errors import StudyError


def read(notebook: Path) -> nbformat.NotebookNode:
    """Return a notebook of format 4; `StudyError` where the file is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbformat adds missing cell ids
            return nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises many kinds of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(
            f"notebook: must be a Jupyter notebook; got {notebook}: {reason}"
        ) from None
