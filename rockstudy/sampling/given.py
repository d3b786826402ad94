r"""Rollouts as given: completions that were sampled elsewhere, read from JSONL or parquet.

A row holds a prompt and a completion, as token ids or as text, by the names that verl, TRL, vLLM
and SGLang write (`NAMES`); or a prompt and several completions: vLLM's ``RequestOutput``
(``outputs``) and answers of OpenAI-compatible servers (``choices``). Names match in any case. Token
ids go before texts. Equal prompts are one prompt with several samples, in the order of the file.

Texts are tokenised here, with a warning, because a text is not the rollout: it can be split in
other ways than it was sampled, and logs often leave control tokens out (verl's and TRL's do).
Messages go through the chat template; the text of a prompt is read as it is, control tokens
included, unless it is said to be a user's message. No end-of-text token is invented.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from rockstudy.errors import StudyError, shortened
from rockstudy.models import chats
from rockstudy.progress import notice
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store.files import hash_file
from rockstudy.store.fingerprints import fingerprint
from rockstudy.tasks import rows

KINDS = (".jsonl", ".parquet")
NAMES: dict[str, tuple[str, ...]] = {
    "prompt_ids": ("prompt_ids", "prompt_token_ids", "prompts"),
    "prompt_text": ("prompt", "input", "messages", "problem", "question"),
    "completion_ids": (
        *("completion_ids", "completion_token_ids", "response_ids", "response_token_ids"),
        *("token_ids", "output_ids", "output_token_ids", "responses"),
    ),
    "completion_text": ("completion", "response", "output", "text", "generation", "message"),
    "log_probs": (
        *("logprobs", "log_probs", "completion_logprobs", "rollout_log_probs"),
        *("sampling_per_token_logps", "meta_info.output_token_logprobs"),
    ),
    "reward": ("reward", "score"),
    "correct": ("correct", "is_correct", "acc"),
    "stopped": ("stopped", "finish_reason", "meta_info.finish_reason"),
    "completion_mask": ("completion_mask", "response_mask"),
}
SEVERAL = ("outputs", "choices")  # lists of completions
MOST_SAMPLES = np.iinfo(np.int16).max  # the type of sample_index
ABOVE_ZERO = 1e-3  # ours: rounding of a logged log-probability near 0
_TOKEN = "token_id:"  # how vLLM writes a token where it is asked for ids


@dataclass(frozen=True)
class GivenRollouts:
    """Rollouts that were read, with what was logged beside them.

    `log_probs` is aligned with ``rollouts.completion_ids``: column t is the logged log-probability,
    in nats, of the token that was sampled there.
    """

    rollouts: Rollouts
    log_probs: np.ndarray | None  # float32 (R, T), NaN where the mask is False
    reward: np.ndarray | None  # float64 (R,)
    used: dict[str, str]  # the column of each part
    tokenised: bool  # whether prompts or completions were texts
    hash: str  # of the files' bytes, in their order
    path: str

    @property
    def line(self) -> str:
        """What was read from which columns, in one line."""
        made = self.rollouts
        parts = ", ".join(f"{part} from {column}" for part, column in self.used.items())
        sizes = f"{len(made)} rollouts of {made.n_prompts} prompts, {made.n_tokens} tokens"
        return f"{self.path}: {sizes}; {parts}"


@dataclass(frozen=True)
class _Row:
    """A completion as it stands in a file, and then with arrays of token ids."""

    place: str
    prompt: Any  # token ids, a text or messages; int64 (P,) once encoded
    completion: Any  # token ids or a text; int64 (T,) once encoded
    log_probs: np.ndarray | None  # float32
    reward: float | None
    correct: bool | None
    stopped: bool | None
    used: dict[str, str]


def read(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocabulary: int | None = None,
    ends: Sequence[int] = (),
    reward_column: str | None = None,
    chat: Literal["none", "template"] = "none",
) -> GivenRollouts:
    """Read rollouts from a JSONL or parquet file, or from all such files of a folder by name.

    `vocabulary` is the number of ids of the models, by default of the tokenizer. `ends` are the
    ids that end a completion, beside the tokenizer's own. `reward_column` names the reward where
    the file has it by a name of its own, as TRL has one for each reward function. `chat` is
    ``template`` where the text of a prompt is a user's message that the sampler put into the chat
    template, and ``none`` where it is what the model read.

    ``correct`` is a column of that kind, or else a reward that is 0 or 1 (or -1 or 1) throughout. A
    notice tells which columns were read.

    `StudyError`, in one line with the file and the line: nothing to read, a missing column, two
    spellings of one, other columns than in the rows before, a token id out of the vocabulary, an
    empty completion, log-probabilities that are not one per token.
    """
    files, found = _files(str(path)), list[_Row]()
    encode = _Encoder(tokenizer, vocabulary or len(tokenizer), chat)
    for file in files:
        for placed in rows.of_file(file):
            for row in _completions(*placed, reward_column):
                _check_same_columns((found or [row])[0], row)
                found.append(encode.encoded(row))
    if not found:
        raise StudyError(f"{path}: must have at least one rollout; it has none")
    if encode.texts:
        warnings.warn(encode.warning(str(path)), stacklevel=2)
    rollouts, found = _grouped(found, {*ends, *_ends(tokenizer)})
    made = GivenRollouts(
        rollouts,
        _aligned(rollouts, found),
        _numbers([row.reward for row in found]),
        found[0].used,
        bool(encode.texts),
        fingerprint([hash_file(file) for file in files]),
        str(path),
    )
    notice(made.line)
    return made


def _check_same_columns(first: _Row, row: _Row) -> None:
    if row.used != first.used:
        known, own = (", ".join(one.used.values()) for one in (first, row))
        must = f"must have the columns of the first row ({known})"
        raise StudyError(f"{row.place}: {must}; got {shortened(own)}")


def _files(path: str) -> list[Path]:
    """The file, or the files of a folder by name; `StudyError` if there is none."""
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        return [rows.regular(path, KINDS, "an existing file or folder of rollouts")]
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in KINDS)
    if not files:
        legal = " or ".join(KINDS)
        raise StudyError(f"path: must have files that end in {legal}; {shortened(path)} has none")
    return [rows.regular(str(file), KINDS, "a file of rollouts") for file in files]


def _completions(place: str, row: Any, reward_column: str | None) -> Iterator[_Row]:
    """The completions of a row: one, or several in a list."""
    if not isinstance(row, dict):
        raise rows.wrong(f"{place}:", "be an object with a prompt and a completion", row)
    name, several = _one(place, row, SEVERAL)
    if name is None:
        yield _row(place, row, row, "", reward_column)
        return
    if not isinstance(several, list):
        raise rows.wrong(f"{place}: {name}", "be a list of completions", several)
    for number, one in enumerate(several, 1):
        at = f"{place}: {name} {number}"
        if not isinstance(one, dict):
            raise rows.wrong(at, "be an object with a completion", one)
        yield _row(at, row, one, f"{name}[].", reward_column)


def _row(
    place: str, outer: dict[str, Any], inner: dict[str, Any], prefix: str, reward_column: str | None
) -> _Row:
    """One completion: `inner` has it, `outer` its prompt and what belongs to the whole row."""
    used: dict[str, str] = {}

    def take(part: str, *names: str) -> Any:
        """The cell of a part: of the completion, or else of the row; None without one."""
        for source, before in ((inner, prefix), (outer, "")):
            for kind in names or (part,):
                column, value = _one(place, source, NAMES[kind], kind == "reward")
                if column is not None:
                    used[part] = before + column
                    return value
        return None

    prompt = take("prompt", "prompt_ids", "prompt_text")
    logged = take("log_probs")
    completion = take("completion", "completion_ids", "completion_text")
    if completion is not None and _is_messages(completion):
        completion = _reply(f"{place}: {used['completion']}", completion)
    if (isinstance(completion, str) or completion is None) and (ids := _spelt_ids(logged)):
        completion, used["completion"] = ids, used["log_probs"]
    for part, value, kinds in (
        ("prompt", prompt, ("prompt_ids", "prompt_text")),
        ("completion", completion, ("completion_ids", "completion_text")),
    ):
        if value is None:
            names = ", ".join(name for kind in kinds for name in NAMES[kind][:2])
            got = shortened(", ".join(map(str, inner)) or "none")
            raise StudyError(f"{place}: must have a {part}, such as {names}; got the columns {got}")
    mask = take("completion_mask")
    if mask is not None:
        completion, logged = _unmasked(place, used, mask, completion, logged)
    if logged is not None:
        ids = completion if isinstance(completion, list) else None
        logged = _log_probs(f"{place}: {used['log_probs']}", logged, ids, inner)
    if reward_column is not None:
        used["reward"], value = reward_column, rows.cell(place, outer, reward_column)
        if value is None:
            raise StudyError(f"{place}: must have the column {reward_column}; it has none")
    else:
        value = take("reward")
    reward = None if value is None else _number(f"{place}: {used['reward']}", value)
    correct, ended = take("correct"), take("stopped")
    return _Row(
        place,
        prompt,
        completion,
        logged,
        reward,
        None if correct is None else _truth(f"{place}: {used['correct']}", correct),
        None if ended is None else _stopped(f"{place}: {used['stopped']}", ended),
        used,
    )


def _one(
    place: str, row: dict[str, Any], names: Sequence[str], first: bool = False
) -> tuple[str | None, Any]:
    """The one of these columns that is there and its cell; with `first` the first of several."""
    there = [(name, value) for name in names if (value := rows.cell(place, row, name)) is not None]
    if len(there) > 1 and not first:
        both = " and ".join(name for name, _ in there[:2])
        raise StudyError(f"{place}: must have one column of {', '.join(names)}; got {both}")
    return there[0] if there else (None, None)


def _is_messages(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and isinstance(items[0], dict) and "role" in items[0]


def _reply(what: str, value: Any) -> str:
    """The text of an assistant's message, alone or in a list of one."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(one, dict) or one.get("role") != "assistant":
        raise rows.wrong(what, "be text, or one message of an assistant", value)
    if not isinstance(one.get("content"), str):
        raise rows.wrong(f"{what}: content", "be text", one.get("content"))
    return one["content"]


