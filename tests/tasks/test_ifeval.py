"""IFEval: graded by the harness's own checkers, rows that cannot be graded named and left out."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rockstudy import intervals, paths, tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
from rockstudy.tasks import ifeval

FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ifeval.jsonl"
real = pytest.mark.skipif(not FILE.is_file(), reason="../shared/data/ifeval.jsonl is not here")
PUNKT = "length_constraints:number_sentences"
ROWS = [
    {
        "key": 1,
        "prompt": "Write without commas, in at least three words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    },
    {
        "key": 2,
        "prompt": "Answer in lower case English.",
        "instruction_id_list": ["change_case:english_lowercase"],
        "kwargs": [{}],
    },
    {
        "key": 3,
        "prompt": "Write two sentences or more.",
        "instruction_id_list": [PUNKT],
        "kwargs": [{"relation": "at least", "num_sentences": 2}],
    },
]


def task(path, n_eval=3, n_train=1):
    return TaskConfig(
        name="ifeval", path=str(path), n_train=n_train, n_eval=n_eval, max_prompt_tokens=64
    )


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def no_punkt(monkeypatch):
    """Make nltk look nowhere, as where its data was never fetched."""
    pytest.importorskip("lm_eval")
    import nltk

    ifeval._harness()
    monkeypatch.setattr(nltk.data, "path", [])


@pytest.fixture
def punkt(monkeypatch, tmp_path):
    """Install punkt data of the right form that knows no abbreviations."""
    pytest.importorskip("lm_eval")
    import nltk

    ifeval._harness()
    folder = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    files = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")
    for name in files:
        (folder / name).write_text("")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    from lm_eval.tasks.ifeval import instructions_util

    instructions_util._get_sentence_tokenizer.cache_clear()
    yield
    instructions_util._get_sentence_tokenizer.cache_clear()


def test_rows_that_need_missing_data_are_named_and_left_out(tmp_path, no_punkt):
    file = write(tmp_path / "instructions.jsonl", ROWS)
    with pytest.warns(UserWarning, match=rf"instructions: 1 of 3 rows .*{PUNKT} in 1; they are"):
        problems = tasks.load(task(file), "eval")
    assert [p.key for p in problems] == ["1", "2"]
    assert [p.family for p in problems] == ["several", "change_case"]
    write(file, ROWS[2:])
    with pytest.raises(StudyError, match=r"1 of 1 rows .*no row is left"):
        tasks.load(task(file, n_eval=1), "eval")


def test_with_the_data_sentences_are_counted(tmp_path, punkt):
    problems = tasks.load(task(write(tmp_path / "i.jsonl", ROWS)), "eval")
    assert [p.key for p in problems] == ["1", "2", "3"]
    graded = ifeval.grade(
        task("f.jsonl"), [problems[2]] * 2, ["It is one. It is two.", "It is one alone"]
    )
    assert graded == [True, False]


def test_training_takes_the_rows_after_those_of_evaluation(tmp_path, punkt):
    file = task(write(tmp_path / "i.jsonl", ROWS), n_eval=2, n_train=1)
    assert [p.key for p in tasks.load(file, "train")] == ["3"]


def test_strict_and_loose_on_texts_whose_answers_are_plain(tmp_path, punkt):
    first, second, _ = tasks.load(task(write(tmp_path / "i.jsonl", ROWS)), "eval")
    texts = {
        "no comma in here": (True, 2, True, 2),
        "one, two, three": (False, 1, False, 1),
        "one two": (False, 1, False, 1),
        "Sure, here it is:\nthese are three words": (False, 1, True, 2),  # without its first line
        "": (False, 0, False, 0),
    }
    frame = ifeval.rates([first] * len(texts), list(texts))
    names = ["prompt_strict", "instructions_strict", "prompt_loose", "instructions_loose"]
    assert [tuple(row) for row in frame[names].to_numpy().tolist()] == list(texts.values())
    assert (frame["instructions"] == 2).all()
    config = task(tmp_path / "i.jsonl")
    assert tasks.grade(config, [first] * len(texts), list(texts)).tolist() == [
        strict for strict, *_ in texts.values()
    ]
    sentence = "this is all written in plain english words"
    assert tasks.grade(config, [second] * 2, [sentence, sentence.title()]).tolist() == [True, False]


def letters(letter, relation="at least", frequency=2):
    return {"letter": letter, "let_relation": relation, "let_frequency": frequency}


def of(name, **kwargs):
    """A problem with one instruction."""
    return tasks.Problem("x", "", "", "1", {"instruction_id_list": [name], "kwargs": [kwargs]})


@pytest.mark.parametrize("letter", ["!", "#", "é", "7", "q", "Q"])
def test_the_character_of_a_letter_frequency_is_counted_and_never_drawn(letter):
    pytest.importorskip("lm_eval")
    problem = of(ifeval.LETTERS, **letters(letter))
    texts = [f"wow{letter} {letter}", f"wow{letter} no", "abcdefghijklmnoprstuvwxyz" * 9]
    for _ in range(5):  # the harness draws among 26 letters
        assert ifeval.grade(task("f.jsonl"), [problem] * 3, texts) == [True, False, False]
    few = of(ifeval.LETTERS, **letters(letter, "less than"))
    assert ifeval.grade(task("f.jsonl"), [few] * 3, texts) == [False, True, True]
    assert ifeval.rates([problem] * 3, texts).prompt_loose.tolist() == [True, False, False]


RANDOM = {  # arguments that a checker replaces by random ones, and the line that refuses them
    "two letters": (ifeval.LETTERS, letters("ab"), "letter must be one character; got 'ab'"),
    "negative frequency": (
        ifeval.LETTERS,
        letters("a", frequency=-3),
        "let_frequency must be a whole number >= 1; got -3",
    ),
    "negative words": (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": -5},
        "num_words must be a whole number >= 1; got -5",
    ),
    "a paragraph beyond the last": (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "so"},
        "nth_paragraph must be at most num_paragraphs, 2; got 3",
    ),
}


@pytest.mark.parametrize("case", RANDOM)
def test_arguments_that_a_checker_would_draw_at_random_are_refused(case, tmp_path):
    pytest.importorskip("lm_eval")
    name, kwargs, line = RANDOM[case]
    row = {"key": 1, "prompt": "x", "instruction_id_list": [name], "kwargs": [kwargs]}
    with pytest.raises(StudyError, match=f"line 1: {line}"):
        tasks.load(task(write(tmp_path / "i.jsonl", [row]), n_eval=1), "eval")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        ("<think>a, b</think>\n\nyes", "yes"),
        ("a, b</think>yes", "yes"),  # the prompt opened it
        ("<think>a</think>b<think>c</think> yes", "yes"),
        ("<think>a, b", ""),
        ("\n<think>", ""),
        ("the tag <think> opens", "the tag <think> opens"),
    ],
)
def test_a_completion_is_graded_by_what_follows_its_thinking(text, answer):
    pytest.importorskip("lm_eval")
    assert ifeval.answer_of(text) == answer
    graded = ifeval.grade(task("f.jsonl"), [of("punctuation:no_comma")], [text])
    assert graded == [bool(answer)]


NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
LEAST = "at least|more than|no less than"
MOST = r"less than|fewer than|at most|no more than|only|avoid[^.\n]*more than"
NOUNS = {"keywords": "time", "length_constraints": "word|sentence", "change_case": "time|word"}


def contradicts(prompt, name, kwargs):
    """Whether a number above 2 is not in the prompt, or only with the opposite relation."""
    prompt = re.sub(r"(?<=\d),(?=\d{3})", "", prompt.lower())
    prompt = prompt.replace("twice", "two times")
    for i, word in enumerate(NUMBERS):
        prompt = re.sub(rf"\b{word}\b", str(i), prompt)
    relation = next((v for k, v in kwargs.items() if k.endswith("relation")), None)
    for value in (v for v in kwargs.values() if isinstance(v, int) and v > 2):
        near = f"{value}|{value - 1}" if relation else str(value)  # at most 5, less than 6
        if not re.search(rf"(?<!\d)(?:{near})(?!\d)", prompt):
            return True
        if relation:
            noun = NOUNS[name.split(":")[0]]
            found = rf"\b(?:(?P<least>{LEAST})|{MOST}) (?:{near}) (?:[\w-]+ )?(?:{noun})"
            least = {m["least"] is not None for m in re.finditer(found, prompt)}
            if least == {relation == "less than"}:
                return True
    return False


@real
def test_the_rows_whose_arguments_contradict_their_prompt_are_named_and_no_others():
    named = {}
    for row in map(json.loads, FILE.read_text().splitlines()):
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if contradicts(row["prompt"], name, kwargs):
                named[str(row["key"])] = name
            words = [v for k, v in kwargs.items() if isinstance(v, str) and "relation" not in k]
            for text in words + [w for v in kwargs.values() if isinstance(v, list) for w in v]:
                plain = [re.sub(r"\W+", " ", t.lower()).strip() for t in (text, row["prompt"])]
                assert plain[0] in plain[1] or "language" in kwargs, row["key"]
    assert named == {key: why.split(": ")[0] for key, why in ifeval.CONTRADICTORY.items()}


BODY = (
    "Here is some plain text that goes on.\n\n* one *point*\n* two\n***\n\nSECTION 1 <<A Title>> "
    "[name] [city]\n\nP.S. THE END!"
)


def by_both_graders(problems, real):
    """Verdicts of both graders on eight texts a problem: ``instruction, verdicts, ...``."""
    second = pytest.importorskip("if_verifiable")
    rows = []
    for i, problem in enumerate(problems):
        texts = [f"{problem.prompt}\n\n{BODY}", BODY.lower().replace(",", ""), "My answer is no."]
        texts += [f'"{BODY.upper()} ###"', real[i % len(real)], '{"a": 1}', f"<think> {BODY}"]
        texts += [f"<think>\nfirst, so\n</think>\n\n{BODY}"]
        names = problem.kwargs["instruction_id_list"]
        sample = second.IFEvalSample(
            int(problem.key), problem.prompt, names, problem.kwargs["kwargs"]
        )
        for text in texts:
            theirs, _ = second.evaluate_output_for_sample("ifeval", sample, text)
            for kind in ("strict", "loose"):
                other = [getattr(one, f"{kind}_pass") for one in theirs] or [False] * len(names)
                ours = ifeval._followed(kind, problem, text)
                rows += zip([problem.key] * len(names), names, ours, other, strict=True)
    frame = pd.DataFrame(rows, columns=["key", "instruction", "followed", "other"])
    sign = frame.key.isin(["1122", "1129"]) & (frame.instruction == ifeval.LETTERS)
    frame["instruction"] = frame.instruction.mask(sign, f"{ifeval.LETTERS} of a sign")
    frame["verdicts"], frame["disagree"] = 1, frame.followed != frame.other
    # of a sign, the second grader counts a random letter
    frame.loc[sign, "disagree"] = False
    counted = frame.groupby("instruction")[["verdicts", "followed", "disagree"]].sum()
    return counted.astype(int).reset_index()


@real
def test_a_second_grader_agrees_except_where_it_draws_a_random_letter(no_punkt):
    pytest.importorskip("if_verifiable")  # rockstudy does not need it
    written = pd.read_parquet(paths.data_dir() / "grading" / "ifeval_completions.parquet")
    with pytest.warns(UserWarning, match="64 of 540 rows"):
        problems = tasks.load(task(FILE, n_eval=540), "eval")
    made = by_both_graders(problems, written.text.tolist())
    committed = pd.read_csv(paths.data_dir() / "grading" / "ifeval_graders.csv")
    pd.testing.assert_frame_equal(made, committed)


def test_the_committed_comparison_of_two_graders_has_both_verdicts_and_no_disagreement():
    committed = pd.read_csv(paths.data_dir() / "grading" / "ifeval_graders.csv")
    assert committed.disagree.sum() == 0
    assert committed.verdicts.sum() > 10_000
    assert ((committed.followed > 0) & (committed.followed < committed.verdicts)).mean() > 0.9


def test_brackets_nested_beyond_the_json_parser_follow_nothing():
    pytest.importorskip("lm_eval")
    json_format = {"instruction_id_list": ["detectable_format:json_format"], "kwargs": [{}]}
    problem = tasks.Problem("JSON, please.", "", "", "1", json_format)
    assert ifeval.grade(task("f.jsonl"), [problem] * 2, ['{"a": 1}', "[" * 50_000]) == [True, False]


@real
def test_the_rates_are_those_that_the_harness_itself_reports(no_punkt):
    from lm_eval.tasks.ifeval import utils

    docs = {str(row["key"]): row for row in map(json.loads, FILE.read_text().splitlines())}
    with pytest.warns(UserWarning, match="64 of 540 rows"):
        problems = tasks.load(task(FILE, n_eval=540), "eval")
    assert len(problems) == 476
    problems = problems[::4]
    words = "here is some plain text that goes on.\n\n* with a *point*\n\nP.S. <<The End>>"
    texts = [(words, words.upper(), p.prompt + "\n" + words)[i % 3] for i, p in enumerate(problems)]
    expected = [
        utils.process_results(docs[p.key], [text]) for p, text in zip(problems, texts, strict=True)
    ]
    frame = ifeval.rates(problems, texts).assign(prompt_index=range(len(problems)))
    assert frame["prompt_strict"].nunique() == 2
    for kind in ("strict", "loose"):
        rng = np.random.default_rng(0)
        prompts = intervals.cluster_mean(frame, f"prompt_{kind}", "prompt_index", rng)
        assert prompts.value == np.mean([e[f"prompt_level_{kind}_acc"] for e in expected])
        instructions = intervals.prompt_ratio(frame, f"instructions_{kind}", "instructions", rng)
        pooled = utils.agg_inst_level_acc([e[f"inst_level_{kind}_acc"] for e in expected])
        assert instructions.value == pytest.approx(pooled, abs=1e-12)
        assert frame[f"prompt_{kind}"].tolist() == [e[f"prompt_level_{kind}_acc"] for e in expected]


@real
def test_the_hubs_form_of_the_arguments_gives_the_same_problems(tmp_path, no_punkt):
    lines = [json.loads(line) for line in FILE.read_text().splitlines()][:60]
    names = {name for row in lines for one in row["kwargs"] for name in one}
    filled = [row | {"kwargs": [dict.fromkeys(names) | k for k in row["kwargs"]]} for row in lines]
    with pytest.warns(UserWarning, match="of 60 rows"):
        as_is = tasks.load(task(FILE, n_eval=60), "eval")
        hub = tasks.load(task(write(tmp_path / "ifeval.jsonl", filled), n_eval=60), "eval")
    assert [(p.key, p.kwargs) for p in as_is] == [(p.key, p.kwargs) for p in hub]


@real
def test_only_the_named_checkers_need_the_data(no_punkt):
    from lm_eval.tasks.ifeval import instructions_registry

    missing, seen = set(), set()
    for row in map(json.loads, FILE.read_text().splitlines()):
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name not in seen:
                checker = instructions_registry.INSTRUCTION_DICT[name](name)
                checker.build_description(**kwargs)
                try:
                    checker.check_following("Some words. And more WORDS.")
                except LookupError:
                    missing.add(name)
            seen.add(name)
    assert seen == instructions_registry.INSTRUCTION_DICT.keys()
    assert missing == set(ifeval.NEED_PUNKT)


def test_a_language_is_detected_the_same_way_every_time():
    pytest.importorskip("lm_eval")
    asked = {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    problem = tasks.Problem("Auf Deutsch.", "", "", "1", asked)
    assert ifeval.grade(
        task("f.jsonl"), [problem] * 2, ["Das ist ein schöner Tag.", "A fine day"]
    ) == [
        True,
        False,
    ]
    text = "Otec matka syn"  # alike in several languages, and drawn between them when not seeded
    import langdetect

    assert len({langdetect.detect(text) for _ in range(20)}) == 1


BAD = {
    "unknown instruction": (
        {"instruction_id_list": ["punctuation:no_coma"]},
        r"line 1: instruction_id_list: must be one of .*did you mean 'punctuation:no_comma'",
    ),
    "argument missing": (
        {"instruction_id_list": ["length_constraints:number_words"]},
        "line 1: kwargs of length_constraints:number_words must have num_words, relation",
    ),
    "argument of another": (
        {"kwargs": [{"num_words": 3}]},
        "line 1: kwargs of punctuation:no_comma must be its own",
    ),
    "one list shorter": ({"kwargs": []}, "line 1: kwargs must not be empty"),
    "lists of two lengths": ({"kwargs": [{}, {}]}, "must be lists of one length"),
    "text for a list": ({"instruction_id_list": "no_comma"}, "must be lists of one length"),
    "no prompt": ({"prompt": " "}, "line 1: prompt must not be empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_gives_one_line_that_names_it(case, tmp_path):
    pytest.importorskip("lm_eval")
    change, message = BAD[case]
    row = {"key": 1, "prompt": "x", "kwargs": [{}], "instruction_id_list": ["punctuation:no_comma"]}
    file = write(tmp_path / "i.jsonl", [row | change])
    with pytest.raises(StudyError, match=message) as error:
        tasks.load(task(file, n_eval=1), "eval")
    assert "\n" not in str(error.value)


def test_without_the_checkers_ifeval_names_what_to_install_and_other_tasks_work(tmp_path):
    file = write(tmp_path / "ifeval.jsonl", ROWS)
    maths = write(tmp_path / "maths.jsonl", [{"problem": "1 + 1?", "answer": "2"}])
    code = f"""
import sys
sys.modules |= dict.fromkeys(("lm_eval", "langdetect", "nltk"))  # None: importing them fails
from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
sizes = dict(n_train=1, n_eval=1, max_prompt_tokens=9)
maths = TaskConfig(name="math", path={str(maths)!r}, **sizes)
print(tasks.grade(maths, tasks.load(maths, "eval"), ["\\\\boxed{{2}}"]))
try:
    tasks.load(TaskConfig(name="ifeval", path={str(file)!r}, **sizes), "eval")
except StudyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    graded, error = done.stdout.splitlines()
    assert graded == "[ True]"
    assert error.startswith("ifeval: must have")
    assert "pip install 'rockstudy[ifeval]'" in error


def test_loading_the_checkers_asks_no_network(tmp_path):
    pytest.importorskip("lm_eval")
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import nltk
nltk.data.path[:] = []
from rockstudy.tasks import ifeval
print(ifeval._has_punkt(), nltk.download.__name__)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False download"
    assert time.monotonic() - started < 60
