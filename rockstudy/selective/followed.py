"""What the arms of stage 2 do with the token that all notebooks follow.

One text shows which positions each arm leaves out; a curve shows whether the loss at the token
falls in an arm that never trains on it.

How this can mislead: it is one text and one type of token. What an arm leaves out of all texts is
in `steps.matched`.
"""

from __future__ import annotations

import html

import numpy as np
import pandas as pd

from rockstudy.display import TEXT, Html, text
from rockstudy.figure_labels import many_seeds
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts, visible
from rockstudy.rocks import followed
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.selective import arms, steps
from rockstudy.selective.windows import BLOCK, RandomWindows

SHOWN = 120  # ours: tokens of a text, as many as a reader compares
LEFT_OUT_CSS = """
table.left-out { table-layout: fixed; width: 100%; }
table.left-out td { font: 12px/1.5 ui-monospace, monospace; white-space: pre-wrap;
  vertical-align: top; overflow-wrap: anywhere; }
table.left-out s { opacity: 0.5; text-decoration-thickness: 2px; }
table.left-out mark { background: #b4042633; color: inherit; border-bottom: 2px solid #b40426; }
"""


@table(*steps.ARMS, inputs=steps.trained_hashes)
def along(run: Run) -> pd.DataFrame:
    """Mean reverse KL of the followed type in every arm and seed: ``arm, seed, step, count, rkl``.

    By the accumulators of training, a row for each logging window. Arms in which its positions skip
    the heads, whose loss there is not known, have no rows.
    """
    wanted, frames = int(followed.token(run).token_id), []
    for arm, seed, result, _ in steps.trained(run, grade=False):
        some = result.type_losses
        some = some[some.token_id == wanted]
        frames.append(some.assign(arm=arm.name, seed=seed, rkl=some.rkl_sum / some["count"]))
    return pd.concat(frames, ignore_index=True)[["arm", "seed", "step", "count", "rkl"]]


@table(*TOKENS, "rocks", inputs=tokens_hash)
def left_out(run: Run) -> pd.DataFrame:
    """The tokens of one text, and whether Rock-Freeze and its random controls train on them.

    It is the first completion of the statistics, by prompt, that holds the followed type. Random
    windows are laid in a block of rollouts that begins with it, as in a step of training, with the
    random numbers of the first training seed. A row for each arm and token: ``arm, position, text,
    followed`` (of the followed type), ``rkl`` (after OPD, nats), ``left_out``.
    """
    found, wanted = measured(run), int(followed.token(run).token_id)
    rollouts, made = found.rollouts, steps.material(run)
    holding = ((rollouts.completion_ids == wanted) & rollouts.mask).any(1)
    first = int(np.flatnonzero(holding)[0])
    losses = np.zeros(rollouts.mask.shape)
    losses[rollouts.mask] = made.tokens.rkl_post
    rows = slice(first, first + BLOCK)
    block = rollouts.completion_ids[rows], rollouts.mask[rows], losses[rows]
    seed, *_ = run.config.seeds
    drawn = {name: arms.build(name, made, seed).weights for name in arms.CONTROLS}
    one = next(iter(drawn.values()))
    assert isinstance(one, RandomWindows)
    chosen = {"rock-freeze": one.of_rocks(*block)[1]}
    for name, how in drawn.items():
        assert isinstance(how, RandomWindows)
        chosen[name] = how.drawn(*block, 0)
    mask = rollouts.mask[first]
    ids = rollouts.completion_ids[first][mask]
    about = {"position": range(len(ids)), "text": token_texts(loading.tokenizer_of(run), ids)}
    about |= {"followed": ids == wanted, "rkl": losses[first][mask]}
    frames = [
        pd.DataFrame(about).assign(arm=name, left_out=where[0][mask])
        for name, where in chosen.items()
    ]
    columns = ["arm", "position", "text", "followed", "rkl", "left_out"]
    return pd.concat(frames, ignore_index=True)[columns]


def left_out_html(table: pd.DataFrame) -> Html:
    """The text of `left_out` once for each arm, side by side, what it leaves out struck through."""
    heads, cells = [], []
    for arm, some in table[table.position < SHOWN].groupby("arm", sort=False):
        parts = []
        for one in some.itertuples():
            shown = _running(one.text)
            shown = f"<mark>{shown}</mark>" if one.followed else shown
            parts.append(f"<s>{shown}</s>" if one.left_out else shown)
        heads.append(f"<th {TEXT}>{text(arm)}</th>")
        cells.append(f"<td {TEXT}>{''.join(parts)}</td>")
    return Html(
        f"<style>{LEFT_OUT_CSS}</style><table class='left-out'><thead><tr>{''.join(heads)}</tr>"
        f"</thead><tbody><tr>{''.join(cells)}</tr></tbody></table>"
    )


def _running(token: str) -> str:
    """A token of a running text, escaped; its line breaks break lines."""
    return html.escape(visible(token).replace("␣", " ")).replace("⏎", "⏎\n")


def reading_of_left_out(table: pd.DataFrame, name: str) -> str:
    """Sentences on `left_out`; `name` is the followed token as sentences show it."""
    told = []
    for arm, some in table.groupby("arm", sort=False):
        out, own = some[some.left_out], some[some.followed]
        share = out.rkl.sum() / some.rkl.sum() if some.rkl.sum() > 0 else float("nan")
        told.append(
            f"{arm} leaves out {len(out)} of the {len(some)} tokens of this text and {share:.0%} "
            f"of its loss; {name} is left out at {own.left_out.sum()} of {len(own)}."
        )
    return "\n".join(told)


def reading_of_along(table: pd.DataFrame, name: str) -> str:
    """Sentences on `along`: from the first to the last logging window, the mean over seeds."""
    told = []
    for arm in ("baseline", "rock-freeze"):
        some = table[table["arm"] == arm]
        if some.empty:
            continue
        mean = some.groupby("step").rkl.mean()
        change = mean.iloc[-1] / mean.iloc[0] - 1 if mean.iloc[0] > 0 else float("nan")
        told.append(
            f"{arm}: the loss at {name} goes from {mean.iloc[0]:.2f} to {mean.iloc[-1]:.2f} nats "
            f"({change:+.0%}, the mean of {many_seeds(some.seed.nunique())})."
        )
    ends = {arm: _last(table, arm) for arm in ("baseline", "rock-freeze")}
    if all(len(values) > 1 for values in ends.values()):
        baseline, freeze = ends.values()
        seeds = baseline.index.intersection(freeze.index)
        above = int((freeze[seeds] > baseline[seeds]).sum())
        told.append(
            f"At the end it is higher in rock-freeze than in the baseline of the same seed in "
            f"{above} of {len(seeds)} trainings."
        )
    return "\n".join(told) or f"No arm wrote {name} where its loss is known."


def _last(table: pd.DataFrame, arm: str) -> pd.Series:
    some = table[table["arm"] == arm]
    return some[some.step == some.step.max()].set_index("seed").rkl
