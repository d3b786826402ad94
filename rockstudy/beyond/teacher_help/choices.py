r"""What can stand at one place of a completion, and draws of it that agree as often as they can.

A completion holds the token x_t at position t. Its prefix, everything before t, is held, and t is
set in one of these ways (`CHOICES`):

    stands    x_t itself
    again     x_t itself, continued with other random numbers: a null
    fresh     a fresh draw of the student, u ~ p
    without   a draw of the student that is not x_t, u ~ p without x_t
    teacher   a draw of the teacher, u ~ q
    best      the teacher's most likely token

p and q are the two models' distributions at t, as the student is sampled (temperature, top-p).
Draws of one number r are coupled: given u ~ p, a draw of q is u again with probability
min(1, q(u) / p(u)), and else comes from the positive part of q - p. Its distribution is q, and no
other pair of draws is equal more often: they differ with the total variation between p and q
(Lindvall 2002, chapter I.5). Where two draws are equal, what follows is the same too, so that a
difference of outcomes comes from places where the models differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rockstudy.config.fields import EvalConfig
from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States, logits, token_statistics
from rockstudy.rocks.token_table import batches
from rockstudy.sampling.rollout import Rollouts, completion_states
from rockstudy.store.seeds import generator

CHOICES = ("stands", "again", "without", "fresh", "teacher", "best")
DRAWN = ("without", "fresh", "teacher")  # those that are draws
TYPES = (  # of the columns of `at_places`
    {"token_id": "int32"}
    | dict.fromkeys(DRAWN, "object")
    | {"best": "int32"}
    | dict.fromkeys(("rkl", "student_p", "teacher_p", "tv"), "float32")
)
UNIFORMS = 5  # of one draw: fresh, and two for each of the two that are coupled to it
CELLS = 2**22  # ours: places x vocabulary in memory at once, 32 MB in float64


class Drawn(NamedTuple):
    """Tokens at N places: int64 (N, R) for each kind of draw, (N,) for the teacher's best."""

    fresh: Tensor
    without: Tensor
    teacher: Tensor
    best: Tensor


