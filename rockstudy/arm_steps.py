"""The cached steps of notebook 07: arms of stage 2, what they reach, what they cost.

They build on the scored types of `rockstudy.rock_steps`; what each arm is says `rockstudy.arms`.
The unit is the training seed: every arm starts from the same stage 1 and is paired with the
baseline of its seed, so that an interval speaks of other seeds, given these problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rockstudy import arms, inference, store, study, windows
from rockstudy.arms import Arm
from rockstudy.config import StudyConfig, fingerprint
from rockstudy.distill import TrainResult
from rockstudy.rock_steps import detected, measured
from rockstudy.study import OpenRun

MAIN = ("baseline", "rock-freeze", "random-windows")  # paper 5, in the order of its figure


def material(config: StudyConfig, path: Path) -> arms.Material:
    """What the arms are made from, measured on the baseline of the first seed."""
    found = measured(config, path)
    return arms.Material(
        detected(config, path), found.tokens, tuple(map(int, found.tokenizer.all_special_ids))
    )


def planned(run: OpenRun) -> pd.DataFrame:
    """Every arm, its number of training seeds, and how often it is graded."""
    rows = pd.DataFrame(arms.plan(run.config), columns=["arm", "seed", "along"])
    counted = rows.groupby("arm", sort=False).agg(seeds=("seed", "size"), along=("along", "first"))
    counted["graded"] = np.where(counted.along, len(run.config.stage2.keep), 1)
    return counted.drop(columns="along").reset_index()


def _jobs(run: OpenRun) -> list[tuple[Arm, int, tuple[str, ...]]]:
    made = material(run.config, Path(run.path))
    every = tuple(run.config.stage2.keep)
    return [
        (arms.build(name, made, run.config, seed), seed, every if along else ("late",))
        for name, seed, along in arms.plan(run.config)
    ]


def trained(run: OpenRun) -> list[tuple[Arm, int, TrainResult, tuple[str, ...]]]:
    """Train and grade every arm at every seed, side by side; each once in a run."""
    jobs, pair = _jobs(run), study.loaded_pair(run.config.pair)
    study.train_arms(run, jobs)
    return [
        (arm, seed, arm.train(run.config, Path(run.path), seed, pair), names)
        for arm, seed, names in jobs
    ]


def _table(run: OpenRun, name: str, compute: Any) -> pd.DataFrame:
    """A table over all arms, computed from `trained`."""
    if run.replay:
        return store.load(run.path / "tables" / name)
    found = trained(run)
    config = run.config.model_dump(mode="json")
    inputs = {f"{arm.name}-s{seed}": result.hash for arm, seed, result, _ in found}
    path = Path(run.path)
    return store.cached(
        path, "tables", name, config=config, inputs=inputs, compute=lambda: compute(found)
    ).data


def accuracy(run: OpenRun) -> pd.DataFrame:
    """Accuracy of every arm and seed along training, on held-out problems.

    Returns
    -------
    DataFrame
        ``arm, seed, step, benchmark, accuracy, n_problems, samples``; step 0 is the end of stage 1,
        which all arms share.
    """

    def compute(found: list) -> pd.DataFrame:
        frames = []
        for arm, seed, result, names in found:
            folders = {name: result.checkpoints[name] for name in names}
            rows = study.along_training(run, arm, seed, folders)
            frames.append(rows.assign(arm=arm.name))
        keys = ["arm", "seed", "step", "benchmark"]
        grouped = pd.concat(frames).groupby(keys, sort=False)
        return grouped.agg(
            accuracy=("correct", "mean"),
            n_problems=("prompt_index", "nunique"),
            samples=("sample_index", "nunique"),
        ).reset_index()

    return _table(run, "arms_accuracy", compute)


def metrics(run: OpenRun) -> pd.DataFrame:
    """What training logged of every arm and seed: `distill.TrainResult.metrics`, ``arm, seed``."""
    return _table(run, "arms_metrics", lambda found: _stacked(found, "metrics"))


def timing(run: OpenRun) -> pd.DataFrame:
    """Seconds by phase of every arm and seed: `distill.TrainResult.timing`, ``arm, seed``."""
    return _table(run, "arms_timing", lambda found: _stacked(found, "timing"))


def _stacked(found: list, table: str) -> pd.DataFrame:
    return pd.concat(
        [getattr(r, table).assign(arm=arm.name, seed=seed) for arm, seed, r, _ in found],
        ignore_index=True,
    )


def matched(run: OpenRun) -> pd.DataFrame:
    """`windows.match` of the random windows on the rollouts of the statistics, a draw a seed."""
    if run.replay:
        return store.load(run.path / "tables" / "arms_match")
    config, path = run.config, Path(run.path)
    made, found = material(config, path), measured(config, path)
    drawn = [arms.build("random-windows", made, config, seed).weights for seed in config.seeds]

    def compute() -> pd.DataFrame:
        rollouts = found.rollouts
        losses = np.zeros(rollouts.mask.shape)
        losses[rollouts.mask] = found.tokens.rkl_post
        counts = made.detection.types.set_index("token_id")["count"]
        ids, frames = rollouts.completion_ids, []
        for how in drawn:
            table = windows.match(ids, rollouts.mask, losses, counts, how)
            frames.append(table.assign(seed=how.seed))
        return pd.concat(frames, ignore_index=True)

    inputs = {"tokens": found.table.hash, "windows": fingerprint([vars(how) for how in drawn])}
    return store.cached(
        path, "tables", "arms_match", config={}, inputs=inputs, compute=compute
    ).data


# --- summaries that notebooks show ----------------------------------------------------------------


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `accuracy` at the end of training."""
    return table[table.step == table.step.max()]


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds with its t interval: ``arm, benchmark, step, value, lo, hi, n``."""
    rows = []
    for keys, some in table.groupby(["arm", "benchmark", "step"], sort=False):
        estimate = inference.seed_mean(some.accuracy.to_numpy())
        rows.append(dict(zip(("arm", "benchmark", "step"), keys, strict=True)) | _shown(estimate))
    return pd.DataFrame(rows)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Each arm minus the baseline of the same seed, averaged over seeds.

    Returns
    -------
    DataFrame
        ``arm, benchmark, step``, the mean difference ``value`` with its t interval ``lo, hi``
        (NaN for one seed), ``unit``, and ``n`` seeds.
    """
    keys = ["benchmark", "seed", "step"]
    base = table[table["arm"] == "baseline"][[*keys, "accuracy"]]
    others = table[table["arm"] != "baseline"]
    both = others.merge(base, on=keys, suffixes=("", "_base"), validate="many_to_one")
    both["accuracy"] -= both.accuracy_base
    return means(both)


