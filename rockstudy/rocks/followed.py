"""The one rock token that all notebooks follow, as text: its places, an answer before and after.

Figures and intervals are about sets of types. This module shows one of them as text, so that a
reader sees what a rock is: the first rock by rank that is not answer-bearing. Everything about it
is computed; nothing is chosen by hand. `rockstudy.knockout.followed` has what the student writes
when the token is banned.

How this can mislead: it is the first of many, and the occurrences that are shown are a few of its
own. They are an example and no evidence.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from rockstudy import tasks
from rockstudy.display import ALIGNED_CSS, Html
from rockstudy.models import loading
from rockstudy.models.divergence import Head, States
from rockstudy.models.token_texts import excerpt, token_texts, visible
from rockstudy.models.top_tokens import top_tokens
from rockstudy.rocks import causes, steps
from rockstudy.rocks.aligned_texts import aligned, aligned_table, paragraphs
from rockstudy.rocks.steps import ROCKS, TOKENS, measured, tokens_hash
from rockstudy.runs import NotStored, Run, table
from rockstudy.sampling import evaluation
from rockstudy.sampling.rollout import completion_states
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import BASELINE

OCCURRENCES = 8  # ours: as many as a reader looks at
AROUND = 14  # ours: tokens of context on each side
LIKELY = 3  # ours: of each model's most likely tokens
MODELS = {"teacher": "teacher", "pre": "student before OPD", "post": "student after OPD"}
RANKED = (*TOKENS, *ROCKS, "rocks.selector", "rocks.k")  # fields that decide which token it is
KEYS = ["prompt_index", "sample_index", "position"]


def token(run: Run) -> pd.Series:
    """The row of `steps.types` of the followed type.

    It is the first rock by rank that is not answer-bearing; the first of all where every rock is,
    or where a reference does not tell.
    """
    types = steps.types(run)
    rocks = types.nsmallest(steps.rock_count(run), "rank")
    free = rocks[~rocks.answer_bearing] if "answer_bearing" in rocks else rocks
    return (free if len(free) else rocks).iloc[0]


def name(run: Run) -> str:
    """The spelling of the followed type in brackets, blanks visible, as texts show it."""
    return bracketed(token(run).text)


def word(run: Run) -> str:
    """The text of the followed type; empty where a reference does not tell which it is."""
    try:
        return str(token(run).text)
    except NotStored:
        return ""


def bracketed(text: str) -> str:
    """A token as sentences show it."""
    return f"⟦{visible(text)}⟧"


def if_stored(step: Callable[[Run], pd.DataFrame], run: Run) -> tuple[pd.DataFrame | None, str]:
    """The table of a step of this module; where a reference lacks it, None and one line why."""
    try:
        return step(run), ""
    except NotStored as error:
        return None, str(error)


def types_hash(run: Run) -> dict[str, str]:
    """The token table and the scored types as inputs."""
    return tokens_hash(run) | {"types": fingerprint(content(steps.types(run)))}


@table(*RANKED, inputs=types_hash)
def contexts(run: Run) -> pd.DataFrame:
    """Some occurrences of the followed type in context, from the largest loss to the smallest.

    Up to `OCCURRENCES`, evenly spaced by their loss after OPD, so that low ones are shown as well.
    ``prompt_index, sample_index, position, before, token, after`` (texts), ``rkl_pre, rkl_post``
    (nats) and ``persistent``, whether both losses are above their thresholds.
    """
    run.needs_models("occurrences of the followed token")
    found = measured(run)
    rows = found.tokens[found.tokens.token_id == token(run).token_id]
    loss = f"{run.config.rocks.loss}_post"
    rows = rows.sort_values([loss, *KEYS], ascending=[False, True, True, True], kind="stable")
    place = np.unique(np.linspace(0, len(rows) - 1, OCCURRENCES).round().astype(int))
    rows = rows.iloc[place].reset_index(drop=True)
    high = found.detection.occurrences[KEYS].assign(persistent=True)
    shown = rows[[*KEYS, "rkl_pre", "rkl_post"]].merge(high, on=KEYS, how="left")
    shown["persistent"] = shown.persistent.notna()
    texts = _texts(found, shown)
    return pd.concat([shown[KEYS], texts, shown.drop(columns=KEYS)], axis=1)


def _rows_of(found: steps.Measured, shown: pd.DataFrame) -> list[int]:
    """The row of the rollouts of each occurrence."""
    pairs = zip(
        found.rollouts.prompt_index.tolist(), found.rollouts.sample_index.tolist(), strict=True
    )
    place = {pair: row for row, pair in enumerate(pairs)}
    return [place[one.prompt_index, one.sample_index] for one in shown.itertuples()]


def _texts(found: steps.Measured, shown: pd.DataFrame) -> pd.DataFrame:
    """Text before, at and after each occurrence."""
    tokenizer, parts = loading.tokenizer_of(found.run), []
    for row, position in zip(_rows_of(found, shown), shown.position.tolist(), strict=True):
        ids = found.rollouts.completion_ids[row][found.rollouts.mask[row]].tolist()
        parts.append(excerpt(tokenizer, ids, position, AROUND))
    return pd.DataFrame(parts, columns=["before", "token", "after"])


@table(*RANKED, inputs=types_hash)
def likely(run: Run) -> pd.DataFrame:
    """What each model would write at the occurrences of `contexts`.

    A row for each occurrence, model (`MODELS`) and one of its `LIKELY` most likely tokens: the keys
    of the position, ``model, place`` (1 is the most likely), ``text, probability``.
    """
    run.needs_models("likely tokens at the followed token")
    found, shown = measured(run), contexts(run)
    rows = _rows_of(found, shown)
    chosen, at = np.unique(rows, return_inverse=True)
    lengths = found.rollouts.lengths[chosen]
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[at]  # of each occurrence's completion
    states = first + shown.position.to_numpy()
    frames = []
    for model_name in MODELS:
        model = found.model(model_name)
        hidden = completion_states(model, found.rollouts, chosen)[states]
        ids, probabilities = top_tokens(States(hidden, Head.of(model)), LIKELY)
        n, k = ids.shape
        one = shown.loc[np.repeat(np.arange(n), k), KEYS].reset_index(drop=True)
        one = one.assign(model=model_name, place=np.tile(np.arange(1, k + 1), n))
        texts = found.texts(ids.flatten().cpu().numpy())
        frames.append(one.assign(text=texts, probability=probabilities.flatten().cpu().numpy()))
    return pd.concat(frames, ignore_index=True)


def _answered(run: Run) -> dict[str, str]:
    """The students before and after OPD, the benchmarks and the scored types as inputs."""
    students = {name: measured(run).checkpoints[name].hash for name in ("pre", "post")}
    return types_hash(run) | evaluation.graded_on(run) | students


@table(*RANKED, "evaluation", inputs=_answered)
def before_after(run: Run) -> pd.DataFrame:
    """One problem answered by the student before and after OPD, with the same random numbers.

    It is the first problem of the first benchmark whose answer after OPD holds the followed type;
    the first of all where none does. A row for each token of each answer: ``prompt_index, stage``
    (``pre``, ``post``), ``correct, token, followed`` (whether it is of the followed type), and
    ``cause`` where the task names causes (else empty). These are graded completions, whose texts
    alone are stored: the tokens are those that the tokenizer reads in them.
    """
    run.needs_models("an answer before and after OPD")
    task, tokenizer = run.config.benchmarks[0], loading.tokenizer_of(run)
    answers = _answers(run, task.label)
    wanted = int(token(run).token_id)
    read = {
        stage: [np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
                for text in some.text]
        for stage, some in answers.items()
    }  # fmt: skip
    holding = [i for i, ids in enumerate(read["post"]) if wanted in ids]
    place = holding[0] if holding else 0
    problem = tasks.load(task, "eval")[int(answers["post"].prompt_index.iloc[place])]
    frames = []
    for stage, some in answers.items():
        ids = read[stage][place]
        one = pd.DataFrame({"token": token_texts(tokenizer, ids), "followed": ids == wanted})
        names = tasks.causes(task)
        caused = causes.token_causes(task, tokenizer, [problem], [ids])[0] if names else ""
        one = one.assign(cause=caused)
        about = some.iloc[place]
        one.insert(0, "prompt_index", int(about.prompt_index))
        one.insert(1, "stage", stage)
        one.insert(2, "correct", bool(about.correct))
        frames.append(one)
    return pd.concat(frames, ignore_index=True)


def _answers(run: Run, benchmark: str) -> dict[str, pd.DataFrame]:
    """The first graded answer to every problem before and after OPD, in one order."""
    if run.config.models is not None:
        graded = training_steps.pair_accuracy(run)
        parts = {"pre": graded[graded.model == "student"], "post": graded[graded.model == "post"]}
    else:
        seed, *_ = run.config.seeds
        last = {"late": training_steps.first_baseline(run).checkpoints["late"]}
        graded = training_steps.along_training(run, BASELINE, seed, last)
        parts = {"pre": graded[graded.step == 0], "post": graded[graded.step > 0]}
    return {
        stage: some[(some.benchmark == benchmark) & (some.sample_index == 0)]
        .sort_values("prompt_index", kind="stable")
        .reset_index(drop=True)
        for stage, some in parts.items()
    }


def contexts_html(shown: pd.DataFrame, most_likely: pd.DataFrame | None = None) -> Html:
    """Occurrences aligned on the token, with their losses and what each model would write there.

    `shown` is `contexts`, `most_likely` is `likely`. All text is escaped.
    """
    rows = []
    for one in shown.itertuples():
        losses = "".join(
            f"<td class='number'>{loss:.2f}</td>" for loss in (one.rkl_pre, one.rkl_post)
        )
        rows.append(f"<tr>{losses}{aligned(one.before, one.token, one.after)}</tr>")
        if most_likely is not None:
            here = most_likely[(most_likely[KEYS] == [getattr(one, k) for k in KEYS]).all(axis=1)]
            rows.append(
                f"<tr><td></td><td></td><td class='note' colspan='3'>{_told(here)}</td></tr>"
            )
    return aligned_table(["before OPD", "after"], rows)


def _told(here: pd.DataFrame) -> str:
    """The likely tokens of each model at one occurrence, escaped."""
    told = []
    for model, some in here.groupby("model", sort=False):
        parts = ", ".join(
            f"<b>{html.escape(visible(one.text))}</b> {one.probability:.0%}"
            for one in some.sort_values("place").itertuples()
        )
        told.append(f"{MODELS[str(model)]}: {parts}")
    return "; ".join(told)


def before_after_html(run: Run, answers: pd.DataFrame) -> Html:
    """The two answers of `before_after` side by side, each followed token marked, text escaped."""
    heads, texts = [], []
    for stage, some in answers.groupby("stage", sort=False):
        verdict = "right" if some.correct.iloc[0] else "wrong"
        heads.append(f"<th>{MODELS[str(stage)]} ({verdict})</th>")
        marked = (
            f"<mark>{html.escape(visible(one.token))}</mark>"
            if one.followed
            else paragraphs(one.token)
            for one in some.itertuples()
        )
        texts.append(f"<td class='text'>{''.join(marked)}</td>")
    prompt = training_steps.problems(run).prompt.iloc[int(answers.prompt_index.iloc[0])]
    return Html(
        f"<style>{ALIGNED_CSS}</style><p>{paragraphs(prompt)}</p><table class='aligned'><thead><tr>"
        f"{''.join(heads)}</tr></thead><tbody><tr>{''.join(texts)}</tr></tbody></table>"
    )


def reading_of_answers(run: Run, outcomes: pd.DataFrame) -> str:
    """How often each model of the pair writes the followed token, if the run has found it already.

    `outcomes` is `training.steps.pair_accuracy`. Nothing is computed for it: a run that has no type
    table yet gets the line that tells where it is found.
    """
    text = word(replace(run, reading=True))
    if not text:
        return "This run has not found its rock tokens yet; notebook 02 does."
    edges = [r"(?<!\w)" * text[:1].isalnum(), r"(?!\w)" * text[-1:].isalnum()]
    pattern = edges[0] + re.escape(text) + edges[1]
    first = outcomes[outcomes.benchmark == outcomes.benchmark.iloc[0]]
    held = first.text.str.contains(pattern).groupby(first.model, sort=False).mean()
    shares = " and ".join(f"{share:.0%} of the {model}'s" for model, share in held.items())
    n = first.groupby("model").size().iloc[0]
    return (
        f"The token to follow is {bracketed(text)}. Before any training it is in {shares} answers "
        f"to {first.benchmark.iloc[0]} ({n} answers each). How often a model writes a token is not "
        "what makes it a rock: what counts is whether both models agree on where to write it."
    )


def reading_of_before_after(answers: pd.DataFrame) -> str:
    """What OPD changes in the one answer of `before_after`; the random numbers are the same."""
    parts = {stage: some for stage, some in answers.groupby("stage", sort=False)}
    verdicts = ["right" if some.correct.iloc[0] else "wrong" for some in parts.values()]
    old, new = (some.token.tolist() for some in parts.values())
    same = next(
        (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None
    )
    counts = [int(some.followed.sum()) for some in parts.values()]
    if old == new:
        return f"Both answers are the same, token by token, and {verdicts[0]}."
    where = len(min(old, new, key=len)) if same is None else same
    return (
        f"The answer before OPD is {verdicts[0]} and the one after it {verdicts[1]}. They part "
        f"after {where} token{'s' * (where != 1)}: from there on each has a text of its own. The "
        f"followed token occurs {_times(counts[0])} before OPD and {_times(counts[1])} after it. "
        "One answer shows what OPD changes; whether it helps is a question for all of them."
    )


def reading_of_token(run: Run) -> str:
    """A sentence on the followed type: how frequent it is, and its loss before and after OPD."""
    one = token(run)
    fallen = one.rkl_post_mean / one.rkl_pre_mean - 1 if one.rkl_pre_mean > 0 else np.nan
    change = f", a change of {fallen:+.0%}" if np.isfinite(fallen) else ""
    return (
        f"The token that the notebooks follow is {bracketed(one.text)} ({one.category}), number "
        f"{one['rank']:.0f} by rank: {one['count']} occurrences on {one.n_prompts} prompts. Its "
        f"mean reverse KL is {one.rkl_pre_mean:.2f} nats before OPD and {one.rkl_post_mean:.2f} "
        f"after it{change}; {one.n_persistent} occurrences ({one.n_persistent / one['count']:.0%}) "
        "are above both thresholds."
    )


def reading_of_likely(shown: pd.DataFrame, most_likely: pd.DataFrame) -> str:
    """A sentence on `likely`: how often the student and the teacher would write the same token."""
    first = most_likely[most_likely.place == 1].pivot(index=KEYS, columns="model", values="text")
    n = len(first)
    agree = {stage: int((first[stage] == first.teacher).sum()) for stage in ("pre", "post")}
    sure = most_likely[(most_likely.place == 1)].groupby("model").probability.mean()
    own = set(shown.token)
    teacher = int(first.teacher.isin(own).sum())
    return (
        f"At these {n} occurrences the teacher's first choice is the token itself {_times(teacher)}"
        f"; the student's first choice is the teacher's {_times(agree['pre'])} before OPD and "
        f"{_times(agree['post'])} after it. The first choice holds {sure['teacher']:.0%} of the "
        f"teacher's probability on average, {sure['pre']:.0%} of the student's before and "
        f"{sure['post']:.0%} after OPD. These are examples: occurrences evenly spaced by their "
        "loss, not a sample."
    )


def _times(n: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(n, f"{n} times")