def _spelt_ids(logged: Any) -> list[int] | None:
    """Token ids that a server wrote as ``token_id:7`` in its log-probabilities."""
    content = logged.get("content") if isinstance(logged, dict) else None
    names = logged.get("tokens") if isinstance(logged, dict) else None
    if isinstance(content, list):
        names = [one.get("token") if isinstance(one, dict) else None for one in content]
    if not isinstance(names, list) or not names:
        return None
    digits = [name.removeprefix(_TOKEN) for name in names if isinstance(name, str)]
    spelt = all(isinstance(name, str) and name.startswith(_TOKEN) for name in names)
    return [int(one) for one in digits] if spelt and all(map(str.isdecimal, digits)) else None


def _unmasked(
    place: str, used: dict[str, str], mask: Any, completion: Any, logged: Any
) -> tuple[list[int], Any]:
    """Completion and log-probabilities without padding; `StudyError` for a mask with gaps."""
    name = used.pop("completion_mask")
    if not isinstance(completion, list) or not isinstance(mask, list):
        raise rows.wrong(f"{place}: {name}", "be a list that belongs to token ids", mask)
    if len(mask) != len(completion) or not all(one in (0, 1) for one in mask):
        must = f"have 0 or 1 for each of {len(completion)} tokens"
        raise rows.wrong(f"{place}: {name}", must, mask)
    n = sum(mask)
    if any(mask[n:]):
        must = "be 1 up to an end and 0 after it: tokens of others inside a completion have no row"
        raise rows.wrong(f"{place}: {name}", must, mask)
    whole = isinstance(logged, list) and len(logged) == len(mask)
    return completion[:n], logged[:n] if whole else logged


