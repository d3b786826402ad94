"""What the figures and tables of notebooks 00 and 01 show, in words. Frames in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rockstudy.config.fields import StageConfig
from rockstudy.training.figures import PHASES


def pair(accuracy: pd.DataFrame) -> str:
    """How far student and teacher are apart on each benchmark (`steps.accuracy_table`)."""
    told = []
    for benchmark, rows in accuracy.groupby("benchmark", sort=False):
        by = rows.set_index("model")
        teacher, student = by.loc["teacher"], by.loc["student"]
        gap = f"{100 * abs(teacher.value - student.value):.0f} points"
        if teacher.lo > student.hi:
            meaning = f"the teacher is {gap} better, which is what the student could learn"
        elif student.lo > teacher.hi:
            meaning = f"the student is {gap} better, so the teacher has nothing to teach it here"
        else:
            meaning = "the intervals overlap, so these problems do not tell who is better"
        told.append(
            f"On {benchmark} the teacher is right in {_share(teacher)} of the cases and the "
            f"student in {_share(student)}: {meaning}."
        )
    return " ".join(told) + f" Intervals: 95% over {accuracy.n.iloc[0]} problems."


def families(table: pd.DataFrame) -> str:
    """In which families of problems the gap is widest and narrowest (``model, family, value``)."""
    wide = table.pivot(index="family", columns="model", values="value")
    gap = (wide.teacher - wide.student).sort_values(kind="stable")
    if len(gap) == 1:
        return f"There is one family of problems, {gap.index[0]}: a gap of {_points(gap.iloc[0])}."
    ahead = int((gap > 0).sum())
    return (
        f"The teacher's answers are more often right in {ahead} of {len(gap)} families. The gap is "
        f"widest for {gap.index[-1]} ({_points(gap.iloc[-1])}) and narrowest for {gap.index[0]} "
        f"({_points(gap.iloc[0])}). With {table.n.min()} to {table.n.max()} problems a family, the "
        "order of neighbours may be chance."
    )


def ends(outcomes: pd.DataFrame) -> str:
    """How many completions were cut at the token limit, by model."""
    cut = (~outcomes.stopped.astype(bool)).groupby(outcomes.model, sort=False).mean()
    parts = " and ".join(f"{share:.1%} of the {name}'s" for name, share in cut.items())
    if cut.max() > 0.05:
        return (
            f"Cut off at the token limit: {parts}. A longer `evaluation__max_new_tokens` could "
            "change the accuracies."
        )
    return f"Cut off at the token limit: {parts}. Too few to matter for the accuracies."


def grader(graded: pd.DataFrame) -> str:
    """How often the grader of maths errs (`rockstudy.tasks.grader_error`)."""
    all_ = graded[graded.change == "all"].set_index("answers")
    right, wrong = all_.loc["rewritten"], all_.loc["wrong"]
    return (
        f"The grader accepts {right.rate:.2%} of {right.n} rewritten right answers and refuses "
        f"{wrong.rate:.2%} of {wrong.n} wrong ones. An accuracy is therefore off by at most about "
        f"{100 * max(1 - right.lo, 1 - wrong.lo):.1f} points because of it, as far as these kinds "
        "of change go; fresh answers may hold others."
    )


def stages(configs: Mapping[str, StageConfig]) -> pd.DataFrame:
    """The settings of each stage of training as a reader needs them, a row each."""
    rows = []
    for name, one in configs.items():
        weights = {n: getattr(one, n) for n in ("forward_kl", "reverse_kl", "cross_entropy")}
        minimised = " + ".join(
            f"{weight:g} x {n.replace('_', ' ')}" for n, weight in weights.items() if weight
        )
        rows.append(
            {
                "stage": name,
                "completions by": one.source,
                "steps": one.steps,
                "prompts a step": one.prompts_per_step,
                "completions a prompt": one.rollouts_per_prompt,
                "minimised": minimised,
                "learning rate": one.lr,
            }
        )
    return pd.DataFrame(rows)


def loss(metrics: pd.DataFrame) -> str:
    """How the reverse KL changes from the first to the last logged step of each seed."""
    wide = metrics.dropna(subset="rkl").pivot(index="step", columns="seed", values="rkl")
    if len(wide) < 2:
        return "There are fewer than two logged steps, so no change of the reverse KL can be told."
    first, last = wide.iloc[0], wide.iloc[-1]
    start, end, seeds = first.mean(), last.mean(), len(first)
    fallen = int((last < first).sum())
    way = "falls" if end < start else "does not fall"
    everyone = "in every seed" if fallen == seeds else f"in {fallen} of {seeds} seeds"
    means = (
        "the student has moved towards the teacher"
        if fallen == seeds
        else "this training does not show a student that moves towards the teacher in every run"
    )
    left = f"{end / start:.0%} of the first value is left" if start > 0 else ""
    return (
        f"The mean reverse KL {way} from {start:.3f} nats per token at step {wide.index[0]} to "
        f"{end:.3f} at step {wide.index[-1]} ({left}; it falls {everyone}): {means}. What is left "
        "is where the other notebooks look for rock tokens."
    )


def gains(gain: pd.DataFrame) -> str:
    """What on-policy distillation does to accuracy on each benchmark (`steps.gains`)."""
    told = []
    for row in gain.itertuples():
        change = f"{row.value:+.3f} [{row.lo:+.3f}, {row.hi:+.3f}]"
        if row.lo > 0:
            told.append(f"Pass@1 on {row.benchmark} rises by {change}.")
        elif row.hi < 0:
            told.append(f"Pass@1 on {row.benchmark} falls: {change}.")
        elif np.isfinite(row.lo):
            told.append(
                f"On {row.benchmark} no change is shown: {change}; a change of less than about "
                f"{(row.hi - row.lo) / 2:.3f} could not have been seen."
            )
        else:
            told.append(f"On {row.benchmark} the change is {change}, without an interval.")
    return " ".join(told) + f" Interval: 95%, over {gain.unit.iloc[0]}."


def time(timing: pd.DataFrame) -> str:
    """Which phase of a training step takes longest."""
    medians = timing[[f"seconds_{p}" for p in PHASES]].median().set_axis(list(PHASES.values()))
    share = (medians / medians.sum()).sort_values(ascending=False, kind="stable")
    return (
        f"A step takes {medians.sum():.1f} s. Its longest phases: {share.index[0]} "
        f"({share.iloc[0]:.0%}) and {share.index[1]} ({share.iloc[1]:.0%})."
    )


def types_along(table: pd.DataFrame, followed: str = "") -> str:
    """How the loss of named types changes along stage 2: ``name, step, rkl``."""
    ends_of = table.sort_values("step", kind="stable").groupby("name", sort=False).rkl
    first, last = ends_of.first(), ends_of.last()
    change = (last / first - 1)[first > 0].sort_values(kind="stable")
    if change.empty:
        return "None of these types has a loss at its first step."
    told = []
    if followed in change.index:
        told.append(
            f"The loss of {followed}, the token to follow, goes from {first[followed]:.2f} to "
            f"{last[followed]:.2f} nats ({change[followed]:+.0%})."
        )
    told.append(
        f"Of these {len(change)} types {change.index[0]} changes by {change.iloc[0]:+.0%} and "
        f"{change.index[-1]} by {change.iloc[-1]:+.0%}."
    )
    persist = int((change > -0.5).sum())
    told.append(f"{_count(persist, len(change))} more than half of the loss of the first step.")
    return " ".join(told)


def _count(n: int, of: int) -> str:
    if n == of:
        return "All of them keep"
    return "None of them keeps" if n == 0 else f"{n} of them keep{'s' * (n == 1)}"


def _share(row: pd.Series) -> str:
    return f"{row.value:.0%} [{row.lo:.0%}, {row.hi:.0%}]"


def _points(gap: float) -> str:
    return f"{100 * gap:+.0f} points"
