"""A fresh notebook with the standard sections, wired to a run: what `rockstudy new` writes."""

import re
from pathlib import Path

import nbformat

from rockstudy.errors import StudyError

SECTIONS = (
    *("Question", "Parameters", "Setup", "Definitions", "Measure", "Checks", "Results"),
    *("Paper against measured", "Caveats", "Provenance"),
)

# Cells are separated by lines of "%%" with their kind; <NAME>, <TITLE>, <PRESET>, <RUN> are filled.
TEMPLATE = r"""
%% text
# <TITLE>

## Question

What is asked here, in one sentence that a number can answer.

- **Regenerates**: no figure of the paper; a question of our own.
- **Inputs**: the evaluation problems of the preset.
- **Cost**: seconds.
%% text
## Parameters

A run records its values at its first use; `run_id` alone opens it again. For a new run, `overrides`
takes fields such as `{"evaluation__n_prompts": 50}`, and `from_run` a run that it takes over from.
%% parameters
run_id = "<RUN>"
preset = <PRESET>
seed = None
overrides = {}
from_run = None
%% text
## Setup

Every parameter is checked here, before anything is computed.
%% code
import pandas as pd

from rockstudy import tasks
from rockstudy.claims import records
from rockstudy.runs import open_run

run = open_run(preset, run_id, seed, overrides, from_run)
problems = tasks.load(run.config.benchmarks[0], "eval")
%% text
## Definitions

$\bar{n} = \frac{1}{U} \sum_{u=1}^{U} n_u$, the mean of `n_words` over the $U$ prompts.
%% text
## Measure

One cached call: computed once for these prompts, then read from the run. The data are handed in.
%% code
prompts = [[problem.family, problem.prompt] for problem in problems]
words = run.table(
    lambda rows: pd.DataFrame([{"family": f, "n_words": len(p.split())} for f, p in rows]),
    prompts,
    name="words",
)
%% text
## Checks
%% code
assert len(words) == len(problems)
assert (words.n_words > 0).all()
%% text
## Results

Expected before looking: a few dozen words, much the same in every family. Measured:
%% code
words.groupby("family").n_words.agg(["count", "mean"]).round(1)
%% text
## Paper against measured

A row for each statement of the paper that this notebook tests; here, none yet.
%% code
rows = []
records.claims(run, "<NAME>", rows)[["claim", "paper", "value", "verdict"]]
%% text
## Caveats

- What the number does not say.
%% text
## Provenance
%% code
run.provenance()
"""


def notebook(name: str, *, preset: str | None, run_id: str) -> nbformat.NotebookNode:
    """Return a notebook with the standard sections that runs as it is and passes the style test."""
    title = re.sub(r"^\d+_", "", name).replace("_", " ").replace("-", " ").strip().capitalize()
    text = TEMPLATE
    for mark, value in {
        "NAME": name,
        "TITLE": title,
        "PRESET": repr(preset),
        "RUN": run_id,
    }.items():
        text = text.replace(f"<{mark}>", value)
    cells = []
    for number, part in enumerate(text.split("\n%% ")[1:]):
        kind, _, source = part.partition("\n")
        make = nbformat.v4.new_markdown_cell if kind == "text" else nbformat.v4.new_code_cell
        tags = {"tags": ["parameters"]} if kind == "parameters" else {}
        cells.append(make(source.strip(), id=f"cell-{number:02d}", metadata=tags))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def write(name: str, folder: Path, *, preset: str | None, run_id: str) -> Path:
    """Write a fresh notebook and return its path.

    Raises
    ------
    StudyError
        A name that is not letters, digits, ``_`` and ``-``, or one that is taken.
    """
    stem = name.removesuffix(".ipynb")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", stem):
        raise StudyError(f"NAME: must be letters, digits, _ and -, at most 80; got {name!r}")
    path = folder / f"{stem}.ipynb"
    if not folder.is_dir():
        raise StudyError(f"--to: must be a folder; got {str(folder)!r}")
    if path.exists():
        raise StudyError(f"NAME: must not be taken; got {name!r}, and {path} exists")
    nbformat.write(notebook(stem, preset=preset, run_id=run_id), path)
    return path
