r"""Chats as token ids: a tokenizer's chat template applied so that text stays text.

What a person writes never becomes a control token. Where a text spells one, such as ``<|im_end|>``,
the rendered chat is cut there and that spelling is encoded without added tokens; all other chats
are encoded whole. A control token is an added token that is special, in brackets of any kind
(``<think>``, ``[INST]``), or written by the template; added words and blanks are ordinary text.

A template is a program of unknown origin. It runs in transformers' sandbox, which bounds neither
time nor memory, so one that is more than a plain loop over the messages first runs in a process
with limits. One that prints the date gets the same day always, so that prompts do not change.
"""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase

from rockstudy.errors import StudyError
from rockstudy.models.sources import one_line
from rockstudy.tasks.rows import HALF

Message = dict[str, str]
Prompt = str | Sequence[Mapping[str, Any]]

ROLES = ("system", "user", "assistant")
MOST_CHARACTERS = 2_000_000  # ours: length of a rendered chat
SECONDS = 2  # ours: processor time of a template
MEMORY = 2**30  # ours: bytes of address space of a template's process
_BEFORE, _SHOWN = 16, 60  # ours: characters before a difference of templates, and shown of each
_WAIT = 30  # ours: seconds on the clock for that process
_BRACKETED = re.compile(r"[<\[{|\uff1c].*[>\]}|\uff1e]", re.DOTALL)
_PRIVATE = range(0xF0000, 0xFFFFE)  # no character that a text or a template is likely to have
_CHANGING = re.compile(r"\|\s*random\b|\blipsum\b")
_NOON = datetime(2024, 7, 26, 12)  # the day that Llama 3's own template falls back to
# codes of strftime
_CODES = "Y y m -m B b h d -d e A a j u w F D x H -H I -I p M S f R T X c Z z U W V G".split()
_HELD = (
    "{% macro strftime_now(format) %}{{ format|replace('%s', '1721995200')"
    + "".join(f"|replace('%{code}', '{_NOON.strftime('%' + code)}')" for code in _CODES)
    + " }}{% endmacro %}{{ '' }}"  # a block alone would swallow the template's first newline
)


class ChatEncoder:
    """A tokenizer with its chat template, checked once for many prompts.

    `StudyError`: no template, or one that never ends, fills the memory or is different each time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, field: str = "tokenizer") -> None:
        self._tokenizer, self._field = tokenizer, field
        template = template_of(tokenizer, field)
        self._how: dict[str, Any] = {
            "chat_template": (_HELD if "strftime_now" in template else "") + template,
            "add_generation_prompt": True,
            "enable_thinking": False,
        }
        tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        self._known = json.dumps(tokens | self._how)
        controls = {
            i: token.content
            for i, token in tokenizer.added_tokens_decoder.items()
            if token.special
            or _BRACKETED.fullmatch(token.content.strip())
            or (token.content in template and not re.fullmatch(r"\s+|\s*\w+\s*", token.content))
        }
        self._controls = controls
        self._certain = controls.keys() - {tokenizer.unk_token_id}  # the rest may be anything
        self._usual: dict[tuple[str, ...], int] = {}
        longest_first = sorted(controls.values(), key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        self._letter_by_letter = normalizer is None or not any(
            tokenizer.added_tokens_decoder[i].normalized for i in controls
        )

    def ids(self, prompt: Prompt, name: str) -> list[int]:
        """Token ids of a chat with its generation prompt and without thinking.

        `prompt` is the text of a user or a list of messages with ``role`` and ``content``; errors
        call it `name`.

        `StudyError`: a chat that is none, one that the template refuses, or a control token in a
        text that this tokenizer cannot read as text.
        """
        messages = messages_of(prompt, name)
        spelt = any(self._control_spans(message["content"]) for message in messages)
        ids = self._in_parts(messages, name) if spelt else self._whole(messages, name)
        # a template may also put a token together, from texts that touch or that it changes
        if self._count(ids) > self._usual_count(messages, name):
            neutral = [m | {"content": re.sub(r"\S", "x", m["content"])} for m in messages]
            if self._count(ids) > self._count(self._whole(neutral, name)):
                must = "must spell no control token together with the chat template"
                raise StudyError(f"prompts: {name} {must}")
        return ids

    def _whole(self, messages: list[Message], name: str) -> list[int]:
        return self._encode(self._rendered(messages, name))

    def _count(self, ids: list[int]) -> int:
        return sum(i in self._certain for i in ids)

    def _usual_count(self, messages: list[Message], name: str) -> int:
        """Number of control tokens in a chat of these roles."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._usual:
            chat = [{"role": role, "content": "x"} for role in roles]
            self._usual[roles] = self._count(self._whole(chat, name))
        return self._usual[roles]

    def _rendered(self, messages: list[Message], name: str) -> str:
        """The text of a chat; errors of the template as one line."""
        size = sum(len(message["content"]) for message in messages)
        text: Any = None
        if _is_bounded(self._known, len(messages), max(4096, 1 << size.bit_length())):
            try:
                text = self._tokenizer.apply_chat_template(messages, tokenize=False, **self._how)
            except Exception as error:
                must = f"{self._field}: its chat template must accept {name}"
                raise StudyError(f"{must}: {one_line(error)}") from None
        if text is None or len(text) > MOST_CHARACTERS:
            must = f"must end within {SECONDS} s and write at most {MOST_CHARACTERS} characters"
            raise StudyError(f"{self._field}: its chat template {must}; it does not")
        return text

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _control_spans(self, text: str) -> list[tuple[int, int]]:
        """Where a text spells control tokens, in characters, as this tokenizer reads it."""
        if not self._tokenizer.is_fast:
            return [match.span() for match in self._spelt.finditer(text)]
        if self._letter_by_letter and not self._spelt.search(text):
            return []
        read = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [
            (start, end)
            for i, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
            if i in self._certain or text[start:end].strip() == self._controls.get(i)
        ]

    def _marked(self, text: str, opening: str, closing: str) -> str:
        """The text with marks around each control token that it spells."""
        parts, last = [], 0
        for start, end in self._control_spans(text):
            before = text[last:start]
            parts += [self._marked(before, opening, closing), opening, text[start:end], closing]
            last = end
        return "".join([*parts, self._marked(text[last:], opening, closing)]) if parts else text

    def _in_parts(self, messages: list[Message], name: str) -> list[int]:
        """Encode a chat whose texts spell control tokens; these are read without added tokens."""
        taken = set(self._how["chat_template"]).union(*(m["content"] for m in messages))
        opening, closing = islice((chr(i) for i in _PRIVATE if chr(i) not in taken), 2)
        text = self._rendered(
            [m | {"content": self._marked(m["content"], opening, closing)} for m in messages], name
        )
        # a template that splits texts may leave a mark alone, which still parts what it stood in
        pieces = re.split(f"{opening}(.*?){closing}|[{opening}{closing}]", text, flags=re.DOTALL)
        ids = self._encode(pieces[0])
        for spelt, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            plain = _inside(self._plainly, spelt) if spelt else []
            if self._certain & set(plain):
                must = f"prompts: {name} must be without {spelt!r}"
                raise StudyError(f"{must}, which this tokenizer cannot read as text")
            ids += plain + _inside(self._encode, piece)
        return ids

    def _plainly(self, text: str) -> list[int]:
        """Ids of a text in which no added token counts."""
        backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        parts = [text]
        if backend.pre_tokenizer is not None:
            parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for part in parts for token in backend.model.tokenize(part)]


