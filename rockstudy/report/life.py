"""The life of rock tokens in words: that of all of them (figure 1), and that of the followed one.

Like `summary` this module reads what earlier notebooks have stored; what was not run is a gap that
says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from rockstudy.figure_labels import many_seeds
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import census
from rockstudy.knockout import steps as knockout_steps
from rockstudy.knockout import tables as knockout_tables
from rockstudy.report import listing
from rockstudy.report.summary import stored
from rockstudy.rocks import followed
from rockstudy.rocks import steps as rocks_steps
from rockstudy.runs import Run
from rockstudy.selective import followed as selective_followed

NOT_RUN = "not run, or not stored in this reference"
PILLAR, NEUTRAL, STUMBLING = census.CLASSES


def reading(
    persistence: pd.DataFrame | None, knockout: pd.DataFrame | None, utility: pd.DataFrame | None
) -> str:
    """A line for each panel of `figures.lifecycle`, from the same tables."""
    told = []
    if persistence is not None and len(persistence):
        told.append(f"(a) {_of_persistence(persistence)}")
    if knockout is not None and len(knockout):
        told.append(f"(b) {_of_knockout(knockout)}")
    if utility is not None and len(utility):
        told.append(f"(c) {_of_utility(utility)}")
    return "\n".join(told) or "No table of an earlier notebook is stored here."


def _of_persistence(table: pd.DataFrame) -> str:
    parts = []
    for group, some in table.groupby("group", sort=False):
        first, last = some.groupby("step").rkl.mean().iloc[[0, -1]]
        change = f" ({last / first - 1:+.0%})" if first > 0 else ""
        parts.append(f"{group} {first:.2f} to {last:.2f} nats{change}")
    return (
        f"Along stage 2 the loss goes, for {', '.join(parts)}: the mean of "
        f"{many_seeds(table.seed.nunique())}, on texts that change with the student."
    )


def _of_knockout(table: pd.DataFrame) -> str:
    parts = []
    for benchmark, some in table.groupby("benchmark", sort=False):
        counts = some["class"].value_counts()
        parts.append(
            f"on {benchmark} of {len(some)} candidates pillars {counts.get(PILLAR, 0)}, stumbling "
            f"blocks {counts.get(STUMBLING, 0)}, neutral {counts.get(NEUTRAL, 0)}"
        )
    return f"Banned alone, {'; '.join(parts)}. Some of them by chance: notebook 05 has how many."


def _of_utility(table: pd.DataFrame) -> str:
    parts = []
    for benchmark, some in table.groupby("benchmark", sort=False):
        by = some.set_index("arm")
        arms = [arm for arm in ("baseline", "rock-freeze") if arm in by.index]
        values = [f"{arm} {by.value[arm]:.3f}{_interval(by.loc[arm])}" for arm in arms]
        parts.append(f"on {benchmark} {' and '.join(values)}")
    return (
        f"At the end of training Pass@1 is, {'; '.join(parts)}. These arms are paired, so that "
        "their difference is known better than either: notebook 07 has it."
    )


def _interval(row: pd.Series) -> str:
    return "" if np.isnan(row.lo) else f" [{row.lo:.3f}, {row.hi:.3f}]"


def headlines(claims: pd.DataFrame) -> str:
    """The headline findings as sentences, by what this run says of them."""
    told = []
    for answer, sentences in listing.in_words(claims).items():
        told += [f"{answer}:", *(f"- {one}" for one in sentences), ""]
    return "\n".join(told).rstrip() or "No headline is recorded."


def of_followed(run: Run) -> pd.DataFrame:
    """What every notebook found about the followed token: ``notebook, found`` (sentences).

    `NOT_RUN` stands where a table is missing.
    """
    if stored(run, rocks_steps.types) is None:
        return pd.DataFrame({"notebook": ["02 rock tokens"], "found": [NOT_RUN]})
    token = followed.token(run)
    parts: dict[str, Callable[[Run, pd.Series], str | None]] = {
        "02 rock tokens": _as_type,
        "04 gradient geometry": _its_gradient,
        "05 causal knockout": _its_knockout,
        "07 selective distillation": _its_arm,
    }
    rows = [(name, tell(run, token) or NOT_RUN) for name, tell in parts.items()]
    return pd.DataFrame(rows, columns=["notebook", "found"])


def _as_type(run: Run, token: pd.Series) -> str:
    return followed.reading_of_token(run)


def _its_gradient(run: Run, token: pd.Series) -> str | None:
    types, chosen = stored(run, gradients_steps.gradients), stored(run, gradients_steps.groups)
    if types is None or chosen is None:
        return None
    rocks = gradients_steps.by_group(types, chosen[chosen.group == "rock"])
    own = rocks[rocks.token_id == token.token_id]
    if own.empty:
        return None
    one, n = own.iloc[0], len(rocks)
    larger = int((rocks.norm_logit > one.norm_logit).sum())
    sign = "positive" if one.square_logit > 0 else "not positive, so that its pushes cancel"
    return (
        f"The norm of its mean gradient over {one['count']:.0f} occurrences is "
        f"{one.norm_logit:.3f} (number {larger + 1} of {n} rocks); the unbiased square is {sign}. "
        f"Its cosine with the sum of the other types is {one.cos_others_logit:+.2f}."
    )


def _its_knockout(run: Run, token: pd.Series) -> str | None:
    chosen = stored(run, knockout_steps.candidates)
    screen = stored(run, lambda r: knockout_steps.screen(r, knockout_steps.candidates(r)))
    if chosen is None or screen is None:
        return None
    levels = knockout_tables.by_level(screen, chosen)
    told = []
    for one in screen[(screen.level == "token") & (screen.target == token.token_id)].itertuples():
        same = (levels.level == "token") & (levels.benchmark == one.benchmark)
        kind = levels[same].set_index("target")["class"][one.target]
        told.append(
            f"On {one.benchmark} accuracy changes by {one.delta:+.3f} [{one.lo:+.3f}, "
            f"{one.hi:+.3f}] without it ({one.n_problems} problems): {kind.lower()}."
        )
    return " ".join(told) or None


def _its_arm(run: Run, token: pd.Series) -> str | None:
    along = stored(run, selective_followed.along)
    if along is None:
        return None
    return selective_followed.reading_of_along(along, followed.name(run)).replace("\n", " ")
