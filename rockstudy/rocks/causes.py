r"""Why tokens are hard, for a task that knows it (`rockstudy.tasks.Task.causes`).

The task says for each *character* of a completion why it is hard; a token's cause is that of its
first character that is not mere format, the first decision in it. What the losses of a cause add up
to, with N the positions, l the reverse KL in nats and c(i) the cause of position i:

    share of positions    #{i: c(i) = c} / N
    mean loss             sum_{c(i) = c} l_i / #{i: c(i) = c}
    share of the loss     sum_{c(i) = c} l_i / sum_i l_i

Intervals resample whole prompts, for all numbers of a table at once, so that a difference of two of
them is paired.

How this can mislead: a cause with a large share of the loss may only be common; its mean tells. A
token that spans two decisions counts for the first. Shares add up to one, so that one falls where
another one rises.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.random import Generator

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.display import Html
from rockstudy.figure_style import CAUSE_CSS, cause_colours
from rockstudy.intervals import ends, ratio_draws
from rockstudy.models.token_texts import special_ids, token_texts, visible
from rockstudy.tasks.problem import FORMAT, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAGES = {"pre": "before OPD", "early": "early in OPD", "post": "after OPD"}
SETS = ("all positions", "rocks", "controls")
DIFFERENCE = "rocks - controls"


def of_tokens(lengths: np.ndarray, characters: np.ndarray, quiet: int) -> np.ndarray:
    """Cause of each token from the causes of the characters, of one completion or of several.

    `lengths` (T,) are the characters of each token, 0 for a special one; `characters` (sum of
    lengths,) their causes; `quiet` is the cause of mere format. The first character of a token with
    a different cause decides, and without one the token is `quiet`. Returns (T,) of the type of
    `characters`.
    """
    ends_at = np.cumsum(lengths)
    if (ends_at[-1] if len(ends_at) else 0) != len(characters):
        raise ValueError(f"characters: must be {lengths.sum()}; got {len(characters)}")
    loud = np.flatnonzero(characters != quiet)
    first = np.searchsorted(loud, ends_at - lengths)  # of those at or after the token's start
    place = np.append(loud, len(characters))[first]
    found = np.append(characters, characters.dtype.type(quiet))[place]
    return np.where(place < ends_at, found, characters.dtype.type(quiet))


def token_causes(
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    rows: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Names of the causes of the tokens of completions, texts (T,) for each row of ids (T,).

    `problems` has the problem that each row answers. What is annotated is the text of the single
    tokens one after the other, special ones left out: every token has its own characters, also
    where its bytes are part of a character.
    """
    ids, place = np.unique(np.concatenate(rows), return_inverse=True)
    special = special_ids(tokenizer)
    texts = zip(ids.tolist(), token_texts(tokenizer, ids), strict=True)
    own = np.array(["" if i in special else text for i, text in texts], object)
    lengths, names = np.array([len(text) for text in own]), tasks.causes(task)
    cuts, found = np.cumsum([len(row) for row in rows])[:-1], []
    for problem, some in zip(problems, np.split(place, cuts), strict=True):
        characters = tasks.annotate(task, problem, "".join(own[some]))
        found.append(of_tokens(lengths[some], characters, names.index(FORMAT)))
    return [np.array(names, object)[one] for one in found]


def _sums(tokens: pd.DataFrame, values: np.ndarray | None = None) -> np.ndarray:
    """Sums of values, or counts, by prompt and cause: float64 (U, C); prompts in order."""
    _, prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)
    shape = (prompt.max() + 1, len(tokens.cause.cat.categories))
    cell = prompt * shape[1] + tokens.cause.cat.codes.to_numpy(np.int64)
    return np.bincount(cell, weights=values, minlength=shape[0] * shape[1]).reshape(shape) * 1.0


def _of_all(sums: np.ndarray) -> np.ndarray:
    """The sums over all causes, beside each cause."""
    return np.broadcast_to(sums.sum(-1, keepdims=True), sums.shape)