def _log_probs(what: str, logged: Any, ids: list[int] | None, row: Mapping[str, Any]) -> np.ndarray:
    """The log-probability of each sampled token, from any form that servers write.

    They are numbers, one a token; with the token's id and text (SGLang); or the most likely tokens
    of each position: with the ids of ``logprob_token_ids`` (TRL), by id (vLLM), or in OpenAI's two
    forms.
    """
    beside = row.get("logprob_token_ids")
    if isinstance(logged, dict):
        logged = logged.get("token_logprobs") or logged.get("content")
    if not isinstance(logged, list):
        raise rows.wrong(what, "be a list of numbers, one for each token", logged)
    if ids is not None and len(logged) != len(ids):
        raise StudyError(f"{what} must have one for each of {len(ids)} tokens; got {len(logged)}")
    values = []
    for i, one in enumerate(logged):
        at = f"{what}, token {i + 1}"
        if isinstance(one, list):
            tops = beside[i] if isinstance(beside, list) and i < len(beside) else None
            if isinstance(tops, list) and ids is not None and ids[i] in tops[: len(one)]:
                one = one[tops.index(ids[i])]
            elif len(one) == 1 or (len(one) == 3 and ids is not None and one[1] == ids[i]):
                one = one[0]
        elif isinstance(one, dict):
            one = one if "logprob" in one else one.get(str(ids[i]) if ids is not None else None)
            one = one.get("logprob") if isinstance(one, dict) else one
        value = _number(at, one)
        if value > ABOVE_ZERO:
            raise rows.wrong(at, "be at most 0, the log of a probability", value)
        values.append(value)
    return np.array(values, np.float32)


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise rows.wrong(what, "be a number", value)
    if not np.isfinite(value):
        raise rows.wrong(what, "be finite", value)
    return float(value)


