"""The followed token: chosen by rank alone, read from a reference's tables, escaped as text."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.knockout import followed as banned
from rockstudy.rocks import aligned_texts, followed, steps
from rockstudy.runs import NotStored, open_run


@pytest.fixture(scope="module")
def reference():
    return open_run()


def test_it_is_the_first_rock_by_rank_that_no_gold_answer_holds(reference, monkeypatch):
    types = pd.DataFrame(
        {"rank": [2, 1, 3, 4], "text": list("abcd"), "answer_bearing": [True, True, False, False]}
    )
    monkeypatch.setattr(steps, "types", lambda run: types)
    for k, expected in ((3, "c"), (2, "b")):  # with two rocks each is answer-bearing
        monkeypatch.setattr(steps, "rock_count", lambda run, k=k: k)
        assert followed.token(reference).text == expected
    monkeypatch.setattr(steps, "types", lambda run: types.drop(columns="answer_bearing"))
    assert followed.name(reference) == "⟦b⟧"


def test_a_reference_gives_its_texts_without_any_model(reference):
    token = followed.token(reference)
    places, likely = followed.contexts(reference), followed.likely(reference)
    assert set(places.token) == {token.text}
    assert places.rkl_post.is_monotonic_decreasing and 1 < len(places) <= followed.OCCURRENCES
    assert len(likely) == len(places) * len(followed.MODELS) * followed.LIKELY
    sums = likely.groupby([*followed.KEYS, "model"]).probability.sum()
    assert (sums <= 1 + 1e-6).all() and (likely.probability > 0).all()
    answers = followed.before_after(reference)
    assert answers.stage.unique().tolist() == ["pre", "post"]
    assert answers.followed.sum() == (answers.token == token.text).sum() > 0
    told = followed.reading_of_token(reference)
    assert f"{token['count']} occurrences" in told and f"{token.rkl_post_mean:.2f}" in told


def test_without_the_token_the_student_writes_something_else(reference):
    written = banned.banned(reference)
    token = followed.token(reference).text
    assert written.after.str.startswith(token).all()
    # with a space before it, the word is another type, which is not banned
    assert not written.instead.str.contains(rf"(?<![\w ]){token}(?!\w)").any()
    shown = banned.some_of(written)
    turned = shown.correct != shown.base_correct
    assert turned.sum() <= banned.SHOWN and (~turned).sum() <= banned.SHOWN
    assert followed.bracketed(token) in banned.reading_of_banned(reference, written)
    assert "changes nothing" in banned.reading_of_banned(reference, written.head(0))


def test_where_nothing_is_stored_there_is_one_line(reference):
    def missing(run):
        raise NotStored("texts: need models")

    assert followed.if_stored(missing, reference) == (None, "texts: need models")


def test_no_text_of_a_token_becomes_html():
    hostile = "<script>$x$\n\u202e</script>"
    shown = pd.DataFrame(
        {"prompt_index": [0], "sample_index": [0], "position": [0], "before": [hostile],
         "token": [hostile], "after": [hostile], "rkl_pre": [1.0], "rkl_post": [0.5]}
    )  # fmt: skip
    likely = shown[followed.KEYS].assign(model="teacher", place=1, text=hostile, probability=0.5)
    html = followed.contexts_html(shown, likely)
    written = shown.assign(instead=hostile, base_correct=True, correct=False)
    html += banned.banned_html(written) + aligned_texts.paragraphs(hostile)
    assert "<script" not in html and "\u202e" not in html and "&lt;script&gt;" in html
    assert 'class="mathjax_ignore' in followed.contexts_html(shown)._repr_html_()


def answers(old: str, new: str, correct: tuple[bool, bool] = (False, True)) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"stage": stage, "token": list(text), "correct": right, "prompt_index": 0})
        for stage, text, right in zip(("pre", "post"), (old, new), correct, strict=True)
    ]
    both = pd.concat(parts, ignore_index=True)
    return both.assign(followed=both.token == "x")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("abxc", "abdx", "They part after 2 tokens"),
        ("xabc", "xa", "They part after 2 tokens"),
        ("aq", "ar", "They part after 1 token:"),
        ("abx", "abx", "the same, token by token"),
    ],
)
def test_two_answers_are_compared_up_to_where_they_part(old, new, told):
    assert told in followed.reading_of_before_after(answers(old, new))


def test_the_reading_of_likely_tokens_counts_where_first_choices_agree():
    shown = pd.DataFrame({"prompt_index": [0, 1], "sample_index": 0, "position": 0, "token": "x"})
    first = {"teacher": ("x", "y"), "pre": ("y", "z"), "post": ("x", "y")}
    rows = [
        (i, 0, 0, model, 1, text, 0.5) for model, two in first.items() for i, text in enumerate(two)
    ]
    likely = pd.DataFrame(rows, columns=[*followed.KEYS, "model", "place", "text", "probability"])
    told = followed.reading_of_likely(shown, likely)
    assert "the token itself once" in told
    assert "the teacher's never before OPD and twice after it" in told


def test_shares_of_answers_count_whole_words(reference, monkeypatch):
    outcomes = pd.DataFrame(
        {"benchmark": "maths", "model": ["teacher", "teacher", "student", "student"],
         "text": ["So it is", "Some", "is so", "Sort"]}
    )  # fmt: skip
    monkeypatch.setattr(followed, "word", lambda run: "So")
    told = followed.reading_of_answers(reference, outcomes)
    assert "50% of the teacher's and 0% of the student's answers" in told
    monkeypatch.setattr(followed, "word", lambda run: "")
    assert "notebook 02 does" in followed.reading_of_answers(reference, outcomes)
    assert np.isfinite(followed.token(reference).rkl_pre_mean)
