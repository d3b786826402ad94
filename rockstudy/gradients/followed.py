"""The gradient at occurrences of the token that all notebooks follow (`rockstudy.rocks.followed`).

A mean gradient is small where its terms are small or where they cancel. This module shows which: at
one position the gradient of the reverse KL has a component for every token of the vocabulary,

    g_u = p_u (A_u - KL),   A_u = log p_u - log q_u,

and a step of training moves the logit of u against it. Where the student gives u too much
probability the component is positive and the logit is pushed down, elsewhere it is pushed up.

How this can mislead: the components of the tokens that move most are shown, of one type of token.
They are an example; `type_gradients` has all types in both spaces.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from rockstudy import progress
from rockstudy.models.divergence import Head, States, logits
from rockstudy.models.token_texts import visible
from rockstudy.rocks import followed
from rockstudy.rocks.steps import Measured, measured
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import completion_states

OCCURRENCES = 200  # ours: enough to see whether they agree
SHOWN = 8  # ours: tokens of the vocabulary, as many as a figure has room for
_ROWS = 16  # ours: rollouts in one forward


@table(*followed.RANKED, inputs=followed.types_hash)
def pulls(run: Run) -> pd.DataFrame:
    """Components of the gradient at occurrences of the followed type, after OPD.

    Up to `OCCURRENCES` of them, evenly spread over the corpus; of the vocabulary the `SHOWN` tokens
    whose components are the largest on average.

    A row for each occurrence and token: ``occurrence`` (from 0) and the keys of its position;
    ``norm`` of its gradient over the whole vocabulary and ``norm_mean``, that of the mean of all
    these occurrences; ``token_id, spelling`` of the token that is pushed, ``gradient`` (positive:
    its logit is pushed down).
    """
    run.needs_models("gradients of the followed token")
    found, wanted = measured(run), int(followed.token(run).token_id)
    rows = found.tokens[found.tokens.token_id == wanted].sort_values(followed.KEYS, kind="stable")
    places = np.unique(np.linspace(0, len(rows) - 1, OCCURRENCES).round().astype(int))
    rows = rows.iloc[places][followed.KEYS].reset_index(drop=True)
    progress.announce(f"gradients at {len(rows)} occurrences of the followed token")
    g = _gradients(found, rows)  # (n, V)
    most = g.abs().mean(0).topk(min(SHOWN, g.shape[1])).indices.tolist()
    norms = {"norm": g.norm(dim=1).numpy(), "norm_mean": float(g.mean(0).norm())}
    about = rows.assign(occurrence=range(len(rows)), **norms)
    frames = [
        about.assign(token_id=token, spelling=visible(text), gradient=g[:, token].numpy())
        for token, text in zip(most, found.texts(most), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def _gradients(found: Measured, rows: pd.DataFrame) -> torch.Tensor:
    """The gradient in logit space at each position, float32 (n, V) on the CPU."""
    hidden = {name: _states(found, name, rows) for name in ("post", "teacher")}
    parts = []
    for start in range(0, len(rows), _ROWS):
        p, q = (
            logits(States(states[start : start + _ROWS].float(), head), 0, head.weight.shape[0])
            .double()
            .log_softmax(1)
            for states, head in hidden.values()
        )
        gap = p - q.to(p.device)
        weight = p.exp()
        parts.append((weight * (gap - (weight * gap).sum(1, keepdim=True))).float().cpu())
    return torch.cat(parts)


def _states(found: Measured, name: str, rows: pd.DataFrame) -> tuple[torch.Tensor, Head]:
    """Hidden states of a model before each position (n, H), and its head."""
    model, rollouts = found.model(name), found.rollouts
    pairs = zip(rollouts.prompt_index.tolist(), rollouts.sample_index.tolist(), strict=True)
    place = {pair: row for row, pair in enumerate(pairs)}
    at = np.array([place[one.prompt_index, one.sample_index] for one in rows.itertuples()])
    chosen, parts = np.unique(at), {}
    for start in range(0, len(chosen), _ROWS):
        batch = chosen[start : start + _ROWS]
        states = completion_states(model, rollouts, batch)
        parts |= dict(zip(batch, states.split(rollouts.lengths[batch].tolist()), strict=True))
    states = [parts[row][position] for row, position in zip(at, rows.position, strict=True)]
    return torch.stack(states), Head.of(model)


def reading_of_pulls(table: pd.DataFrame, name: str) -> str:
    """Sentences on `pulls`; `name` is the followed token as sentences show it."""
    each = table.drop_duplicates("occurrence").norm
    whole, n = table.norm_mean.iloc[0], len(each)
    means = table.groupby("spelling", sort=False).gradient.mean()
    down, up = means.idxmax(), means.idxmin()
    own = table[table.spelling == name.strip("⟦⟧")].gradient
    left = whole / each.mean() if each.mean() > 0 else float("nan")
    told = (
        f"At {n} occurrences of {name} the gradient has a norm of {each.mean():.2f} on average; "
        f"that of their mean is {whole:.2f}, so that {left:.0%} is left and the rest cancels; "
        f"pushes without anything in common would leave about {n**-0.5:.0%}. On "
        f"average the logit of ⟦{down}⟧ is pushed down most and that of ⟦{up}⟧ up most."
    )
    if len(own):
        told += (
            f" The logit of {name} itself is pushed down at {(own > 0).sum()} of these occurrences "
            f"and up at {(own < 0).sum()}."
        )
    return told
