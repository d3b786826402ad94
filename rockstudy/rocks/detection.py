"""Rock tokens: frequent token types whose loss stays high in contexts that are alike (paper 2).

For a token type v with occurrences i, losses l_i after on-policy distillation ("post"):

    score      R(v) = mean l_i * Freq(v) = sum_i l_i          its share of sum R is its coverage
    O_PH(v)    occurrences with l_pre >= tau_pre and l_post >= tau_post      persistent, high loss
    rho(o)     share of the other members of O_PH(v) whose context is similar to that of o, >= gamma
    CCR(v)     |{o in O_PH(v): rho(o) >= eta}| / Freq(v)                     (`contexts.repeats`)
    score_ctx  R_ctx(v) = R(v) * CCR(v)

The paper states neither the thresholds nor the window w nor the similarity. Ours, and why
(`rockstudy.config.fields.RockConfig` has the values; `sensitivity` measures their effect):

- tau is a *quantile* of each stage's losses. Losses shrink along training, so one number in nats
  would select different shares of the positions before and after. We take the top tenth: the loss
  is so uneven that positions in the upper fifth can still be at a hundredth of its mean;
- contexts are compared by the bag of token ids around the position. No model is involved, and gamma
  is the share of tokens that two windows have in common;
- eta allows several kinds of context: an occurrence counts when more than a tenth of the type's
  other persistent occurrences have a similar context. By default a lower bound of that share must
  exceed eta, so that few occurrences do not pass by chance (`contexts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress
from rockstudy.config.fields import RockConfig
from rockstudy.config.registry import ENCODERS, SCORES
from rockstudy.errors import StudyError
from rockstudy.rocks import contexts, scores
from rockstudy.rocks.encoders import needs_student
from rockstudy.rocks.token_set import TokenSet, jaccard
from rockstudy.rocks.token_table import type_table
from rockstudy.sampling.rollout import Rollouts

STABLE = 0.70  # paper, appendix E: the average Jaccard index that its K = 100 still has
Features = Any  # csr matrix or dense array, a row per persistent occurrence


class NothingPersists(StudyError):
    """Thresholds that no occurrence is above."""


@dataclass(frozen=True)
class Detection:
    """Scored types, and the persistent high-loss occurrences behind them.

    ``types`` is the type table with ``score, coverage`` (share of the corpus loss), ``n_persistent,
    n_rock, ccr, score_ctx, rank`` (1 is the first by the settings' selector). ``occurrences`` has
    the keys of the persistent occurrences with ``rho`` (NaN without a second one of the type) and
    ``rock``.
    """

    types: pd.DataFrame
    occurrences: pd.DataFrame
    tau_pre: float  # nats
    tau_post: float
    settings: RockConfig  # what they were found with

    def rocks(self) -> TokenSet:
        """The first k types by rank; `StudyError` where fewer have a positive score."""
        if self.k > self.able:
            share = f"{self.settings.k} of {len(self.types)} types, " * (self.settings.k < 1)
            raise StudyError(
                f"rocks__k: must be at most {self.able}, the number of types with a positive "
                f"{self.settings.selector}; got {share}{self.k}"
            )
        return TokenSet("rocks", self.top(self.k).ids)

    def top(self, k: int) -> TokenSet:
        """The first k types, named after the score; fewer where fewer have a positive score."""
        selector = self.settings.selector
        return TokenSet.of(selector, _top(self.types, selector, k))

    def by(self, selector: str) -> Detection:
        """The same types and occurrences, ranked by another of the scores in ``types``."""
        types = self.types.assign(rank=_rank(self.types, selector))
        settings = self.settings.model_copy(update={"selector": selector})
        return replace(self, types=types, settings=settings)

    @property
    def k(self) -> int:
        """The number of rocks that the settings ask for."""
        return self.settings.size(len(self.types))

    @property
    def able(self) -> int:
        """Number of types that can be rocks: their score is positive."""
        return int((self.types[self.settings.selector] > 0).sum())


def detect(
    tokens: pd.DataFrame,
    rollouts: Rollouts,
    settings: RockConfig,
    model: PreTrainedModel | None = None,
) -> Detection:
    """Find persistent occurrences, compare their contexts, score and rank every type.

    `tokens` is the token table of `rollouts`, with ``<loss>_pre`` and ``<loss>_post``; `model` is
    the student, for an encoder that needs one (`encoders.needs_student`).

    `StudyError`: losses that are not finite; no persistent occurrence.
    """
    pre, post = (_losses(tokens, f"{settings.loss}_{stage}") for stage in ("pre", "post"))
    tau_pre = float(np.quantile(pre, settings.tau_pre))
    tau_post = float(np.quantile(post, settings.tau_post))
    persistent = (pre >= tau_pre) & (post >= tau_post)
    if not persistent.any():
        raise NothingPersists(
            f"rocks__tau_pre, rocks__tau_post: must leave at least one occurrence; none has a loss "
            f">= {tau_pre:.3g} nats before and >= {tau_post:.3g} after"
        )
    chosen = tokens.loc[persistent, ["prompt_index", "sample_index", "position", "token_id"]]
    features = encode(rollouts, chosen, settings, model)
    rho = contexts.consistency(features, chosen.token_id.to_numpy(), settings.gamma)
    occurrences = chosen.reset_index(drop=True)
    occurrences = occurrences.assign(rho=rho, rock=_repeat(rho, occurrences.token_id, settings))
    types = _score(tokens, occurrences, settings)
    return Detection(types, occurrences, tau_pre, tau_post, settings)


def _losses(tokens: pd.DataFrame, column: str) -> np.ndarray:
    losses = tokens[column].to_numpy(np.float64)
    if bad := int((~np.isfinite(losses)).sum()):
        raise StudyError(f"{column}: must be finite at every position; {bad} are not")
    return losses


def encode(
    rollouts: Rollouts,
    occurrences: pd.DataFrame,
    settings: RockConfig,
    model: PreTrainedModel | None = None,
) -> Features:
    """Encode the context of every occurrence by the settings' encoder."""
    needed = (model,) if needs_student(settings.encoder) else ()
    if None in needed:
        raise StudyError(f"rocks__encoder: {settings.encoder!r} needs the student; got none")
    keys = pd.MultiIndex.from_arrays([rollouts.prompt_index, rollouts.sample_index])
    wanted = pd.MultiIndex.from_arrays([occurrences.prompt_index, occurrences.sample_index])
    places = keys.get_indexer(wanted), occurrences.position.to_numpy(np.int64)
    return ENCODERS[settings.encoder](rollouts, *places, settings.window, *needed)


def _score(tokens: pd.DataFrame, occurrences: pd.DataFrame, settings: RockConfig) -> pd.DataFrame:
    """The type table with scores and ranks; `occurrences` has ``token_id`` and ``rock``."""
    means = [c for c in tokens.columns if c.startswith(("rkl_", "fkl_", "log_ratio_", "entropy_"))]
    types = type_table(tokens, means)
    types["loss"] = types[f"{settings.loss}_post_mean"]
    types["score"] = scores.score(types)
    types["coverage"] = types.score / types.score.sum()
    places = types.token_id.searchsorted(occurrences.token_id.to_numpy())
    types["n_persistent"] = np.bincount(places, minlength=len(types))
    types["n_rock"] = np.bincount(places[occurrences.rock.to_numpy()], minlength=len(types))
    types["ccr"] = types.n_rock / types["count"]
    for name in sorted({"score_ctx", settings.selector} - {"score"}):
        if name in types:
            raise StudyError(f"rocks__selector: must not be a column of types; got {name!r}")
        types[name] = SCORES[name](types)
    return types.drop(columns="loss").assign(rank=_rank(types, settings.selector))


def _rank(types: pd.DataFrame, selector: str) -> np.ndarray:
    """Rank from 1 by a score; of equals the more frequent type comes first, then the smaller id."""
    return 1 + np.argsort(np.lexsort((types.token_id, -types["count"], -types[selector])))


def coverage_curve(types: pd.DataFrame) -> pd.DataFrame:
    """Share of the corpus loss that the first K types by rank carry: ``k, coverage``."""
    ranked = types.sort_values("rank", ignore_index=True)
    return pd.DataFrame({"k": ranked["rank"], "coverage": ranked.coverage.cumsum()})


def of_prompts(
    tokens: pd.DataFrame, detection: Detection, features: Features, prompts: np.ndarray
) -> pd.DataFrame:
    """The scored types of some prompts alone, with the thresholds of the whole corpus in nats.

    `features` is `encode` of ``detection.occurrences``; their contexts are compared anew.
    """
    settings, persistent = detection.settings, detection.occurrences
    kept = np.flatnonzero(persistent.prompt_index.isin(prompts).to_numpy())
    ids = persistent.token_id.to_numpy()[kept]
    rho = contexts.consistency(features[kept], ids, settings.gamma)
    some = tokens[tokens.prompt_index.isin(prompts)]
    rock = _repeat(rho, ids, settings)
    return _score(some, pd.DataFrame({"token_id": ids, "rock": rock}), settings)


def _repeat(rho: np.ndarray, ids: Any, settings: RockConfig) -> np.ndarray:
    return contexts.repeats(rho, np.asarray(ids), settings.eta, settings.repeats)


def _top(types: pd.DataFrame, selector: str, k: int) -> np.ndarray:
    """Ids of the first k types; fewer where fewer have a positive score."""
    able = types[types[selector] > 0]
    return able.nsmallest(k, "rank").token_id.to_numpy()


def propose_k(stable: pd.DataFrame, coverage: pd.DataFrame) -> tuple[int | None, str]:
    """Propose a cut-off from stability and coverage together.

    `stable` is the table of `subcorpora.stability`. Among the K whose nested Jaccard index,
    averaged over the sizes, is at least 0.70 (paper 2), take the knee of the coverage curve: the K
    where coverage lies highest above the straight line from 0 to all types. Beyond the knee a
    further type adds less than an average one.

    Returns K, or None where no K is stable, and a sentence with the reason.
    """
    mean = stable[stable.kind == "average"]
    able = mean[mean.jaccard >= STABLE].merge(coverage, on="k")
    if able.empty:
        best = mean.loc[mean.jaccard.idxmax()]
        return None, (
            f"no K has an average Jaccard index of {STABLE}; the highest is {best.jaccard:.2f} "
            f"at K = {best.k:.0f}"
        )
    above = able.coverage - able.k / len(coverage)
    row = able.loc[above.idxmax()]
    return int(row.k), (
        f"K = {row.k:.0f}: average Jaccard index {row.jaccard:.2f} and coverage "
        f"{row.coverage:.0%}, the knee of the coverage curve among the stable K"
    )


def answer_types(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> pd.DataFrame:
    r"""Share of some gold answers that hold a type: ``token_id, share``, by id.

    An answer is read inside ``\boxed{...}``, as completions have it; a token counts if it lies
    wholly in the answer. A type is counted once an answer.
    """
    opening, counts = "\\boxed{", Counter()
    how = {"add_special_tokens": False, "return_offsets_mapping": True}
    for answer in answers:
        read = tokenizer(f"{opening}{answer}}}", **how)
        inside = range(len(opening), len(opening) + len(answer) + 1)
        spans = zip(read["input_ids"], read["offset_mapping"], strict=True)
        counts.update({i for i, (a, b) in spans if a < b and a in inside and b in inside})
    ids = sorted(counts)
    shares = [counts[i] / len(answers) for i in ids]
    return pd.DataFrame({"token_id": np.array(ids, np.int32), "share": np.array(shares, float)})


def density(tokens: pd.DataFrame, rocks: TokenSet, occurrences: pd.DataFrame) -> pd.DataFrame:
    """Share of each output's tokens that are rock tokens, by both definitions.

    Returns a row per rollout: ``prompt_index, sample_index, n_tokens``, ``types`` (tokens whose
    type is in the set) and ``occurrences`` (rock occurrences of those types), both shares.
    """
    keys = ["prompt_index", "sample_index"]
    frame = tokens[keys].assign(types=rocks.mask(tokens.token_id.to_numpy()))
    of_rocks = occurrences[occurrences.rock & rocks.mask(occurrences.token_id.to_numpy())]
    frame["occurrences"] = pd.MultiIndex.from_frame(tokens[[*keys, "position"]]).isin(
        pd.MultiIndex.from_frame(of_rocks[[*keys, "position"]])
    )
    grouped = frame.groupby(keys, as_index=False)
    return grouped.agg(
        n_tokens=("types", "size"), types=("types", "mean"), occurrences=("occurrences", "mean")
    )


def sensitivity(
    tokens: pd.DataFrame,
    rollouts: Rollouts,
    settings: RockConfig,
    grid: Mapping[str, Sequence[Any]],
    model: PreTrainedModel | None = None,
) -> pd.DataFrame:
    """Change one setting at a time, and compare the top K and the number of rocks.

    `grid` has the values by setting; the name ``tau`` moves both thresholds.

    Returns ``setting, value, default`` (whether it is the default), ``jaccard`` with the default's
    top K, ``n_rocks`` (types with a positive score, at most K), ``n_types`` (all of them),
    ``n_persistent, n_rock`` (occurrences).
    """
    base = detect(tokens, rollouts, settings, model)
    wanted = _top(base.types, settings.selector, base.k)
    rows = []
    steps = [(name, value) for name, values in grid.items() for value in values]
    with progress.bar(len(steps), "sensitivity", "setting") as bar:
        for name, value in steps:
            fields = ("tau_pre", "tau_post") if name == "tau" else (name,)
            changed = settings.model_copy(update=dict.fromkeys(fields, value))
            row = {"setting": name, "value": str(value), "default": changed == settings}
            try:
                made = base if row["default"] else detect(tokens, rollouts, changed, model)
            except NothingPersists:
                counts = {"n_rocks": 0, "n_types": 0, "n_persistent": 0, "n_rock": 0}
                rows.append(row | {"jaccard": 0.0} | counts)
            else:
                top = _top(made.types, changed.selector, made.k)
                row |= {"jaccard": jaccard(wanted, top), "n_rocks": len(top), "n_types": made.able}
                rock = int(made.occurrences.rock.sum())
                rows.append(row | {"n_persistent": len(made.occurrences), "n_rock": rock})
            bar.update(1)
    return pd.DataFrame(rows)
