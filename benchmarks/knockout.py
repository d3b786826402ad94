"""Cost and variance of knockouts by prefix reuse against regenerating everything.

The lab's student (as shipped, before any training) on lab maths problems; token-level candidates
spread over the frequencies of the types that it writes. Both modes draw the same candidates with
the same code; the baseline is sampled once for both and not counted, as a screen needs it anyway.

    tokens_vs_naive       tokens that reuse generates over those of naive
    speedup_vs_naive      wall-clock of naive over that of reuse
    variance_vs_unpaired  variance of Delta by reuse over that of an independent naive run which may
                          generate as many tokens (its variance grows as its rollouts get fewer)
"""

import argparse
import json
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from rockstudy import knockout, models, rollout, tasks
from rockstudy.config import EvalConfig, PairConfig, TaskConfig
from rockstudy.knockout import Candidate


def main() -> None:
    """Measure both modes, print a table by frequency, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=16)
    given = parser.parse_args()
    pair = models.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    task = TaskConfig(name="lab_math", n_train=1, n_eval=given.problems, max_prompt_tokens=256)
    how = EvalConfig(
        n_prompts=given.problems, samples=given.samples, max_new_tokens=192, batch_size=256
    )
    problems = tasks.load(task, "eval")
    ids = rollout.prompt_ids(pair.tokenizer, [p.prompt for p in problems], 256)
    base = rollout.generate(
        pair.student, pair.tokenizer, ids, samples=given.samples, max_new_tokens=192,
        batch_size=256, seed=0,
    )  # fmt: skip
    asked = [problems[i] for i in base.prompt_index]
    base = base.graded(tasks.grade(task, asked, base.texts(pair.tokenizer)))
    types, counts = np.unique(base.completion_ids[base.mask], return_counts=True)
    kept = ~np.isin(types, pair.tokenizer.all_special_ids)
    types, counts = types[kept], counts[kept]
    order = np.argsort(-counts)
    places = np.unique(np.linspace(0, len(order) - 1, given.candidates).round().astype(int))
    chosen = [Candidate(int(types[order[i]]), (int(types[order[i]]),)) for i in places]
    found = {}
    for mode in ("reuse", "naive"):
        todo = knockout.plan(base, chosen, len(pair.tokenizer), mode)
        start = time.perf_counter()
        made = knockout.resample(pair.student, pair.tokenizer, base, chosen, todo, how, seed=1)
        seconds = time.perf_counter() - start
        texts = pair.tokenizer.batch_decode([m.tolist() for m in made], skip_special_tokens=True)
        graded = tasks.grade(task, [problems[i] for i in base.prompt_index[todo.row]], texts)
        change = graded.astype(int) - base.correct[todo.row].astype(int)
        delta = np.zeros((len(chosen), given.problems))
        where = (todo.candidate, base.prompt_index[todo.row])
        np.add.at(delta, where, change / given.samples)
        new = np.array([len(m) for m in made]) - todo.start
        tokens = np.bincount(todo.candidate, new, len(chosen))
        found[mode] = (delta, tokens, seconds)
    report([int(counts[order[i]]) for i in places], found, given)


def report(counts: list[int], found: dict, given: argparse.Namespace) -> None:
    """Print a row per candidate, from the most to the least frequent, and the ratios."""
    (reuse, tokens, seconds), (naive, tokens_naive, seconds_naive) = found["reuse"], found["naive"]
    print(f"{'occurrences':>12}{'tokens / naive':>16}{'Delta reuse':>14}{'Delta naive':>14}")
    for i, count in enumerate(counts):
        share = tokens[i] / tokens_naive[i]
        print(f"{count:12}{share:16.4f}{reuse[i].mean():14.3f}{naive[i].mean():14.3f}")
    paired = float(np.mean([row.var(ddof=1) for row in reuse]))
    unpaired = float(np.mean([row.var(ddof=1) for row in naive]))
    share = tokens.sum() / tokens_naive.sum()
    ratios = {
        "tokens_vs_naive": share,
        "speedup_vs_naive": seconds_naive / seconds,
        "variance_vs_unpaired": paired / (unpaired / share),
        "variance_vs_unpaired_same_rollouts": paired / unpaired,
        "problems": given.problems,
        "candidates": len(counts),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({name: round(float(value), 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