def _truth(what: str, value: Any) -> bool | None:
    """A verdict; None for a share, which is none."""
    if isinstance(value, bool):
        return value
    return bool(number) if (number := _number(what, value)) in (0, 1) else None


def _stopped(what: str, value: Any) -> bool:
    """Whether a completion ended by itself: a boolean, or a server's reason."""
    if isinstance(value, dict):  # SGLang's
        value = value.get("type")
    if not isinstance(value, bool | str):
        raise rows.wrong(what, "be true, false, or a reason such as stop or length", value)
    return value if isinstance(value, bool) else value == "stop"


class _Encoder:
    """Token ids of prompts and completions, checked; texts are tokenised and counted."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, chat: str) -> None:
        self._tokenizer, self._vocabulary, self._templated = (
            tokenizer,
            vocabulary,
            chat == "template",
        )
        self._raw = chats.RawEncoder(tokenizer)
        self._chat: chats.ChatEncoder | None = None
        self._known: dict[str, np.ndarray] = {}
        special = (token.content for token in tokenizer.added_tokens_decoder.values())
        self._controls = tuple(content for content in special if content.strip())
        self.texts: set[str] = set()  # the parts that are texts
        self._spelt = False  # whether a text has a control token

    def encoded(self, row: _Row) -> _Row:
        """The row with token ids."""
        return replace(row, prompt=self._prompt(row), completion=self._completion(row))

    def _prompt(self, row: _Row) -> np.ndarray:
        """Ids of a prompt: as given, of a text as it is, or of messages in the chat template."""
        what, value = f"{row.place}: {row.used['prompt']}", row.prompt
        if isinstance(value, list) and not _is_messages(value):
            return self._checked(what, value)
        if not isinstance(value, list | str):
            raise rows.wrong(what, "be token ids, text or a list of messages", value)
        self.texts.add("prompts")
        key = value if isinstance(value, str) else "\0" + json.dumps(value, default=str)
        if key not in self._known:
            self._known[key] = self._checked(what, self._encoded(what, value))
        return self._known[key]

    def _encoded(self, what: str, value: Any) -> list[int]:
        if isinstance(value, str) and not self._templated:
            self._note(value)
            return self._raw.ids(value, what)
        if self._chat is None:
            self._chat = chats.ChatEncoder(self._tokenizer)
        self._spelt = True  # the template writes them
        plain = value if isinstance(value, str) else [_plain_message(one) for one in value]
        return self._chat.ids(plain, what)

    def _completion(self, row: _Row) -> np.ndarray:
        """Ids of a completion; log-probabilities must be one for each."""
        what, value = f"{row.place}: {row.used.get('completion', 'completion')}", row.completion
        if isinstance(value, list):
            return self._checked(what, value)
        if not isinstance(value, str):
            raise rows.wrong(what, "be token ids or text", value)
        if rows.HALF.search(value):
            raise StudyError(f"{what} must be Unicode; it has half a character")
        self.texts.add("completions")
        self._note(value)
        ids = self._checked(what, self._raw.after(value))
        if row.log_probs is not None and len(row.log_probs) != len(ids):
            both = f"has {len(ids)} tokens as text and {len(row.log_probs)} log-probabilities"
            raise StudyError(
                f"{what} must come as token ids where its tokens are not known; {both}"
            )
        return ids

    def _note(self, text: str) -> None:
        self._spelt = self._spelt or any(one in text for one in self._controls)

    def _checked(self, what: str, ids: list[Any]) -> np.ndarray:
        if not ids:
            raise StudyError(f"{what} must have at least one token; it has none")
        if set(map(type, ids)) != {int}:
            wrong = next(one for one in ids if type(one) is not int)
            raise rows.wrong(what, "be token ids, which are whole numbers", wrong)
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            wrong = next(one for one in ids if not 0 <= one < self._vocabulary)
            raise rows.wrong(what, f"have token ids from 0 to {self._vocabulary - 1}", wrong)
        return np.array(ids, np.int64)

    def warning(self, path: str) -> str:
        """What tokenising texts can change."""
        parts = " and ".join(sorted(self.texts, reverse=True))
        lost = (
            ""
            if self._spelt
            else "; control tokens are missing, since no text has one (verl's and TRL's logs leave "
            "them out), such as a template's and the end of a text"
        )
        return (
            f"{path}: {parts} are texts and are tokenised here, which may give other tokens than "
            f"were sampled{lost}; log prompt_ids and completion_ids to measure the rollouts"
        )


def _plain_message(message: Any) -> Any:
    """A message without empty fields, such as those that parquet gives to every row."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value not in (None, [], {})}


