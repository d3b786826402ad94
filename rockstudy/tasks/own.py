r"""Prompts as given: a file or a set of the Hub as somebody else's training used it.

The prompt of a row is its ``prompt``, ``problem``, ``question`` or ``messages``, the first of these
that is there: a text, or a chat with ``role`` and ``content``, system messages included (verl
writes such a list as ``prompt``). Texts are taken as they are, and nothing is added to them unless
``task.instruction`` gives it. Messages of an assistant at the end of a chat are its reference
completion, and no part of the prompt.

The reference answer is the ``answer``, ``solution``, ``ground_truth``, ``target``, ``label`` or
``reward_model.ground_truth`` (verl). A file may have none: then nothing is graded. Graders:

    math     the final answer of a text equals the reference (math-verify, see `grading`): its last
             box; without one what follows the last ``####``, or "answer is"; or its last number
    choice   the letter that a text gives is the reference: in a box, after "answer", or in front
    exact    the text is the reference, white space around both aside
    ifeval   the text follows the row's instructions (`ifeval`)
    yours    ``module:function``, called with the `Problem` and the text; its row is in ``kwargs``

Without ``task.grader`` rows with an ``instruction_id_list`` are graded by ifeval, those whose
references are single capital letters by choice, and all others by math. A line tells which columns
are read and what grades them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rockstudy.config import plugins
from rockstudy.config.fields import GRADERS, TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError, shortened
from rockstudy.progress import notice
from rockstudy.tasks import grading, ifeval, ifeval_rows, math, rows
from rockstudy.tasks.problem import Problem, Split, Task

PROMPTS = ("prompt", "problem", "question", "messages")
ANSWERS = ("answer", "solution", "ground_truth", "target", "label", "reward_model.ground_truth")
ROLES = ("system", "user", "assistant")
FIELDS = ("prompt_column", "answer_column", "instruction", "grader")
NEEDED = ("instruction_id_list", "kwargs")  # columns of ifeval beside the prompt
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_SAID = re.compile(
    r"(?i:\banswer\b|\bchoice\b)[\s:*]{0,9}(?i:is\b|would be\b)?[\s:*$]{0,9}\(?([A-Z])\b"
)
_FIRST = re.compile(r"[\s*]{0,9}\(?([A-Z])(?:[).:*]|[ \t]{0,9}(?:\n|$))")
_ANSWER = re.compile(r"(?i:\banswer\b)[\s*]{0,9}(?:(?i:is\b)[\s:*]{0,9}|:[\s*]{0,9})([^\n]+)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Prompts of your own, as they are: a file with or without answers, or a set of the Hub.

    At most ``task.size(split)``: a shorter file gives what it has.

    `StudyError`, naming the file and the line: no column of prompts, a chat that is none, answers
    in some rows alone, an answer that its grader cannot compare; errors as in `rows.problems`.
    """
    if task.grader is not None and task.grader not in GRADERS:
        function_of(task.grader)  # refused before the file is read
    read = rows.problems(task, split, lambda *placed: _read(task, *placed), fewer=True)
    grader = _grader(task, read)
    made = [_graded_by(grader, problem) for problem in read]
    if grader == "choice":
        letters = max("D", *(problem.answer for problem in made))
        made = [replace(p, kwargs=p.kwargs | {"last": letters}) for p in made]
    notice(_what_is_read(task, read[0], grader), about=f"{task.path} {grader}")
    return ifeval.gradable(task, made) if grader == "ifeval" else made


def grade(
    task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]
) -> Sequence[bool] | np.ndarray:
    """Whether each text answers its problem, by the grader that `load` chose.

    `StudyError`: a problem without an answer; a function of yours that raises or gives no verdict.
    """
    if any(problem.answer is None for problem in problems):
        raise StudyError(f"{task.path}: must have answers to grade by; it has none")
    pairs = list(zip(problems, texts, strict=True))
    if not pairs:
        return []
    grader = task.grader or problems[0].kwargs.get("grader", "ifeval")
    if grader == "ifeval":
        return ifeval.grade(task, problems, texts)
    if grader == "math":
        boxes = [f"\\boxed{{{final_answer(text)}}}" for text in texts]
        return math.grade(task, problems, boxes)
    if grader == "choice":
        return [letter(text, problem.kwargs["last"]) == problem.answer for problem, text in pairs]
    if grader == "exact":
        return [text.strip() == problem.answer for problem, text in pairs]
    function = function_of(grader)
    return [_verdict(grader, function, *pair) for pair in pairs]