class RawEncoder:
    """A tokenizer for prompts that are raw text, as for a model without a chat template.

    A text is read as the tokenizer reads it: control tokens that it spells count as such, so that a
    rendered chat may be given. The tokenizer's own first token, if it has one, comes once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def ids(self, prompt: Prompt, name: str) -> list[int]:
        """Token ids of a text; errors call it `name`.

        `StudyError`: a list of messages, half a character, or a text without tokens.
        """
        if not isinstance(prompt, str):
            raise StudyError(
                f"chat: must be template, since {name} is a list of messages; got none"
            )
        if HALF.search(prompt):
            raise StudyError(f"prompts: {name} must be Unicode; it has half a character")
        plain = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = self._tokenizer(prompt)["input_ids"]
        # what the tokenizer puts around a text: the front stays unless the text spells it
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        front = whole[:at]
        return plain if plain[: len(front)] == front else front + plain

    def after(self, text: str) -> list[int]:
        """Token ids of a text that follows others, such as a completion."""
        return _inside(
            lambda piece: self._tokenizer(piece, add_special_tokens=False).input_ids, text
        )


def encoder(tokenizer: PreTrainedTokenizerBase, chat: str = "template") -> ChatEncoder | RawEncoder:
    """The encoder of prompts in the chat template, or (``none``) as raw text."""
    return RawEncoder(tokenizer) if chat == "none" else ChatEncoder(tokenizer)


def messages_of(prompt: Any, name: str) -> list[Message]:
    """Return the messages of a chat, or of the text of a user; `StudyError` for what is neither."""
    must = f"prompts: {name} must be a text or a list of messages with role and content;"
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list | tuple | np.ndarray):
        raise StudyError(f"{must} got {_short(prompt)}")
    if not len(prompt):
        raise StudyError(f"{must} got an empty list")
    return [_message(message, must) for message in prompt]


def template_of(tokenizer: PreTrainedTokenizerBase, field: str = "tokenizer") -> str:
    """Return the template of prompts; `StudyError` if there is none or it cannot be one."""
    template = _default(tokenizer.chat_template)
    if not template:
        raise StudyError(f"{field}: must have a chat template; it has none")
    must = f"{field}: its chat template must"
    if not isinstance(template, str):
        raise StudyError(f"{must} be a text; got {_short(template)}")
    if changing := _CHANGING.search(template):
        raise StudyError(f"{must} write the same text each time; it has {changing[0]!r}")
    return template


def difference(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """Where the template of `other` first differs from that of `tokenizer`, in words.

    Both lines are shown from shortly before the first character that differs. None if the templates
    are the same, or `other` has none.
    """
    one, two = (str(_default(t.chat_template) or "") for t in (tokenizer, other))
    lines = zip_longest(one.split("\n"), two.split("\n"), fillvalue="")
    found = ((i, a, b) for i, (a, b) in enumerate(lines, 1) if a != b)
    if not two or (first := next(found, None)) is None:
        return None
    number, *both = first
    same = next((i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), None)
    start = max(0, (min(map(len, both)) if same is None else same) - _BEFORE)
    shown = (repr(line[start : start + _SHOWN]) for line in both)
    return f"line {number}, {' against '.join(shown)}"


def room(tokenizer: PreTrainedTokenizerBase, field: str = "tokenizer") -> int | float:
    """Largest number of tokens that a tokenizer allows; `StudyError` if that is no number."""
    longest: Any = tokenizer.model_max_length
    if type(longest) not in (int, float) or not longest >= 1:
        must = f"{field}: its model_max_length must be a positive number"
        raise StudyError(f"{must}; got {_short(longest)}")
    return longest


def _default(template: Any) -> Any:
    """The template of prompts among several by name, or the only one."""
    return template.get("default") if isinstance(template, dict) else template


def check_template(tokenizer: PreTrainedTokenizerBase, field: str) -> None:
    """Try the template on a short text."""
    ChatEncoder(tokenizer, field).ids("Hello", "a user's text")


def ends_of(config: Any, field: str = "model") -> list[int]:
    """End-of-text ids of a model's or generation configuration; `StudyError` if not integers."""
    ids: Any = getattr(config, "eos_token_id", None)
    given = ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]
    if any(type(i) is not int or i < 0 for i in given):
        must = f"{field}: eos_token_id must be a token id or a list of them"
        raise StudyError(f"{must}; got {_short(ids)}")
    return list(given)


