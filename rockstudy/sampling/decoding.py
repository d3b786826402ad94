r"""Decoding a batch of prompts with the model's own forward and a key-value cache.

A token is drawn by inverting the cumulative distribution, one uniform number per row and column,

    token = min { v : sum_{w <= v} p(w) > u * sum_w p(w) }.

It is fast for these reasons: keys and values are written into preallocated buffers (transformers'
`DynamicLayer` copies the whole cache at every token, which dominates the time of a small model on a
CPU); a prompt that is a prefix of a longer one is read together with it; finished rows leave the
batch; and a CUDA device is not synchronised at every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from rockstudy.errors import StudyError

COMPACT_SHARE = 1 / 8  # ours: share of finished rows at which the batch drops them
GROW = 64  # ours: minimum number of columns by which a cache buffer grows
CUDA_POLL = 8  # ours: columns between checks of a CUDA batch, each of which synchronises


@dataclass(frozen=True)
class Chooser:
    """Sampling of tokens (B,) from logits (B, V) and uniforms (B,); greedy at temperature 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __call__(self, logits: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (B,), and whether each row's logits were usable, bool (B,)."""
        logits = logits.float()
        if self.temperature == 0:
            top, token = logits.max(-1)
            return token, top.isfinite()
        probs = (logits / self.temperature).softmax(-1)  # (B, V), NaN all along a row with a NaN
        if self.top_k == 0 and self.top_p == 1:
            return _invert(probs, u)
        probs, ids = probs.sort(dim=-1, descending=True, stable=True)
        if self.top_k:
            probs[:, self.top_k :] = 0
        before = probs.cumsum(-1, dtype=torch.float64) - probs  # mass ahead of each token
        probs[before >= self.top_p * probs.sum(-1, keepdim=True)] = 0
        rank, ok = _invert(probs, u)
        return ids.gather(-1, rank[:, None])[:, 0], ok


def _invert(probs: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Invert the cumulative distribution; ``right=True`` skips tokens of probability 0."""
    cdf = probs.cumsum(-1, dtype=torch.float64)  # (B, V): float32 would bias a large vocabulary
    total = cdf[:, -1:]
    token = torch.searchsorted(cdf, u[:, None] * total, right=True)[:, 0]
    return token.clamp_(max=probs.shape[-1] - 1), total[:, 0].isfinite()


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: np.ndarray,
    choose: Chooser,
    ends: torch.Tensor,
    limits: np.ndarray,
    banned: np.ndarray | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode one batch, yielding (row, completion ids int32) as rows leave it.

    Parameters
    ----------
    model
        In evaluation mode; call under ``torch.no_grad``.
    prompts
        Token ids, one list per row (B).
    uniforms
        float64 (B, T) in [0, 1).
    choose
        Samples a token from logits and a uniform number.
    ends
        End-of-text token ids on the model's device.
    limits
        int (B,), from 1 to T: maximum length of a row.
    banned
        int (B, n): token ids whose logit is minus infinity at every step, padded with -1.

    Raises
    ------
    StudyError
        Logits with NaN or infinity, or a row with every token banned.
    """
    device = model.device
    poll = CUDA_POLL if device.type == "cuda" else 1
    cache, filled = _prefill(model, prompts)  # filled: (B, P) True on prompt tokens
    u = torch.from_numpy(uniforms).to(device)  # (B, T)
    tokens = torch.zeros(u.shape, dtype=torch.long, device=device)  # (B, T)
    rows = torch.arange(len(prompts), device=device)
    lengths = filled.sum(1)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    usable = torch.ones((), dtype=torch.bool, device=device)
    seen = None if bool(filled.all()) else filled  # without gaps there is nothing to mask
    token = torch.tensor([prompt[-1] for prompt in prompts], device=device)
    most = torch.from_numpy(limits).to(device)
    ban = None if banned is None else torch.from_numpy(banned).to(device)
    longest = int(limits.max())
    for t in range(longest):
        if seen is not None:
            seen = torch.cat([seen, seen.new_ones(len(rows), 1)], 1)
        logits = _forward(model, token[:, None], seen, (lengths + t)[:, None], cache)
        token, ok = choose(logits if ban is None else _without(logits, ban), u[:, t])
        usable &= (ok | ended).all()
        tokens[:, t] = token
        ended |= torch.isin(token, ends) | (most == t + 1)
        last = t + 1 == longest
        if last or (t + 1) % poll == 0:
            if not usable:
                raise StudyError("logits: must be finite; the model gave NaN or infinity")
            n_ended = len(rows) if last else int(ended.sum())
            if n_ended == len(rows) or n_ended >= max(1, COMPACT_SHARE * len(rows)):
                yield from _leaving(rows, tokens, ended | last, ends, t + 1, limits)
                keep = (~ended).nonzero()[:, 0]
                if last or len(keep) == 0:
                    return
                _select(cache, keep)
                rows, u, tokens, lengths = rows[keep], u[keep], tokens[keep], lengths[keep]
                token, ended, most = token[keep], ended[keep], most[keep]
                ban, seen = (x if x is None else x[keep] for x in (ban, seen))


def _without(logits: torch.Tensor, ban: torch.Tensor) -> torch.Tensor:
    """Logits (B, V) with minus infinity at the banned ids (B, n); -1 falls on a spare column."""
    spare = torch.nn.functional.pad(logits, (0, 1))
    return spare.scatter_(1, ban % spare.shape[1], -torch.inf)[:, :-1]


def _leaving(
    rows: torch.Tensor,
    tokens: torch.Tensor,
    out: torch.Tensor,
    ends: torch.Tensor,
    width: int,
    limits: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows marked `out`, each cut at its limit or after its first end-of-text token."""
    done = tokens[out, :width]
    is_end = torch.isin(done, ends).cpu().numpy()
    for row, ids, end in zip(
        rows[out].tolist(), done.cpu().numpy().astype(np.int32), is_end, strict=True
    ):
        n = min(width, int(limits[row]))
        yield row, ids[: end.argmax() + 1] if end[:n].any() else ids[:n]


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> tuple[DynamicCache, torch.Tensor]:
    """Read all but the last token of every prompt, and expand the cache to the batch's rows.

    A prompt that is a prefix of a longer one shares its cache, with the remaining columns masked.
    Windowed attention counts columns, as do models without position ids: their prompts share
    nothing.
    """
    cache = DynamicCache(config=model.config)
    whole = all(type(layer) is DynamicLayer for layer in cache.layers)
    whole &= "position_ids" in signature(model.forward).parameters
    cache.layers = [_Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    keys = [tuple(prompt[:-1]) for prompt in prompts]
    longer = _longer(keys) if whole else {key: key for key in keys}
    read = list(dict.fromkeys(longer.values()))
    width = max(map(len, read))
    starts = {key: width - len(key) for key in read}
    ids = torch.zeros(len(read), width, dtype=torch.long)
    seen = torch.zeros(len(read), width, dtype=torch.bool)
    for i, key in enumerate(read):
        ids[i, starts[key] :] = torch.tensor(key)
        seen[i, starts[key] :] = True
    first = torch.tensor([starts[longer[key]] for key in keys])[:, None]
    last = first + torch.tensor([len(key) for key in keys])[:, None]
    columns = torch.arange(width)
    filled = ((columns >= first) & (columns < last)).to(model.device)
    if width:
        positions = (seen.cumsum(1) - 1).clamp_(min=0).to(model.device)
        mask = None if bool(seen.all()) else seen.to(model.device)
        _forward(model, ids.to(model.device), mask, positions, cache)
        place = {key: i for i, key in enumerate(read)}
        spread = torch.tensor([place[longer[key]] for key in keys], device=model.device)
        _select(cache, spread)
    return cache, filled


def _select(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Replace a cache's batch by these of its rows; a row may occur several times."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):  # and its keys and values, if any
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def _longer(keys: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Map every key to one that begins with it and is itself a prefix of no other key."""
    ordered = sorted(set(keys))  # extensions of a key directly follow it
    found = {ordered[-1]: ordered[-1]}
    for key, after in reversed(list(pairwise(ordered))):
        found[key] = found[after] if after[: len(key)] == key else key
    return found


def _forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    seen: torch.Tensor | None,
    positions: torch.Tensor,
    cache: DynamicCache,
) -> torch.Tensor:
    """Return the logits (B, V) after the last column of `ids`."""
    return model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


class _Layer(DynamicLayer):
    """A cache layer that writes into a larger buffer instead of concatenating."""

    keys: torch.Tensor
    values: torch.Tensor
    used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append along the sequence axis and return views of the whole cache."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        end = self.used + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, end), self._grown(self.values, end)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, buffer: torch.Tensor, end: int) -> torch.Tensor:
        room = end + max(GROW, end // 4)
        new = buffer.new_empty(*buffer.shape[:2], room, buffer.shape[3])
        new[:, :, : self.used] = buffer[:, :, : self.used]
        return new

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self.used
