"""Measured values of the claims once more, from the tables that a run has stored.

Nothing here imports rockstudy: pandas, numpy and scipy read the same tables and compute the numbers
in another way than the rooms do. ``python tests/recompute.py data/reference/lab`` prints both.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

Recomputed = Callable[..., float]
KNOWN: list[tuple[re.Pattern[str], Recomputed]] = []


class Tables:
    """The tables of a run by the names of their steps, and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "run.json").read_text())["config"]

    def __getitem__(self, name: str) -> pd.DataFrame:
        files = self.folder.glob(f"tables/{name}*.parquet")
        named = re.compile(rf"{re.escape(name)}(-[0-9a-f]+)?")  # with a hash of its arguments
        (file,) = [one for one in files if named.fullmatch(one.stem)]
        return pd.read_parquet(file)


def of(claim: str) -> Callable[[Recomputed], Recomputed]:
    """Register a function of `Tables` for a claim, whose ``{name}`` it has as an argument."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", claim))

    def register(function: Recomputed) -> Recomputed:
        KNOWN.append((pattern, function))
        return function

    return register


def compare(folder: Path) -> pd.DataFrame:
    """Each measured claim of a run: ``kind, claim, value, again``; NaN without a function.

    Claims that were recorded by other rules than today's have no kind and are left out.
    """
    tables, rows = Tables(folder), []
    for file in sorted(folder.glob("claims/*.parquet")):
        claims = pd.read_parquet(file)
        if "kind" in claims:
            measured = claims[claims.value.notna()][["kind", "claim", "value"]]
            rows += [(*row, _again(tables, row[1])) for row in measured.itertuples(index=False)]
    return pd.DataFrame(rows, columns=["kind", "claim", "value", "again"])


def differing(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare` whose numbers differ, and findings without a function."""
    differ = ~np.isclose(table.again, table.value, rtol=1e-6, atol=1e-9)
    return table[differ & (table.again.notna() | (table.kind == "finding"))]


def _again(tables: Tables, claim: str) -> float:
    for pattern, function in KNOWN:
        if found := pattern.fullmatch(claim):
            return float(function(tables, **found.groupdict()))
    return float("nan")


def _main(tables: Tables, graded: pd.DataFrame) -> str:
    """The benchmark that was trained on, else the first."""
    names, trained = graded.benchmark.unique(), tables.config["train_task"]["name"]
    return trained if trained in names else names[0]


# Notebook 01.


@of("opd-accuracy-rises|opd-raises-accuracy")
def opd_accuracy_rises(tables: Tables) -> float:
    along = tables["training.accuracy_along"]
    some = along[along.benchmark == _main(tables, along)]
    means = some.pivot_table("correct", ["seed", "prompt_index"], "step", aggfunc="mean")
    return (means[along.step.max()] - means[0]).mean()


# Notebooks 02 and 03. Halves of the prompts and sub-corpora need every position, which is not
# stored, so that of them only what their tables add up to is computed again.


def _first(tables: Tables, name: str = "rocks") -> pd.Index:
    sets = tables["rocks.token_sets"]
    return pd.Index(sets.token_id[sets.name == name])


def _coverage(tables: Tables, k: int) -> float:
    halves, selector = tables["rocks.halves"], tables.config["rocks"]["selector"]
    by = halves.set_index(["selector", "k", "measure"]).value
    return by[selector, k, "fresh"]


@of("rock-coverage")
def rock_coverage(tables: Tables) -> float:
    return _coverage(tables, len(_first(tables)))


