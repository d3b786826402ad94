"""Rows of IFEval: every instruction known, every argument of its kind, before anything runs.

The harness's checkers draw a missing argument at random and compile some texts as regular
expressions only while they grade, so everything is checked when a row is read.
"""

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
    """Return the problem of a row; `known` are the harness's checkers by their instructions.

    `StudyError`: a column of a different kind, lists of two lengths, an unknown instruction, an
    argument that is missing, of a different instruction, or of a wrong kind.
    """
    cells = rows.check(place, row, COLUMNS)
    names, given = cells["instruction_id_list"], cells["kwargs"]
    if not isinstance(names, list) or not isinstance(given, list) or len(names) != len(given):
        both = f"{rows.shown(names)} and {rows.shown(given)}"
        must = "instruction_id_list and kwargs must be lists of one length"
        raise StudyError(f"{place}: {must}; got {both}")
    kwargs = [_arguments(place, *pair, known) for pair in zip(names, given, strict=True)]
    groups = {name.split(":")[0] for name in names}
    return Problem(
        rows.text(f"{place}: prompt", cells["prompt"]),
        "",
        groups.pop() if len(groups) == 1 else "several",
        rows.text_or_number(f"{place}: key", cells["key"]),
        {"instruction_id_list": names, "kwargs": kwargs},
    )


def _arguments(place: str, name: Any, given: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """An instruction's arguments; a missing one is refused, since the harness would draw it."""
    if not isinstance(name, str) or name not in known:
        shown = name if isinstance(name, str) else rows.shown(name)
        raise StudyError(f"{place}: {unknown('instruction_id_list', shown, known)}")
    what = f"{place}: kwargs of {name}"
    if not isinstance(given, dict | None):
        raise rows.wrong(what, "be an object", given)
    arguments = {key: value for key, value in (given or {}).items() if value is not None}
    checker = known[name](name)
    own = checker.get_instruction_args_keys()
    if foreign := [key for key in arguments if key not in own]:
        raise rows.wrong(what, f"be its own, {', '.join(own) or 'empty'}", foreign[0])
    if missing := [key for key in own if not arguments.get(key)]:
        raise StudyError(f"{what} must have {', '.join(missing)}")
    made = {key: _argument(f"{place}: {key}", key, arguments[key]) for key in own}
    nth, most = made.get("nth_paragraph", 0), made.get("num_paragraphs", 0)
    if nth > most:
        raise rows.wrong(f"{place}: nth_paragraph", f"be at most num_paragraphs, {most}", nth)
    checker.build_description(**made)
    used = checker.get_instruction_args() or {}
    for key, value in made.items():
        if not isinstance(value, list) and _spelled(used[key]) != _spelled(value):
            line = rows.wrong(f"{what}: {key}", "be one that its checker takes", value)
            raise StudyError(f"{line}, for which it draws a random one")
    return {key: made[key] for key in arguments}


def _spelled(value: Any) -> str:
    return str(value).strip().lower()


def _argument(what: str, key: str, value: Any) -> Any:
    """One argument of the kind that its name stands for."""
    if key.startswith("num_") or key.endswith("frequency") or key == "nth_paragraph":
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole or value != value // 1 or not 1 <= value <= rows.MOST:
            raise rows.wrong(what, "be a whole number >= 1", value)
        return int(value)
    if key not in ("keywords", "forbidden_words"):
        return _text(what, key, value)
    if not isinstance(value, list):
        raise rows.wrong(what, "be a list of texts", value)
    return [_text(what, key, one) for one in value]


def _text(what: str, key: str, value: Any) -> str:
    rows.text(what, value)
    legal: tuple[str, ...] = RELATIONS if key.endswith("relation") else ()
    if key == "language":
        from lm_eval.tasks.ifeval.instructions_util import LANGUAGE_CODES

        legal = tuple(LANGUAGE_CODES)
    if legal and value not in legal:
        raise rows.wrong(what, f"be one of {', '.join(legal)}", value)
    if key == "letter" and len(value) != 1:
        raise rows.wrong(what, "be one character", value)
    if key in PATTERNS:
        try:
            re.compile(value.strip())
            endless = _may_never_end(re._parser.parse(value.strip()))  # type: ignore[attr-defined]
        except (re.error, OverflowError, RecursionError) as error:
            line = rows.wrong(what, "be a regular expression", value)
            raise StudyError(f"{line} ({error})") from None
        if endless:
            line = rows.wrong(what, "be a regular expression whose search ends", value)
            raise StudyError(f"{line} (at most two repeats, no repeat or alternatives inside one)")
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
