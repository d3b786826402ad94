"""The arithmetic task: right answers, gradable, disjoint, the same every time."""

import re

import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.tasks import arithmetic

TASK = TaskConfig(name="arithmetic", n_train=300, n_eval=99, max_prompt_tokens=256)
MEANS = {  # each family's story, as an expression of the numbers in it
    "more": (r"has (\d+) \w+ and buys (\d+) more\.", "{} + {}"),
    "fewer": (r"has (\d+) \w+ and loses (\d+)\.", "{} - {}"),
    "bags": (r"has (\d+) bags with (\d+) \w+ in each\.", "{} * {}"),
}


@pytest.mark.parametrize("family", arithmetic.FAMILIES)
def test_every_answer_is_what_the_story_says(family):
    some = [p for p in tasks.load(TASK, "eval") if p.family == family]
    pattern, expression = MEANS[family]
    assert len(some) == TASK.n_eval // len(arithmetic.FAMILIES)
    for problem in some:
        numbers = re.search(pattern, problem.prompt.removeprefix(arithmetic.EXAMPLE)).groups()
        assert int(problem.answer) == eval(expression.format(*numbers))


def test_the_worked_example_is_right_and_graded_right():
    example = tasks.Problem("", "7", "more", "", {})
    assert tasks.grade(TASK, [example], [arithmetic.EXAMPLE]).all()
    assert not tasks.grade(TASK, [example], ["The answer is \\boxed{8}. It is 7."]).any()
    assert not tasks.grade(TASK, [example], ["The answer is 7."]).any()


def test_training_and_evaluation_problems_are_disjoint_and_distinct():
    train, held_out = (tasks.load(TASK, split) for split in ("train", "eval"))
    assert not {p.key for p in train} & {p.key for p in held_out}
    assert len({p.prompt for p in train}) == 300 and len({p.prompt for p in held_out}) == 99


def test_the_problems_are_the_same_every_time_and_more_of_them_begin_alike():
    more = TASK.model_copy(update={"n_eval": 120})
    assert tasks.load(TASK, "eval") == tasks.load(more, "eval")[:99]