TASKS.add("prompts", Task(load, grade, ("prompt",), fields=FIELDS))


def final_answer(text: str) -> str:
    """The answer that a text ends with (see the module), empty where it gives none."""
    boxed = grading.boxed(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        return math.final_number(text).strip().partition("\n")[0].strip()
    if said := _ANSWER.findall(text):
        last = said[-1].strip().strip("*$").rstrip(".").strip("*$ ")
        return math.final_number(f"####{last}")
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else ""


def letter(text: str, last: str) -> str | None:
    """The letter from A to `last` that a text answers with, None where it gives none."""
    boxed = grading.boxed(text)
    if boxed is not None:
        inside = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*", "", boxed).strip("{} ")
        found = _LETTER.fullmatch(inside)
        return found[1].upper() if found else None
    said = [one for one in _SAID.findall(text) if one <= last]
    first = _FIRST.match(text)
    return said[-1] if said else first[1] if first and first[1] <= last else None


def function_of(grader: str) -> Callable[[Problem, str], Any]:
    """Import the function that a field ``grader`` names; `StudyError` if there is none."""
    module, _, name = grader.rpartition(":")
    function = getattr(plugins.imported(module, "grader"), name, None)
    if not callable(function):
        raise StudyError(f"grader: must be a function (problem, text) of {module}; got {name!r}")
    return function


def _verdict(grader: str, function: Callable, problem: Problem, text: str) -> bool:
    try:
        verdict = function(problem, text)
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(f"grader: {grader} must grade every text; it raised {reason}") from None
    if not isinstance(verdict, bool | np.bool_):
        raise StudyError(f"grader: {grader} must return True or False; got {shortened(verdict)}")
    return bool(verdict)


def _read(task: TaskConfig, place: str, row: Any) -> Problem:
    """The prompt and the answer of a row as they stand, with where they stand as ``kwargs``."""
    if not isinstance(row, dict):
        raise rows.wrong(f"{place}:", "be an object with a prompt", row)
    column, value = _first(place, row, task.prompt_column, PROMPTS)
    if column is None:
        known = (task.prompt_column,) if task.prompt_column is not None else PROMPTS
        if empty := [name for name in known if rows.cell(place, row, name) is not None]:
            raise StudyError(f"{place}: {empty[0]} must not be empty")
        names = " or ".join(known)
        raise StudyError(f"{place}: must have the column {names}; got {_names(row)}")
    prompt, taken_off = _prompt(task, f"{place}: {column}", column, value)
    answer_column, answer = _first(place, row, task.answer_column, ANSWERS)
    if answer_column is None and task.answer_column is not None:
        raise StudyError(f"{place}: must have the column {task.answer_column}; got {_names(row)}")
    family, subject = task.label, rows.cell(place, row, "subject")
    if not rows.is_empty(subject):
        family = rows.text_or_number(f"{place}: subject", subject)
    told = {"place": place, "row": row, "prompt": column, "answer": answer_column}
    told |= {"found": answer, "assistant": taken_off}
    key = rows.key_of(prompt if isinstance(prompt, str) else json.dumps(prompt))
    return Problem(prompt, None, family, key, told)


def _first(
    place: str, row: dict[str, Any], given: str | None, known: Sequence[str]
) -> tuple[str | None, Any]:
    """The first column that is there and not empty, by its name as asked for, and its cell."""
    for name in (given,) if given is not None else known:
        value = rows.cell(place, row, name)
        if not rows.is_empty(value):
            return name, value
    return None, None


def _names(row: Mapping[str, Any]) -> str:
    return shortened(", ".join(map(str, row)) or "no columns")


def _prompt(task: TaskConfig, what: str, column: str, value: Any) -> tuple[Any, bool]:
    """A text or the messages of a chat, instructed; whether an assistant's message was taken off.

    A column ``messages`` of a CSV file has its list as JSON.
    """
    if isinstance(value, str) and column.rpartition(".")[2].lower() == "messages":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise rows.wrong(what, "be a list of messages", value) from None
    instruction = task.instruction or ""
    if isinstance(value, str):
        rows.text(what, value)
        return math.instructed(value, instruction), False
    if not isinstance(value, list):
        raise rows.wrong(what, "be text or a list of messages", value)
    if task.chat == "none":
        raise StudyError(f"{what} must be text where chat is none; got a list of messages")
    chat = [_message(f"{what}, message {i}", one) for i, one in enumerate(value, 1)]
    whole = len(chat)
    while chat and chat[-1]["role"] == "assistant":
        chat.pop()
    if not any(one["role"] == "user" for one in chat):
        raise StudyError(f"{what} must have a message of a user; it has none")
    if instruction:
        last = max(i for i, one in enumerate(chat) if one["role"] == "user")
        chat[last]["content"] = math.instructed(chat[last]["content"], instruction)
    return chat, len(chat) < whole


def _message(what: str, value: Any) -> dict[str, str]:
    """The role and the content of a message; a content in parts is joined if all are text."""
    if not isinstance(value, dict):
        raise rows.wrong(what, "be an object with role and content", value)
    given = {name: one for name, one in value.items() if one not in (None, [], {})}
    if set(given) != {"role", "content"}:
        has = ", ".join(map(str, given)) or "neither"
        raise StudyError(f"{what} must have role and content alone; it has {has}")
    role, content = given["role"], given["content"]
    if role not in ROLES:
        raise rows.wrong(f"{what}: role", f"be one of {', '.join(ROLES)}", role)
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        if set(kinds) != {"text"} or not all(isinstance(p.get("text"), str) for p in content):
            raise StudyError(f"{what}: content must be text or parts of type text; got others")
        content = "".join(part["text"] for part in content)
    rows.text(f"{what}: content", content)
    return {"role": role, "content": content}


def _grader(task: TaskConfig, read: Sequence[Problem]) -> str | None:
    """What grades the problems, None where nothing does.

    `StudyError`: answers in some rows alone, or a grader that needs answers where there are none.
    """
    if task.grader == "ifeval" or (task.grader is None and _has(read[0], NEEDED)):
        return "ifeval"
    if task.grader is not None and task.grader not in GRADERS:
        return task.grader  # a function may grade without answers
    without = [p.kwargs for p in read if p.kwargs["answer"] is None]
    if without and (len(without) < len(read) or task.grader is not None):
        which = f"for grader {task.grader}" if task.grader else "in all rows or in none"
        names = task.answer_column or " or ".join(ANSWERS)
        raise StudyError(f"{without[0]['place']}: must have an answer {which}; {names} is missing")
    if without or task.grader is not None:
        return task.grader
    found = [p.kwargs["found"] for p in read]
    letters = all(isinstance(one, str) and re.fullmatch("[A-Z]", one.strip()) for one in found)
    return "choice" if letters else "math"


def _has(problem: Problem, columns: Sequence[str]) -> bool:
    place, row = problem.kwargs["place"], problem.kwargs["row"]
    return all(not rows.is_empty(rows.cell(place, row, name)) for name in columns)


def _graded_by(grader: str | None, problem: Problem) -> Problem:
    """The problem with its reference answer as its grader compares it."""
    told = problem.kwargs
    what = f"{told['place']}: {told['answer']}"
    if grader is None:
        return replace(problem, kwargs={})
    if grader == "ifeval":
        row = {name: rows.cell(told["place"], told["row"], name) for name in ("key", *NEEDED)}
        row |= {"prompt": problem.text, "key": row["key"] or problem.key}
        checked = ifeval_rows.problem(told["place"], row, ifeval.instructions())
        return replace(checked, prompt=problem.prompt)
    if grader not in GRADERS:
        found = told["found"]
        return replace(problem, answer=_as_text(found), kwargs={"row": told["row"]})
    answer = told["found"]
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    answer = rows.text_or_number(what, answer)
    if grader == "choice":
        found = _LETTER.fullmatch(answer)
        if found is None:
            raise rows.wrong(what, "be a letter for grader choice", answer)
        answer = found[1].upper()
    elif grader == "math":
        boxed = None if "####" in answer else grading.boxed(answer)
        answer = rows.text(what, math.final_number(answer) if boxed is None else boxed)
    return replace(problem, answer=answer, kwargs={"grader": grader})


def _as_text(value: Any) -> str:
    """An answer for a function of the user's: text, or whatever it is as JSON; none: empty."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, default=str, ensure_ascii=False)


def _what_is_read(task: TaskConfig, first: Problem, grader: str | None) -> str:
    told = first.kwargs
    parts = [f"prompts are its {told['prompt']}"]
    if told["assistant"]:
        parts.append("without the assistant's last message")
    if task.instruction:
        parts.append(f"with {shortened(task.instruction)} after each")
    answers = f", answers its {told['answer']}" if told["answer"] and grader != "ifeval" else ""
    graded = f"graded by {grader}" if grader else "without answers: nothing is graded"
    return f"{task.path}: {' '.join(parts)}{answers}; {graded}"
