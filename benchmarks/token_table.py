"""Time of the token table against its floor and against the loop that one writes first.

    time_vs_bare_forwards   wall-clock of the table for one checkpoint over that of two bare passes,
                            teacher's and student's, on the same tokens in the same batches: decoder
                            and logits of the completion positions, which are thrown away
    speedup_vs_prompt_loop  tokens per second of rollouts and table together, over those of a loop
                            that takes one prompt at a time: transformers' generate, then the whole
                            logits of teacher and two checkpoints, then softmax and KL

The first at SmolLM2's vocabulary and proportions with random weights, the second on the lab's pair.
Both sides take turns, so that a busy machine slows both; ratios are of medians.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rockstudy import models, rollout, tasks, tokens
from rockstudy.config import PairConfig, TaskConfig
from rockstudy.divergence import Head
from rockstudy.rollout import Rollouts, completion_states

BODY = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
NEW_TOKENS = 192  # the lab's limit


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=49_152, help="vocabulary of the first part")
    parser.add_argument("--layers", type=int, default=30, help="of the teacher; half as student")
    parser.add_argument("--rows", type=int, default=24, help="rollouts of the first part")
    parser.add_argument("--prompts", type=int, default=256, help="lab prompts, ours")
    parser.add_argument("--loop-prompts", type=int, default=24, help="lab prompts, the loop")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    floor = bare_forwards(given.vocab, given.layers, given.rows, given.repeats)
    loop = prompt_loop(given.prompts, given.loop_prompts, given.repeats)
    print(f"{'':44}{'seconds':>10}{'tokens/s':>11}")
    for name, (seconds, count) in {**floor, **loop}.items():
        print(f"{name:44}{seconds:10.2f}{count / seconds:11,.0f}")
    rate = {name: count / seconds for name, (seconds, count) in {**floor, **loop}.items()}
    ours, bare, table, slow = rate.values()
    ratios = {"time_vs_bare_forwards": bare / ours, "speedup_vs_prompt_loop": table / slow}
    about = {"vocab": given.vocab, "threads": torch.get_num_threads()}
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()} | about))


def bare_forwards(vocab: int, layers: int, n: int, repeats: int) -> dict[str, tuple[float, int]]:
    """The table and its floor at a large vocabulary: seconds and completion tokens by name."""
    teacher, student = random_model(vocab, layers, 0), random_model(vocab, layers // 2, 1)
    rows = random_rollouts(vocab, n)
    order = np.argsort(rows.lengths)

    @torch.no_grad()
    def bare() -> None:
        widths = rows.lengths[order] + 24
        for batch in tokens._batches(widths, tokens.BATCH_TOKENS):
            for model in (teacher, student):
                states = completion_states(model, rows, order[batch])
                weight = Head.of(model).weight
                for part in states.split(1_024):
                    part @ weight.T

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokens.token_table(Path(folder), "x", rows, teacher, {"post": student}, inputs={})

    seconds = in_turns(ours, bare, repeats=repeats)
    names = (f"token table, V = {vocab:,}", "two bare forwards")
    return {name: (s, rows.n_tokens) for name, s in zip(names, seconds, strict=True)}


def prompt_loop(n: int, n_loop: int, repeats: int) -> dict[str, tuple[float, int]]:
    """Rollouts and table on the lab's pair, ours and one prompt at a time."""
    pair = models.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    task = TaskConfig(name="lab_math", n_train=1, n_eval=n, max_prompt_tokens=256)
    prompts = [p.prompt for p in tasks.load(task, "eval")]
    ids = rollout.prompt_ids(pair.tokenizer, prompts, 256)
    made = {"ours": 0, "loop": 0}

    def ours() -> None:
        rows = rollout.generate(
            pair.student, pair.tokenizer, ids, max_new_tokens=NEW_TOKENS, batch_size=256, seed=0
        )
        both = {"pre": pair.student, "post": pair.student}
        with tempfile.TemporaryDirectory() as folder:
            tokens.token_table(Path(folder), "x", rows, pair.teacher, both, inputs={})
        made["ours"] = rows.n_tokens

    @torch.no_grad()
    def loop() -> None:
        kept, made["loop"] = [], 0
        for prompt in ids[:n_loop]:
            whole = pair.student.generate(
                torch.tensor([prompt]), do_sample=True, max_new_tokens=NEW_TOKENS
            )
            log_q = pair.teacher(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            for model in (pair.student, pair.student):
                log_p = model(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
                kept.append((log_p.exp() * (log_p - log_q)).sum(-1))
            made["loop"] += len(whole[0]) - len(prompt)

    seconds = in_turns(ours, loop, repeats=repeats)
    names = ("lab: rollouts and table", "lab: one prompt at a time, full logits")
    return dict(zip(names, zip(seconds, made.values(), strict=True), strict=True))


def in_turns(*ways: Callable[[], None], repeats: int) -> list[float]:
    """Median seconds of each way after one untimed call, the ways taking turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for i in range(repeats + 1):
        for way, kept in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            if i:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in seconds]


def random_model(vocab: int, layers: int, seed: int) -> Qwen3ForCausalLM:
    """SmolLM2's proportions, random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab,
        num_hidden_layers=layers,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
        **BODY,
    )
    return Qwen3ForCausalLM(config).eval()


def random_rollouts(vocab: int, n: int) -> Rollouts:
    """Completions of 32 to 256 random tokens after prompts of 24."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(32, 257, n)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(mask, rng.integers(2, vocab, mask.shape), 0).astype(np.int32)
    prompts = [rng.integers(2, vocab, 24) for _ in range(n)]
    index = np.arange(n, dtype=np.int32)
    return Rollouts(prompts, ids, mask, index, np.zeros(n, np.int16), np.ones(n, bool))


if __name__ == "__main__":
    main()
