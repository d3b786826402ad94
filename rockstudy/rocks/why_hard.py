"""The cached steps about why tokens are hard, and their readings (notebooks 00 and 03).

Causes are only for a benchmark whose task names them; `if_causes` gives the table or a sentence.
Positions need the token table alone.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rockstudy import tasks
from rockstudy.display import Html
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts
from rockstudy.rocks import causes, positions
from rockstudy.rocks.aligned_texts import paragraphs
from rockstudy.rocks.approximations import STAGES
from rockstudy.rocks.steps import (
    TOKENS,
    annotator_hash,
    causes_hash,
    measured,
    token_sets,
    tokens_hash,
)
from rockstudy.rocks.steps import causes as causes_of_tokens
from rockstudy.runs import NotStored, Run, table
from rockstudy.training import steps as training_steps

UNDECIDED = "no cause whose share is shown to differ"


def if_causes(run: Run, step: Callable[[Run], pd.DataFrame]) -> tuple[pd.DataFrame | None, str]:
    """A table about causes; where there is none, None and a sentence that says why."""
    task = run.config.benchmarks[0]
    if not tasks.causes(task):
        return None, f"The task {task.name} does not name the causes of its tokens."
    try:
        return step(run), ""
    except NotStored:
        return None, "The causes of tokens are not in this reference."


def _caused(run: Run) -> pd.DataFrame:
    """The token table with its causes; `NotStored` where a reference lacks them."""
    causes_of_tokens(run)
    return measured(run).tokens


@table(*TOKENS, inputs=causes_hash)
def loss_by_cause(run: Run) -> pd.DataFrame:
    """How common each cause is, and its loss before and after OPD (`causes.loss_by_cause`)."""
    return causes.loss_by_cause(_caused(run), run.rng("loss-by-cause"))


@table(*TOKENS, "rocks", inputs=causes_hash)
def causes_of_sets(run: Run) -> pd.DataFrame:
    """The causes of rocks and of their matched controls (`causes.causes_of_sets`)."""
    tokens, sets = _caused(run), token_sets(run)
    rocks, matched = (sets.token_id[sets.name == name].tolist() for name in ("rocks", "control"))
    return causes.causes_of_sets(tokens, rocks, matched, run.rng("causes-of-sets"))


def _answered(run: Run) -> dict[str, str]:
    """The pair, the benchmarks and the annotator as inputs."""
    return training_steps.members(run) | annotator_hash(run)


@table(*training_steps.PAIR, inputs=_answered)
def registers(run: Run) -> pd.DataFrame:
    """One solution of each model of the pair to the first problem: ``model, token, cause``.

    A row per token, in their order. These are evaluation completions, whose texts alone are kept:
    the tokens are those that the tokenizer reads in them.
    """
    run.needs_models("causes of tokens")
    task, outcomes = run.config.benchmarks[0], training_steps.pair_accuracy(run)
    first = (outcomes.prompt_index == 0) & (outcomes.sample_index == 0)
    shown = outcomes[first & (outcomes.benchmark == task.label)]
    tokenizer, problem = loading.tokenizer_of(run), tasks.load(task, "eval")[0]
    frames = []
    for model, text in zip(shown.model, shown.text, strict=True):
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
        (cause,) = causes.token_causes(task, tokenizer, [problem], [ids])
        named = {"model": model, "token": token_texts(tokenizer, ids), "cause": cause}
        frames.append(pd.DataFrame(named))
    return pd.concat(frames, ignore_index=True)


def first_problem(run: Run) -> Html:
    """The first problem and a solution of each model, coloured by cause where those are known."""
    prompt = paragraphs(training_steps.problems(run).prompt.iloc[0])
    solutions, _ = if_causes(run, registers)
    if solutions is not None:
        return Html(f"<p>{prompt}</p>{registers_html(run, solutions)}")
    outcomes = training_steps.pair_accuracy(run)
    first = outcomes[(outcomes.prompt_index == 0) & (outcomes.sample_index == 0)]
    first = first[first.benchmark == outcomes.benchmark.iloc[0]]
    parts = [
        f"<p><b>{html.escape(model)}</b></p><p>{paragraphs(text)}</p>"
        for model, text in zip(first.model, first.text, strict=True)
    ]
    return Html(f"<p>{prompt}</p>{''.join(parts)}")


def registers_html(run: Run, solutions: pd.DataFrame) -> Html:
    """The solutions of `registers` with their tokens in the colours of the causes."""
    return causes.coloured(solutions, tasks.causes(run.config.benchmarks[0]))


@table(*TOKENS, "rocks", inputs=tokens_hash)
def position(run: Run) -> pd.DataFrame:
    """The loss along completions before and after OPD (`positions.by_position`)."""
    corpus, loss = measured(run), run.config.rocks.loss
    k, tokens = corpus.detection.k, corpus.tokens
    columns = [f"{loss}_{stage}" for stage in STAGES]
    rocks = corpus.detection.top(k).ids
    return positions.by_position(tokens, columns, rocks, k, run.rng("position"))


def reading_of_loss(table: pd.DataFrame) -> str:
    """Sentences on `loss_by_cause`: where the loss is, what falls most and what hardly falls."""
    left, before, pre, post = (
        table[(table.measure == measure) & (table.stage == stage)].set_index("cause")
        for measure, stage in (("loss", "post"), ("loss", "pre"), ("mean", "pre"), ("mean", "post"))
    )
    most = left.value.sort_values(ascending=False, kind="stable").index[:3]
    parts = [f"{_share(left.loc[c])} is {c} ({before.value[c]:.0%} before)" for c in most]
    kept = (post.value / pre.value).dropna()
    falls, stays = (
        f"{c} (from {pre.value[c]:.3f} to {post.value[c]:.3f} nats)"
        for c in (kept.idxmin(), kept.idxmax())
    )
    return (
        f"Of the loss that remains after OPD, {_listed(parts)}. "
        f"The mean loss fell by the largest part for {falls}, and least, if at all, for {stays}. "
        f"Intervals: 95% over {left.n.iloc[0]} prompts."
    )


def reading_of_sets(table: pd.DataFrame) -> str:
    """Sentences on `causes_of_sets`: what rocks have more and less of than their controls."""
    sentences = []
    for measure, what in (("occurrences", "occurrences"), ("loss", "remaining loss")):
        rows = table[table.measure == measure].set_index("cause")
        rocks, change = (rows[rows.name == name] for name in ("rocks", causes.DIFFERENCE))
        common = rocks.value.idxmax()
        sides = {"more": change[change.lo > 0], "less": change[change.hi < 0]}
        told = " and ".join(
            f"{way} {_listed([f'{c} ({_points(some.loc[c])})' for c in some.index])}"
            for way, some in sides.items()
            if len(some)
        )
        sentences.append(
            f"Of the {what} of rocks, {_share(rocks.loc[common])} is {common}; compared with their "
            f"matched controls they have {told or UNDECIDED}."
        )
    return " ".join(sentences)


def reading_of_position(table: pd.DataFrame) -> str:
    """Sentences on `position`: how much of the rocks' loss is that of their positions."""
    last = table.loss.iloc[-1]
    told = []
    for by, some in table[(table.loss == last)].groupby("by", sort=False):
        of_all = some[some.start.isna()].set_index(["measure", "way"])
        along, inside = (of_all.loc[("explained", way)] for way in positions.WAYS)
        index = of_all.loc[("jaccard", "along")]
        told.append(
            f"By {by}, the mean loss of positions accounts for {_share(along)} of what rocks lose "
            f"above average after OPD, and a comparison within types for {_share(inside)}: "
            f"{_verdict(along, inside)}. With the loss standardised, the first K types agree with "
            f"the rocks by R at a Jaccard index of {index.value:.2f} "
            f"[{index.lo:.2f}, {index.hi:.2f}]."
        )
    return " ".join(told) + f" Intervals: 95% over {table.n.iloc[0]} prompts."


def _verdict(along: pd.Series, inside: pd.Series) -> str:
    """Whether rocks are types or positions, as far as both shares tell."""
    if np.isnan(along.value):
        return "they lose no more than the average, so that nothing is to be explained"
    if max(along.hi, inside.hi) < 0.5:
        return "they are types rather than positions"
    if min(along.lo, inside.lo) > 0.5:
        return "they are positions rather than types"
    return "whether types or positions weigh more is undecided"


def _share(row: pd.Series) -> str:
    return f"{row.value:.0%} [{row.lo:.0%}, {row.hi:.0%}]"


def _points(row: pd.Series) -> str:
    return f"{row.value:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}]"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
