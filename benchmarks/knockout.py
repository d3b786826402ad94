"""Cost and variance of knockouts by prefix reuse against regenerating everything.

The lab's student (as shipped, before any training) on lab maths problems. The candidates are those
of the lab's committed screen: at token level the first types by rank with a positive score, without
special tokens; at window level the same types with the candidates near them; and the controls of
the rocks. Reuse runs over all of them, naive over a few with different frequencies, from which its
cost for the others is extrapolated. The baseline is sampled beforehand and not counted, since a
screen needs it anyway. Both modes alternate (`common`).

Names that end in 49k belong to a random model with SmolLM2's vocabulary and Zipf's frequencies. Its
candidates are evenly spaced in the logarithm of the frequency rank, from the 2nd to the 1,024th
type; the savings depend on this choice. Nothing is graded there.

    tokens_vs_naive       tokens that reuse generates over those of naive, all at token level
    speedup_vs_naive      seconds of naive over those of reuse, grading included, the few
    screen_...            both of the whole screen, with windows and controls; naive's from a few
    variance_vs_unpaired  variance of Delta by reuse over that of an independent naive run which may
                          generate as many tokens (its variance grows as its rollouts get fewer),
                          the few
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import DEVICE, END, SMOLLM2, Job, Side, Turns, measure, rounded, writer

from rockstudy import runs
from rockstudy.config.fields import EvalConfig, PairConfig, TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.knockout import prefix_reuse, steps
from rockstudy.knockout.prefix_reuse import Candidate, Screen
from rockstudy.models import loading
from rockstudy.runs import Run
from rockstudy.sampling import rollout

GROUPS = 10  # ours: deciles of the candidates by occurrences
MODES = ("reuse", "naive")
BODY = {"hidden": 96, "layers": 3, "heads": 3}
LEVELS = ("token", "window", "control")
LARGE = {"model": "random", "vocab": SMOLLM2, "body": BODY, "limit": 64, "batch": 64, "samples": 1}
GROWTH = {
    "candidates": ("candidates", (2, 4, 8, 16), LARGE | {"problems": 8}, MODES),
    "problems": ("prompts", (4, 8, 16, 32), LARGE | {"candidates": 4}, MODES),
}


def work(job: Job, turns: Turns) -> None:
    """Sample the baseline, then do one mode in each repetition."""
    (_lab if job["model"] == "lab" else _random)(job, turns)


def _lab(job: Job, turns: Turns) -> None:
    """Knock out and grade; the outcomes and the baseline's counts come with the report."""
    pair = loading.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    student = pair.student.to(DEVICE)
    task = TaskConfig(name="lab_math", n_train=1, n_eval=job["problems"], max_prompt_tokens=256)
    how = _how(job)
    base, _ = rollout.answer(student, pair.tokenizer, task, how, 0)
    found, counts = np.unique(base.completion_ids[base.mask], return_counts=True)
    chosen, often = ordered(screened(job["candidates"], job["levels"]), pd.Series(counts, found))
    places = np.linspace(0, len(chosen) - 1, min(job["few"] or len(chosen), len(chosen)))
    few = [chosen[i] for i in np.unique(places.round().astype(int))]

    def once() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(from_parameters("lab"), Path(folder))
            screen = Screen(student, pair.tokenizer, base, few, how, 1, job["way"])
            table = prefix_reuse.outcomes(run, job["way"], screen, task, inputs={})
        return {"tokens": int(table.n_new_tokens.sum()), "table": table, "few": few, "often": often}

    turns.run(once)


def _random(job: Job, turns: Turns) -> None:
    """Knock out, without tasks and grades."""
    model = writer(job["vocab"], job["body"], mean_length=job["limit"] / 2)
    tokenizer, how = SimpleNamespace(eos_token_id=END), _how(job)
    prompts = np.random.default_rng(0).integers(2, job["vocab"], (job["problems"], 24)).tolist()
    base = rollout.generate(
        model, tokenizer, prompts, samples=how.samples, max_new_tokens=how.max_new_tokens,
        batch_size=how.batch_size, seed=0,
    )  # fmt: skip
    ids = 1 + np.geomspace(2, 1_024, job["candidates"]).round().astype(int)  # id 2 has rank 1
    candidates = [Candidate(int(token), (int(token),)) for token in ids]
    screen = Screen(model, tokenizer, base, candidates, how, 1, job["way"])
    todo = prefix_reuse.plan(screen)

    def once() -> dict[str, Any]:
        made = prefix_reuse.resample(screen, todo)
        return {"tokens": sum(map(len, made)) - int(todo.start.sum())}

    turns.run(once)


def _how(job: Job) -> EvalConfig:
    return EvalConfig(
        n_prompts=job["problems"],
        samples=job["samples"],
        max_new_tokens=job["limit"],
        batch_size=job["batch"],
    )


def ordered(chosen: list[Candidate], counts: pd.Series) -> tuple[list[Candidate], pd.Series]:
    """Candidates, the most frequent ones first, and their occurrences."""
    often = counts.reindex([c.target for c in chosen], fill_value=0)
    order = np.argsort(-often.to_numpy(), kind="stable")
    return [chosen[i] for i in order], often.iloc[order]


