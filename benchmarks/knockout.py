"""Cost and variance of knockouts by prefix reuse against regenerating everything.

The lab's student (as shipped, before any training) on lab maths problems. The candidates are those
of the lab's committed screen at token level: the first types by rank with a positive score, without
special tokens. Reuse runs over all of them, naive over a few that are spread over their
frequencies; what naive would generate for the others is taken from these few. The baseline is
sampled once for both and not counted, as a screen needs it anyway.

    tokens_vs_naive       tokens that reuse generates over those of naive, the whole screen
    speedup_vs_naive      wall-clock of naive over that of reuse, grading included, the few;
                          screen_...: of the whole screen, naive taken from the few; cpu: seconds
                          of processors in place of wall-clock
    variance_vs_unpaired  variance of Delta by reuse over that of an independent naive run which may
                          generate as many tokens (its variance grows as its rollouts get fewer),
                          the few
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import torch

from rockstudy import knockout, models, paths, rollout, store
from rockstudy.config import EvalConfig, PairConfig, TaskConfig
from rockstudy.knockout import Candidate

GROUPS = 10  # ours: deciles of the candidates by occurrences
Timed = tuple[pd.DataFrame, float, float]  # outcomes, seconds, seconds of processors


def main() -> None:
    """Measure both modes, print a table by frequency, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=200, help="of the screen, by rank")
    parser.add_argument("--naive", type=int, default=12, help="candidates that naive runs over")
    parser.add_argument("--batch-size", type=int, default=256, help="of both; the preset's")
    given = parser.parse_args()
    pair = models.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    task = TaskConfig(name="lab_math", n_train=1, n_eval=given.problems, max_prompt_tokens=256)
    how = EvalConfig(
        n_prompts=given.problems,
        samples=given.samples,
        max_new_tokens=192,
        batch_size=given.batch_size,
    )
    base, _ = rollout.answer(pair.student, pair.tokenizer, task, how, 0)

    def timed(candidates: list[Candidate], mode: knockout.Mode) -> Timed:
        start, busy = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as run:
            table = knockout.outcomes(
                Path(run), mode, pair.student, pair.tokenizer, task, base, candidates, how, 1,
                inputs={}, mode=mode,
            )  # fmt: skip
        return table, time.perf_counter() - start, time.process_time() - busy

    chosen = screened(given.candidates)
    found, counts = np.unique(base.completion_ids[base.mask], return_counts=True)
    often = pd.Series(counts, found).reindex([c.target for c in chosen], fill_value=0)
    order = np.argsort(-often.to_numpy(), kind="stable")
    chosen, often = [chosen[i] for i in order], often.iloc[order]
    places = np.unique(np.linspace(0, len(chosen) - 1, given.naive).round().astype(int))
    few = [chosen[i] for i in places]
    screen = timed(chosen, "reuse")
    reuse, naive = timed(few, "reuse"), timed(few, "naive")
    whole = naive[0].n_new_tokens.sum() / len(few)  # tokens of one candidate without reuse
    by_frequency(often, screen[0], whole)
    by_candidate(few, often, reuse[0], naive[0], given)
    share = tokens(screen[0], chosen).sum() / (whole * len(chosen))
    ratios = {"tokens_vs_naive": share, "speedup_vs_naive": naive[1] / reuse[1]}
    ratios |= {"cpu_speedup_vs_naive": naive[2] / reuse[2]}  # what a busy machine changes less
    for name, i in (("screen_speedup_vs_naive", 1), ("screen_cpu_speedup_vs_naive", 2)):
        ratios[name] = naive[i] / len(few) * len(chosen) / screen[i]
    ratios |= variances(few, reuse[0], naive[0], given)
    about = {
        "screen_candidates": len(chosen),
        "naive_candidates": len(few),
        "screen_seconds": screen[1],
        "problems": given.problems,
        "samples": given.samples,
        "batch_size": given.batch_size,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({name: round(float(value), 4) for name, value in (ratios | about).items()}))


def screened(most: int) -> list[Candidate]:
    """The token-level candidates of the lab's committed screen, the first ones by rank."""
    tables = paths.data_dir() / "reference" / "lab" / "tables"
    table = store.load(tables / "knockout_candidates")
    single = table[table["arm"] == "token"].nsmallest(most, "rank")
    return [Candidate(int(token), (int(token),)) for token in single.target]


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
    delta = [knockout.differences(t, few, given.problems, given.samples).mean(1) for t in sides]
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
        knockout.differences(table, few, given.problems, given.samples).var(1, ddof=1).mean()
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
