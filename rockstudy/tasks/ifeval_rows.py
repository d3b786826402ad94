"""Rows of IFEval: every instruction known, every argument of its kind, before anything runs.

The harness's checkers draw a missing argument at random and compile some texts as regular
expressions only while they grade, so everything is checked when a row is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rockstudy.errors import StudyError, unknown
from rockstudy.tasks import rows
from rockstudy.tasks.problem import Problem

COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")
RELATIONS = ("less than", "at least")  # the harness's
PATTERNS = ("keyword", "keywords", "forbidden_words", "section_spliter", "postscript_marker")


def problem(place: str, row: Any, known: Mapping[str, Any]) -> Problem:
    """Return the problem of a row.

    Parameters
    ----------
    place, row
        Where the row is, for errors, and its content.
    known
        The harness's checkers by the names of their instructions.

    Raises
    ------
    StudyError
        A column of a different kind, lists of two lengths, an unknown instruction, an argument that
        is missing, of a different instruction, or of a wrong kind.
    """
    cells = rows.check(place, row, COLUMNS)
    names, given = cells["instruction_id_list"], cells["kwargs"]
    if not isinstance(names, list) or not isinstance(given, list) or len(names) != len(given):
        raise StudyError(
            f"{place}: instruction_id_list and kwargs must be lists of one length; got "
            f"{rows.shown(names)} and {rows.shown(given)}"
        )
    kwargs = [_arguments(place, *pair, known) for pair in zip(names, given, strict=True)]
    groups = {name.split(":")[0] for name in names}
    return Problem(
        rows.text(place, "prompt", cells["prompt"]),
        "",
        groups.pop() if len(groups) == 1 else "several",
        rows.text_or_number(place, "key", cells["key"]),
        {"instruction_id_list": names, "kwargs": kwargs},
    )


def _arguments(place: str, name: Any, given: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """An instruction's arguments; a missing one is refused, since the harness would draw it."""
    if not isinstance(name, str) or name not in known:
        shown = name if isinstance(name, str) else rows.shown(name)
        raise StudyError(f"{place}: {unknown('instruction_id_list', shown, known)}")
    if not isinstance(given, dict | None):
        raise StudyError(f"{place}: kwargs of {name} must be an object; got {rows.shown(given)}")
    arguments = {key: value for key, value in (given or {}).items() if value is not None}
    checker = known[name](name)
    own = checker.get_instruction_args_keys()
    foreign = [key for key in arguments if key not in own]
    if foreign:
        legal = ", ".join(own) or "empty"
        raise StudyError(
            f"{place}: kwargs of {name} must be its own, {legal}; got {rows.shown(foreign[0])}"
        )
    missing = [key for key in own if not arguments.get(key)]
    if missing:
        raise StudyError(f"{place}: kwargs of {name} must have {', '.join(missing)}")
    made = {key: _argument(f"{place}: {key}", key, arguments[key]) for key in own}
    if made.get("nth_paragraph", 0) > made.get("num_paragraphs", 0):
        most = made["num_paragraphs"]
        raise StudyError(
            f"{place}: nth_paragraph must be at most num_paragraphs, {most}; "
            f"got {made['nth_paragraph']}"
        )
    checker.build_description(**made)
    used = checker.get_instruction_args() or {}
    for key, value in made.items():
        if not isinstance(value, list) and _spelled(used[key]) != _spelled(value):
            raise StudyError(
                f"{place}: kwargs of {name}: {key} must be one that its checker takes; "
                f"got {rows.shown(value)}, for which it draws a random one"
            )
    return {key: made[key] for key in arguments}


def _spelled(value: Any) -> str:
    return str(value).strip().lower()


def _argument(what: str, key: str, value: Any) -> Any:
    """One argument of the kind that its name stands for."""
    if key.startswith("num_") or key.endswith("frequency") or key == "nth_paragraph":
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole or value != value // 1 or not 1 <= value <= rows.MOST:
            raise StudyError(f"{what} must be a whole number >= 1; got {rows.shown(value)}")
        return int(value)
    if key in ("keywords", "forbidden_words"):
        if not isinstance(value, list):
            raise StudyError(f"{what} must be a list of texts; got {rows.shown(value)}")
        return [_text(what, key, one) for one in value]
    return _text(what, key, value)


def _text(what: str, key: str, value: Any) -> str:
    place, _, name = what.rpartition(": ")
    rows.text(place, name, value)
    legal: tuple[str, ...] = RELATIONS if key.endswith("relation") else ()
    if key == "language":
        from lm_eval.tasks.ifeval.instructions_util import LANGUAGE_CODES

        legal = tuple(LANGUAGE_CODES)
    if legal and value not in legal:
        raise StudyError(f"{what} must be one of {', '.join(legal)}; got {rows.shown(value)}")
    if key == "letter" and len(value) != 1:
        raise StudyError(f"{what} must be one character; got {rows.shown(value)}")
    if key in PATTERNS:
        try:
            re.compile(value.strip())
            endless = _may_never_end(re._parser.parse(value.strip()))  # type: ignore[attr-defined]
        except (re.error, OverflowError, RecursionError) as error:
            raise StudyError(
                f"{what} must be a regular expression; got {rows.shown(value)} ({error})"
            ) from None
        if endless:
            raise StudyError(
                f"{what} must be a regular expression with at most two repeats, neither a repeat "
                f"nor alternatives inside one; got {rows.shown(value)}, whose search may never end"
            )
    return value


def _may_never_end(parsed: Any) -> bool:
    """Whether a regular expression may try a number of ways that explodes with the text.

    That takes repeats inside a repeat, as in ``(a+)+$``, alternatives inside one, or many in a row.
    """
    inside = list(_operations(parsed, False))
    repeats = [within for op, within in inside if "REPEAT" in op]
    return len(repeats) > 2 or any(w and ("REPEAT" in op or op == "BRANCH") for op, w in inside)


def _operations(parsed: Any, within: bool) -> Iterator[tuple[str, bool]]:
    """The operations of a parsed expression, and whether each is repeated."""
    for op, given in parsed:
        yield str(op), within
        repeated = within or "REPEAT" in str(op)
        pending = [given]
        while pending:
            part = pending.pop()
            if type(part).__name__ == "SubPattern":
                yield from _operations(part, repeated)
            elif isinstance(part, list | tuple):
                pending.extend(part)
