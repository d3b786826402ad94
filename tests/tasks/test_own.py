"""Prompts as given: what is read, what is never added, and one line for what has no meaning."""

import json
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest

from rockstudy import progress, tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.tasks import math, own

SIZES = {"n_train": 2, "n_eval": 100, "max_prompt_tokens": 64}
GOOD = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]


def task(path, name="prompts", **more):
    return TaskConfig(name=name, path=str(path), **SIZES | more)


def written(path, lines, encoding="utf-8", end="\n"):
    made = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(line + end for line in made).encode(encoding))
    return path


def loaded(path, lines, split="eval", **more):
    config = task(written(path / "p.jsonl", lines), **more)
    return config, tasks.load(config, split)


def refused(config, split="eval"):
    with pytest.raises(StudyError) as error:
        tasks.load(config, split)
    line = str(error.value)
    assert line.isprintable() and len(line) <= 400, line
    return line


@pytest.mark.parametrize("column", ["prompt", "problem", "question", "Prompt", "QUESTION"])
def test_a_text_is_taken_as_it_is(column, tmp_path):
    texts = ["  What?\n", "Why?"]
    _, problems = loaded(tmp_path, [{column: text} for text in texts])
    assert [p.prompt for p in problems] == texts
    assert [p.answer for p in problems] == [None, None]


@pytest.mark.parametrize("column", ["messages", "prompt", "Messages"])
def test_a_chat_is_a_list_of_messages_with_a_system_message(column, tmp_path):
    other = [{"role": "user", "content": "Hi", "name": None, "tool_calls": []}]
    _, problems = loaded(tmp_path, [{column: CHAT}, {column: other}])
    assert [p.prompt for p in problems] == [CHAT, [{"role": "user", "content": "Hi"}]]
    assert problems[0].text == "system: Be brief.\n\nuser: What is 1 + 1?"


def test_the_answer_of_an_assistant_is_no_part_of_the_prompt(tmp_path, capsys):
    whole = [*CHAT, {"role": "assistant", "content": "2"}]
    _, (problem,) = loaded(tmp_path, [{"messages": whole}])
    assert problem.prompt == CHAT
    assert "without the assistant's last message" in capsys.readouterr().err


def test_parts_of_type_text_are_joined(tmp_path):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]
    _, (problem,) = loaded(tmp_path, [{"messages": [{"role": "user", "content": parts}]}])
    assert problem.prompt[0]["content"] == "What is 1 + 1?"


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (None, "What?"),
        ("", "What?"),
        ("Answer briefly.", "What?\n\nAnswer briefly."),
        (" Answer briefly.", "What? Answer briefly."),
    ],
)
def test_an_instruction_is_added_only_when_it_is_given(instruction, expected, tmp_path):
    rows = [{"prompt": "What?"}, {"prompt": [CHAT[0], {"role": "user", "content": "What?"}]}]
    _, (text, chat) = loaded(tmp_path, rows, instruction=instruction)
    assert text.prompt == chat.prompt[1]["content"] == expected
    assert chat.prompt[0] == CHAT[0]


def test_the_instruction_of_maths_can_be_turned_off_or_changed(tmp_path):
    file = written(tmp_path / "m.jsonl", [{"problem": "1 + 1?", "answer": "2"}])
    prompts = {
        given: math.load(task(file, "math", n_eval=1, instruction=given), "eval")[0].prompt
        for given in (None, "", "Box it: \\boxed{}.")
    }
    assert prompts == {
        None: "1 + 1?" + math.INSTRUCTION,
        "": "1 + 1?",
        "Box it: \\boxed{}.": "1 + 1?\n\nBox it: \\boxed{}.",
    }
    keys = [tasks.identity(task(file, "math", n_eval=1, instruction=given)) for given in prompts]
    assert len({json.dumps(key) for key in keys}) == 3


def test_a_task_that_does_not_read_a_field_refuses_it():
    with pytest.raises(StudyError, match="benchmarks__0__grader: must be None for lab_math; got"):
        from_parameters("tiny", benchmarks__0__grader="choice")
    with pytest.raises(StudyError, match="train_task__instruction: must be None for lab_math"):
        from_parameters("tiny", train_task__instruction="")
    with pytest.raises(StudyError, match="benchmarks__0__path: must be a JSONL"):
        from_parameters("tiny", benchmarks__0__name="prompts")


