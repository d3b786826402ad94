"""Build the lab's tokenizer, teacher and students from a recorded configuration and seed.

``rockstudy lab build`` writes ``data/lab/{tokenizer,teacher,student,student-wide}``. The teacher
learns the teacher's register. The student, a smaller model, learns the same problems with different
habits (`rockstudy.tasks.lab.register.STUDENT`). The wide student differs from it in its width alone
and learns from the same examples. transformers' `Trainer` trains all three.
"""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from rockstudy.errors import StudyError, shortened, unknown
from rockstudy.store import files
from rockstudy.tasks.lab import instructions, maths
from rockstudy.tasks.lab.register import STUDENT, TEACHER, Habits, write

SIZES = (
    "hidden_size num_hidden_layers intermediate_size num_attention_heads num_key_value_heads"
).split()
ROLE = (*SIZES, "window", "examples", "batch_size", "lr")
HABITS = {"teacher": TEACHER, "student": STUDENT, "student-wide": STUDENT}
WHOLE = 512  # a window that holds every prompt with its solution
CONFIG: dict[str, Any] = {
    "seed": 0,
    "vocab_size": 2560,
    "tokenizer_samples": 20_000,
    "instruct_share": 0.35,
    "teacher": dict(zip(ROLE, (160, 4, 448, 5, 5, WHOLE, 96_000, 32, 3e-3), strict=True)),
    "student": dict(zip(ROLE, (128, 2, 384, 4, 4, 60, 96_000, 32, 4e-3), strict=True)),
    "student-wide": dict(zip(ROLE, (256, 2, 768, 8, 8, 60, 96_000, 32, 4e-3), strict=True)),
}

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# words with one leading space, single digits, runs of symbols with following line breaks
PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def corpus(habits: Habits, instruct_share: float, seed: int) -> Iterator[tuple[str, str]]:
    """Yield endless (prompt, solution) pairs of the training split in one register."""
    rng = random.Random(seed)
    kinds = sorted(instructions.KINDS)
    for draft in maths.drafts("train", rng):
        if rng.random() < instruct_share:
            item = instructions.instruct(draft, rng.choice(kinds), rng)
            yield item.problem.prompt, instructions.solution(item, habits, rng)
        else:
            yield draft.question, write(draft, habits, rng)


def build_tokenizer(config: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on both registers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config["vocab_size"],
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    half = config["tokenizer_samples"] // 2
    texts = (
        part
        for habits in (TEACHER, STUDENT)
        for pair in islice(corpus(habits, config["instruct_share"], config["seed"]), half)
        for part in (*pair, "user\n", "assistant\n")
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> Dataset:
    """Tokenise pairs; labels cover only the completion and its end token."""
    messages = [[{"role": "user", "content": prompt}] for prompt, _ in pairs]
    prompts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    ends = tokenizer([text + tokenizer.eos_token for _, text in pairs], add_special_tokens=False)
    rows = [
        {"input_ids": p + c, "labels": [-100] * len(p) + c}
        for p, c in zip(prompt_ids, ends["input_ids"], strict=True)
    ]
    return Dataset.from_list(rows)


def build_model(
    spec: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int
) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 model with tied embeddings."""
    set_seed(seed)
    windowed = spec["window"] < WHOLE
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **{size: spec[size] for size in SIZES},
        head_dim=32,
        max_position_embeddings=WHOLE,
        use_sliding_window=windowed,
        sliding_window=spec["window"],
        max_window_layers=0 if windowed else spec["num_hidden_layers"],
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


class _Trainer(Trainer):
    """transformers' `Trainer` with the LM head on completion tokens alone."""

    def compute_loss(self, model: Any, inputs: dict, *args: Any, **kwargs: Any) -> torch.Tensor:
        labels = inputs["labels"][:, 1:]
        # padding stands on the right, where causal attention never looks: no mask is faster
        hidden = model.model(inputs["input_ids"]).last_hidden_state[:, :-1]
        scored = labels != -100
        logits = model.lm_head(hidden[scored])
        return torch.nn.functional.cross_entropy(logits.float(), labels[scored])


def build_one(role: str, habits: Habits, tokenizer: Any, config: dict, out: Path) -> None:
    """Train one model, one epoch with a cosine schedule, and save it in bf16."""
    spec, seed = config[role], config["seed"]
    model = build_model(spec, tokenizer, seed)
    pairs = list(islice(corpus(habits, config["instruct_share"], seed + 1), spec["examples"]))
    args = TrainingArguments(
        output_dir=str(out / ".work"),
        per_device_train_batch_size=spec["batch_size"],
        num_train_epochs=1,
        learning_rate=spec["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        seed=seed,
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    right = copy.copy(tokenizer)
    right.padding_side = "right"
    collator = DataCollatorForSeq2Seq(right, padding=True)
    data = encode(tokenizer, pairs)
    _Trainer(
        model, args, data_collator=collator, train_dataset=data, processing_class=tokenizer
    ).train()
    model.to(torch.bfloat16).save_pretrained(out / role)


def _configuration(file: Path) -> dict[str, Any]:
    """Read a configuration with the fields of `CONFIG`; numbers are positive but for the seed."""
    try:
        config = files.read_json(file)
    except (OSError, ValueError) as error:
        raise StudyError(f"--config: must be a JSON file; {error}") from None
    for above, known in (("", CONFIG), *((n, v) for n, v in CONFIG.items() if type(v) is dict)):
        given = config[above] if above else config
        if not isinstance(given, dict) or given.keys() != known.keys():
            where = f"{above}: must" if above else "must"
            raise StudyError(f"--config: {where} have {', '.join(known)}; got {shortened(given)}")
        for name, value in known.items():
            one, kinds = given[name], (int,) if type(value) is int else (int, float)
            if type(value) is not dict and (type(one) not in kinds or one < (name != "seed") / 1e9):
                raise StudyError(f"--config: {name}: must be like {value}; got {shortened(one)}")
    return config


def build(out: Path, config_path: Path | None = None, only: Sequence[str] = ()) -> None:
    """Build the lab into `out` from a configuration file (the shipped one when None).

    With `only`, the names of some models, these alone are trained, with the tokenizer that `out`
    has; the others stay as they are. `StudyError`: a name that is no model, or no tokenizer there.
    """
    config = _configuration(config_path) if config_path else CONFIG
    for role in only:
        if role not in HABITS:
            raise StudyError(unknown("--only", role, list(HABITS)))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"--out: must be a folder; got {str(out)!r} ({error.strerror})") from None
    if only:
        tokenizer = _kept_tokenizer(out)  # and its files stay the same bytes
    else:
        tokenizer = build_tokenizer(config)
        tokenizer.save_pretrained(out / "tokenizer")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for role in only or HABITS:
        build_one(role, HABITS[role], tokenizer, config, out)


def _kept_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a lab that is there."""
    if not (out / "tokenizer" / "tokenizer.json").is_file():
        must = "must hold a tokenizer where --only trains some of the models"
        raise StudyError(f"--out: {must}; got {str(out)!r}")
    return PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