def _shown(estimate: inference.Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("value", "lo", "hi", "unit", "n")}


def cost(timing: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """What each arm saves.

    Parameters
    ----------
    timing, metrics
        As the functions of these names return them.

    Returns
    -------
    DataFrame
        ``arm, seeds, frozen`` (1 - mean weight over all tokens), ``projected`` (share of positions
        that reach the heads), ``seconds_step`` (median over logging windows), ``speedup`` (the
        baseline's over it, median over seeds), ``bound`` (Amdahl: the baseline's step without the
        share ``frozen`` of its heads and their backward pass, whatever skips the positions) and
        ``bound_all`` (without any heads at all).

    Notes
    -----
    Arms run side by side, two at a time on two cores: their times share one machine and their
    ratios move by some percent between runs.
    """
    weighted = metrics.assign(weight=metrics.mean_weight * metrics.n_tokens)
    sums = weighted.groupby("arm", sort=False)[["weight", "n_kept", "n_tokens"]].sum()
    seconds = timing.groupby(["arm", "seed"], sort=False).seconds_step.median().unstack("seed")
    base = timing[timing["arm"] == "baseline"]
    head = base.seconds_head.median() / base.seconds_step.median()
    frozen = 1 - sums.weight / sums.n_tokens
    table = pd.DataFrame(
        {
            "seeds": seconds.notna().sum(axis=1),
            "frozen": frozen,
            "projected": sums.n_kept / sums.n_tokens,
            "seconds_step": seconds.median(axis=1),
            "speedup": (seconds.loc["baseline"] / seconds).median(axis=1),
            "bound": 1 / (1 - head * frozen),
            "bound_all": 1 / (1 - head),
        }
    )
    return table.reindex(sums.index).reset_index()


def phases(timing: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of a step by phase and arm: a frame, arms in rows."""
    columns = [c for c in timing.columns if c.startswith("seconds_")]
    return timing.groupby("arm", sort=False)[columns].median()


def reading(found: pd.DataFrame, benchmark: str) -> str:
    """What the differences at the end allow to say on a benchmark, and what not."""
    lines = []
    for row in at_end(found)[lambda t: t.benchmark == benchmark].itertuples():
        number = f"{row.arm}: {row.value:+.3f}"
        if row.n < 2:
            lines.append(f"{number}, one seed: says nothing about other seeds.")
            continue
        said = f"{number} [{row.lo:+.3f}, {row.hi:+.3f}] over {row.n} seeds"
        if row.lo > 0 or row.hi < 0:
            lines.append(f"{said}: {'better' if row.lo > 0 else 'worse'} than the baseline.")
        else:
            lines.append(
                f"{said}: no difference shown; differences inside the interval, up to "
                f"{max(abs(row.lo), abs(row.hi)):.3f}, cannot be excluded."
            )
    return "\n".join(lines)


def freeze_claims(
    found: pd.DataFrame, costs: pd.DataFrame, match: pd.DataFrame, benchmark: str
) -> list[dict]:
    """Claims rows of paper 5 on the trained benchmark: see the notebook for the rules."""
    ends = at_end(found)[lambda t: t.benchmark == benchmark].set_index("arm")
    cost_of = costs.set_index("arm")
    both = match[match["arm"] == "random"].share.mean() / match[match["arm"] == "rock"].share.mean()
    rows = [
        _difference(
            "freeze-keeps-accuracy",
            "Freezing rocks and their windows leaves the final accuracy within 2 points of the "
            "baseline (Rock-Freeze minus baseline).",
            "figure 5 at step 1500: 55.5% against 56.5%, read off",
            -0.010,
            ends,
            "rock-freeze",
            within=0.02,
        ),
        _difference(
            "random-freeze-costs-accuracy",
            "Freezing random windows that match costs accuracy (random minus baseline).",
            "figure 5 at step 1500: 42% against 56.5%, read off",
            -0.145,
            ends,
            "random-windows",
        ),
    ]
    number = {"unit": "arms of one run", "n": int(costs.seeds.max())}
    for claim, statement, where, paper, arm, column in (
        ("freeze-speed-up", "Wall-clock of a baseline step over one of Rock-Freeze with windows.",
         "paper 5: 1.4x in two places, 1.7x in one", 1.4, "rock-freeze", "speedup"),
        ("freeze-types-speed-up", "The same with types alone, which skips the frozen heads.",
         "paper 5: 1.4x in two places, 1.7x in one", 1.4, "types", "speedup"),
        ("freeze-speed-bound", "The most that skipping the frozen share of positions can give.",
         "paper 5: 1.4x in two places, 1.7x in one", 1.4, "rock-freeze", "bound"),
        ("freeze-share", "Share of positions that Rock-Freeze freezes.",
         "paper 5: 18% in one place, 30% in another", 0.18, "rock-freeze", "frozen"),
    ):  # fmt: skip
        row = {"claim": claim, "statement": statement, "locator": where, "paper": paper}
        if arm not in cost_of.index:
            rows.append(row | {"verdict": "not run"})
            continue
        value = float(cost_of.loc[arm, column])
        legal = (0.18, 0.30) if column == "frozen" else (1.4, 1.7)
        holds = 0.9 * legal[0] <= value <= 1.1 * legal[1]
        verdict = "reproduced" if holds else "differs"
        rows.append(row | number | {"value": value, "verdict": verdict})
    rows.append(
        {
            "claim": "random-freezes-the-same-share",
            "statement": "Positions in random windows over positions in the rocks' own.",
            "locator": "ours: the paper's code freezes rarer types",
            "value": both,
            "unit": "draws",
            "n": int(match.seed.nunique()),
            "verdict": "reproduced" if abs(both - 1) <= 0.01 else "differs",
        }
    )
    return rows


def _difference(
    claim: str,
    statement: str,
    locator: str,
    paper: float,
    ends: pd.DataFrame,
    arm: str,
    within: float | None = None,
) -> dict:
    """A difference over seeds, with `within` an equivalence: the whole interval inside +-within."""
    row = {"claim": claim, "statement": statement, "locator": locator, "paper": paper}
    if arm not in ends.index:
        return row | {"verdict": "not run"}
    one = ends.loc[arm]
    number = {name: one[name] for name in ("value", "lo", "hi", "unit", "n")}
    if one.n < 2:
        verdict = "inconclusive"
    elif within is None:
        verdict = "reproduced" if one.hi < 0 else "differs" if one.lo > 0 else "inconclusive"
    elif -within <= one.lo and one.hi <= within:
        verdict = "reproduced"
    else:
        verdict = "differs" if one.hi < -within or one.lo > within else "inconclusive"
    return row | number | {"verdict": verdict}
