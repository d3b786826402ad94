"""Rollouts as given: what verl, TRL, vLLM and SGLang write, and one line for what is wrong."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from rockstudy.errors import StudyError
from rockstudy.models import chats
from rockstudy.sampling import given

ROWS = [
    {"prompt_ids": [5, 6], "completion_ids": [7, 8, 9]},
    {"prompt_ids": [5], "completion_ids": [7]},
    {"prompt_ids": [5, 6], "completion_ids": [9, 8]},
]


def written(path, lines, encoding="utf-8", end="\n"):
    made = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(line + end for line in made).encode(encoding))
    return path


@pytest.fixture
def read(tmp_path, tiny_tokenizer):
    """Write rows into a JSONL file and read them."""

    def from_rows(rows, **how):
        return given.read(written(tmp_path / "r.jsonl", rows), tiny_tokenizer, **how)

    return from_rows


@pytest.fixture
def refused(read):
    def line_of(rows, **how):
        with pytest.raises(StudyError) as error:
            read(rows, **how)
        line = str(error.value)
        assert line.isprintable() and len(line) <= 400, line
        return line

    return line_of


def ids(made):
    prompts = [made.prompt_ids[i].tolist() for i in made.prompt_index]
    return list(zip(prompts, [one.tolist() for one in made.completions], strict=True))


def test_equal_prompts_are_one_prompt_with_several_samples(read):
    made = read(ROWS).rollouts
    assert ids(made) == [([5, 6], [7, 8, 9]), ([5, 6], [9, 8]), ([5], [7])]
    assert made.prompt_index.tolist() == [0, 0, 1]
    assert made.sample_index.tolist() == [0, 1, 0]
    assert made.correct is None
    assert made.from_frame(made.to_frame()).to_frame().equals(made.to_frame())


def test_a_completion_stops_with_an_end_of_text_token(read, tiny_tokenizer):
    rows = [row | {"completion_ids": [7, end]} for row, end in zip(ROWS, (8, 9, 2), strict=True)]
    assert tiny_tokenizer.eos_token_id == 2
    assert read(rows).rollouts.stopped.tolist() == [False, True, False]
    assert read(rows, ends=[8]).rollouts.stopped.tolist() == [True, True, False]


@pytest.mark.parametrize("prompt", ["prompt_ids", "Prompt_Token_IDs", "prompts"])
@pytest.mark.parametrize("completion", ["completion_ids", "RESPONSES", "token_ids", "output_ids"])
@pytest.mark.parametrize("logged", ["logprobs", "rollout_log_probs", "sampling_per_token_logps"])
def test_token_ids_have_several_names(prompt, completion, logged, read):
    rows = [{prompt: [5, 6], completion: [7, 8], logged: [-0.5, -1], "score": 0.25, "step": 3}]
    made = read(rows)
    assert ids(made.rollouts) == [([5, 6], [7, 8])]
    assert made.log_probs.tolist() == [[-0.5, -1]] and made.reward.tolist() == [0.25]
    assert not made.tokenised
    known = given.NAMES["prompt_ids"] + given.NAMES["completion_ids"]
    assert {made.used["prompt"], made.used["completion"]} <= set(known)


def test_texts_beside_token_ids_are_not_read(read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = read([ROWS[0] | {"prompt": "other", "completion": "text"}])
    assert ids(made.rollouts) == [([5, 6], [7, 8, 9])]


def test_log_probabilities_stand_where_their_tokens_are(read):
    rows = [
        row | {"logprobs": [-len(row["completion_ids"])] * len(row["completion_ids"])}
        for row in ROWS
    ]
    made = read(rows)
    mask = made.rollouts.mask
    assert (np.isnan(made.log_probs) == ~mask).all() and made.log_probs.dtype == np.float32
    assert [row[m].tolist() for row, m in zip(made.log_probs, mask, strict=True)] == [
        [-3, -3, -3],
        [-2, -2],
        [-1],
    ]


def test_a_request_output_of_vllm_has_several_completions(read):
    def at(token, value):  # JSON has text for the ids of a mapping
        return {"11": {"logprob": -9.0, "rank": 2}, str(token): {"logprob": value, "rank": 1}}

    outputs = [
        {"index": 0, "text": "ab", "token_ids": [7, 8], "logprobs": [at(7, -0.1), at(8, -0.2)]},
        {"index": 1, "text": "c", "token_ids": [9], "logprobs": [at(9, -0.3)]},
    ]
    reasons = [o | {"finish_reason": r} for o, r in zip(outputs, ("length", "stop"), strict=True)]
    row = {"request_id": "0", "prompt": "x", "prompt_token_ids": [5, 6], "outputs": reasons}
    made = read([row])
    assert ids(made.rollouts) == [([5, 6], [7, 8]), ([5, 6], [9])]
    assert made.rollouts.stopped.tolist() == [False, True]
    assert np.allclose(made.log_probs[made.rollouts.mask], [-0.1, -0.2, -0.3])
    assert made.used == {
        "prompt": "prompt_token_ids",
        "completion": "outputs[].token_ids",
        "log_probs": "outputs[].logprobs",
        "stopped": "outputs[].finish_reason",
    }


def test_answers_of_servers_have_their_ids_in_choices_or_in_log_probabilities(read):
    listed = {"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-0.1, -0.2]}
    choice = {"text": "ab", "prompt_token_ids": [5, 6], "logprobs": listed, "finish_reason": "stop"}
    made = read([{"id": "a", "choices": [choice | {"token_ids": [7, 8]}]}])
    assert ids(made.rollouts) == [([5, 6], [7, 8])]
    spelt = read([{"id": "a", "choices": [choice]}])
    assert ids(spelt.rollouts) == [([5, 6], [7, 8])]
    assert spelt.used["completion"] == "choices[].logprobs"
    content = [{"token": "token_id:7", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    message = {"role": "assistant", "content": "a"}
    chat = {"message": message, "logprobs": {"content": content}, "finish_reason": "stop"}
    made = read([{"prompt_token_ids": [5], "choices": [chat]}])
    assert ids(made.rollouts) == [([5], [7])] and made.log_probs.tolist() == [[-0.5]]


def test_the_most_likely_tokens_of_trl_hold_the_sampled_one(read):
    row = {"prompt_ids": [5], "completion_ids": [7, 8], "logprobs": [[-0.1, -2.0], [-0.3, -1.5]]}
    made = read([row | {"logprob_token_ids": [[7, 3], [3, 8]]}])
    assert np.allclose(made.log_probs, [[-0.1, -1.5]])
    made = read([row | {"logprobs": [[-0.1], [-0.3]]}])
    assert np.allclose(made.log_probs, [[-0.1, -0.3]])


def test_an_answer_of_sglang_has_its_parts_in_meta_info(read):
    triples = [[-0.1, 7, None], [-0.2, 8, "b"]]
    info = {"finish_reason": {"type": "stop", "matched": 2}, "output_token_logprobs": triples}
    made = read([{"prompt_ids": [5], "output_ids": [7, 8], "text": "ab", "meta_info": info}])
    assert ids(made.rollouts) == [([5], [7, 8])] and made.rollouts.stopped.all()
    assert np.allclose(made.log_probs, [[-0.1, -0.2]])


def test_a_dump_of_verl_is_read_as_text_with_one_warning(read, tiny_tokenizer):
    rows = [
        {
            "input": "user\nWhat?\n",
            "output": "It is 7.",
            "gts": "7",
            "score": s,
            "step": 1,
            "acc": a,
        }
        for s, a in ((1.0, True), (-1.0, False))
    ]
    with pytest.warns(UserWarning, match="control tokens are missing, since no text has one"):
        made = read(rows)
    encoded = [tiny_tokenizer(rows[0][name]).input_ids for name in ("input", "output")]
    assert ids(made.rollouts) == [tuple(encoded)] * 2
    assert made.rollouts.correct.tolist() == [True, False] and made.reward.tolist() == [1, -1]
    assert made.tokenised and not made.rollouts.stopped.any()
    with pytest.warns(UserWarning):
        templated = read(rows, chat="template")
    expected = chats.ChatEncoder(tiny_tokenizer).ids(rows[0]["input"], "a prompt")
    assert templated.rollouts.prompt_ids[0].tolist() == expected


def test_a_text_with_control_tokens_is_read_with_them(read, tiny_tokenizer):
    prompt = tiny_tokenizer.apply_chat_template(
        [{"role": "user", "content": "What?"}], tokenize=False, add_generation_prompt=True
    )
    with pytest.warns(UserWarning, match="prompts and completions are texts") as warned:
        made = read([{"prompt": prompt, "completion": "7<|im_end|>"}]).rollouts
    assert "missing" not in str(warned[0].message) and len(warned) == 1
    assert made.prompt_ids[0].tolist() == chats.ChatEncoder(tiny_tokenizer).ids("What?", "p")
    assert made.completions[0][-1] == tiny_tokenizer.eos_token_id and made.stopped.all()


def test_completions_that_trl_logs_are_read_from_a_folder_of_parquet_files(
    tmp_path, tiny_tokenizer
):
    chat = np.array([{"role": "user", "content": "What?"}], object)
    reply = np.array([{"role": "assistant", "content": "7"}], object)
    for step in (1, 2):
        columns = {"step": step, "length_reward": float(step), "advantage": 0.0}
        frame = pd.DataFrame([{"prompt": chat, "completion": reply} | columns])
        frame.to_parquet(tmp_path / f"completions_{step:05d}.parquet")
    (tmp_path / "README.md").touch()
    with pytest.warns(UserWarning, match="are tokenised here"):
        made = given.read(tmp_path, tiny_tokenizer, reward_column="length_reward")
    asked = chats.ChatEncoder(tiny_tokenizer).ids("What?", "a prompt")
    assert ids(made.rollouts) == [(asked, tiny_tokenizer("7").input_ids)] * 2
    assert made.rollouts.sample_index.tolist() == [0, 1] and made.reward.tolist() == [1, 2]
    assert made.rollouts.correct is None
    assert "reward from length_reward" in made.line


def test_arrays_of_numpy_in_parquet_are_token_ids(tmp_path, tiny_tokenizer):
    arrays = [{k: np.array(v, np.int32) for k, v in row.items()} for row in ROWS]
    logged = [np.full(len(row["completion_ids"]), -1.0, np.float32) for row in ROWS]
    pd.DataFrame(arrays).assign(logprobs=logged).to_parquet(tmp_path / "r.parquet")
    made = given.read(tmp_path / "r.parquet", tiny_tokenizer)
    assert ids(made.rollouts) == [([5, 6], [7, 8, 9]), ([5, 6], [9, 8]), ([5], [7])]
    assert (made.log_probs[made.rollouts.mask] == -1).all()


def test_what_rollouts_write_can_be_read_again(read, tmp_path, tiny_tokenizer):
    made = read([row | {"correct": i == 1} for i, row in enumerate(ROWS)]).rollouts
    made.to_frame().to_parquet(tmp_path / "again.parquet")
    again = given.read(tmp_path / "again.parquet", tiny_tokenizer).rollouts
    assert again.to_frame().equals(made.to_frame())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_of_utf8_and_line_ends_of_windows_are_read(encoding, end, tmp_path, tiny_tokenizer):
    file = written(tmp_path / "r.jsonl", ["", *ROWS], encoding, end)
    assert len(given.read(file, tiny_tokenizer).rollouts) == 3


def test_padding_is_left_out_by_its_mask(read):
    row = {"prompt_ids": [5], "responses": [7, 8, 0, 0], "logprobs": [-1, -2, 0, 0]}
    made = read([row | {"response_mask": [1, 1, 0, 0]}])
    assert ids(made.rollouts) == [([5], [7, 8])] and made.log_probs.tolist() == [[-1, -2]]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([{"reward": 1}, {"reward": 0}], [True, False]),
        ([{"reward": 1.0}, {"reward": -1}], [True, False]),
        ([{"score": 0.5}, {"score": 1}], None),
        ([{"correct": True}, {"correct": False}], [True, False]),
        ([{"correct": 1, "reward": 0.3}, {"correct": 0, "reward": 0.2}], [True, False]),
        ([{"acc": 0.5, "score": 1}, {"acc": 1.0, "score": 0}], [True, False]),
        ([{}, {}], None),
    ],
)
def test_verdicts_are_columns_or_rewards_of_two_values(more, expected, read):
    made = read([ROWS[0] | more[0], ROWS[1] | more[1]]).rollouts
    assert (None if made.correct is None else made.correct.tolist()) == expected


def test_the_hash_is_that_of_the_bytes(read):
    one, same, other = read(ROWS).hash, read(ROWS).hash, read(ROWS[:2]).hash
    assert one == same != other


def test_one_line_tells_what_was_read(read, capsys):
    made = read([row | {"logprobs": [-1.0] * len(row["completion_ids"])} for row in ROWS])
    assert made.line in capsys.readouterr().err
    assert made.line.endswith(
        "r.jsonl: 3 rollouts of 2 prompts, 6 tokens; "
        "prompt from prompt_ids, log_probs from logprobs, completion from completion_ids"
    )


DEEP = "[" * 900 + "]" * 900
BAD = {
    "{": "must be one JSON object",
    "[1]": "must be an object with a prompt and a completion; got a list of 1",
    '{"prompt_ids": [5]}': "must have a completion, such as completion_ids, completion_token_ids",
    '{"completion_ids": [5]}': "must have a prompt, such as prompt_ids, prompt_token_ids, prompt",
    '{"prompt_ids": [5], "completion_ids": []}': "must have at least one token; it has none",
    '{"prompt_ids": [], "completion_ids": [5]}': "prompt_ids must have at least one token",
    '{"prompt_ids": [5], "completion": ""}': "completion must have at least one token",
    '{"prompt_ids": [5], "completion_ids": [320]}': "must have token ids from 0 to 319; got 320",
    '{"prompt_ids": [-1], "completion_ids": [5]}': "must have token ids from 0 to 319; got -1",
    '{"prompt_ids": [5], "completion_ids": [1e999]}': "whole numbers; got inf",
    '{"prompt_ids": [5], "completion_ids": [5.0]}': "must be token ids, which are whole numbers",
    '{"prompt_ids": [5], "completion_ids": ["5"]}': "whole numbers; got '5'",
    '{"prompt_ids": [5], "completion_ids": [true]}': "whole numbers; got true",
    '{"prompt_ids": [5], "completion_ids": [[5]]}': "whole numbers; got a list of 1",
    '{"prompt_ids": [5], "completion_ids": [null]}': "whole numbers; got null",
    f'{{"prompt_ids": {DEEP}, "completion_ids": [5]}}': "whole numbers; got a list of 1",
    '{"prompt_ids": 5, "completion_ids": [5]}': "prompt_ids must be token ids, text or a list",
    '{"prompt_ids": [5], "completion_ids": 5}': "completion_ids must be token ids or text; got 5",
    '{"prompt_ids": [5], "completion": {"a": 1}}': "must be token ids or text; got an object",
    '{"prompt_ids": [5], "completion": "\\ud800"}': "must be Unicode; it has half a character",
    '{"prompt": "\\ud800", "completion_ids": [5]}': "must be Unicode; it has half a character",
    '{"prompt_ids": [5], "prompt_token_ids": [5], "completion_ids": [5]}': "got prompt_ids and",
    '{"prompt_ids": [5], "completion": "a", "response": "a"}': "got completion and response",
    '{"Prompt_ids": [5], "PROMPT_IDS": [5], "completion_ids": [5]}': "one column prompt_ids",
    '{"messages": [{"role": "user"}], "completion_ids": [5]}': "a message has role",
    '{"messages": [{"role": "user", "content": 5}], "completion_ids": [5]}': "must be a text",
    '{"prompt_ids": [5], "completion": [{"role": "user", "content": "a"}]}': "of an assistant",
    '{"prompt_ids": [5], "completion": [{"role": "assistant", "content": 5}]}': "must be text",
    '{"prompt_ids": [5], "outputs": 7}': "outputs must be a list of completions; got 7",
    '{"prompt_ids": [5], "outputs": [7]}': "outputs 1 must be an object with a completion; got 7",
    '{"prompt_ids": [5], "outputs": [{"token_ids": [500]}]}': "outputs 1: outputs[].token_ids must",
    '{"prompt_ids": [5], "outputs": [], "choices": []}': "got outputs and choices",
    '{"prompt_ids": [5], "completion_ids": [5, 6], "logprobs": [-1]}': "one for each of 2 tokens; "
    "got 1",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": -1}': "must be a list of numbers",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": ["-1"]}': "token 1 must be a number",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": [null]}': "must be a number; got null",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": [NaN]}': "must be finite; got nan",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": [0.5]}': "must be at most 0, the log",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": [{"6": -1}]}': "must be a number",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": [[-1, -2]]}': "got a list of 2",
    '{"prompt_ids": [5], "completion_ids": [5], "logprobs": {"a": 1}}': "must be a list of numbers",
    '{"prompt_ids": [5], "completion": "ab cd ef", "logprobs": [-1]}': "must come as token ids",
    '{"prompt_ids": [5], "completion_ids": [5], "reward": "1"}': "reward must be a number; got '1'",
    '{"prompt_ids": [5], "completion_ids": [5], "reward": [1]}': "reward must be a number",
    '{"prompt_ids": [5], "completion_ids": [5], "correct": "yes"}': "correct must be a number",
    '{"prompt_ids": [5], "completion_ids": [5], "stopped": 3}': "stopped must be true, false, or",
    '{"prompt_ids": [5], "completion_ids": [5, 6], "response_mask": [0, 1]}': "1 up to an end",
    '{"prompt_ids": [5], "completion_ids": [5, 6], "response_mask": [1]}': "for each of 2 tokens",
    '{"prompt_ids": [5], "completion_ids": [5], "response_mask": [0]}': "at least one token",
}


@pytest.mark.filterwarnings("ignore:.*are tokenised here")
@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_with_its_line(line, refused):
    said = refused(["", line])
    assert BAD[line] in said and "r.jsonl, line 2" in said


MIXED = [
    [ROWS[0], ROWS[1] | {"logprobs": [-1.0]}],
    [ROWS[0] | {"reward": 1}, ROWS[1]],
    [ROWS[0], {"prompt_ids": [5], "response_ids": [5]}],
    [ROWS[0], {"prompt": "a", "completion": "b"}],
    [ROWS[0], {"prompt_ids": [5], "outputs": [{"token_ids": [5]}]}],
]


@pytest.mark.parametrize("rows", MIXED)
def test_rows_must_have_the_same_columns(rows, refused):
    line = refused(rows)
    assert "line 2" in line and "must have the columns of the first row (" in line


def test_files_that_hold_no_rollouts_are_refused(tmp_path, tiny_tokenizer, refused):
    cases = {
        tmp_path / "none.jsonl": "path: must be an existing file or folder of rollouts",
        tmp_path: "path: must have files that end in .jsonl or .parquet",
        written(tmp_path / "r.csv", ["a"]): "path: must end in .jsonl or .parquet",
        written(tmp_path / "r.parquet", ["a"]): "must be a readable parquet file",
    }
    for path, said in reversed(cases.items()):
        with pytest.raises(StudyError, match="must") as error:
            given.read(path, tiny_tokenizer)
        assert said in str(error.value)
        if path.is_file():
            path.unlink()
    assert refused([]).endswith("must have at least one rollout; it has none")
    assert refused([{"prompt_ids": [5], "outputs": []}]).endswith("it has none")
    assert "must have the column r; it has none" in refused(ROWS, reward_column="r")


def test_the_vocabulary_may_be_larger_than_the_tokenizer_s(read, refused):
    rows = [{"prompt_ids": [5], "completion_ids": [330]}]
    assert "from 0 to 319; got 330" in refused(rows)
    assert ids(read(rows, vocabulary=336).rollouts) == [([5], [330])]