def loss_by_cause(tokens: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """How common each cause is, and its loss before and after OPD.

    `tokens` is the token table with ``cause``, a category in the order of display.

    A row for each cause, measure and stage: ``cause, measure, stage, value, lo, hi, unit, n,
    positions``. The measures are ``positions`` (share of them; no stage), ``mean`` (nats) and
    ``loss`` (share of the loss); the stages ``pre``, ``early`` where it was measured, and ``post``.
    A cause without a position has no mean.
    """
    stages = [stage for stage in STAGES if f"rkl_{stage}" in tokens]
    counts = _sums(tokens)
    losses = [_sums(tokens, tokens[f"rkl_{stage}"].to_numpy(np.float64)) for stage in stages]
    above = np.stack([counts, *losses, *losses], 1)  # (U, measures x stages, C)
    below = np.stack([_of_all(counts), *[counts] * len(stages), *map(_of_all, losses)], 1)
    value, samples = ratio_draws(above, below, rng)
    lo, hi = ends(samples)
    named = [("positions", ""), *(("mean", s) for s in stages), *(("loss", s) for s in stages)]
    rows = [
        (cause, *name, value[i, c], lo[i, c], hi[i, c], "prompts", len(counts), int(n))
        for c, (cause, n) in enumerate(zip(tokens.cause.cat.categories, counts.sum(0), strict=True))
        for i, name in enumerate(named)
    ]
    columns = ["cause", "measure", "stage", "value", "lo", "hi", "unit", "n", "positions"]
    return pd.DataFrame(rows, columns=columns)


def causes_of_sets(
    tokens: pd.DataFrame, rocks: Sequence[int], controls: Sequence[int], rng: Generator
) -> pd.DataFrame:
    """Share of each cause in the occurrences and in the remaining loss of rocks and of controls.

    A row for each set (`SETS` and `DIFFERENCE`, rocks minus controls), measure (``occurrences``,
    ``loss`` after OPD) and cause: ``name, measure, cause, value, lo, hi, unit, n``. All occurrences
    of a type count, whether they persist or not.
    """
    loss, ids = tokens.rkl_post.to_numpy(np.float64), tokens.token_id
    inside = [np.ones(len(tokens)), *(ids.isin(some).to_numpy(float) for some in (rocks, controls))]
    above = np.stack([[_sums(tokens, i), _sums(tokens, i * loss)] for i in inside])  # (3, 2, U, C)
    above = np.moveaxis(above, 2, 0)
    value, samples = ratio_draws(above, _of_all(above), rng)  # (3, 2, C), (B, 3, 2, C)
    value = np.concatenate([value, value[1:2] - value[2:]])
    samples = np.concatenate([samples, samples[:, 1:2] - samples[:, 2:]], 1)
    lo, hi = ends(samples)
    rows = [
        (name, measure, cause, value[i, j, c], lo[i, j, c], hi[i, j, c], "prompts", len(above))
        for i, name in enumerate((*SETS, DIFFERENCE))
        for j, measure in enumerate(("occurrences", "loss"))
        for c, cause in enumerate(tokens.cause.cat.categories)
    ]
    return pd.DataFrame(rows, columns="name measure cause value lo hi unit n".split())


def coloured(solutions: pd.DataFrame, names: Sequence[str]) -> Html:
    """Completions with each token in the colour of its cause, blanks visible, and a legend.

    `solutions` has a row per token: ``model, token, cause``; `names` are the task's causes.
    """
    colours = cause_colours(names)

    def marked(text: str, cause: str) -> str:
        kind = f"cause-{colours[cause][1:]}"
        return f'<span class="{kind}" title="{html.escape(cause)}">{html.escape(text)}</span>'

    def token(text: str, cause: str) -> str:
        return marked(visible(text), cause).replace("⏎", "⏎<br>")

    present = set(solutions.cause)
    legend = " ".join(marked(name, name) for name in names if name in present)
    parts = [
        f"<p><b>{html.escape(str(model))}</b></p><p>"
        f"{''.join(map(token, some.token, some.cause))}</p>"
        for model, some in solutions.groupby("model", sort=False)
    ]
    style = f"<style>{CAUSE_CSS}</style>"
    return Html(f'{style}<div class="tokens"><p>{legend}</p>{"".join(parts)}</div>')