@of("rock-coverage-half")
def rock_coverage_half(tables: Tables) -> float:
    return _coverage(tables, max(1, len(_first(tables)) // 2))


@of("rock-coverage-chosen")
def rock_coverage_chosen(tables: Tables) -> float:
    types = tables["rocks.types"].set_index("token_id")
    loss = types["count"] * types[f"{tables.config['rocks']['loss']}_post_mean"]
    return loss[_first(tables)].sum() / loss.sum()


def _jaccard(tables: Tables) -> pd.Series:
    """Mean over the sizes of nested sub-corpora, by k."""
    stable = tables["rocks.stability"]
    return stable[stable.kind == "nested"].groupby("k").jaccard.mean()


def _nearest(by_k: pd.Series, wanted: float) -> float:
    return by_k.iloc[np.abs(by_k.index.to_numpy() - wanted).argmin()]


@of("rock-jaccard")
def rock_jaccard(tables: Tables) -> float:
    return _nearest(_jaccard(tables), len(_first(tables)))


@of("rock-jaccard-falls")
def rock_jaccard_falls(tables: Tables) -> float:
    by_k, k = _jaccard(tables), len(_first(tables))
    return _nearest(by_k, k) - _nearest(by_k, 5 * k)


@of("rock-density-{kind}")
def rock_density(tables: Tables, kind: str) -> float:
    return tables["rocks.outputs"].groupby("prompt_index")[kind].mean().median()


@of("rocks-{category}")
def rocks_category(tables: Tables, category: str) -> float:
    of_type = tables["rocks.types"].set_index("token_id").category
    rocks, control = (of_type[_first(tables, name)] == category for name in ("rocks", "control"))
    return rocks.mean() - control.mean()


# Notebook 04. Its halves of the prompts need every position too.


def _by_group(tables: Tables, table: str, column: str) -> dict[str, np.ndarray]:
    rows = tables["gradients.groups"].merge(tables[table], on="token_id")
    return {str(name): some[column].dropna().to_numpy() for name, some in rows.groupby("group")}


def _rank_biserial(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * stats.mannwhitneyu(first, second).statistic / (len(first) * len(second)) - 1


def _relative(tables: Tables, group: str) -> float:
    early, late = (_by_group(tables, "gradients.losses", when)[group] for when in ("early", "late"))
    return np.median(late) / np.median(early) - 1


@of("gradient-norm-rock-below-high-kl")
def gradient_norm_rock_below_high_kl(tables: Tables) -> float:
    squares = _by_group(tables, "gradients.gradients", "square_logit")
    return _rank_biserial(squares["rock"], squares["high-KL"])


@of("gradient-norm-plain")
def gradient_norm_plain(tables: Tables) -> float:
    norms = _by_group(tables, "gradients.gradients", "norm_logit")
    return _rank_biserial(norms["rock"], norms["high-KL"])


@of("gradient-cos-order")
def gradient_cos_order(tables: Tables) -> float:
    cosines = _by_group(tables, "gradients.gradients", "cos_others_logit")
    first = _rank_biserial(cosines["rock"], cosines["high-KL"])
    return min(first, _rank_biserial(cosines["high-KL"], cosines["random"]))


@of("gradient-cos-rock-some")
def gradient_cos_rock_some(tables: Tables) -> float:
    rows = tables["gradients.groups"].merge(tables["gradients.gradients"], on="token_id")
    rocks = rows[(rows.group == "rock") & rows.cos_others_logit_se.notna()]
    return rocks.cos_others_logit.max()


@of("persistence-rock")
def persistence_rock(tables: Tables) -> float:
    return _relative(tables, "rock")


@of("persistence-high-kl-plain")
def persistence_high_kl_plain(tables: Tables) -> float:
    return _relative(tables, "high-KL")


def _halves(tables: Tables, group: str) -> float:
    halves = tables["gradients.split"].set_index(["group", "half"])
    return halves.relative[group, "other"]


@of("persistence-high-kl-falls")
def persistence_high_kl_falls(tables: Tables) -> float:
    return _halves(tables, "high-KL")


@of("persistence-rock-above-high-kl")
def persistence_rock_above_high_kl(tables: Tables) -> float:
    return _halves(tables, "rock - high-KL")


# Notebooks 05 and 06.


def _deltas(tables: Tables, benchmark: str, mode: str) -> pd.DataFrame:
    """Mean change of each knockout: ``level, target, delta``, and its changes by problem."""
    knockouts, changes = tables["knockout.knockouts"], tables["knockout.changes"]
    keys = ["level", "target"]
    some = knockouts[(knockouts.benchmark == benchmark) & (knockouts["mode"] == mode)]
    mine = changes[(changes.benchmark == benchmark) & (changes["mode"] == mode)]
    listed = mine.groupby(keys).change.agg(list)
    problems = mine.groupby(keys).prompt_index.agg(list)
    made = some.set_index(keys).assign(changes=listed, problems=problems)
    for column in ("changes", "problems"):
        made[column] = [one if isinstance(one, list) else [] for one in made[column]]
    made["delta"] = [sum(one) for one in made.changes] / (made.n_problems * made.samples)
    return made.reset_index()


def _mode(tables: Tables) -> str:
    return next(m for m in ("reuse", "naive") if m in set(tables["knockout.screen"]["mode"]))


def _class(tables: Tables, benchmark: str) -> pd.Series:
    """-1 for a pillar, 1 for a stumbling block, else 0, for each candidate."""
    screen = tables["knockout.screen"]
    p = screen[screen.benchmark == benchmark].set_index(["level", "target"]).p
    rows = _deltas(tables, benchmark, _mode(tables))
    rows = rows[rows.level != "control"]
    kinds = {}
    for target, some in rows.groupby("target"):
        low, high = (some.sort_values("delta").iloc[end] for end in (0, -1))
        pillar = low.delta <= -0.01 and p[low.level, target] < 0.05
        block = high.delta >= 0.01 and p[high.level, target] < 0.05
        kinds[target] = -1 if pillar else int(block)
    return pd.Series(kinds)


@of("pillars-{benchmark}")
def pillars(tables: Tables, benchmark: str) -> float:
    return (_class(tables, benchmark) == -1).mean()


@of("neutral-{benchmark}")
def neutral(tables: Tables, benchmark: str) -> float:
    return (_class(tables, benchmark) == 0).mean()


@of("disjoint")
def disjoint(tables: Tables) -> float:
    first, second = list(dict.fromkeys(tables["knockout.screen"].benchmark))[:2]
    return ((_class(tables, first) == -1) & (_class(tables, second) == -1)).mean()


def _exact(changes: list[int]) -> float:
    """P(|sum of random signs of the changes| >= that observed), one problem after the other."""
    sums = {0: 1.0}
    for change in changes:
        flipped: dict[int, float] = {}
        for total, p in sums.items():
            for one in (total + change, total - change):
                flipped[one] = flipped.get(one, 0) + p / 2
        sums = flipped
    return min(1.0, sum(p for total, p in sums.items() if abs(total) >= abs(sum(changes))))


@of("corrected-{benchmark}")
def corrected(tables: Tables, benchmark: str) -> float:
    rows = _deltas(tables, benchmark, _mode(tables))
    p = [_exact(one) for one in rows.changes[rows.level == "token"]]
    return (stats.false_discovery_control(p) <= 0.20).sum()


@of("redundant-{benchmark}")
def redundant(tables: Tables, benchmark: str) -> float:
    chosen, rows = tables["knockout.candidates"], _deltas(tables, benchmark, _mode(tables))
    delta = rows.set_index(["level", "target"]).delta
    pairs = chosen[chosen.level == "control"]
    rocks = delta["token"].loc[pairs.paired_with].mean()
    return rocks - delta["control"].loc[pairs.target].mean()


def _without_baseline(tables: Tables, benchmark: str) -> pd.DataFrame:
    """Mean of ban minus null for each candidate, and the sum of its squares: ``d, squares, n``."""
    sides = [_deltas(tables, benchmark, mode) for mode in ("reuse", "null")]
    ban, null = (side[side.level == "token"].set_index("target") for side in sides)
    made = {}
    for target, one in ban.iterrows():
        other = null.loc[target]
        plus = pd.Series(one.changes, one.problems, dtype=float)
        minus = pd.Series(other.changes, other.problems, dtype=float)
        difference = plus.sub(minus, fill_value=0) / one.samples
        made[target] = difference.sum() / one.n_problems, (difference**2).sum(), one.n_problems
    return pd.DataFrame.from_dict(made, orient="index", columns=["d", "squares", "n"])


@of("more-pillars")
def more_pillars(tables: Tables) -> float:
    names = tables["knockout.screen"].benchmark.unique()
    rows = pd.concat([_without_baseline(tables, name) for name in names])
    least = stats.norm.ppf(0.975) * np.sqrt(rows.squares) / rows.n
    down = (rows.d <= -0.01 + 1e-12) & (rows.d < -least)
    up = (rows.d >= 0.01 - 1e-12) & (rows.d > least)
    return (down.sum() - up.sum()) / len(rows)


@of("predictors-{benchmark}")
def predictors(tables: Tables, benchmark: str) -> float:
    types = tables["rocks.types"].set_index("token_id")
    columns = "n_rock ccr rkl_pre_mean rkl_post_mean entropy_teacher_mean entropy_pre_mean".split()
    known = types[[*columns, "entropy_post_mean"]].assign(
        frequency=np.log10(types["count"]), improvement=types.rkl_pre_mean - types.rkl_post_mean
    )
    d = _without_baseline(tables, benchmark).d
    return max(known.loc[d.index].corrwith(d).dropna(), key=abs)


# Notebook 07.


def _final(tables: Tables, arm: str, against: str, trained: bool = True) -> float:
    """Final accuracy of an arm minus that of another, by problem and training seed."""
    table = tables["selective.accuracy"]
    known = {_main(tables, table), tables.config["train_task"]["name"]}
    others = [name for name in table.benchmark.unique() if name not in known]
    table = table[table.benchmark == (_main(tables, table) if trained else others[0])]
    last = table[table.step == table.step.max()].set_index(["seed", "prompt_index"])
    mine, other = (last.accuracy[last["arm"] == name] for name in (arm, against))
    return (mine - other).mean()


@of("rock-freeze-keeps-accuracy")
def rock_freeze_keeps_accuracy(tables: Tables) -> float:
    return _final(tables, "rock-freeze", "baseline")


@of("random-windows-cost-accuracy")
def random_windows_cost_accuracy(tables: Tables) -> float:
    return _final(tables, "random-windows", "baseline")


@of("rock-freeze-beats-random-windows")
def rock_freeze_beats_random_windows(tables: Tables) -> float:
    return _final(tables, "rock-freeze", "random-windows")


@of("rock-freeze-beats-loss-matched-windows")
def rock_freeze_beats_loss_matched_windows(tables: Tables) -> float:
    return _final(tables, "rock-freeze", "random-windows-loss")


@of("rock-freeze-raises-untrained")
def rock_freeze_raises_untrained(tables: Tables) -> float:
    return _final(tables, "rock-freeze", "baseline", trained=False)


@of("gain-{arm}")
def gain(tables: Tables, arm: str) -> float:
    table = tables["selective.accuracy"]
    table = table[(table.benchmark == _main(tables, table)) & (table["arm"] == arm)]
    by_step = table.set_index(["step", "seed", "prompt_index"]).accuracy
    return (by_step[table.step.max()] - by_step[0]).mean()


# Notebook 08.


def _every(tables: Tables, name: str) -> pd.DataFrame:
    """The tables of a step at several checkpoints; its last one in the order of training."""
    files = sorted((tables.folder / "tables").glob(f"beyond.persistence.{name}-*.parquet"))
    made = pd.concat([pd.read_parquet(file) for file in files])
    how = tables.config["persistence"]
    at = how["moments_at"] or tables.config["stage2"]["keep"]
    order = sorted(set(made.checkpoint), key=lambda one: at[one])
    return made[made.checkpoint == order[-1]]


def _suppression(tables: Tables, other: str) -> float:
    found = []
    for _, some in _every(tables, "moved").groupby("seed"):
        sums = some.groupby("group")[["phi_adamw", f"phi_{other}"]].sum()
        rocks, rest = (sums.loc[name] for name in ("rock", "rest"))
        if (rocks > 0).all() and (rest > 0).all():
            ratio = rocks.iloc[0] / rocks.iloc[1] / (rest.iloc[0] / rest.iloc[1])
            found.append(np.log(ratio))
    return float(np.mean(found)) if found else float("nan")


@of("adamw-suppresses-rocks")
def adamw_suppresses_rocks(tables: Tables) -> float:
    return _suppression(tables, "sgd")


@of("second-moment-suppresses-rocks")
def second_moment_suppresses_rocks(tables: Tables) -> float:
    return _suppression(tables, "momentum")


@of("rock-gradients-cancel")
def rock_gradients_cancel(tables: Tables) -> float:
    found = _every(tables, "products")
    made = []
    for _, some in found[found.by == "group"].groupby("seed"):
        kappa = {}
        for group in ("rock", "rest"):
            mine = some[some.group == group]
            n = mine.drop_duplicates("fold").set_index("fold").n
            apart = mine[mine.fold != mine.other]
            pairs = (apart.n * apart.other.map(n)).sum()
            own = mine.drop_duplicates("fold")
            kappa[group] = apart["product"].sum() / pairs / (own.squares.sum() / own.n.sum())
        made.append(kappa["rock"] - kappa["rest"])
    return float(np.nanmean(made))


@of("{arm}-frees-rocks")
@np.errstate(invalid="ignore")  # chosen types may not occur on the other half
def frees_rocks(tables: Tables, arm: str) -> float:
    ends, k = tables["beyond.persistence.ends"], len(_first(tables))
    found = []
    for seed in ends.seed.unique():
        ratios = {}
        for name in ("adamw", arm):
            mine, sides = ends[(ends["arm"] == name) & (ends.seed == seed)], []
            mine = mine.astype({"start": "float64", "end": "float64"})
            for side in (0, 1):
                chosen = mine[mine.fold % 2 == side].groupby("token_id").end.sum()
                rocks = chosen.nlargest(k).index
                rest = mine[mine.fold % 2 != side]
                falls = [
                    (some.start - some.end).sum() / some["count"].sum()
                    for some in (rest[rest.token_id.isin(rocks)], rest)
                ]
                sides.append(falls[0] / falls[1])
            ratios[name] = np.mean(sides)
        found.append(ratios[arm] - ratios["adamw"])
    return float(np.nanmean(found))


# Notebook 09.


def _excess(tables: Tables, arm: str, seeds: list[int] | None = None) -> tuple[float, list[int]]:
    """An arm's change minus that of the plain loss at equal gain, and the seeds of the mean."""
    table = tables["beyond.freezing.accuracy"]
    main, trained = _main(tables, table), tables.config["train_task"]["name"]
    other = next(name for name in table.benchmark.unique() if name not in (main, trained))
    means = table.pivot_table("accuracy", ["arm", "seed", "step"], "benchmark")
    risen = means - means.groupby(level=["arm", "seed"]).transform("first")
    if seeds is None:
        base, own = (risen.loc[name].reset_index() for name in ("baseline", arm))
        seeds = sorted({*own.seed[own.step == own.step.max()]} & {*base.seed})
    gain, change = risen.loc[arm].loc[list(seeds)].groupby("step").mean().iloc[-1][[main, other]]
    points = []
    for name in risen.index.unique("arm"):
        plain = name == "baseline" or name.startswith("rate-")
        if name != arm and plain and set(seeds) <= set(risen.loc[name].index.unique("seed")):
            curve = risen.loc[name].loc[list(seeds)].groupby("step").mean()[[main, other]]
            points.append(curve.drop(index=0).to_numpy())
    x, y = np.concatenate(points).T
    powers = np.arange(1, 3 if len(np.unique(x)) > 2 else 2)
    fit, *_ = np.linalg.lstsq(x[:, None] ** powers, y, rcond=None)
    at = (fit * gain**powers).sum()
    return change - at, list(seeds)


def _contrast(tables: Tables, arm: str, against: str) -> float:
    mine, other = (set(_excess(tables, one)[1]) for one in (arm, against))
    seeds = sorted(mine & other)
    return _excess(tables, arm, seeds)[0] - _excess(tables, against, seeds)[0]


@of("rock-freeze-forgets-less-at-equal-gain")
def rock_freeze_forgets_less_at_equal_gain(tables: Tables) -> float:
    return _excess(tables, "rock-freeze")[0]


@of("excess-{arm}")
def excess(tables: Tables, arm: str) -> float:
    return _excess(tables, arm)[0]


@of("forgets-less-than-as-much-loss")
def forgets_less_than_as_much_loss(tables: Tables) -> float:
    return _contrast(tables, "rock-freeze", "random-windows-loss")


@of("forgets-less-than-as-many-positions")
def forgets_less_than_as_many_positions(tables: Tables) -> float:
    return _contrast(tables, "equal-positions-score", "equal-positions-random")


@of("forgets-less-than-high-kl")
def forgets_less_than_high_kl(tables: Tables) -> float:
    return _contrast(tables, "equal-loss-score", "equal-loss-rkl")


@of("left-out-{arm}")
def left_out(tables: Tables, arm: str) -> float:
    rows = tables["beyond.freezing.trainings"]
    return rows.loss_share[rows["arm"] == arm].mean()


# Notebook 10.


def _local(tables: Tables) -> pd.DataFrame:
    """Places with L and H, means over their draws."""
    places, rows = (tables[f"beyond.teacher_help.{name}"] for name in ("places", "outcomes"))
    means = rows.groupby("place")[["stands", "without", "fresh", "teacher"]].mean()
    local, gain = means.without - means.stands, means.teacher - means.fresh
    return places.assign(local=local, gain=gain)


def _weighted(some: pd.DataFrame, column: str) -> float:
    return np.average(some[column], weights=some.weight)


def _of_group(tables: Tables, column: str, group: str) -> float:
    places = _local(tables)
    return _weighted(places[places.group == group], column)


@of("teacher-gain-rock|teacher-gain-small")
def teacher_gain_rock(tables: Tables) -> float:
    return _of_group(tables, "gain", "rock")


@of("local-ban-rock")
def local_ban_rock(tables: Tables) -> float:
    return _of_group(tables, "local", "rock")


@of("local-ban-apart")
def local_ban_apart(tables: Tables) -> float:
    return local_ban_rock(tables) - _of_group(tables, "local", "control")


@of("high-kl-gain")
def high_kl_gain(tables: Tables) -> float:
    places = _local(tables).sort_values("rkl", kind="stable")
    middle = (places.weight.cumsum() - places.weight / 2) / places.weight.sum()
    top = middle >= 0.75
    return _weighted(places[top], "gain") - _weighted(places[~top], "gain")


@of("local-global")
def local_global(tables: Tables) -> float:
    places, screen = _local(tables), tables["knockout.screen"]
    level = {"rock": "token", "control": "control"}
    screen = screen[screen.benchmark == screen.benchmark.iloc[0]]
    delta = screen.set_index(["level", "target"]).eval("delta / holding")
    pairs = []
    for (group, token), some in places.groupby(["group", "token_id"]):
        several = some.groupby(["seed", "prompt_index"]).ngroups > 1
        known = np.isfinite(delta[level[group], token])
        if known and some.prompt_index.nunique() > 1 and several:
            pairs.append((_weighted(some, "local"), delta[level[group], token]))
    return stats.spearmanr(*np.array(pairs).round(12).T).statistic  # equal ones share a rank


if __name__ == "__main__":
    found = compare(Path(sys.argv[1]))
    print(found.to_string())
    wrong = differing(found)
    print(
        f"{len(found)} numbers; findings without a function, and numbers that differ: {len(wrong)}"
    )
    sys.exit(len(wrong) > 0)