def _message(message: Any, must: str) -> Message:
    """Return one checked message with its role and content alone."""
    if not isinstance(message, Mapping):
        raise StudyError(f"{must} got the message {_short(message)}")
    given = {key: value for key, value in message.items() if value is not None}
    if given.keys() != {"role", "content"}:
        raise StudyError(f"{must} a message has {', '.join(map(str, given)) or 'neither'}")
    role, content = given["role"], given["content"]
    if role not in ROLES:
        raise StudyError(f"{must} role must be one of {', '.join(ROLES)}; got {_short(role)}")
    if not isinstance(content, str):
        raise StudyError(f"{must} content must be a text; got {_short(content)}")
    if HALF.search(content):
        raise StudyError(f"{must} content has half a character; got {_short(content)}")
    return {"role": str(role), "content": str(content)}


@functools.lru_cache(maxsize=64)
def _is_bounded(known: str, n_messages: int, size: int) -> bool:
    """Whether a chat of `size` characters is rendered within the limits, or fails within them.

    `known` is the JSON of what a template is given beside the messages, and of the template.
    """
    values = json.loads(known)
    template = values.pop("chat_template")
    if _is_plain(template):
        return True
    text = ("ab " * size)[: size // n_messages + 1]
    roles = islice(cycle(("user", "assistant")), n_messages)
    values["messages"] = [{"role": role, "content": text} for role in roles]
    asked = {"template": template, "values": values, "seconds": SECONDS, "memory": MEMORY}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("limited_render.py"))],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_WAIT,
        )
    except subprocess.TimeoutExpired:
        return False
    length = int(done.stdout.strip() or 0)
    return done.returncode >= 0 and 0 <= length <= MOST_CHARACTERS


def _is_plain(template: str) -> bool:
    """Whether a template is one loop over the messages that can only add their texts up."""
    allowed = (
        "Template Output TemplateData For Name Const Getitem Getattr If CondExpr And Or Not "
        "Compare Operand Add Concat Test Filter"
    ).split()
    try:
        tree = Environment().parse(template)
    except (TemplateError, RecursionError):
        return False
    return (
        all(type(node).__name__ in allowed for node in tree.find_all(nodes.Node))
        and all(node.name == "trim" for node in tree.find_all(nodes.Filter))
        and all(
            isinstance(loop.iter, nodes.Name)
            and loop.iter.name == "messages"
            and not (loop.recursive or any(loop.find_all(nodes.For)))
            for loop in tree.find_all(nodes.For)
        )
    )


def _inside(encode: Callable[[str], list[int]], piece: str) -> list[int]:
    """Ids of a piece that follows other text: SentencePiece puts a space before a whole text."""
    first, both = encode("\n"), encode("\n" + piece)
    return both[len(first) :] if both[: len(first)] == first else encode(piece)


def _short(value: Any) -> str:
    return f"{value!r:.80}"
