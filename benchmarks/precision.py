"""Token losses in bf16 against float32, and float32 on the device against the CPU.

A study computes in bf16 on CUDA and in float32 on a CPU. The student in float32 writes
completions of the lab's problems; their token table is made three times: in float32 on the CPU, in
float32 on the device, and in bf16 on the device. Pairs: the lab's, which is trained, and the tiny
preset's, whose weights are random. With l the reverse KL of a position in nats and D its error,

    <pair>_f32_max         the largest |D| of float32 on the device over 1 + l        at most 1e-3
    <pair>_position        mean |D| over mean l                                       at most 0.02
    <pair>_position_bias   |mean D| over mean l                                       at most 0.005
    <pair>_type            median |D| of a type's mean loss over that mean, types
                           with 10 occurrences and a mean of 0.001 nats               at most 0.01
    <pair>_type_rank       1 - Spearman's correlation of the types' summed losses     at most 0.002
    <pair>_first           share of the first 20 types by summed loss that differ     at most 0.10

The limits are ours. They come from bf16 on a CPU, where no figure of either pair reached a quarter
of its limit. bf16 has 8 significant bits: a logit of 16 to 32 is stored to within 0.06. The script
fails, and names the figures, where one is above its limit.
"""

import argparse
import json
import sys
from typing import Any

import pandas as pd
import torch
from common import DEVICE, rounded

from rockstudy import tasks
from rockstudy.config.fields import PairConfig, TaskConfig
from rockstudy.models import loading
from rockstudy.rocks.token_table import in_memory
from rockstudy.sampling import rollout

LIMITS = {
    "f32_max": 1e-3,
    "position": 0.02,
    "position_bias": 0.005,
    "type": 0.01,
    "type_rank": 0.002,
    "first": 0.10,
}
PAIRS = ("lab", "tiny")
FIRST = 20  # types whose order a study reads


def tables(name: str, n: int) -> dict[str, pd.DataFrame]:
    """Token tables of the same completions, in float32 on the CPU, float32 and bf16."""
    config = PairConfig(teacher=f"{name}:teacher", student=f"{name}:student")
    pair = loading.load_pair(config, device="cpu")
    pair.student.float(), pair.teacher.float()
    task = TaskConfig(name="lab_math", n_train=1, n_eval=n, max_prompt_tokens=256)
    prompts = [problem.prompt for problem in tasks.load(task, "eval")]
    ids = rollout.prompt_ids(pair.tokenizer, prompts, 256)
    how: dict[str, Any] = {"max_new_tokens": 128, "batch_size": 64, "seed": 0}
    rows = rollout.generate(pair.student, pair.tokenizer, ids, **how)
    found = {}
    for kind, device, dtype in (
        ("cpu", "cpu", torch.float32),
        ("float32", DEVICE, torch.float32),
        ("bfloat16", DEVICE, torch.bfloat16),
    ):
        models = {"teacher": pair.teacher.to(device, dtype), "post": pair.student.to(device, dtype)}
        found[kind] = in_memory(rows, models)
    return found


def errors(exact: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    """Errors of one table's reverse KL against another's, as the docstring defines them."""
    gap = other.rkl_post - exact.rkl_post
    mean = exact.rkl_post.mean()
    sides = [table.groupby("token_id").rkl_post for table in (exact, other)]
    means, sums = ([side.agg(how) for side in sides] for how in ("mean", "sum"))
    often = (sides[0].size() >= 10) & (means[0] >= 1e-3)
    first = [set(one.nlargest(FIRST).index) for one in sums]
    return {
        "position": gap.abs().mean() / mean,
        "position_bias": abs(gap.mean()) / mean,
        "type": ((means[1] - means[0]).abs() / means[0])[often].median(),
        "type_rank": 1 - sums[0].corr(sums[1], method="spearman"),
        "first": 1 - len(first[0] & first[1]) / len(first[0]),
    }


def main() -> None:
    """Compare, print a table, end with one JSON object; exit 1 above a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=256, help="of the lab, one completion each")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name in PAIRS:
        made = tables(name, given.problems)
        exact, same = made["cpu"].rkl_post, made["float32"].rkl_post
        of_pair = {"f32_max": ((same - exact).abs() / (1 + exact)).max()}
        of_pair |= errors(made["float32"], made["bfloat16"])
        print(f"{name}: {len(exact):,} positions, {made['cpu'].token_id.nunique()} types, {DEVICE}")
        for figure, value in of_pair.items():
            print(f"{figure:>16}{value:12.5f}   at most {LIMITS[figure]}")
            found[f"{name}_{figure}"] = float(value)
        found[f"{name}_positions"] = len(exact)
    print(json.dumps(rounded(found)))
    if above := over(found):
        sys.exit(f"above the limit: {', '.join(above)}")


def over(found: dict[str, Any]) -> list[str]:
    """Names of the figures that are above their limits, or no numbers."""
    names = [(f"{pair}_{figure}", limit) for pair in PAIRS for figure, limit in LIMITS.items()]
    return [f"{name} {found[name]:.4f}" for name, limit in names if not found[name] <= limit]


if __name__ == "__main__":
    main()