def main() -> None:
    """Measure both modes, print a table by frequency, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=200, help="of the screen, by rank")
    parser.add_argument("--naive", type=int, default=12, help="candidates that naive runs over")
    parser.add_argument("--batch-size", type=int, default=256, help="of both; the preset's")
    parser.add_argument("--repeats", type=int, default=3, help="of the few, both modes in turns")
    given = parser.parse_args()
    size = {"model": "lab", "problems": given.problems, "samples": given.samples, "limit": 192}
    size |= {"batch": given.batch_size, "candidates": given.candidates, "levels": LEVELS[:1]}
    few = {mode: size | {"way": mode, "few": given.naive} for mode in MODES}
    reuse, naive = measure(work, few, given.repeats, warm=0).values()
    screen = measure(work, {"reuse": size | {"way": "reuse", "few": None}}, 1, warm=0)["reuse"]
    every = {mode: jobs | {"levels": LEVELS} for mode, jobs in few.items()}
    every["reuse"] |= {"few": None}
    whole, whole_naive = measure(work, every, given.repeats, warm=0).values()
    large = LARGE | {"candidates": 12, "problems": 32}
    wide = measure(work, {mode: large | {"way": mode} for mode in MODES}, given.repeats)

    chosen, tried = screen.last["few"], naive.last["few"]
    each = naive.tokens / len(tried)  # tokens of one candidate without reuse
    by_frequency(screen.last["often"], screen.last["table"], each)
    by_candidate(tried, screen.last["often"], reuse.last["table"], naive.last["table"], given)
    ratios = {"tokens_vs_naive": screen.tokens / (each * len(chosen))}
    ratios |= compared(reuse, naive)
    share = len(whole_naive.last["few"]) / len(whole.last["few"])  # of the candidates
    ratios["screen_tokens_vs_naive"] = whole.tokens / (whole_naive.tokens / share)
    seconds = compared(whole, whole_naive)["speedup_vs_naive"]
    ratios["screen_speedup_vs_naive"] = seconds / share
    ratios |= variances(tried, reuse.last["table"], naive.last["table"], given)
    ratios["tokens_vs_naive_49k"] = wide["reuse"].tokens / wide["naive"].tokens
    ratios |= {name + "_49k": value for name, value in compared(*wide.values()).items()}
    about = {
        "screen_candidates": len(whole.last["few"]),
        "naive_candidates": len(tried),
        "screen_seconds": whole.seconds,
        "problems": given.problems,
        "samples": given.samples,
        "batch_size": given.batch_size,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(rounded(ratios | about)))


def compared(reuse: Side, naive: Side) -> dict[str, float]:
    """Speed, and peak memory."""
    pairs = list(zip(reuse.reports, naive.reports, strict=True))
    return {
        "speedup_vs_naive": float(np.median([b["seconds"] / a["seconds"] for a, b in pairs])),
        "peak_bytes": reuse.peak,
        "peak_bytes_naive": naive.peak,
    }


def screened(most: int, levels: Sequence[str]) -> list[Candidate]:
    """Candidates of the lab's committed screen at some levels, the first ones of each by rank."""
    table = steps.candidates(runs.opened(runs.reference_dir("lab")))
    some = pd.concat([table[table.level == level].nsmallest(most, "rank") for level in levels])
    return steps._candidates(some)


def tokens(table: pd.DataFrame, candidates: list[Candidate]) -> np.ndarray:
    """Tokens generated for each candidate."""
    new = table.groupby("target").n_new_tokens.sum()
    return new.reindex([c.target for c in candidates], fill_value=0).to_numpy()


def by_frequency(often: pd.Series, screen: pd.DataFrame, whole: float) -> None:
    """Print the share of naive's tokens over deciles of the candidates, most frequent first."""
    new = screen.groupby("target").n_new_tokens.sum().reindex(often.index, fill_value=0)
    share = new.to_numpy() / whole
    print(f"{'candidates':>14}{'occurrences':>18}{'tokens / naive: median':>24}{'range':>18}")
    for places in np.array_split(np.arange(len(often)), min(GROUPS, len(often))):
        count, some = often.iloc[places], share[places]
        span = f"{count.max()} - {count.min()}"
        ranks = f"{places[0] + 1} - {places[-1] + 1}"
        ends = f"{some.min():.3f} - {some.max():.3f}"
        print(f"{ranks:>14}{span:>18}{np.median(some):24.3f}{ends:>18}")


def by_candidate(
    few: list[Candidate],
    often: pd.Series,
    reuse: pd.DataFrame,
    naive: pd.DataFrame,
    given: argparse.Namespace,
) -> None:
    """Print tokens and Delta of the candidates that both modes ran over."""
    sides = (reuse, naive)
    delta = [prefix_reuse.differences(t, few, given.problems, given.samples).mean(1) for t in sides]
    new, whole = (tokens(table, few) for table in sides)
    print(f"\n{'occurrences':>14}{'tokens / naive':>18}{'Delta reuse':>14}{'Delta naive':>14}")
    for i, candidate in enumerate(few):
        row = f"{often[candidate.target]:14}{new[i] / whole[i]:18.4f}"
        print(f"{row}{delta[0][i]:14.3f}{delta[1][i]:14.3f}")


def variances(
    few: list[Candidate], reuse: pd.DataFrame, naive: pd.DataFrame, given: argparse.Namespace
) -> dict[str, float]:
    """Variance of Delta over problems, reuse over naive: at equal tokens, and at equal rollouts."""
    paired, unpaired = (
        prefix_reuse.differences(table, few, given.problems, given.samples).var(1, ddof=1).mean()
        for table in (reuse, naive)
    )
    share = reuse.n_new_tokens.sum() / naive.n_new_tokens.sum()
    return {
        "tokens_vs_naive_few": share,
        "variance_vs_unpaired": paired / (unpaired / share),
        "variance_vs_unpaired_same_rollouts": paired / unpaired,
    }


if __name__ == "__main__":
    main()
