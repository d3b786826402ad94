"""Sampling from prompts as given: chats and raw text, with answers and without."""

import json

import pytest
from conftest import tiny_model

from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.config.overrides import changed
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.rocks import steps
from rockstudy.runs import Run
from rockstudy.sampling import rollout

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
HOW = EvalConfig(n_prompts=8, samples=2, max_new_tokens=4, batch_size=8)


def task(path, rows, **more):
    (path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"n_train": 1, "n_eval": 100, "max_prompt_tokens": 100}
    return TaskConfig(name="prompts", path=str(path / "p.jsonl"), **sizes, **more)


def test_prompts_without_answers_are_sampled_and_not_graded(tiny_tokenizer, tmp_path):
    model = tiny_model(tiny_tokenizer, 32, 0)
    config = task(tmp_path, [{"messages": CHAT}, {"prompt": "1 + 2?"}])
    made, texts = rollout.answer(model, tiny_tokenizer, config, HOW, 0)
    assert made.correct is None and len(texts) == len(made) == 4
    expected = rollout.prompt_ids(tiny_tokenizer, [CHAT, "1 + 2?"], 100)
    assert [ids.tolist() for ids in made.prompt_ids] == expected
    again = rollout.Rollouts.from_frame(made.to_frame())
    assert again.correct is None and again.to_frame().equals(made.to_frame())
    with pytest.raises(StudyError, match="benchmarks: p must have answers to be graded; it has"):
        rollout.evaluate(None, tiny_tokenizer, config, HOW, 0)  # before any model is used


def test_answers_do_not_change_what_is_sampled(tiny_tokenizer, tmp_path):
    model, rows = tiny_model(tiny_tokenizer, 32, 0), [{"prompt": f"{i} + 1?"} for i in range(3)]
    plain, _ = rollout.answer(model, tiny_tokenizer, task(tmp_path, rows), HOW, 0)
    answered = [row | {"answer": "x"} for row in rows]
    graded, _ = rollout.answer(
        model, tiny_tokenizer, task(tmp_path, answered, grader="exact"), HOW, 0
    )
    assert graded.correct.tolist() == [False] * 6
    assert plain.to_frame().equals(graded.to_frame().drop(columns="correct"))
    frame = rollout.evaluate(
        model, tiny_tokenizer, task(tmp_path, answered, grader="exact"), HOW, 0
    )
    assert frame.correct.sum() == 0 and len(frame) == 6


def test_raw_text_needs_no_chat_template(tiny_tokenizer, tmp_path):
    from conftest import make_tokenizer

    bare, model = make_tokenizer(), tiny_model(tiny_tokenizer, 32, 0)
    bare.chat_template = None
    rows = [{"prompt": "1 + 1 ="}, {"prompt": "2 + 2 ="}]
    made, _ = rollout.answer(model, bare, task(tmp_path, rows, chat="none"), HOW, 0)
    assert [ids.tolist() for ids in made.prompt_ids] == bare(["1 + 1 =", "2 + 2 ="]).input_ids
    with pytest.raises(StudyError, match="chat template"):
        rollout.answer(model, bare, task(tmp_path, rows), HOW, 0)
    chats = task(tmp_path, [{"messages": CHAT}], chat="none")
    with pytest.raises(StudyError, match="line 1: messages must be text where chat is none"):
        rollout.answer(model, bare, chats, HOW, 0)


def test_rollouts_without_prompts_of_their_own_have_no_answers(tiny_tokenizer, tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"prompt_ids": [5], "completion_ids": [7]}) + "\n")
    run = Run(changed(PRESETS["own"], {"rollouts__path": str(file)}), tmp_path / "run")
    run.in_memory("tokenizer", lambda: tiny_tokenizer)
    found = steps.answer_types.__wrapped__(run)
    assert found.empty and list(found) == ["token_id", "share"]
