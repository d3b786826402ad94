"""Prompts that are raw text: the tokenizer's own reading, with its first token once."""

import pytest
from conftest import make_tokenizer
from tokenizers.processors import TemplateProcessing

from rockstudy.errors import StudyError
from rockstudy.models import chats
from rockstudy.sampling.rollout import fitting, prompt_ids


def with_first_token(last=False):
    """A tokenizer that begins each text, and may end it, with <|endoftext|>."""
    tokenizer = make_tokenizer()
    single = "<|endoftext|> $A <|im_end|>" if last else "<|endoftext|> $A"
    special = [("<|endoftext|>", 0), ("<|im_end|>", 2)]
    post = TemplateProcessing(single=single, special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = post
    return tokenizer


def test_a_raw_prompt_is_what_the_tokenizer_reads(tiny_tokenizer):
    tiny_tokenizer = make_tokenizer()
    tiny_tokenizer.chat_template = None
    text = " What is 12 + 34?\n"
    (ids,) = prompt_ids(tiny_tokenizer, [text], 64, "none")
    assert ids == tiny_tokenizer(text).input_ids and tiny_tokenizer.decode(ids) == text
    assert fitting(tiny_tokenizer, [text, "Hi" * 50], 20, "none") == [text]
    with pytest.raises(StudyError, match="prompt 0 must have at most 2 tokens; it has"):
        prompt_ids(tiny_tokenizer, [text], 2, "none")


def test_a_rendered_chat_is_read_with_its_control_tokens(tiny_tokenizer):
    asked = [{"role": "user", "content": "What?"}]
    text = tiny_tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    raw = prompt_ids(tiny_tokenizer, [text], 64, "none")
    assert raw == prompt_ids(tiny_tokenizer, ["What?"], 64)


@pytest.mark.parametrize("last", [False, True])
def test_the_first_token_comes_once_and_no_last_one(last):
    tokenizer = with_first_token(last)
    plain = tokenizer("What?", add_special_tokens=False).input_ids
    encoder = chats.RawEncoder(tokenizer)
    assert encoder.ids("What?", "a prompt") == [0, *plain]
    assert encoder.ids("<|endoftext|>What?", "a prompt") == [0, *plain]
    assert encoder.after("What?") == plain


def test_messages_are_no_raw_text(tiny_tokenizer):
    chat = [{"role": "user", "content": "What?"}]
    with pytest.raises(StudyError, match="chat: must be template, since prompt 0 is a list"):
        prompt_ids(tiny_tokenizer, [chat], 64, "none")
    with pytest.raises(StudyError, match="prompt 0 must be Unicode; it has half a character"):
        prompt_ids(tiny_tokenizer, ["a\ud800"], 64, "none")
