"""Sets of tokens as files: they come back as they were, and nothing else is taken for one."""

import copy
import json

import pytest
from corpora import SETTINGS, scored

from rockstudy.errors import StudyError
from rockstudy.models.token_bytes import vocabulary_hash
from rockstudy.rocks.detection import detect
from rockstudy.rocks.token_file import Origin, Token, TokenFile, Vocabulary, Window, read


def test_a_detection_of_ones_own_becomes_a_file(tiny_tokenizer, tmp_path):
    tokens, rollouts = scored()
    found = detect(tokens, rollouts, SETTINGS)
    made = TokenFile.of(found, tiny_tokenizer)
    made.write(tmp_path / "rocks.json")
    back = read(tmp_path / "rocks.json", tiny_tokenizer)
    assert back == made and back.types == found.rocks() and back.run is None
    by_hand = found.types.set_index("token_id").loc[list(back.types.ids), "score_ctx"]
    assert {one.id: one.score for one in back.tokens} == by_hand.to_dict()
    assert [one.rank for one in back.tokens] == [1, 2, 3]
    assert (back.window.threshold, back.window.width) == (found.tau_post, SETTINGS.window)


def test_windows_of_rocks_by_another_loss_need_a_threshold(tiny_tokenizer):
    tokens, rollouts = scored()
    found = detect(tokens, rollouts, SETTINGS.model_copy(update={"loss": "log_ratio"}))
    with pytest.raises(StudyError, match="threshold: must be given for rocks by log_ratio"):
        TokenFile.of(found, tiny_tokenizer)
    assert TokenFile.of(found, tiny_tokenizer, threshold=0.5).window.threshold == 0.5


@pytest.fixture
def made(tiny_tokenizer):
    names = tiny_tokenizer.convert_ids_to_tokens([40, 7])
    tokens = [
        Token(id=i, token=name, text="\u2028<b>", bytes="e280", rank=n, score=0.1 * n, count=3)
        for n, (i, name) in enumerate(zip([40, 7], names, strict=True), start=1)
    ]
    return TokenFile(
        name="rocks",
        selector="score",
        k=2,
        parameters={"k": 0.02, "encoder": "bag"},
        window=Window(threshold=0.25, width=4),
        tokenizer=Vocabulary(name="tiny", hash=vocabulary_hash(tiny_tokenizer)),
        run=Origin(id="mine", preset="tiny", rockstudy="0"),
        tokens=tuple(tokens),
    )


def test_a_file_comes_back_as_it_was_written(made, tiny_tokenizer, tmp_path):
    made.write(tmp_path / "rocks.json")
    back = read(tmp_path / "rocks.json", tiny_tokenizer)
    assert back == made
    assert back.types.ids == (7, 40) and back.types.name == "rocks"
    assert [path.name for path in tmp_path.iterdir()] == ["rocks.json"]


def test_an_added_token_does_no_harm_and_another_vocabulary_is_refused(made, tiny_tokenizer):
    padded = copy.deepcopy(tiny_tokenizer)
    padded.add_tokens(["<|pad|>"])
    made.check(padded)
    other = made.model_copy(update={"tokenizer": Vocabulary(name="tiny", hash="0" * 16)})
    with pytest.raises(StudyError, match=r"tokenizer: must be the one .* got one with "):
        other.check(tiny_tokenizer)


def test_an_id_that_is_another_token_is_named(made, tiny_tokenizer):
    token = made.tokens[0].model_copy(update={"token": "else"})
    other = made.model_copy(update={"tokens": (token, made.tokens[1])})
    with pytest.raises(StudyError, match="in which id 40 is 'else'; got one in which it is"):
        other.check(tiny_tokenizer)


def _set(path, value):
    def change(stored):
        *folders, last = path
        for name in folders:
            stored = stored[name]
        stored[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(["version"], 2), "version must be 1, got 2"),
        (_set(["format"], "set"), "format must be 'rockstudy-token-set', got 'set'"),
        (_set(["tokens"], []), "tokens: "),
        (_set(["k"], 3), "tokens must be k = 3 types; got 2"),
        (_set(["tokens", 1, "id"], 40), "tokens must have distinct ids"),
        (_set(["tokens", 1, "id"], -1), "tokens.1.id: "),
        (_set(["tokens", 0, "bytes"], "xyz"), "tokens.0.bytes: "),
        (_set(["window", "threshold"], -1), "window.threshold: "),
        (_set(["more"], 1), "more: "),
        (lambda stored: stored.pop("tokenizer"), "tokenizer: "),
    ],
)
def test_what_is_not_legal_is_named_in_one_line(made, tmp_path, change, words):
    file = tmp_path / "rocks.json"
    made.write(file)
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))
    with pytest.raises(StudyError) as error:
        read(file)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "[]", "{", "\x00"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "rocks.json").write_text(content)
    with pytest.raises(StudyError, match=r"rocks.json: must be a set of tokens as `rockstudy"):
        read(tmp_path / "rocks.json")
