"""The vocabulary that two models share, and a model cut to it.

Models with one tokenizer may have heads of different sizes, since a vocabulary is padded to a round
number (Qwen2.5: 151,936 or 152,064 rows for 151,665 tokens). The rows that only one of them has
stand for no token. A model without these rows gives softmax(z[:n]) = p[:n] / sum(p[:n]), which is
its distribution renormalised over the n shared ids, whatever scale or cap its logits have. So they
are cut where a model is loaded, and nothing else needs to know.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy.errors import StudyError
from rockstudy.models.configuration import vocabulary
from rockstudy.models.sources import quiet


def shared(
    sizes: Mapping[str, int],
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Return the number of ids that all models have, from 0 on.

    `sizes` are the numbers of ids of the heads by name, the teacher's first; the tokenizers are of
    the first two.

    `StudyError`: a token with two ids, or a model with fewer ids than the tokenizer.
    """
    ours, theirs = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    (teacher, size), (student, _), *_ = sizes.items()
    last, least = max(ours.values()), min(sizes, key=lambda name: sizes[name])
    must = "must share the teacher's vocabulary;"
    if sizes[least] <= last and sizes[least] != size:
        both = f"the teacher has {size} ids and the student {sizes[least]}"
        raise StudyError(f"{least}: {must} {both}")
    if ours != theirs:
        token = min(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
        ids = f"{ours.get(token)} for the teacher and {theirs.get(token)} for the student"
        raise StudyError(f"{student}: {must} token {token!r} is id {ids}")
    if last >= sizes[least]:
        has = f"it has {sizes[least]} and its tokenizer has ids up to {last}"
        raise StudyError(f"{teacher}: must have an output for every token; {has}")
    return sizes[least]


def note(sizes: Mapping[str, int], n: int) -> str | None:
    """One line on what is cut from models of these sizes for `n` shared ids; None if nothing is."""
    if all(size == n for size in sizes.values()):
        return None
    names = {name.removeprefix("models__"): size for name, size in sizes.items()}
    have = " and ".join(f"{size} of the {name}" for name, size in names.items())
    return f"of the ids ({have}), the {n} that all have are compared, renormalised"


def cut(model: PreTrainedModel, n: int, field: str = "model") -> PreTrainedModel:
    """Return the model itself, with its first `n` ids alone; `StudyError` if it has fewer.

    Its embeddings and head, biases and ties lose the rows, and its configuration counts `n`, so
    that it can be saved and loaded again.
    """
    size = vocabulary(model.config)
    if size < n:
        raise StudyError(f"{field}: must have at least the {n} ids of the others; it has {size}")
    if size > n:
        with quiet():
            model.resize_token_embeddings(n)
        for config in (model.config, model.generation_config):
            pad: Any = getattr(config, "pad_token_id", None)
            if isinstance(pad, int) and pad >= n:  # an embedding could not be made with it
                config.pad_token_id = None  # pyright: ignore[reportOptionalMemberAccess]
    return model
