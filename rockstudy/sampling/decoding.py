r"""Decoding a batch of prompts with the model's own forward and a key-value cache.

A token is drawn by inverting the cumulative distribution, one uniform number per row and column,

    token = min { v : sum_{w <= v} p(w) > u * sum_w p(w) }.

It is fast for these reasons: keys and values are written into preallocated buffers (transformers'
`DynamicLayer` copies the whole cache at every token, which dominates the time of a small model on a
CPU); a prompt that is a prefix of a longer one is read together with it; finished rows leave the
batch; and a CUDA device is not synchronised at every token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.cache_utils import LinearAttentionCacheLayerMixin as _Recurrent

from rockstudy.errors import StudyError

COMPACT_SHARE = 1 / 8  # ours: share of finished rows at which the batch drops them
GROW = 64  # ours: minimum number of columns by which a cache buffer grows
_TRIED: WeakSet[PreTrainedModel] = WeakSet()  # models that `check_recurrent` has found right
_PROBE = 8  # ours: tokens of the longer prompt that recurrent layers are tried with
CUDA_POLL = 8  # ours: columns between checks of a CUDA batch, each of which synchronises


@dataclass(frozen=True)
class Chooser:
    """Sampling of tokens (B,) from logits (B, V) and uniforms (B,); greedy at temperature 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __call__(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
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


def _invert(probs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution; ``right=True`` skips tokens of probability 0."""
    cdf = probs.cumsum(-1, dtype=torch.float64)  # (B, V): float32 would bias a large vocabulary
    total = cdf[:, -1:]
    token = torch.searchsorted(cdf, u[:, None] * total, right=True)[:, 0]
    return token.clamp_(max=probs.shape[-1] - 1), total[:, 0].isfinite()


def decode(
    model: PreTrainedModel,  # in evaluation mode; call under torch.no_grad
    prompts: Sequence[Sequence[int]],  # token ids, one list per row (B)
    uniforms: np.ndarray,  # float64 (B, T) in [0, 1)
    choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],  # a `Chooser`
    ends: Tensor,  # end-of-text token ids on the model's device
    limits: np.ndarray,  # int (B,), from 1 to T: maximum length of a row
    banned: np.ndarray | None = None,  # int (B, n): ids that no step may give, padded with -1
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode one batch, yielding (row, completion ids int32) as rows leave it.

    `StudyError`: logits with NaN or infinity, or a row with every token banned.
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
        if not last and (t + 1) % poll:
            continue
        if not usable:
            raise StudyError("logits: must be finite; the model gave NaN or infinity")
        n_ended = len(rows) if last else int(ended.sum())
        if n_ended == len(rows) or n_ended >= max(1, COMPACT_SHARE * len(rows)):
            yield from _leaving(rows, tokens[:, : t + 1], ended | last, ends, limits)
            keep = (~ended).nonzero()[:, 0]
            if last or len(keep) == 0:
                return
            _select(cache, keep)
            rows, u, tokens, lengths, token, ended, most, ban, seen = (
                x if x is None else x[keep]
                for x in (rows, u, tokens, lengths, token, ended, most, ban, seen)
            )


@torch.no_grad()
def check_recurrent(model: PreTrainedModel) -> None:
    """Compare a batch that a model with recurrent layers decodes with passes without a cache.

    A state sums up all that was read, padding too unless the architecture leaves it out, which no
    configuration tells. A model is tried once, and one of attention alone not at all.

    `StudyError`: the two differ by more than rounding.
    """
    layers = DynamicCache(config=model.config).layers
    if model in _TRIED or not any(isinstance(layer, _Recurrent) for layer in layers):
        return
    ids = np.arange(_PROBE) * 37 % model.config.get_text_config().vocab_size
    prompts, seen = [ids.tolist(), ids[: _PROBE // 2].tolist()], []

    def choose(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(logits.float())
        return Chooser(0.0)(logits, u)

    never, zeros = torch.empty(0, dtype=torch.long, device=model.device), np.zeros((2, 3))
    written = dict(decode(model, prompts, zeros, choose, never, np.full(2, 3)))
    for row, prompt in enumerate(prompts):
        whole = torch.tensor([[*prompt, *written[row][:-1].tolist()]], device=model.device)
        wanted = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 :].float()
        off = (torch.stack([step[row] for step in seen]) - wanted).abs().max() / wanted.abs().max()
        if not off < (1e-4 if model.dtype == torch.float32 else 5e-2):  # ours, as `pruning`
            kind = f"{model.config.model_type} has recurrent layers"
            must = "must write in a batch what it writes alone"
            raise StudyError(
                f"model: {must}; {kind} whose logits differ there, by {off:.0e} of them"
            )
    _TRIED.add(model)


def _without(logits: Tensor, ban: Tensor) -> Tensor:
    """Logits (B, V) with minus infinity at the banned ids (B, n); -1 falls on a spare column."""
    spare = torch.nn.functional.pad(logits, (0, 1))
    return spare.scatter_(1, ban % spare.shape[1], -torch.inf)[:, :-1]


def _leaving(
    rows: Tensor, tokens: Tensor, out: Tensor, ends: Tensor, limits: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows marked `out`, each cut at its limit or after its first end-of-text token."""
    done = tokens[out]
    is_end = torch.isin(done, ends).cpu().numpy()
    written = done.cpu().numpy().astype(np.int32)
    for row, ids, end in zip(rows[out].tolist(), written, is_end, strict=True):
        n = min(len(ids), int(limits[row]))
        yield row, ids[: end.argmax() + 1] if end[:n].any() else ids[:n]


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> tuple[DynamicCache, Tensor]:
    """Read all but the last token of every prompt, and expand the cache to the batch's rows.

    A prompt that is a prefix of a longer one shares its cache, with the remaining columns masked.
    Windowed attention counts columns, as do models without position ids: their prompts share
    nothing.
    """
    device, cache = model.device, DynamicCache(config=model.config)
    whole = all(type(layer) is DynamicLayer for layer in cache.layers)
    whole &= "position_ids" in signature(model.forward).parameters
    cache.layers = [_Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    keys = [tuple(prompt[:-1]) for prompt in prompts]
    longer = _longer(keys) if whole else {key: key for key in keys}
    place = {key: i for i, key in enumerate(dict.fromkeys(longer.values()))}
    width = max(map(len, place))
    ids = torch.zeros(len(place), width, dtype=torch.long)
    seen = torch.zeros(len(place), width, dtype=torch.bool)
    for key, i in place.items():
        ids[i, width - len(key) :] = torch.tensor(key)
        seen[i, width - len(key) :] = True
    first = torch.tensor([width - len(longer[key]) for key in keys])[:, None]
    last = first + torch.tensor([len(key) for key in keys])[:, None]
    columns = torch.arange(width)
    filled = ((columns >= first) & (columns < last)).to(device)
    if width:
        positions = (seen.cumsum(1) - 1).clamp_(min=0).to(device)
        mask = None if bool(seen.all()) else seen.to(device)
        _forward(model, ids.to(device), mask, positions, cache)
        _select(cache, torch.tensor([place[longer[key]] for key in keys], device=device))
    return cache, filled


def _select(cache: DynamicCache, rows: Tensor) -> None:
    """Replace a cache's batch by these of its rows; a row may occur several times."""
    for layer in cache.layers:
        if isinstance(layer, _Recurrent):  # and its keys and values, if any
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def _longer(keys: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Map every key to one that begins with it and is itself a prefix of no other key."""
    ordered = sorted(set(keys))  # extensions of a key directly follow it
    longer = {ordered[-1]: ordered[-1]}
    for key, after in reversed(list(pairwise(ordered))):
        longer[key] = longer[after] if after[: len(key)] == key else key
    return longer


def _forward(
    model: PreTrainedModel,
    ids: Tensor,
    seen: Tensor | None,
    positions: Tensor,
    cache: DynamicCache,
) -> Tensor:
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

    keys: Tensor
    values: Tensor
    used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
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

    def _grown(self, buffer: Tensor, end: int) -> Tensor:
        room = end + max(GROW, end // 4)
        new = buffer.new_empty(*buffer.shape[:2], room, buffer.shape[3])
        new[:, :, : self.used] = buffer[:, :, : self.used]
        return new

    def get_seq_length(self) -> int:
        return self.used