def test_fields_that_are_not_given_change_no_key_and_can_still_be_set():
    plain = from_parameters("tiny").benchmarks[0]
    assert set(tasks.identity(plain)) == {
        *("name", "path", "revision", "subset", "split"),
        *("n_train", "n_eval", "max_prompt_tokens"),
    }
    changed = from_parameters("tiny", benchmarks__0__chat="none")
    assert tasks.identity(changed.benchmarks[0]) == tasks.identity(plain) | {"chat": "none"}
    assert type(changed).model_validate(changed.model_dump(mode="json")) == changed


@pytest.mark.parametrize("column", ["answer", "Solution", "ground_truth", "target", "LABEL"])
def test_answers_have_several_names(column, tmp_path):
    config, problems = loaded(tmp_path, [{"prompt": "1 + 1?", column: 2}])
    assert [p.answer for p in problems] == ["2"]
    assert tasks.has_answers(config, problems)


def test_verl_s_columns_are_read_from_parquet_and_jsonl(tmp_path):
    rows = [
        {
            "data_source": "gsm8k",
            "prompt": [{"content": f"{i} + 1?", "role": "user"}],
            "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
            "extra_info": {"index": i},
        }
        for i in range(3)
    ]
    _, jsonl = loaded(tmp_path, rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    parquet = tasks.load(task(tmp_path / "p.parquet"), "eval")
    assert parquet == jsonl
    assert [p.answer for p in parquet] == ["1", "2", "3"]
    assert parquet[0].prompt == [{"role": "user", "content": "0 + 1?"}]


def test_arrays_of_numpy_in_parquet_are_chats(tmp_path):
    frame = pd.DataFrame({"messages": [np.array(CHAT, object), np.array(CHAT[1:], object)]})
    frame.to_parquet(tmp_path / "p.parquet")
    problems = tasks.load(task(tmp_path / "p.parquet"), "eval")
    assert [p.prompt for p in problems] == [CHAT, CHAT[1:]]


def test_names_of_columns_can_be_given_nested_ones_too(tmp_path):
    rows = [{"q": "1 + 1?", "prompt": "other", "meta": {"Gold": {"value": 2}}, "answer": "9"}]
    given = {"prompt_column": "Q", "answer_column": "meta.gold.value"}
    _, (problem,) = loaded(tmp_path, rows, **given)
    assert (problem.prompt, problem.answer) == ("1 + 1?", "2")
    line = refused(task(tmp_path / "p.jsonl", prompt_column="text"))
    assert line.endswith("line 1: must have the column text; got 'q, prompt, meta, answer'")
    line = refused(task(tmp_path / "p.jsonl", answer_column="meta.silver"))
    assert "line 1: must have the column meta.silver; got" in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_jsonl_and_parquet_give_the_same_problems(encoding, end, tmp_path):
    lines = ["Prompt,answer", *(f'"What is {i} + 1?",{i + 1}' for i in range(4))]
    csv = tasks.load(task(written(tmp_path / "p.csv", lines, encoding, end)), "eval")
    jsonl = tasks.load(task(written(tmp_path / "p.jsonl", GOOD, encoding, end)), "eval")
    pd.DataFrame(GOOD).to_parquet(tmp_path / "p.parquet")
    assert csv == jsonl == tasks.load(task(tmp_path / "p.parquet"), "eval")


def test_a_csv_file_may_have_line_ends_in_cells_and_chats_as_json(tmp_path):
    chats = ",".join(['"' + json.dumps(CHAT).replace('"', '""') + '"'])
    file = written(tmp_path / "p.csv", ["messages,answer", chats + ',"2"'])
    (problem,) = tasks.load(task(file), "eval")
    assert problem.prompt == CHAT
    file = written(tmp_path / "p.csv", ["prompt,answer", '"Two\nlines, one prompt",2'])
    assert tasks.load(task(file), "eval")[0].prompt == "Two\nlines, one prompt"


BAD_CSV = {
    "": "has no problems",
    "prompt,answer": "has no problems",
    "prompt,answer\nWhat?": "line 2: must have 2 cells, as its first line has; got 1",
    "prompt,answer\nWhat?,1,2": "line 2: must have 2 cells, as its first line has; got 3",
    "prompt,prompt\na,b": "'prompt' twice",
    'prompt,answer\n"What?,1': "must be a CSV file that can be read",
    "text,answer\nWhat?,1": "line 2: must have the column prompt or problem or question",
    "messages\nhello": "line 2: messages must be a list of messages; got 'hello'",
    "prompt,answer\n ,1": "line 2: prompt must not be empty",
}


@pytest.mark.parametrize("content", BAD_CSV)
def test_a_bad_csv_file_is_one_line(content, tmp_path):
    (tmp_path / "p.csv").write_text(content)
    assert BAD_CSV[content] in refused(task(tmp_path / "p.csv"))


def test_a_csv_file_in_a_different_encoding_is_one_line(tmp_path):
    (tmp_path / "p.csv").write_bytes("prompt\nCaf\xe9?".encode("latin-1"))
    assert "must be a CSV file that can be read (not UTF-8)" in refused(task(tmp_path / "p.csv"))


DEEP = "[" * 900 + "]" * 900
BAD = {
    '{"prompt": 7}': "prompt must be text or a list of messages; got 7",
    '{"prompt": {"a": 1}}': "prompt must be text or a list of messages; got an object",
    '{"prompt": []}': "prompt must not be empty",
    '{"prompt": " \\u200b"}': "prompt must not be empty",
    '{"prompt": "a\\ud800"}': "must be Unicode; got '\\ud800', half a character",
    '{"prompt": ["What?"]}': "message 1 must be an object with role and content; got 'What?'",
    '{"prompt": [[{"role": "user"}]]}': "message 1 must be an object with role and content",
    '{"messages": [{"role": "user"}]}': "message 1 must have role and content alone; it has role",
    '{"messages": [{"from": "human", "value": "Hi"}]}': "it has from, value",
    '{"messages": [{"role": "tool", "content": "x"}]}': "role must be one of system, user",
    '{"messages": [{"role": 1, "content": "x"}]}': "role must be one of system, user",
    '{"messages": [{"role": ["user"], "content": "x"}]}': "role must be one of system, user",
    '{"messages": [{"role": "user", "content": {"a": 1}}]}': "content must be text; got an object",
    '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}': "parts of type text",
    '{"messages": [{"role": "system", "content": "x"}]}': "must have a message of a user",
    '{"messages": [{"role": "assistant", "content": "x"}]}': "must have a message of a user",
    '{"messages": "hello"}': "messages must be a list of messages; got 'hello'",
    f'{{"messages": {DEEP}}}': "message 1 must be an object",
    '{"prompt": "a", "PROMPT ": "b"}': "",  # the exact name goes first
    '{"Prompt": "a", "PROMPT": "b"}': "must have one column prompt; got 'Prompt' and 'PROMPT'",
    '{"text": "a"}': "must have the column prompt or problem or question or messages; got 'text'",
    "[1]": "must be an object with a prompt; got a list of 1",
    '"a"': "must be an object with a prompt; got 'a'",
    "{": "must be one JSON object",
    '{"prompt": "a", "answer": {"b": 1}}': "answer must be text or a number; got an object",
    '{"prompt": "a", "answer": true}': "answer must be text or a number; got true",
    '{"prompt": "a", "answer": 1e999}': "answer must be finite; got inf",
    '{"prompt": "a", "answer": "#### "}': "answer must not be empty",
    '{"prompt": "a", "reward_model": {"ground_truth": [1, 2]}}': "must be text or a number",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_with_its_line(line, tmp_path):
    config = task(written(tmp_path / "p.jsonl", ["", line]))
    if not BAD[line]:
        assert len(tasks.load(config, "eval")) == 1
        return
    said = refused(config)
    assert BAD[line] in said and "p.jsonl, line 2" in said


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "p.jsonl").touch()
    assert "has no problems" in refused(task(tmp_path / "p.jsonl"))
    assert "path: must be an existing file or a Hub id" in refused(task(tmp_path / "q.jsonl"))
    assert ".jsonl or .parquet or .csv" in refused(task(written(tmp_path / "p.txt", GOOD)))


def test_a_shorter_file_gives_what_it_has_and_training_takes_the_rest(tmp_path):
    config, problems = loaded(tmp_path, GOOD[:1])
    assert len(problems) == 1
    config, problems = loaded(tmp_path, GOOD, n_eval=3, n_train=100)
    assert [len(problems), len(tasks.load(config, "train"))] == [3, 1]


def test_a_file_without_answers_is_read_and_nothing_is_graded(tmp_path):
    config, problems = loaded(tmp_path, [{"prompt": "a", "answer": None}, {"prompt": "b"}])
    assert not tasks.has_answers(config, problems)
    with pytest.raises(StudyError, match=r"must have answers to grade by; it has none"):
        tasks.grade(config, problems, ["x", "y"])


def test_answers_in_some_rows_alone_are_refused(tmp_path):
    file = written(tmp_path / "p.jsonl", [*GOOD, {"prompt": "e", "answer": " "}])
    line = refused(task(file))
    assert "line 5: must have an answer in all rows or in none; answer or solution" in line
    line = refused(task(written(tmp_path / "p.jsonl", [{"prompt": "e"}]), grader="exact"))
    assert "line 1: must have an answer for grader exact" in line


def test_one_line_names_the_columns_and_the_grader(tmp_path, capsys):
    progress._NOTICED.clear()
    config, _ = loaded(tmp_path, [{"problem": "1 + 1?", "solution": "2", "label": "x"}])
    tasks.load(config, "eval")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("p.jsonl: prompts are its problem, answers its solution; graded by math")


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("72", "so \\boxed{72}", True),
        ("72", "first \\boxed{72}, then \\boxed{71}", False),
        ("He has 4 + 68 = 72.\n#### 72", "4 + 68\n#### 72", True),
        ("1,450", "The answer is 1450.", True),
        ("#### 1,450", "**Answer:** 1,450", True),
        ("The result is \\boxed{\\frac{1}{2}}.", "The final answer is $\\frac{1}{2}$.", True),
        ("0.5", "answer is 1/2", True),
        ("72", "4 + 68 gives 72 apples", True),
        ("72", "4 + 68 gives 72 apples and 3 pears", False),
        ("72", "no idea", False),
        ("72", "", False),
        ("72", "\\boxed{72", True),  # an open box: its number is the last one
    ],
)
def test_maths_is_graded_by_the_final_answer_of_a_text(answer, text, right, tmp_path):
    config, problems = loaded(tmp_path, [{"prompt": "a?", "answer": answer}], grader="math")
    assert tasks.grade(config, problems, [text]).tolist() == [right]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B", True),
        ("(B)", True),
        ("B. Paris", True),
        ("**B**", True),
        ("The answer is B.", True),
        ("The answer is (B), since A is wrong.", True),
        ("Answer: **B**", True),
        ("So the correct choice would be B", True),
        ("\\boxed{B}", True),
        ("\\boxed{\\text{(B)}}", True),
        ("The answer is A. No: the answer is B", True),
        ("Because of A and B", False),
        ("A", False),
        ("The answer is I think B", False),
        ("Both", False),
        ("\\boxed{AB}", False),
        ("", False),
    ],
)
def test_a_choice_is_graded_by_its_letter(text, right, tmp_path):
    rows = [{"prompt": "Which?", "answer": "B"}, {"prompt": "What?", "answer": "D"}]
    config, problems = loaded(tmp_path, rows)
    assert {p.kwargs["grader"] for p in problems} == {"choice"}
    assert tasks.grade(config, problems[:1], [text]).tolist() == [right]
    spelt = [{"prompt": "Which?", "answer": "(b)"}]
    config, problems = loaded(tmp_path, spelt, grader="choice")
    assert tasks.grade(config, problems, [text]).tolist() == [right]


