r"""Training-inference mismatch: log-probabilities that were logged against the student's own.

The engine that samples and the model that trains rarely agree: kernels, precision and stale weights
differ. With the logged log mu(y_t) of each sampled token and the recomputed log pi(y_t),

    d_t = log pi(y_t) - log mu(y_t)       the difference, in nats
    w_t = exp(d_t)                        the importance weight; its mean is 1 if y_t ~ mu
    k3  = mean of w_t - 1 - d_t           an estimate of KL(mu || pi), each term >= 0

(k3: Schulman 2020, "Approximating KL divergence"). Logits are float32 here, as in the token table.
An engine logs its probabilities before or after the temperature: `temperature` is the one that the
logged ones are of, 1 for vLLM's default.

How this can mislead: with top-p or top-k sampling y_t is not drawn from the logged distribution, so
the mean of w_t is not 1. A difference of several nats nearly everywhere is no mismatch of engines,
but another checkpoint, tokenizer, template or temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from transformers import PreTrainedModel

from rockstudy import intervals, progress
from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States, logits
from rockstudy.sampling.given import GivenRollouts
from rockstudy.sampling.rollout import Rollouts, completion_states

BEYOND = float(np.log(1.2))  # nats: such a token would be clipped by PPO's range of 0.2
FAR = 1.0  # ours: nats; a mean absolute difference above it is no rounding
BATCH_TOKENS = 8_192  # ours: prompts and padding too, in one forward
TILE = (1_024, 8_192)  # ours: positions and ids of one tile of logits, 32 MB
TYPES = 256  # ours: token types whose intervals are drawn together


def log_probs(
    model: PreTrainedModel, rollouts: Rollouts, *, temperature: float = 1.0
) -> np.ndarray:
    """Log-probability of every sampled token by a model: float32 (R, T) in nats, NaN off the mask.

    One streamed pass; logits exist only tile by tile. `StudyError`: a prompt without tokens, a
    temperature that is not above 0, or log-probabilities that are not finite.
    """
    if not temperature > 0:
        raise StudyError(f"temperature: must be above 0; got {temperature}")
    made = np.full(rollouts.mask.shape, np.nan, np.float32)
    prompts = np.array([len(rollouts.prompt_ids[i]) for i in rollouts.prompt_index])
    widths = prompts + rollouts.lengths
    head = Head.of(model)
    with progress.bar(rollouts.n_tokens, "log-probabilities", "token") as bar:
        for some in _batches(widths):
            states = States(completion_states(model, rollouts, some), head)
            mask = rollouts.mask[some]
            ids = torch.from_numpy(rollouts.completion_ids[some][mask]).long()
            part = made[some]
            part[mask] = _of_targets(states, ids, temperature).numpy()
            made[some] = part
            bar.update(len(ids))
    if not np.isfinite(made[rollouts.mask]).all():
        raise StudyError("log-probabilities: must be finite; the model gave NaN or infinity")
    return made


def _batches(widths: np.ndarray) -> list[np.ndarray]:
    """Rows by width in batches of at most `BATCH_TOKENS` with padding, at least a row each."""
    order = np.argsort(widths, kind="stable")
    batches: list[list[int]] = []
    for row in order.tolist():
        if batches and (len(batches[-1]) + 1) * widths[row] <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return [np.array(batch) for batch in batches]


@torch.no_grad()
def _of_targets(states: States, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probability of a target at each position, float32 (N,) on the CPU."""
    parts, (n, width) = [], TILE
    head = states.head.to(states.hidden.device)
    vocab = head.weight.shape[0]
    targets = targets.to(states.hidden.device)
    for start in range(0, len(targets), n):
        cut = States(states.hidden[start : start + n].float(), head)
        asked = targets[start : start + n]
        total = torch.full(asked.shape, -torch.inf, dtype=torch.float64, device=asked.device)
        chosen = torch.zeros_like(total)
        for left in range(0, vocab, width):
            right = min(left + width, vocab)
            z = logits(cut, left, right) / temperature
            total = torch.logaddexp(total, z.logsumexp(1).double())
            inside = ((asked >= left) & (asked < right)).nonzero().squeeze(1)
            chosen[inside] = z[inside, asked[inside] - left].double()
        parts.append((chosen - total).float().cpu())
    return torch.cat(parts)


def table(given: GivenRollouts, recomputed: np.ndarray) -> pd.DataFrame:
    """Logged against recomputed log-probabilities, a row per completion token.

    `recomputed` is (R, T), as `log_probs` gives it. The columns are ``prompt_index, sample_index,
    position, token_id, logged, recomputed`` and ``difference``, recomputed minus logged, float64
    in nats.

    `StudyError`: rollouts that were read without log-probabilities.
    """
    if given.log_probs is None:
        raise StudyError(f"log_probs: must have been logged; {given.path} has none")
    rollouts, mask = given.rollouts, given.rollouts.mask
    logged, own = (values[mask].astype(np.float64) for values in (given.log_probs, recomputed))
    return pd.DataFrame(
        {
            "prompt_index": np.repeat(rollouts.prompt_index, rollouts.lengths),
            "sample_index": np.repeat(rollouts.sample_index, rollouts.lengths),
            "position": np.nonzero(mask)[1].astype(np.int32),
            "token_id": rollouts.completion_ids[mask],
            "logged": logged,
            "recomputed": own,
            "difference": own - logged,
        }
    )


