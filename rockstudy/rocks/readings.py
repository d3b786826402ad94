"""What the figures and tables of notebooks 02 and 03 show, in words. Frames in, sentences out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.claims import paper
from rockstudy.models.token_texts import visible
from rockstudy.rocks.figures import DENSITIES

SAME = 0.8  # ours: sets of 24 that differ in two or three types
CLUSTERS = ("latex", "structure", "marker", "digit")  # paper, appendix B


def scatter(types: pd.DataFrame, rocks: Sequence[int]) -> str:
    """What the loss and the frequency of types have to do with each other, and where rocks lie."""
    chosen = types.token_id.isin(list(rocks))
    often = types[types["count"] > 1]
    rank = stats.spearmanr(often["count"], often.rkl_post_mean).statistic
    if not np.isfinite(rank) or abs(rank) < 0.1:
        trend = "frequency and mean loss have next to nothing to do with each other"
    else:
        way = "lower" if rank < 0 else "higher"
        trend = f"more frequent types have a {way} mean loss"
    loss = types.rkl_post_mean.where(types["count"] > 0)
    ours, rest = loss[chosen].median(), loss[~chosen].median()
    return (
        f"Over the types that occur more than once, {trend} (Spearman's rank correlation "
        f"{rank:.2f}). The {chosen.sum()} rocks have a median of {ours:.2f} nats and "
        f"{types['count'][chosen].median():.0f} occurrences, the other types one of {rest:.2f} and "
        f"{types['count'][~chosen].median():.0f}. A rock is both frequent and hard: R adds up the "
        "loss of all occurrences, so a type that is only one of the two does not reach it."
    )


def density(outputs: pd.DataFrame) -> str:
    """How dense rocks are in the answers by both definitions, beside the paper's numbers."""
    told = []
    words = {"types": "tokens of a rock type", "occurrences": "rock occurrences"}
    for name, number in DENSITIES.items():
        half, theirs = outputs[name].median(), paper.number(number).value
        share = outputs[name].quantile([0.1, 0.9])
        way = "fewer than" if half < theirs else "more than"
        told.append(
            f"In half of the answers at least {half:.1%} of the tokens are {words[name]} (a tenth "
            f"has less than {share.iloc[0]:.1%}, a tenth more than {share.iloc[1]:.1%}); that is "
            f"{way} the paper's {theirs:.1%}."
        )
    return " ".join(told)


def proposed(k: int | None, why: str, own: int) -> str:
    """Which cut-off coverage and stability propose, and how it compares with the study's."""
    if k is None:
        return f"No cut-off is proposed: {why}. The study's own is K = {own}."
    if k == own:
        return f"The proposed cut-off is the study's own: {why}."
    than = "larger" if k > own else "smaller"
    return f"The proposed cut-off is {than} than the study's K = {own}: {why}."


def coverage(halves: pd.DataFrame, k: int) -> str:
    """What the rocks carry where they were chosen, and on other prompts."""
    rows = halves[halves.k == k].set_index("measure")
    own, fresh = rows.loc["own"], rows.loc["fresh"]
    theirs = paper.number("coverage/100").value
    half = "most" if fresh.lo > 0.5 else "less than half" if fresh.hi < 0.5 else "about half"
    return (
        f"The first {k} types carry {fresh.value:.1%} [{fresh.lo:.1%}, {fresh.hi:.1%}] of the loss "
        f"on prompts that did not choose them, which is {half} of it; on the prompts that did, "
        f"{own.value:.1%}, because a set fits best where it was chosen. The paper, at the same "
        f"share of its types and on the prompts that chose them, has {theirs:.1%}."
    )


def stability(stable: pd.DataFrame, k: int) -> str:
    """How far sub-corpora agree on the first K types, nested as in the paper and disjoint."""
    bound, theirs = paper.number("jaccard-to-cutoff").value, paper.number("jaccard/100").value
    ks = stable.k[stable.kind == "average"].to_numpy()
    at = int(ks[np.abs(ks - k).argmin()])
    mean = stable[(stable.kind == "average") & (stable.k == at)].iloc[0]
    apart = stable[(stable.kind == "disjoint") & (stable.k == at)]
    apart = apart.loc[apart.n.idxmax()]
    side = "above" if mean.jaccard > bound else "not above"
    return (
        f"At K = {at} a sub-corpus and all prompts agree at a mean Jaccard index of "
        f"{mean.jaccard:.2f} [{mean.lo:.2f}, {mean.hi:.2f}], which is {side} the paper's bound of "
        f"{bound:.2f} (its own point: {theirs:.2f}). Two sub-corpora of {apart.n} prompts that "
        f"share none agree at {apart.jaccard:.2f} [{apart.lo:.2f}, {apart.hi:.2f}]: this is what "
        "another set of prompts would give. Intervals: 95% of the draws."
    )


def sensitivity(sweep: pd.DataFrame) -> str:
    """Which setting moves the rocks most, and which hardly."""
    others = sweep[~sweep.default]
    least = others.groupby("setting", sort=False).jaccard.min().sort_values(kind="stable")
    worst = others.loc[others.jaccard.idxmin()]
    same = list(least.index[least >= SAME])
    hardly = (
        f"Whatever their value, {_listed(same)} leave it almost as it is (at least {SAME})"
        if same
        else "Every setting has a value that moves it"
    )
    return (
        f"The set moves most with {worst.setting} = {worst.value}: its Jaccard index with the "
        f"rocks of the defaults is {worst.jaccard:.2f}. {hardly}. A statement about rocks holds "
        "for the settings that it was made with."
    )