def _ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _grouped(found: list[_Row], ends: set[int]) -> tuple[Rollouts, list[_Row]]:
    """Rollouts by prompt and sample, and the row of each."""
    place: dict[bytes, int] = {}
    index = np.array([place.setdefault(row.prompt.tobytes(), len(place)) for row in found])
    found = [found[i] for i in np.argsort(index, kind="stable")]
    counts = np.bincount(index)
    if counts.max() > MOST_SAMPLES:
        row = found[int(counts[: counts.argmax()].sum())]
        must = f"must have at most {MOST_SAMPLES} completions"
        raise StudyError(f"{row.place}: its prompt {must}; got {counts.max()}")
    columns: dict[str, Any] = {
        "prompt_index": np.sort(index).astype(np.int32),
        "sample_index": np.concatenate([np.arange(n, dtype=np.int16) for n in counts]),
        "prompt_ids": [row.prompt for row in found],
        "completion_ids": [row.completion for row in found],
        "stopped": [
            row.completion[-1] in ends if row.stopped is None else row.stopped for row in found
        ],
    }
    if (correct := _correct(found)) is not None:
        columns["correct"] = correct
    return Rollouts.from_frame(pd.DataFrame(columns)), found


def _correct(found: list[_Row]) -> np.ndarray | None:
    """Verdicts, or rewards of two values that stand for them; None without either."""
    verdicts = [row.correct for row in found]
    if None not in verdicts:
        return np.array(verdicts, bool)
    rewards = _numbers([row.reward for row in found])
    if rewards is None or not (set(rewards) <= {0.0, 1.0} or set(rewards) <= {-1.0, 1.0}):
        return None
    return rewards == 1


def _numbers(values: list[float | None]) -> np.ndarray | None:
    return None if None in values else np.array(values, np.float64)


def _aligned(rollouts: Rollouts, found: list[_Row]) -> np.ndarray | None:
    """Logged log-probabilities where the completions' tokens are, NaN elsewhere."""
    logged = [row.log_probs for row in found if row.log_probs is not None]
    if not logged:
        return None
    made = np.full(rollouts.mask.shape, np.nan, np.float32)
    made[rollouts.mask] = np.concatenate(logged)
    return made