def overall(tokens: pd.DataFrame, rng: Generator, *, beyond: float = BEYOND) -> pd.DataFrame:
    """The mismatch of all tokens of `table`: a row per measure.

    Returns ``measure, value, lo, hi, unit, n``: the means of the difference, of its absolute value,
    of the importance weight and of k3, in nats, the share of tokens whose absolute difference is
    above `beyond`, and the largest one, which has no interval. Intervals resample prompts; they
    are NaN with fewer than two.
    """
    difference = tokens.difference.to_numpy()
    with np.errstate(over="ignore"):
        weight = np.exp(difference)
    measures = {
        "difference": difference,
        "absolute difference": np.abs(difference),
        "share beyond": (np.abs(difference) > beyond).astype(np.float64),
        "importance weight": weight,
        "k3": weight - 1 - difference,
    }
    prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)[1]
    n = np.bincount(prompt)
    sums = np.stack([np.bincount(prompt, weights=v) for v in measures.values()], 1)  # (U, 5)
    value, ends = _with_ends(sums, np.repeat(n[:, None], len(measures), 1), rng)
    frame = pd.DataFrame({"measure": list(measures), "value": value, "lo": ends[0], "hi": ends[1]})
    largest = pd.DataFrame([{"measure": "largest", "value": np.abs(difference).max()}])
    frame = pd.concat([frame, largest], ignore_index=True)
    return frame.assign(unit="prompts", n=len(n))


def by_type(tokens: pd.DataFrame, rng: Generator, *, beyond: float = BEYOND) -> pd.DataFrame:
    """The mismatch of each token type of `table`, by id.

    Returns ``token_id, count, n_prompts, mean, lo, hi`` (the mean difference in nats, its interval
    over prompts, NaN where one prompt has all occurrences), ``absolute_mean``, ``share_beyond``
    (of occurrences whose absolute difference is above `beyond`) and ``largest``.
    """
    ids, types = np.unique(tokens.token_id.to_numpy(), return_inverse=True)
    prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)[1]
    difference = tokens.difference.to_numpy()
    units, absolute = int(prompt.max()) + 1, np.abs(difference)
    count = np.bincount(types)
    largest = np.zeros(len(ids))
    np.maximum.at(largest, types, absolute)
    n_prompts = np.bincount(np.unique(np.stack([types, prompt]), axis=1)[0], minlength=len(ids))
    mean, lo, hi = (np.empty(len(ids)) for _ in range(3))
    for first in range(0, len(ids), TYPES):
        some = (types >= first) & (types < first + TYPES)
        width = min(TYPES, len(ids) - first)
        cell = prompt[some] * width + types[some] - first
        shape, size = (units, width), units * width
        sums = np.bincount(cell, weights=difference[some], minlength=size).reshape(shape)
        counts = np.bincount(cell, minlength=size).reshape(shape)
        part = slice(first, first + width)
        mean[part], (lo[part], hi[part]) = _with_ends(sums, counts, rng)
    return pd.DataFrame(
        {
            "token_id": ids,
            "count": count,
            "n_prompts": n_prompts,
            "mean": mean,
            "lo": lo,
            "hi": hi,
            "absolute_mean": np.bincount(types, weights=absolute) / count,
            "share_beyond": np.bincount(types, weights=absolute > beyond) / count,
            "largest": largest,
        }
    )


def _with_ends(
    above: np.ndarray, below: np.ndarray, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of sums over prompts, (K,), and the ends of their intervals, (2, K)."""
    if len(below) < 2:
        value = above.sum(0) / below.sum(0)
        return value, np.full((2, *value.shape), np.nan)
    value, draws = intervals.ratio_draws(above, below, rng)
    return value, intervals.ends(draws)


def reading(
    whole: pd.DataFrame, types: pd.DataFrame, texts: Sequence[str], *, beyond: float = BEYOND
) -> str:
    """What `overall` and `by_type` show, in one line; `texts` are those of the types."""
    of = whole.set_index("measure")
    absolute, weight, k3 = (of.loc[n] for n in ("absolute difference", "importance weight", "k3"))
    share, largest = of.value["share beyond"], of.value["largest"]
    known = types.assign(text=list(texts))
    known = known[(known.lo > 0) | (known.hi < 0)]
    most = known.reindex(known["mean"].abs().sort_values(ascending=False).index).head(3)
    named = ", ".join(f"{row.text!r} {row['mean']:+.2g}" for _, row in most.iterrows())
    parts = [
        f"logged and recomputed log-probabilities differ by {absolute.value:.2g} nats "
        f"[{absolute.lo:.2g}, {absolute.hi:.2g}] in the mean over {int(absolute.n)} prompts "
        f"and by at most {largest:.2g}",
        f"{share:.2%} of tokens by more than {beyond:.2g}",
        f"mean importance weight {weight.value:.3f} [{weight.lo:.3f}, {weight.hi:.3f}]",
        f"KL(sampler || student) by k3 {k3.value:.2g} nats",
        f"types farthest from 0: {named}" if named else "no type whose interval excludes 0",
    ]
    if absolute.value > FAR:
        parts.append(
            "so far apart are no two engines of one model: look for another checkpoint, tokenizer, "
            "template or temperature"
        )
    return "; ".join(parts)
