"""Time of the token table against its lower bound and against a simple loop.

    time_vs_bare_forwards   wall-clock time of the table for one checkpoint over that of two bare
                            passes, teacher's and student's, on the same tokens in the same batches:
                            decoder and logits of the completion positions, which are discarded;
                            and the same with both models in bfloat16
    speedup_vs_prompt_loop  tokens per second of rollouts and table together, over those of a loop
                            over single prompts: transformers' generate, then the whole logits of
                            teacher and two checkpoints, then softmax and KL

The first uses SmolLM2's vocabulary and proportions with random weights, the second the lab's pair.
Both sides alternate (`common`); a ratio is the median over pairs.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    DEVICE,
    READING,
    SHAPES,
    SMOLLM2,
    Job,
    Turns,
    faster,
    measure,
    random_model,
    rounded,
)

from rockstudy import tasks
from rockstudy.config.fields import PairConfig, TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.models import loading
from rockstudy.models.divergence import Head
from rockstudy.rocks import token_table
from rockstudy.runs import Run
from rockstudy.sampling import rollout
from rockstudy.sampling.rollout import Rollouts, completion_states

SMALL = {
    **{"teacher": {"hidden": 96, "layers": 4, "heads": 3}},
    **{"student": {"hidden": 96, "layers": 2, "heads": 3}, "vocab": SMOLLM2, "rows": 8},
}
WAYS = ("table", "bare")
GROWTH = {
    "length": ("longest completion", (32, 64, 128, 256), SMALL, WAYS),
    "vocab": ("vocabulary", (12_288, 24_576, 49_152, 98_304), SMALL | {"length": 64}, WAYS),
    "rows": ("rollouts", (4, 8, 16, 32), SMALL | {"length": 64}, WAYS),
}
NEW_TOKENS = 192  # the lab's limit


def work(job: Job, turns: Turns) -> None:
    """Do one way."""
    way = {"table": _table, "bare": _bare, "prompts": _prompts, "loop": _loop}[job["way"]]
    with torch.no_grad():
        way(job, turns)


def _pair(job: Job) -> list:
    """Teacher and student."""
    dtype = job.get("dtype", READING)
    return [
        random_model(job["vocab"], **job[role], seed=seed).eval().to(dtype)
        for seed, role in enumerate(("teacher", "student"))
    ]


def _run(folder: str) -> Run:
    """A run to keep a table in, whose configuration the table does not read."""
    return Run(from_parameters("lab"), Path(folder))


def _table(job: Job, turns: Turns) -> None:
    """Write the table of one checkpoint."""
    teacher, student = _pair(job)
    rows = random_rollouts(job["vocab"], job["rows"], job["length"])

    def once() -> dict[str, Any]:
        models = {"teacher": teacher, "post": student}
        with tempfile.TemporaryDirectory() as folder:
            token_table.token_table(_run(folder), "x", rows, models.get, ["post"], inputs=dict)
        return {"tokens": rows.n_tokens}

    turns.run(once)


def _bare(job: Job, turns: Turns) -> None:
    """Make states and logits of both models in the same batches, and nothing of them."""
    pair = _pair(job)
    rows = random_rollouts(job["vocab"], job["rows"], job["length"])
    written = np.flatnonzero(rows.lengths)

    def once() -> dict[str, Any]:
        for batch in token_table.batches(rows, written):
            for model in pair:
                states = completion_states(model, rows, batch)
                weight = Head.of(model).weight
                for part in states.split(1_024):
                    part.to(weight.dtype) @ weight.T
        return {"tokens": rows.n_tokens}

    turns.run(once)


def _lab(n: int) -> tuple[Any, list[list[int]]]:
    """The lab's pair, and the ids of its first problems."""
    pair = loading.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    task = TaskConfig(name="lab_math", n_train=1, n_eval=n, max_prompt_tokens=256)
    prompts = [p.prompt for p in tasks.load(task, "eval")]
    return pair, rollout.prompt_ids(pair.tokenizer, prompts, 256)