def shares(table: pd.DataFrame) -> str:
    """Which categories the rocks have more and less of than their controls (`with_categories`)."""
    if not {"rocks", "control"} <= set(table.index):
        return "There are no matched controls to compare the rocks with."
    rocks = table.loc["rocks"].sort_values(ascending=False, kind="stable")
    gap = (table.loc["rocks"] - table.loc["control"]).sort_values(kind="stable")
    most = f"{rocks.index[0]} ({rocks.iloc[0]:.0%})"
    more = f"{gap.index[-1]} ({gap.iloc[-1]:+.0%})"
    less = f"{gap.index[0]} ({gap.iloc[0]:+.0%})"
    if gap.abs().max() == 0:
        return f"The rocks' largest category is {most}; their controls have the same shares."
    return (
        f"The rocks' largest category is {most}. Compared with their matched controls they have "
        f"more {more} and less {less} of the types; the table below has intervals."
    )


def enrichment(table: pd.DataFrame | None, refusal: str) -> str:
    """What is shown to be more or less common among rocks than among controls."""
    if table is None:
        return f"No enrichment can be measured: {refusal}"
    more, less = table[table.lo > 0], table[table.hi < 0]
    found = []
    for way, some in (("more", more), ("less", less)):
        parts = [
            f"{row.category} ({row.difference:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}])"
            for row in some.itertuples()
        ]
        found += [f"{way} {_listed(parts)}"] if parts else []
    theirs = [c for c in CLUSTERS if c in set(more.category)]
    half = (table.hi - table.lo).max() / 2
    paper_says = (
        f"Of the paper's clusters {_listed(theirs)} {'is' if len(theirs) == 1 else 'are'} shown"
        if theirs
        else "None of the paper's clusters is shown to be more common among rocks"
    )
    if not found:
        return (
            f"No category is shown to differ between rocks and controls ({table.n.iloc[0]} pairs); "
            f"a difference of less than about {half:.2f} could not have been seen."
        )
    return (
        f"Shown among rocks, compared with controls of the same frequency: {'; '.join(found)} "
        f"(95% over {table.n.iloc[0]} matched pairs). {paper_says}; a difference of less than "
        f"about {half:.2f} could not have been seen."
    )


def overlap(table: pd.DataFrame) -> str:
    """Which other selector finds most and fewest of the rocks (`selectors.overlap`)."""
    row = table.loc["rocks"].drop("rocks").sort_values(kind="stable")
    if row.empty:
        return "There is no other set to compare the rocks with."
    best, worst = row.index[-1], row.index[0]
    means = (
        "it is another way to find the same types"
        if row.iloc[-1] >= SAME
        else "no selector finds the same set"
    )
    return (
        f"The set that shares most with the rocks is {best} (Jaccard index {row.iloc[-1]:.2f}), "
        f"the one that shares least is {worst} ({row.iloc[0]:.2f}): {means}."
    )


def rocks_in_words(types: pd.DataFrame, rocks: Sequence[int], most: int = 12) -> str:
    """The first rocks by their spelling, and how many of each category there are."""
    chosen = types[types.token_id.isin(list(rocks))].sort_values("rank")
    first = " ".join(f"⟦{visible(text)}⟧" for text in chosen.text.head(most))
    counts = chosen.category.value_counts()
    kinds = _listed([f"{n} {name}" for name, n in counts.items()])
    return (
        f"The first of {len(chosen)} rocks by rank: {first}. By category: {kinds}. Together they "
        f"hold {chosen.score.sum() / types.score.sum():.0%} of the loss on the prompts that chose "
        "them."
    )


def ranks(types: pd.DataFrame, rocks: Sequence[int]) -> str:
    """How many of the rocks are among as many most frequent types."""
    chosen = list(rocks)
    most = set(types.nlargest(len(chosen), "count").token_id)
    shared = len(most & set(chosen))
    found = "find most" if 2 * shared > len(chosen) else "miss most"
    return (
        f"Of the {len(chosen)} rocks {shared} are among the {len(chosen)} most frequent types: "
        f"frequency alone would {found} of them."
    )


def along(table: pd.DataFrame) -> str:
    """Where in a completion the loss is largest and smallest after OPD (`why_hard.position`)."""
    last = table[(table.loss == table.loss.iloc[-1]) & (table.measure == "mean")]
    told = []
    for by, some in last[last.way == "along"].groupby("by", sort=False):
        high, low = some.loc[some.value.idxmax()], some.loc[some.value.idxmin()]
        apart = "clearly apart" if high.lo > low.hi else "not clearly apart"
        told.append(
            f"By {by}, the mean loss after OPD is largest from {high.start:g} on ({high.value:.2f} "
            f"[{high.lo:.2f}, {high.hi:.2f}] nats) and smallest from {low.start:g} on "
            f"({low.value:.2f} [{low.lo:.2f}, {low.hi:.2f}]), which is {apart}."
        )
    return " ".join(told) + f" Intervals: 95% over {table.n.iloc[0]} prompts."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
