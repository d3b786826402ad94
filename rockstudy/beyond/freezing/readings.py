"""Notebook 09 in words: what each table shows, how sure that is, what it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rockstudy.beyond.freezing import arms
from rockstudy.beyond.freezing.frontier import BASELINE, is_baseline

NO_ARMS = (
    "No arm of equal shares was trained in this run (`freezing__arms` names them); the arms are "
    "those of notebook 07."
)


def of_shares(table: pd.DataFrame, share: float) -> str:
    """Sentences on `shown.summary`: how far the shares of training are from those matched."""
    told = []
    for prefix, column, word in (
        (arms.POSITIONS, "share", "positions"),
        (arms.LOSS, "loss_share", "loss"),
    ):
        some = table[table["arm"].str.startswith(prefix)]
        if some.empty:
            continue
        other = {"share": "loss_share", "loss_share": "share"}[column]
        least, most = (some.loc[some[other].agg(f)] for f in ("idxmin", "idxmax"))
        kept = "loss" if other == "loss_share" else "positions"
        told.append(
            f"Arms of equal {word} were to leave out {share:.0%} of the {word}; in training they "
            f"leave out {some[column].min():.1%} to {some[column].max():.1%}. That is from "
            f"{least[other]:.1%} ({least['arm']}) to {most[other]:.1%} ({most['arm']}) of the "
            f"{kept}."
        )
    return "\n".join(told) or NO_ARMS


def of_distances(table: pd.DataFrame) -> str:
    """Sentences on `shown.summary`: how far each arm moved, against the baseline."""
    far = table[table["arm"] != BASELINE].dropna(subset=["moved_ratio"])
    base = table[table["arm"] == BASELINE]
    told = [
        f"The baseline moves by {row.moved:.2%} of the norm of its weights." for row in
        base.itertuples()
    ]  # fmt: skip
    if len(far):
        least, most = (far.loc[far.moved_ratio.agg(f)] for f in ("idxmin", "idxmax"))
        told.append(
            f"The other arms move from {least.moved_ratio:.2f} times as far ({least['arm']}) to "
            f"{most.moved_ratio:.2f} times ({most['arm']})."
        )
    return " ".join(told)


def of_frontier(curves: pd.DataFrame, names: tuple[str, str]) -> str:
    """Sentences on `frontier.curves`: what the plain loss gains and forgets at each rate."""
    told = []
    for arm, rows in curves.groupby("arm", sort=False):
        last = rows.iloc[-1]
        word = "forgets" if last.change < 0 else "gains"
        told.append(
            f"{arm}: at its end it has gained {last.gain:+.3f} on {names[0]} and {word} "
            f"{abs(last.change):.3f} on {names[1]}."
        )
    if len(told) == 1:
        told.append("No other learning rate was trained: the frontier is that of one training.")
    apart = curves.change - curves.fitted
    told.append(f"The points lie within {apart.abs().max():.3f} of the curve through them.")
    return "\n".join(told)


def of_excess(table: pd.DataFrame, margin: float) -> str:
    """A line for each arm of `frontier.excess`: more or less forgetting at equal gain."""
    lines = []
    for row in table.dropna(subset=["excess"]).itertuples():
        told = f"{row.arm}: {row.excess:+.3f}"
        if row.seeds < 2:
            lines.append(f"{told}, one seed: no conclusion about other seeds.")
            continue
        told += f" [{row.excess_lo:+.3f}, {row.excess_hi:+.3f}] over {row.seeds} seeds"
        lines.append(f"{told}: {_means(row, margin)}{_outside(row)}.")
    told = "\n".join(lines) or "No arm can be compared with a baseline at equal gain."
    some = table[(table.seeds > 1) & table.excess.notna() & ~table["arm"].map(is_baseline)]
    if len(some) > 1:
        told += (
            f"\nOf {len(some)} arms at a level of 5% each, {0.05 * len(some):.1f} would differ by "
            "chance."
        )
    return told


def _means(row: Any, margin: float) -> str:
    if row.excess_lo == row.excess_hi:  # the same in every cell
        return "no variation, and no conclusion"
    if row.excess_lo > 0 or row.excess_hi < 0:
        word = "less" if row.excess > 0 else "more"
        return f"it forgets {word} than a baseline that has learnt as much"
    if -margin <= row.excess_lo90 and row.excess_hi90 <= margin:
        return f"the same as such a baseline within {margin:g}"
    return f"no difference shown, and one below {row.detectable:.3f} could hardly have been seen"


def _outside(row: Any) -> str:
    return "; no baseline has gained as much" if row.beyond else ""


def of_contrasts(rows: list[dict[str, Any]]) -> str:
    """A line for each comparison of two arms at equal gain, rows of `claims.contrasts`."""
    lines = []
    for one in rows:
        pair = f"{one['arm']} against {one['against']}"
        if "value" not in one:
            lines.append(f"{pair}: not trained in this run.")
        elif pd.isna(one["lo"]):
            lines.append(f"{pair}: {one['value']:+.3f}, one seed: no conclusion.")
        else:
            word = "no difference shown" if one["lo"] < one["hi"] else "no variation"
            if one["lo"] > 0 or one["hi"] < 0:
                word = f"it forgets {'less' if one['value'] > 0 else 'more'} at equal gain"
            lines.append(
                f"{pair}: {one['value']:+.3f} [{one['lo']:+.3f}, {one['hi']:+.3f}]; {word} "
                f"(80% power from {one['detectable']:.3f})."
            )
    return "\n".join(lines)


WORDS = {  # of `shown.BY`
    "share": "With the share of the positions that an arm leaves out",
    "loss_share": "With the share of the loss that it leaves out",
    "moved_ratio": "With the distance that it moves",
}


def of_explained(table: pd.DataFrame) -> str:
    """Sentences on `shown.explained`: what goes with learning and forgetting over the arms."""
    known = table.dropna(subset=["value"])
    if known.empty:
        return "Too few arms were trained to relate what they leave out to what they forget."
    told = []
    for by, rows in known.groupby("by", sort=False):
        parts = []
        for row in rows.itertuples():
            sure = "" if row.lo > 0 or row.hi < 0 else ", not told from 0"
            parts.append(f"{row.of} {row.value:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}]{sure}")
        told.append(f"{WORDS[str(by)]}: {'; '.join(parts)}.")
    return f"Rank correlations over {known.n.max()} arms. " + "\n".join(told)


def of_orders(table: pd.DataFrame, found: Mapping[str, Any]) -> str:
    """Sentences on `authors.orders` and `authors.rank_correlation`."""
    missing = list(table["arm"][table.value.isna()])
    told = []
    if not found:
        told.append("Fewer than three of the authors' arms have intervals here: no order to rank.")
    else:
        sure = "the order is not known well enough to agree or differ"
        if found["lo"] > 0 or found["hi"] < 0:
            sure = f"the two orders {'agree' if found['lo'] > 0 else 'are opposed'}"
        told.append(
            f"Rank correlation of our order with the authors' over {found['n']} arms: "
            f"{found['value']:+.2f} [{found['lo']:+.2f}, {found['hi']:+.2f}]: {sure}."
        )
    if missing:
        told.append(f"Not trained here: {', '.join(missing)}.")
    return " ".join(told)
