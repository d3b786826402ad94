"""Continuations from places of completions whose token is set, and their outcomes.

From a held prefix with a set token the student goes on, unrestricted. Continuation r of a place has
the same random numbers whatever the token is, so that two choices which set the same token share
their continuation and are written once; ``again`` alone has random numbers of its own. All places
and choices share one queue, that of the knockouts (`sampling.engines`). A set token that ends the
text, or that is the last one allowed, is followed by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress
from rockstudy.beyond.teacher_help.choices import CHOICES, DRAWN, unit_of
from rockstudy.config.fields import EvalConfig
from rockstudy.models.token_texts import decoded
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Request
from rockstudy.sampling.rollout import Rollouts

Grade = Callable[[Sequence[int], Sequence[str]], Any]
KEYS = ["place", "draw", "token", "null"]  # of a continuation


def none() -> pd.DataFrame:
    """The table of `outcomes` for no places."""
    kinds = {"place": int, "draw": int} | dict.fromkeys(CHOICES, bool)
    kinds |= {"continuations": np.int8, "tokens": np.int32}
    return pd.DataFrame({name: np.empty(0, kind) for name, kind in kinds.items()})


def planned(places: pd.DataFrame) -> pd.DataFrame:
    """Each choice of each draw at each place: ``place, draw, choice, token, null, number``.

    `places` has a row for each place with the columns of `choices.at_places`. Rows with the same
    ``number`` share one continuation; the numbers count from 0.
    """
    draws = len(places.fresh.iloc[0])
    of = {name: np.stack(places[name].tolist()) for name in DRAWN}
    of["stands"] = of["again"] = np.tile(places.token_id.to_numpy()[:, None], draws)
    of["best"] = np.tile(places.best.to_numpy()[:, None], draws)
    place, number = np.indices((len(places), draws)).reshape(2, -1)
    frames = [
        pd.DataFrame({"place": place, "draw": number, "choice": name, "token": of[name].ravel()})
        for name in CHOICES
    ]
    every = pd.concat(frames, ignore_index=True).assign(null=lambda one: one.choice == "again")
    every = every.sort_values(["place", "draw"], kind="stable", ignore_index=True)
    return every.assign(number=every.groupby(KEYS, sort=False).ngroup())


def outcomes(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    places: pd.DataFrame,
    how: EvalConfig,
    grade: Grade,
    stream: tuple[int, str],
    bar: progress.Bar | None = None,
) -> pd.DataFrame:
    """Write and grade the continuations of some places, for every choice and draw.

    `places` has ``row`` of the rollouts, ``position``, and the columns of `choices.at_places`.
    `grade` gives a verdict for each of some prompts, by index, and texts. `stream` is the seed and
    the name of the random numbers. `bar` counts continuations.

    A row for each place and draw, in their order: ``place`` (number of the row of `places`),
    ``draw``; for each of `CHOICES` whether its text is right; ``continuations`` (how many were
    written for them) and ``tokens`` (in these).
    """
    plan = planned(places)
    todo = plan.drop_duplicates("number", ignore_index=True)
    made = written(model, tokenizer, rollouts, places, todo, how, stream, bar)
    texts = decoded(tokenizer, [ids.tolist() for ids in made], skip_special_tokens=True)
    rows = places.row.to_numpy()[todo.place]
    correct = np.asarray(grade(rollouts.prompt_index[rows].tolist(), texts), bool)
    wide = plan.assign(correct=correct[plan.number]).pivot(
        index=["place", "draw"], columns="choice", values="correct"
    )
    new = np.array([*map(len, made)]) - places.position.to_numpy()[todo.place] - 1
    counted = todo.assign(tokens=new).groupby(["place", "draw"]).tokens.agg(["size", "sum"])
    wide = wide[list(CHOICES)].rename_axis(columns=None)
    wide = wide.assign(continuations=counted["size"], tokens=counted["sum"])
    return wide.astype({"continuations": np.int8, "tokens": np.int32}).reset_index()


def written(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    places: pd.DataFrame,
    todo: pd.DataFrame,
    how: EvalConfig,
    stream: tuple[int, str],
    bar: progress.Bar | None = None,
) -> list[np.ndarray]:
    """The completions of the rows of `planned`, prefix and set token included: int32 arrays."""
    ends, (seed, name) = rollout.eos_ids(model, tokenizer), stream
    whole, requests, asked = [], [], []
    for number, one in enumerate(todo.itertuples()):
        row, position = int(places.row.iloc[one.place]), int(places.position.iloc[one.place])
        held = [*rollouts.completion_ids[row, :position].tolist(), int(one.token)]
        whole.append(np.array(held, np.int32))
        limit = how.max_new_tokens - len(held)
        if one.token in ends or limit < 1:
            continue
        ids = [*rollouts.prompt_ids[rollouts.prompt_index[row]].tolist(), *held]
        unit = (unit_of(rollouts, row, position) << 16) + int(one.draw)
        numbers = (seed, f"{name}-null" if one.null else name, unit)
        requests.append(Request(ids, limit, numbers))
        asked.append(number)
    if bar is not None:
        bar.update(len(todo) - len(requests))
    new = engines.of(model, how.batch_size).complete(
        requests,
        Chooser(how.temperature, how.top_p),
        ends,
        lambda request: bar.update(1) if bar is not None else None,
    )
    for number, ids in zip(asked, new, strict=True):
        whole[number] = np.concatenate([whole[number], ids])
    return whole
