"""Tasks and their problems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError

Split = Literal["train", "eval"]
FORMAT = "format"  # the cause of a character that what stands before it determines
OFF = "off the grammar"  # the cause of a character that the task cannot explain


@dataclass(frozen=True)
class Problem:
    """One prompt with the data for grading.

    `prompt` is the text of a user, or a chat: messages with ``role`` and ``content``. `answer` is
    None where nothing is there to grade by. `family` groups problems in tables; `key` identifies
    the problem independently of its wording; `kwargs` are a checker's arguments.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    answer: str | None
    family: str
    key: str
    kwargs: dict

    @property
    def text(self) -> str:
        """The prompt for readers: a chat as paragraphs that begin with the role."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{one['role']}: {one['content']}" for one in self.prompt)


Grade = Callable[[TaskConfig, Sequence[Problem], Sequence[str]], Sequence[bool] | np.ndarray]
Annotate = Callable[[Problem, str], np.ndarray]


@dataclass(frozen=True)
class Task:
    """A registered task.

    ``load`` returns ``task.size(split)`` problems of a split. ``grade`` gives for each text whether
    it answers its problem, (len(texts),); a task without reference answers, which serves only for
    training, has none.

    A task may know *why* a character of a completion is hard. ``causes`` names the reasons, in the
    order of display: `FORMAT` is one of them, and `OFF` the last. ``annotate`` gives for every
    character of any completion, wrong ones too, a place in ``causes``, int8 (len(text),): that of
    the decision that was made there, where more than one continuation was possible.

    `StudyError`: causes without ``annotate`` or the other way round, a cause twice, no `FORMAT`, or
    a last cause that is not `OFF`.
    """

    load: Callable[[TaskConfig, Split], list[Problem]]
    grade: Grade | None = None
    columns: tuple[str, ...] = ()  # of the file in ``task.path``; empty for a task without a file
    instruction: str = ""  # what the task adds to its prompts, such as how to give the answer
    causes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()  # of `TaskConfig` that only some tasks read, and this one does
    # kept apart: an edited annotator changes no key but that of what it annotates
    annotate: Annotate | None = field(default=None, metadata={"kept_apart": True})

    def __post_init__(self) -> None:
        """Refuse causes that nothing annotates, or that lack what readers of them rely on."""
        names = ", ".join(self.causes) or "none"
        if bool(self.causes) != (self.annotate is not None):
            got = f"{names}, and {'a' if self.annotate else 'no'} function annotate"
            raise StudyError(f"causes: must be given together with annotate; got {got}")
        distinct = len(set(self.causes)) == len(self.causes)
        if self.causes and not (distinct and FORMAT in self.causes and self.causes[-1] == OFF):
            legal = f"distinct, {FORMAT!r} one of them and {OFF!r} the last"
            raise StudyError(f"causes: must be {legal}; got {names}")
