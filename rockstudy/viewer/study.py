"""The viewer of a run or of a reference: read from its tables, with the likeliest tokens stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rockstudy import paths, runs, tasks
from rockstudy.errors import StudyError
from rockstudy.exports.tables import corpus_of, detection_of, display_name, from_notebook, reading
from rockstudy.models import loading
from rockstudy.rocks import likeliest
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.likeliest import SHOWN
from rockstudy.runs import NotStored, Run
from rockstudy.sampling.rollout import Rollouts
from rockstudy.selective.rock_weights import RockWeights
from rockstudy.viewer import page
from rockstudy.viewer.page import Viewer
from rockstudy.viewer.payload import Shown, payload

FREEZE = "Rock-Freeze"


def view(run: Run, n: int = SHOWN) -> Viewer:
    """Return the viewer of `n` rollouts of a run, chosen by `likeliest.chosen`.

    Their likeliest tokens are computed where they are not stored and the run has its checkpoints.

    `StudyError`: notebook 02 has not been run; likeliest tokens that are not stored, where there is
    no model to compute them with.
    """
    if n < 1:
        raise StudyError(f"--rollouts: must be a whole number >= 1; got {n}")
    with from_notebook(run, "02"):
        stored = reading(run)
        (rollouts, tokens), found = corpus_of(stored), detection_of(stored)
    threshold = None
    if run.config.rocks.loss != "rkl":  # windows go by the reverse KL whatever the rocks go by
        threshold = float(np.quantile(tokens.rkl_post, found.settings.tau_post))
    weights = {FREEZE: freeze(rollouts, tokens.rkl_post.to_numpy(), found, threshold)}
    shown = Shown(rollouts, tokens, found, _likeliest(run, n), weights, _prompts(run))
    about = {
        "written by": "the student after distillation",
        "teacher": display_name(run.config.pair.teacher),
        "student": display_name(run.config.pair.student),
    }
    own = run.path != run.reference
    title = f"Token viewer: {run.id if own else f'the reference of {run.config.preset}'}"
    return page.page(payload(shown, loading.tokenizer_of(run), title, about))


def _likeliest(run: Run, n: int) -> pd.DataFrame:
    """The likeliest tokens, stored or computed."""
    try:
        return likeliest.shown(reading(run), n)
    except NotStored:
        if (why := likeliest.missing_models(run)) is not None:
            line = f"likeliest tokens of {n} rollouts: must be stored or computed, and {why}"
            raise StudyError(line) from None
    return likeliest.shown(run, n)


def freeze(
    rollouts: Rollouts, losses: np.ndarray, found: Detection, threshold: float | None = None
) -> np.ndarray:
    """Weights of Rock-Freeze, float32 (R, T): 0 on rocks and their windows, and 1 elsewhere.

    `losses` are reverse KL after distillation in the order of the token table, (N,). A threshold of
    the windows, in nats, must be given for rocks by another loss.
    """
    order = np.lexsort((rollouts.sample_index, rollouts.prompt_index))
    at, of = np.zeros((2, *rollouts.mask.shape), np.float32)
    of[rollouts.mask[order]] = losses
    at[order] = of
    width = None if threshold is None else found.settings.window
    rocks = found if threshold is None else found.rocks()
    weights = RockWeights.of(rocks, windows=True, threshold=threshold, width=width)
    arrays = (rollouts.completion_ids.astype(np.int64), rollouts.mask, at)
    return weights(*map(torch.from_numpy, arrays)).numpy()


def _prompts(run: Run) -> Sequence[str] | None:
    """The texts of the prompts, where the task has them without a chat template."""
    task, where = run.config.benchmarks[0], run.config.rollouts
    if where is not None and where.path == task.path:
        return None
    problems = tasks.load(task, "eval")
    texts = [problem.prompt for problem in problems]
    return texts if all(isinstance(text, str) for text in texts) else None


def default_path(run: Run) -> Path:
    """Where the viewer of a run is written: in its folder, or beside all runs for a reference."""
    if run.path == run.reference:
        return paths.runs_dir() / f"viewer-{run.config.preset}.html"
    return run.path / "viewer.html"


def write(run: Run, to: Path | None = None, n: int = SHOWN) -> Path:
    """Write the viewer of a run as one HTML file and return its path.

    `StudyError`: as `view`, and a path that cannot be written.
    """
    path = default_path(run) if to is None else to
    if path.suffix != ".html":
        raise StudyError(f"--to: must end in .html; got {str(path)!r}")
    if to is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise StudyError(f"--to: must be in a folder that exists; got {str(path)!r}")
    return view(run, n).save(path)


def embedded(folder: Path) -> str | None:
    """The viewer of a run's folder as HTML for a section of its report; None where it has none.

    It is a frame that holds the whole viewer, so that the report stays one file. It is made of what
    is stored: no model is loaded. The report's content security policy must allow the viewer's
    script by its hash, `page.script_hash`, since a page in a frame like this one keeps the rules of
    the page around it.
    """
    if not runs.has_record(folder):
        return None
    try:
        return view(reading(runs.opened(folder))).embedded()
    except StudyError:  # a run of other notebooks, or one whose viewer nobody has asked for
        return None
