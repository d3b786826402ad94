"""What a page of the viewer holds: rollouts, measures and likeliest tokens as one JSON value.

Everything about positions is packed: for each rollout three zlib streams in base64, with the ids
(``t``), the measures (``m``) and the likeliest tokens (``k``), so that the page unpacks only what
it shows. Numbers are float16, whose 11 bits are three digits, and probabilities have 8 of them,
which are a percent's; the tables have them in full. The first bytes of all numbers of a kind come
before the second ones, which packs better. Column t of everything concerns the prediction of token
t (`rockstudy.sampling.rollout`).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from rockstudy.errors import StudyError
from rockstudy.figure_style import cause_colours
from rockstudy.models.token_bytes import token_bytes
from rockstudy.models.token_texts import decoded, token_texts
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.likeliest import MODELS, TOP
from rockstudy.sampling.rollout import Rollouts
from rockstudy.viewer import scales
from rockstudy.viewer.safe_text import safe

POSITION = ["prompt_index", "sample_index", "position"]
WORST = 5  # tokens whose share of a rollout's loss is shown
ROCK, PERSISTS, REPEATS = 1, 2, 4  # bits of a position's flags


@dataclass(frozen=True)
class Shown:
    """The measurements behind a page."""

    rollouts: Rollouts  # all completions, of which some are shown
    tokens: pd.DataFrame  # their token table, with ``cause`` where the task names causes
    found: Detection
    likeliest: pd.DataFrame  # `rocks.likeliest.of_rows` of the shown ones, which it chooses
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)  # (R, T) by arm
    prompts: Sequence[str] | None = None  # what was asked, by prompt; by default the decoded ids


def payload(
    shown: Shown, tokenizer: PreTrainedTokenizerBase, title: str, about: Mapping[str, str]
) -> dict[str, Any]:
    """Return the page's data as plain values.

    `StudyError`: a token table, or likeliest tokens, of other rollouts.
    """
    rows, tokens = _rows(shown)
    ids = tokens.token_id.to_numpy()
    top = np.stack([np.stack(shown.likeliest[f"top_ids_{name}"]) for name in MODELS], 1)
    probabilities = np.stack([np.stack(shown.likeliest[f"top_probs_{name}"]) for name in MODELS], 1)
    types = np.unique(np.concatenate([ids, top.ravel()]))
    index = "u2" if len(types) <= 1 << 16 else "u4"
    place = np.searchsorted(types, ids)
    values, causes = scales.columns(tokens), _causes(tokens)
    packed = values | {"flags": _flags(tokens, shown.found)}
    for name, every in shown.weights.items():
        packed |= {f"weight {name}": every[rows][shown.rollouts.mask[rows]]}
    if causes:
        packed |= {"cause": tokens["cause"].cat.codes.to_numpy().astype(np.uint8)}
    kinds = {name: _kind(one) for name, one in packed.items()}
    order = sorted(packed)
    cuts = np.cumsum(shown.rollouts.lengths[rows])[:-1]

    def parts(array: np.ndarray, kind: str) -> list[bytes]:
        return [_planes(one) for one in np.split(array.astype(f"<{kind}"), cuts)]

    t = parts(place, index)
    m = list(zip(*(parts(_fitting(packed[name]), kinds[name]) for name in order), strict=True))
    k = list(
        zip(
            parts(np.searchsorted(types, top), index),
            parts(_rounded(probabilities), "f2"),
            strict=True,
        )
    )
    frames = [tokens.iloc[part] for part in np.split(np.arange(len(tokens)), cuts)]
    rollouts = [
        _about(shown.rollouts, row, frame)
        | {"t": _packed(ids), "m": _packed(b"".join(measured)), "k": _packed(b"".join(likely))}
        for row, frame, ids, measured, likely in zip(rows, frames, t, m, k, strict=True)
    ]
    asked = sorted({one["prompt"] for one in rollouts})
    for one in rollouts:
        one["asked"] = asked.index(one["prompt"])
    return {
        "title": safe(title),
        "about": [[safe(name), safe(value, None)] for name, value in about.items()],
        "students": [[n, scales.STUDENTS.get(n, safe(n))] for n in scales.students(tokens)],
        "models": [[name, words] for name, words in MODELS.items()],
        "top": TOP,
        "index": index,
        "columns": [[name, kinds[name]] for name in order],
        "measures": [
            one | {"label": safe(one["label"])}
            for one in scales.measures(values, list(shown.weights), bool(causes))
        ],
        "causes": causes,
        "types": _types(shown, tokenizer, types),
        "rocks": _rocks(shown.found, types, place),
        "prompts": [safe(text, None) for text in _prompts(shown, tokenizer, asked)],
        "rollouts": rollouts,
        "of": len(shown.rollouts),
    }


def _rows(shown: Shown) -> tuple[np.ndarray, pd.DataFrame]:
    """The shown rows of the rollouts, and their part of the token table, both in its order."""
    made, keys = shown.rollouts, POSITION[:2]
    wanted = pd.MultiIndex.from_frame(shown.likeliest[keys].drop_duplicates())
    place = pd.MultiIndex.from_arrays([made.prompt_index, made.sample_index], names=keys)
    rows = np.flatnonzero(place.isin(wanted))
    rows = rows[np.lexsort((made.sample_index[rows], made.prompt_index[rows]))]
    some = shown.tokens[pd.MultiIndex.from_frame(shown.tokens[keys]).isin(wanted)]
    some = some.sort_values(POSITION, kind="stable", ignore_index=True)
    ids = made.completion_ids[rows][made.mask[rows]]
    for name, other in (("tokens", some), ("likeliest tokens", shown.likeliest)):
        if not np.array_equal(ids, other.token_id.to_numpy()):
            raise StudyError(f"{name}: must be those of the rollouts; they are of others")
    return rows, some


def _flags(tokens: pd.DataFrame, found: Detection) -> np.ndarray:
    """Bits of each position: a rock's type, a persistent occurrence, one whose context repeats."""
    repeats = found.occurrences.set_index(POSITION).rock
    there = repeats.reindex(pd.MultiIndex.from_frame(tokens[POSITION]))
    flags = found.rocks().mask(tokens.token_id.to_numpy()) * ROCK
    flags = flags + there.notna().to_numpy() * PERSISTS + there.eq(True).to_numpy() * REPEATS
    return flags.astype(np.uint8)


