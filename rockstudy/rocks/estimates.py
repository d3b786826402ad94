"""The cached steps about estimators of the loss, and their readings (notebook 02).

They need the models, and are measured on some of the prompts; `if_measured` gives a table, or the
line that it is not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rockstudy.errors import StudyError
from rockstudy.models.configuration import vocabulary
from rockstudy.rocks import approximations, causes
from rockstudy.rocks.approximations import KS, SAMPLED, STAGES
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.runs import NotStored, Run, table

CLOSE = 0.05  # ours: a mean that is off by at most a twentieth
ALIKE = 0.8  # ours: sets of 14 types (0.87), or of 24, that differ in one type are alike
SHOWN = 16  # ours: the cut-off in sentences, the one in the middle
SETS = "rock sets"
SCORES = {"score": "R", "score_ctx": "R_ctx"}


def if_measured(
    step: Callable[..., pd.DataFrame], run: Run, *given: object
) -> tuple[pd.DataFrame | None, str]:
    """The table of a step; where a reference lacks it, None and the line that tells so."""
    try:
        return step(run, *given), ""
    except NotStored as error:
        return None, str(error)


def _by_position(run: Run, prompts: int) -> pd.DataFrame:
    """`approximations.by_position` for some prompts, evenly spaced among all; kept in memory."""
    run.needs_models("estimators of the loss")
    if prompts < 2:
        raise StudyError(f"prompts: an interval needs at least 2 to resample; got {prompts}")

    def make() -> pd.DataFrame:
        corpus, rollouts = measured(run), measured(run).rollouts
        every = np.unique(rollouts.prompt_index[rollouts.lengths > 0])
        place = np.linspace(0, len(every) - 1, min(prompts, len(every))).round().astype(int)
        chosen = np.isin(rollouts.prompt_index, every[place]) & (rollouts.lengths > 0)
        models = {name: corpus.model(name) for name in ("teacher", *STAGES)}
        size = vocabulary(models["teacher"].config)
        ks = [k for k in KS if k <= size]
        return approximations.by_position(rollouts, np.flatnonzero(chosen), models, ks)

    return run.in_memory(f"estimates of {prompts} prompts", make)


@table(*TOKENS, "rocks", inputs=tokens_hash)
def estimators(run: Run, prompts: int) -> pd.DataFrame:
    """Bias and error of every estimator, and which rocks it makes.

    `approximations.biases`, and under the scope ``rock sets`` `approximations.rock_sets`.
    """
    found, corpus, rng = _by_position(run, prompts), measured(run), run.rng("estimators")
    settings, rocks = run.config.rocks, corpus.detection.top(corpus.detection.k)
    sets = approximations.rock_sets(found, corpus.rollouts, settings, corpus.encoder(), rng)
    sets = sets.assign(stage="post", scope=SETS)
    return pd.concat([approximations.biases(found, rocks, rng), sets], ignore_index=True)


@table(*TOKENS, inputs=tokens_hash)
def type_bias(run: Run, prompts: int) -> pd.DataFrame:
    """Bias of every estimator after OPD on common token types (`approximations.type_biases`)."""
    return approximations.type_biases(_by_position(run, prompts))


@table(*TOKENS, "rocks", inputs=tokens_hash)
def top_overlap(run: Run, prompts: int) -> pd.DataFrame:
    """Agreement of student and teacher on their likely tokens (`approximations.overlaps`)."""
    found, detection = _by_position(run, prompts), measured(run).detection
    return approximations.overlaps(found, detection.top(detection.k), run.rng("top-overlap"))


def reading_of_estimators(table: pd.DataFrame) -> str:
    """Sentences on `estimators`: which may be trusted for which question."""
    told = []
    for stage in reversed(STAGES):
        some = table[(table.stage == stage) & (table.scope == approximations.SCOPES[0])]
        mean = some[(some.estimator == "full")].value.iloc[0]
        rows = some[some.measure == "relative"]
        near = (rows.lo >= -CLOSE) & (rows.hi <= CLOSE)
        far = (rows.lo > CLOSE) | (rows.hi < -CLOSE)
        told.append(
            f"The mean loss {causes.STAGES[stage]} is {mean:.3f} nats. Shown to be within "
            f"{CLOSE:.0%} of it: {_named(rows[near])}; shown to be further off: {_named(rows[far])}"
            f"; undecided: {_named(rows[~near & ~far])}."
        )
    rows = table[(table.scope == SETS) & table.value.notna()]
    for measure, some in rows.groupby("measure", sort=False):
        worst = some.loc[some.value.idxmin()]
        told.append(
            f"The rocks by {SCORES[str(measure)]} agree with those of the full KL at a Jaccard "
            f"index of at least {ALIKE} for {_named(some[some.value >= ALIKE])}; least for "
            f"{_named(some.loc[[worst.name]])} ({worst.value:.2f})."
        )
    some = table[(table.stage == "post") & (table.scope == approximations.SCOPES[0])]
    mean = some[some.estimator == "full"].value.iloc[0]
    rows = some[some.measure == "error"]
    exact, worst = rows[rows.value <= CLOSE * mean], rows.loc[rows.value.idxmax()]
    told.append(
        f"At a single position the error is at most {CLOSE:.0%} of the mean loss for "
        f"{_named(exact)}; it is largest for {_named(rows.loc[[worst.name]])} "
        f"({worst.value:.2f} nats). Intervals: 95% over {some.n.iloc[0]} prompts."
    )
    return " ".join(told)


def reading_of_types(table: pd.DataFrame) -> str:
    """A sentence on `type_bias`: for how many types each kind of estimator is shown to be off."""
    shown = table.assign(off=(table.lo > 0) | (table.hi < 0))
    n, parts = table.token_id.nunique(), []
    for (kind, k), some in shown.groupby(["estimator", "k"], sort=False):
        if k in (0, SHOWN):
            parts.append(f"{_label(str(kind), [k] if k else [])} for {some.off.sum()}")
    return (
        f"Of the {n} token types in a tenth of the prompts or more, the 95% interval of the bias "
        f"of a type's mean loss leaves out 0 by {', '.join(parts)}; by chance alone it would for "
        f"about {n / 20:.0f}."
    )


def reading_of_overlap(table: pd.DataFrame) -> str:
    """Sentences on `top_overlap`: what both models hold likely, before and after OPD."""
    told = []
    for scope, some in table.groupby("scope", sort=False):
        rows, parts = some.set_index(["stage", "measure", "k"]), []
        for k in sorted({1, *some.k[some.k == SHOWN]}):
            pre, post = (rows.loc[(stage, "overlap", k)] for stage in STAGES)
            mass = rows.loc[("post", "mass_student", k)]
            what = "the most likely token at" if k == 1 else f"of the first {k} tokens"
            parts.append(
                f"{what} {_share(pre)} before and {_share(post)} after OPD, on which the student "
                f"has {mass.value:.1%} of its probability"
            )
        where = "Over all positions" if scope == approximations.SCOPES[0] else "At rock types"
        told.append(f"{where} both models share {'; '.join(parts)}.")
    return " ".join(told) + f" Intervals: 95% over {table.n.iloc[0]} prompts."


def _share(row: pd.Series) -> str:
    return f"{row.value:.0%} [{row.lo:.0%}, {row.hi:.0%}]"


def _named(rows: pd.DataFrame) -> str:
    """Estimators in words, the cut-offs of one kind together."""
    kinds = rows.groupby("estimator", sort=False).k
    return ", ".join(_label(str(kind), sorted(ks)) for kind, ks in kinds) or "none"


def _label(kind: str, ks: Sequence[int]) -> str:
    return kind if kind in SAMPLED else f"{kind} (k = {', '.join(map(str, ks))})"
