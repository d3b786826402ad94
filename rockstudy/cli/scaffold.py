"""Notebooks for `rockstudy new`: the form of the committed ones, connected to a run."""

import os
import re
from pathlib import Path

import nbformat

from rockstudy.errors import StudyError

# "%%" and a kind start a cell; <NAME>, <TITLE>, <PRESET> and <RUN> are replaced
TEMPLATE = r"""
%% text
# <TITLE>

Begin with something to look at: a text, a picture, one token. Below is the first problem.

`run_id` alone opens a run later, which has recorded its values at its first use. For a new run,
`overrides` sets fields such as `{"evaluation__n_prompts": 50}`, and `from_run` names an earlier run
whose artefacts it takes over.
%% parameters
run_id = "<RUN>"
preset = <PRESET>
seed = None
overrides = {}
from_run = None
%% code
import pandas as pd

from rockstudy import tasks
from rockstudy.claims import records
from rockstudy.display import prose
from rockstudy.report import listing
from rockstudy.runs import open_run

run = open_run(preset, run_id, seed, overrides, from_run)
problems = tasks.load(run.config.benchmarks[0], "eval")
%% code
display(prose(problems[0].text))
%% text
## Question

Your question, in one sentence that a number can answer.

- **Regenerates**: no figure of the paper; a new question.
- **Inputs**: the evaluation problems of the preset.
- **Cost**: seconds.

Define a term where it is first needed: $\bar{n} = \frac{1}{U} \sum_{u=1}^{U} n_u$ is the mean of
`n_words` over the $U$ prompts.
%% code
# one cached call: the run computes the table once for these prompts and then reads it
prompts = [[problem.family, problem.text] for problem in problems]
words = run.table(
    lambda rows: pd.DataFrame([{"family": f, "n_words": len(p.split())} for f, p in rows]),
    prompts,
    name="words",
)
assert len(words) == len(problems) and (words.n_words > 0).all()
%% text
## What the heading asks

Expected before looking: a few dozen words, about the same in every family. A figure comes from the
`figures` module of a room, and below it stands what it shows, computed:
`display(figures.of_this(words))`, then `display(prose(readings.of_this(words)))`.
%% code
by_family = words.groupby("family").n_words.mean()
longest, n = by_family.idxmax(), len(words)
told = f"The longest problems are those of {longest}: {by_family.max():.0f} words on average."
display(prose(told, f"Over all {n} problems it is {words.n_words.mean():.0f}."))
%% text
## Paper against measured

One row for each finding of the paper that this notebook tests; none yet.
%% code
rows = []
listing.tables(records.claims(run, "<NAME>", rows))
%% text
## Your turn

- Something to change in `overrides`, and what it costs.
- Something to change in the parameters, and what it costs.
- A question that is left open.

## Caveats

- What the number cannot tell.

Links to the notebooks before and after.

## Provenance
%% code
run.provenance()
"""


def _notebook(name: str, preset: str | None, run_id: str) -> nbformat.NotebookNode:
    title = re.sub(r"^\d+_", "", name).replace("_", " ").replace("-", " ").strip().capitalize()
    marks = {"NAME": name, "TITLE": title, "PRESET": repr(preset), "RUN": run_id}
    text = TEMPLATE
    for mark, value in marks.items():
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
    """Write a new notebook and return its path.

    `StudyError`: a name with characters other than letters, digits, ``_`` and ``-``, or one that is
    taken.
    """
    stem = name.removesuffix(".ipynb")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", stem):
        raise StudyError(f"NAME: must be letters, digits, _ and -, at most 80; got {name!r}")
    path = folder / f"{stem}.ipynb"
    if not os.path.isdir(folder):
        raise StudyError(f"--to: must be a folder; got {str(folder)!r}")
    if path.exists():
        raise StudyError(f"NAME: must not be taken; got {name!r}, and {path} exists")
    try:
        nbformat.write(_notebook(stem, preset, run_id), path)
    except OSError as error:
        reason = f"got {str(folder)!r} ({error.strerror})"
        raise StudyError(f"--to: must be a folder that can be written to; {reason}") from None
    return path