def _causes(tokens: pd.DataFrame) -> list[list[str]]:
    """Names and colours of the causes, in the task's order."""
    if "cause" not in tokens:
        return []
    names = tokens["cause"].cat.categories.astype(str)
    return [[safe(name), colour] for name, colour in cause_colours(names).items()]


def _kind(values: np.ndarray) -> str:
    if values.dtype.kind == "f":
        return "f2"
    return "u1" if values.dtype == np.uint8 else "u4"


def _fitting(values: np.ndarray) -> np.ndarray:
    """Values that float16 can hold."""
    most = float(np.finfo(np.float16).max)
    return np.clip(values, -most, most) if values.dtype.kind == "f" else values


def _rounded(probabilities: np.ndarray) -> np.ndarray:
    """Float16 with 8 significant bits."""
    bits = probabilities.astype(np.float16).view(np.uint16).astype(np.uint32)
    return np.minimum((bits + 4) & ~np.uint32(7), 0x3C00).astype(np.uint16).view(np.float16)


def _planes(values: np.ndarray) -> bytes:
    """The first bytes of all values, then the second ones, and so on."""
    size = values.dtype.itemsize
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, size).T.tobytes()


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 6)).decode()


def _about(rollouts: Rollouts, row: int, tokens: pd.DataFrame) -> dict[str, Any]:
    """What is shown of a rollout as a whole; losses are reverse KL, means in nats per token."""
    right = None if rollouts.correct is None else bool(rollouts.correct[row])
    made: dict[str, Any] = {"prompt": int(rollouts.prompt_index[row]), "right": right}
    made |= {"sample": int(rollouts.sample_index[row]), "n": len(tokens)}
    made |= {"stopped": bool(rollouts.stopped[row])}
    for name in ("pre", "post"):
        loss = tokens[f"rkl_{name}"].to_numpy(np.float64)
        worst = np.argsort(-loss, kind="stable")[:WORST]
        made[f"loss_{name}"] = round(float(loss.mean()), 6)
        made[f"share_{name}"] = round(float(loss[worst].sum() / max(loss.sum(), 1e-300)), 6)
        made[f"worst_{name}"] = worst.tolist()
    return made


def _types(
    shown: Shown, tokenizer: PreTrainedTokenizerBase, ids: np.ndarray
) -> dict[str, list[Any]]:
    """Text, id, bytes, rank among the rocks, occurrences and mean loss of the types of a page."""
    of = shown.found.types.set_index("token_id").reindex(ids)
    rank = of["rank"].where(of["rank"] <= shown.found.k)
    raw = token_bytes(tokenizer, ids.tolist())
    return {
        "text": [safe(text) for text in token_texts(tokenizer, ids)],
        "id": ids.tolist(),
        "bytes": [None if one is None else one[:64].hex(" ") for one in raw],
        "rank": [None if pd.isna(one) else int(one) for one in rank],
        "count": [0 if pd.isna(one) else int(one) for one in of["count"]],
        "loss": [None if pd.isna(one) else round(float(one), 5) for one in of.rkl_post_mean],
    }


def _rocks(found: Detection, types: np.ndarray, place: np.ndarray) -> list[list[int]]:
    """Places of the rocks among the types, by rank, and their occurrences in the shown rollouts."""
    ranked = found.types.nsmallest(found.k, "rank").token_id.to_numpy()
    counts = np.bincount(place, minlength=len(types))
    there = ranked[np.isin(ranked, types)]
    return [[int(i), int(counts[i])] for i in np.searchsorted(types, there) if counts[i]]


def _prompts(
    shown: Shown, tokenizer: PreTrainedTokenizerBase, asked: Sequence[int]
) -> Sequence[str]:
    if shown.prompts is not None:
        return [shown.prompts[i] for i in asked]
    return decoded(tokenizer, [shown.rollouts.prompt_ids[i] for i in asked])