def _prompts(job: Job, turns: Turns) -> None:
    """Sample rollouts and write their table."""
    pair, ids = _lab(job["prompts"])
    student, teacher = pair.student.to(DEVICE), pair.teacher.to(DEVICE)

    def once() -> dict[str, Any]:
        rows = rollout.generate(
            student, pair.tokenizer, ids, max_new_tokens=NEW_TOKENS, batch_size=256, seed=0
        )
        models = {"teacher": teacher, "pre": student, "post": student}
        with tempfile.TemporaryDirectory() as folder:
            token_table.token_table(
                _run(folder), "x", rows, models.get, ["pre", "post"], inputs=dict
            )
        return {"tokens": rows.n_tokens}

    turns.run(once)


def _loop(job: Job, turns: Turns) -> None:
    """Take one prompt at a time, with whole logits."""
    pair, ids = _lab(job["prompts"])
    student, teacher = pair.student.to(DEVICE), pair.teacher.to(DEVICE)

    def once() -> dict[str, Any]:
        kept, made = [], 0
        for prompt in ids:
            whole = student.generate(
                torch.tensor([prompt], device=DEVICE), do_sample=True, max_new_tokens=NEW_TOKENS
            )
            log_q = teacher(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            for model in (student, student):
                log_p = model(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
                kept.append((log_p.exp() * (log_p - log_q)).sum(-1))
            made += len(whole[0]) - len(prompt)
        return {"tokens": made}

    turns.run(once)


def random_rollouts(vocab: int, n: int, longest: int) -> Rollouts:
    """Completions of an eighth of `longest` to `longest` random tokens after prompts of 24."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 8, longest + 1, n)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(mask, rng.integers(2, vocab, mask.shape), 0).astype(np.int32)
    prompts = [rng.integers(2, vocab, 24) for _ in range(n)]
    index = np.arange(n, dtype=np.int32)
    return Rollouts(prompts, ids, mask, index, np.zeros(n, np.int16), np.ones(n, bool))


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=SMOLLM2, help="vocabulary of the first part")
    parser.add_argument("--layers", type=int, default=30, help="of the teacher; half as student")
    parser.add_argument("--rows", type=int, default=24, help="rollouts of the first part")
    parser.add_argument("--prompts", type=int, default=256, help="lab prompts, ours")
    parser.add_argument("--loop-prompts", type=int, default=24, help="lab prompts, the loop")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    pair = {"teacher": given.layers, "student": given.layers // 2}  # half as deep
    size = {role: SHAPES["smollm2"] | {"layers": layers} for role, layers in pair.items()}
    size |= {"vocab": given.vocab, "rows": given.rows, "length": 256}
    floor = measure(work, {way: size | {"way": way} for way in WAYS}, given.repeats)
    half = {way: size | {"way": way, "dtype": torch.bfloat16} for way in WAYS}
    halves = measure(work, half, given.repeats)
    prompts = {"prompts": given.prompts, "loop": given.loop_prompts}
    lab = measure(work, {w: {"way": w, "prompts": n} for w, n in prompts.items()}, given.repeats)
    names = (
        f"token table, V = {given.vocab:,}",
        "two bare forwards",
        "the same table in bfloat16",
        "two bare forwards in bfloat16",
        "lab: rollouts and table",
        "lab: one prompt at a time, full logits",
    )
    print(f"{'':44}{'seconds':>10}{'tokens/s':>11}{'peak MB':>9}")
    for name, side in zip(names, (*floor.values(), *halves.values(), *lab.values()), strict=True):
        print(f"{name:44}{side.seconds:10.2f}{side.rate:11,.0f}{side.peak / 1e6:9,.0f}")
    found = {
        "time_vs_bare_forwards": faster(floor["bare"], floor["table"]),
        "time_vs_bare_forwards_bfloat16": faster(halves["bare"], halves["table"]),
        "speedup_vs_prompt_loop": faster(lab["prompts"], lab["loop"]),
        "peak_bytes": floor["table"].peak,
        "peak_bytes_bare_forwards": floor["bare"].peak,
        "vocab": given.vocab,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(rounded(found)))


if __name__ == "__main__":
    main()