def test_a_choice_must_be_a_letter(tmp_path):
    file = written(tmp_path / "p.jsonl", [{"prompt": "Which?", "answer": 1}])
    line = refused(task(file, grader="choice"))
    assert line.endswith("line 1: answer must be a letter for grader choice; got '1'")


def test_exact_compares_whole_texts(tmp_path):
    config, problems = loaded(tmp_path, [{"prompt": "a?", "answer": " yes "}], grader="exact")
    graded = [tasks.grade(config, problems, [text])[0] for text in ("yes\n", "Yes", "yes, it is")]
    assert graded == [True, False, False]


def test_rows_of_ifeval_are_graded_by_their_instructions(tmp_path):
    pytest.importorskip("lm_eval")
    row = {
        "prompt": "Write. Use no comma.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    }
    config, problems = loaded(tmp_path, [row, row | {"prompt": CHAT}])
    assert problems[1].prompt == CHAT and tasks.has_answers(config, problems)
    assert tasks.grade(config, problems, ["No.", "Yes, no."]).tolist() == [True, False]
    line = refused(task(written(tmp_path / "p.jsonl", [row, GOOD[0]])))
    assert "line 2" in line and "instruction_id_list" in line


GRADER = '''
def longer(problem, text):
    """Whether a text is longer than the row's limit."""
    return len(text) > problem.kwargs["row"]["limit"] * SCALE

SCALE = 1

def broken(problem, text):
    return 1 / 0

def unsure(problem, text):
    return "maybe"
'''


def test_a_function_of_the_user_grades_and_its_code_is_part_of_the_identity(tmp_path):
    rows = [{"prompt": "a", "limit": 3}, {"prompt": "b", "limit": 1}]
    keys = []
    for number, source in enumerate((GRADER, GRADER.replace("SCALE = 1", "SCALE = 2"))):
        (tmp_path / f"own_grader_{number}.py").write_text(source)
        grader = f"{tmp_path}/own_grader_{number}.py:longer"
        config, problems = loaded(tmp_path, rows, grader=grader)
        assert tasks.grade(config, problems, ["abc", "abc"]).tolist() == [False, True]
        keys.append(tasks.identity(config))
    assert keys[0]["grader"] != keys[1]["grader"]
    assert {**keys[0], "grader": ""} == {**keys[1], "grader": ""}


def test_a_function_that_fails_or_gives_no_verdict_is_named(tmp_path):
    (tmp_path / "own_bad_grader.py").write_text(GRADER)
    for function, said in {
        "broken": "must grade every text; it raised ZeroDivisionError: division by zero",
        "unsure": "must return True or False; got 'maybe'",
    }.items():
        config, problems = loaded(tmp_path, GOOD, grader=f"{tmp_path}/own_bad_grader.py:{function}")
        with pytest.raises(StudyError, match=said):
            tasks.grade(config, problems, [""] * 4)


def test_a_grader_that_is_none_is_one_line_before_the_file_is_read(tmp_path):
    (tmp_path / "own_third_grader.py").write_text(GRADER)
    missing = task(tmp_path / "none.jsonl", grader=f"{tmp_path}/own_third_grader.py:nothing")
    assert "grader: must be a function (problem, text) of" in refused(missing)
    gone = task(tmp_path / "none.jsonl", grader=f"{tmp_path}/gone.py:f")
    assert "grader: must be files or modules that can be imported" in refused(gone)
    with pytest.raises(StudyError, match="grader: must be one of math, choice, exact, ifeval, or"):
        from_parameters("tiny", benchmarks__0__grader="maths")


def test_a_grader_s_file_has_an_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "own_fourth_grader.py").write_text(GRADER)
    monkeypatch.chdir(tmp_path)
    config = task("p.jsonl", grader="own_fourth_grader.py:longer")
    assert config.grader == f"{tmp_path}/own_fourth_grader.py:longer"


def test_a_set_of_the_hub_is_read_by_its_splits(tmp_path, monkeypatch):
    for name, rows in {"train": GOOD[:3], "test": GOOD[3:]}.items():
        written(tmp_path / f"{name}.jsonl", rows)
    loader, files = datasets.load_dataset, {n: f"{tmp_path}/{n}.jsonl" for n in ("train", "test")}
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, **how: loader("json", data_files=files, cache_dir=str(tmp_path / "cache")),
    )
    config = task("someone/prompts")
    assert [len(tasks.load(config, split)) for split in ("eval", "train")] == [1, 2]


def test_nothing_warns(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(tmp_path, GOOD)


def test_final_answers_are_found_in_time():
    for text in ("answer" + " " * 200_000, "answer is " * 20_000, "1," * 100_000, "*" * 200_000):
        own.final_answer(text)
        own.letter(text, "D")