def distribution(z: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """What a `Chooser` samples from logits (N, V): float64 (N, V), each row sums to 1.

    Greedy, at temperature 0, is probability 1 for the largest logit.
    """
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).double()
    probs = (z.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probs = torch.zeros_like(probs).scatter_(-1, ids, ordered)
    return probs / probs.sum(-1, keepdim=True)


def inverted(probs: Tensor, u: Tensor) -> Tensor:
    """Tokens (N, R) whose cumulative probability first exceeds uniforms (N, R)."""
    cdf = probs.cumsum(-1)
    return torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp_(max=probs.shape[-1] - 1)


def coupled(drawn: Tensor, p: Tensor, q: Tensor, u: Tensor, other: Tensor) -> Tensor:
    """Draws of q (N, R) that equal the draws of p as often as two such draws can.

    `drawn` are the draws of p, with p and q (N, V); `u` and `other` are uniforms (N, R).
    """
    kept = u * p.gather(-1, drawn) < q.gather(-1, drawn)
    rest = (q - p).clamp_(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, q)  # equal but for rounding
    return torch.where(kept, drawn, inverted(rest, other))


def draw(student: Tensor, teacher: Tensor, stands: Tensor, how: EvalConfig, u: Tensor) -> Drawn:
    """Draw from logits (N, V) at N places, given the tokens (N,) there and uniforms (N, R, 5)."""
    shape = how.temperature, how.top_p
    p, q = distribution(student, *shape), distribution(teacher, *shape)
    banned = student.scatter(-1, stands[:, None], -torch.inf)
    fresh = inverted(p, u[..., 0])
    return Drawn(
        fresh,
        coupled(fresh, p, distribution(banned, *shape), u[..., 1], u[..., 2]),
        coupled(fresh, p, q, u[..., 3], u[..., 4]),
        teacher.argmax(-1),
    )


def at_places(
    rollouts: Rollouts,
    places: pd.DataFrame,
    models: Mapping[str, PreTrainedModel],
    how: EvalConfig,
    draws: int,
    stream: tuple[int, str],
) -> pd.DataFrame:
    """Draws and disagreement of two models at places of rollouts, in the order of `places`.

    `places` has ``row`` of the rollouts and ``position``; `models` are ``teacher`` and ``student``,
    over one vocabulary. `stream` is the seed and the name of the random numbers, which depend on
    the prompt, the sample and the position besides.

    Columns: ``token_id`` (what stands there), ``without, fresh, teacher`` (lists of `draws` ids),
    ``best``; ``rkl`` (nats, of the student from the teacher), ``student_p, teacher_p`` (of what
    stands there, at temperature 1), ``tv`` (total variation of the two sampled distributions: how
    often the draws of student and teacher differ).

    `StudyError`: logits that are not finite.
    """
    sizes = {name: model.get_output_embeddings().weight.shape[0] for name, model in models.items()}
    if len(set(sizes.values())) > 1:
        raise StudyError(f"teacher, student: must share one vocabulary; got {sizes}")
    if places.empty:
        return pd.DataFrame({name: np.empty(0, kind) for name, kind in TYPES.items()})
    ids = rollouts.completion_ids[places.row, places.position]
    made = []
    for some, states in _states(rollouts, places, models):
        u = np.stack([_uniforms(rollouts, places, i, draws, stream) for i in some])
        made.append(_of_states(states, ids[some], how, u).assign(place=some))
    return pd.concat(made).sort_values("place").drop(columns="place").reset_index(drop=True)


def _states(
    rollouts: Rollouts, places: pd.DataFrame, models: Mapping[str, PreTrainedModel]
) -> Iterator[tuple[np.ndarray, dict[str, States]]]:
    """Numbers of some places, and the states of both models that predict them."""
    heads = {name: Head.of(model) for name, model in models.items()}
    most = max(1, CELLS // len(next(iter(heads.values())).weight))
    for rows in batches(rollouts, np.unique(places.row.to_numpy())):
        hidden = {name: completion_states(m, rollouts, rows) for name, m in models.items()}
        first = dict(zip(rows.tolist(), _starts(rollouts.lengths[rows]), strict=True))
        here = np.flatnonzero(places.row.isin(rows))
        for some in np.array_split(here, -(-len(here) // most)):
            at = places.row.iloc[some].map(first).to_numpy() + places.position.iloc[some].to_numpy()
            yield some, {name: States(hidden[name][at], heads[name]) for name in models}


def _starts(lengths: np.ndarray) -> list[int]:
    return (np.cumsum(lengths) - lengths).tolist()


def _uniforms(
    rollouts: Rollouts, places: pd.DataFrame, i: int, draws: int, stream: tuple[int, str]
) -> np.ndarray:
    row, position = places.row.iloc[i], places.position.iloc[i]
    return generator(*stream, unit_of(rollouts, row, position)).random((draws, UNIFORMS))


def unit_of(rollouts: Rollouts, row: int, position: int) -> int:
    """One number for a place of a prompt's sample, to seed random numbers with."""
    prompt, sample = int(rollouts.prompt_index[row]), int(rollouts.sample_index[row])
    return (((prompt << 15) + sample) << 24) + int(position)


@torch.no_grad()
def _of_states(
    states: dict[str, States], stands: np.ndarray, how: EvalConfig, u: np.ndarray
) -> pd.DataFrame:
    teacher, student = states["teacher"], states["student"]
    device = student.hidden.device
    tokens = torch.from_numpy(stands).long().to(device)
    compared = token_statistics(teacher, [student], tokens).students[0].rkl
    z_p, z_q = (
        logits(States(one.hidden.float().to(device), one.head.to(device)), 0, len(one.head.weight))
        for one in (student, teacher)
    )
    if not (z_p.isfinite().all() and z_q.isfinite().all()):
        raise StudyError("logits: must be finite; a model gave NaN or infinity")
    made = draw(z_p, z_q, tokens, how, torch.from_numpy(u).to(device))
    p, q = (distribution(z, how.temperature, how.top_p) for z in (z_p, z_q))
    at = tokens[:, None]
    columns = {name: list(getattr(made, name).cpu().numpy().astype(np.int32)) for name in DRAWN}
    numbers = {
        "best": made.best,
        "rkl": compared,
        "student_p": z_p.double().softmax(-1).gather(-1, at)[:, 0].float(),
        "teacher_p": z_q.double().softmax(-1).gather(-1, at)[:, 0].float(),
        "tv": (q - p).clamp(min=0).sum(-1).float(),
    }
    columns |= {name: value.cpu().numpy() for name, value in numbers.items()}
    return pd.DataFrame({"token_id": stands} | columns).astype(TYPES)
