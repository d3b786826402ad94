"""Tokens per second and peak memory of sampled completions, against transformers' `generate`.

    ours        rockstudy's rollout.generate
    generate    batches in the order of the dataset, padded on the left, `do_sample=True`
    static      the same with `cache_implementation="static"`, which compiles on CUDA
    continuous  transformers' `generate_batch`, only on CUDA: on a CPU it takes 20 times as long

All sample from the whole distribution at temperature 1, up to the same limit, in batches of the
same size, and decode ids to text. The first part uses a random model with SmolLM2's vocabulary that
ends a completion with a fixed probability at each position, so that lengths vary widely; the second
uses the lab's student on its own problems. Greedy completions of all ways must be equal except for
near ties (`rollout_greedy_equal`, the share).

On CUDA ours runs eagerly, without a compiled step or CUDA graph. These need a fixed shape:
transformers compiles for about 20 s per shape, torch falls back to eager code after 8 shapes of a
function, and here a batch's width changes with every shard of prompts, and its rows whenever some
end. If launches dominate, use vLLM (`evaluation__engine`).
"""

import argparse
import json
from typing import Any

import numpy as np
import torch
from common import (
    DEVICE,
    PAD,
    SMOLLM2,
    Job,
    Side,
    Turns,
    faster,
    measure,
    random_tokenizer,
    rounded,
    writer,
)
from transformers import GenerationConfig

from rockstudy import tasks
from rockstudy.config.fields import PairConfig, TaskConfig
from rockstudy.models import loading
from rockstudy.sampling import rollout

WAYS = ("ours", "generate", "static", *(["continuous"] if DEVICE == "cuda" else []))
BODY = {"hidden": 192, "layers": 3, "heads": 3}
LARGE = {"model": "random", "body": BODY, "vocab": SMOLLM2}
GROWTH = {
    "limit": ("longest completion", (16, 32, 64, 128), LARGE | {"rows": 8, "batch": 8}, WAYS),
    "batch": ("rows of a batch", (4, 8, 16, 32), LARGE | {"rows": 32, "limit": 16}, WAYS),
}


def work(job: Job, turns: Turns) -> None:
    """Sample one way, or write greedily, and then give the completions."""
    model, tokenizer, prompts = _lab(job) if job["model"] == "lab" else _random(job)
    step = {"ours": _ours, "continuous": _continuous}.get(job["way"], _generate)
    greedy = job.get("greedy", False)

    def once() -> dict[str, Any]:
        made = step(job, model, tokenizer, prompts, greedy)
        return {"tokens": sum(map(len, made)), "made": made if greedy else None}

    with torch.no_grad():
        turns.run(once)


def _random(job: Job) -> tuple:
    rng = np.random.default_rng(0)
    lengths = rng.integers(12, 49, job["rows"])
    prompts = [rng.integers(2, job["vocab"], n).tolist() for n in lengths]
    model = writer(job["vocab"], job["body"], mean_length=job["limit"] / 3)
    return model, random_tokenizer(job["vocab"]), prompts


def _lab(job: Job) -> tuple:
    pair = loading.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"))
    task = TaskConfig(name="lab_math", n_train=1, n_eval=job["rows"], max_prompt_tokens=256)
    texts = [problem.prompt for problem in tasks.load(task, "eval")]
    return pair.student.to(DEVICE), pair.tokenizer, rollout.prompt_ids(pair.tokenizer, texts, 256)


def _ours(job: Job, model: Any, tokenizer: Any, prompts: list, greedy: bool) -> list:
    made = rollout.generate(
        model,
        tokenizer,
        prompts,
        temperature=0 if greedy else 1,
        max_new_tokens=job["limit"],
        batch_size=job["batch"],
        seed=0,
        desc=None,
    )
    made.texts(tokenizer)
    return [ids[mask].tolist() for ids, mask in zip(made.completion_ids, made.mask, strict=True)]


def _generate(job: Job, model: Any, tokenizer: Any, prompts: list, greedy: bool) -> list:
    made = []
    how = {"cache_implementation": "static"} if job["way"] == "static" else {}
    for start in range(0, len(prompts), job["batch"]):
        rows = prompts[start : start + job["batch"]]
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows], device=DEVICE)
        lengths = torch.tensor([len(row) for row in rows], device=DEVICE)[:, None]
        mask = (torch.arange(width, device=DEVICE) >= width - lengths).long()
        whole = model.generate(
            input_ids=ids, attention_mask=mask, **_config(job, model, greedy), **how
        )
        made += [_cut(ids, model) for ids in whole[:, width:].tolist()]
    tokenizer.batch_decode(made, skip_special_tokens=True)
    return made


def _continuous(job: Job, model: Any, tokenizer: Any, prompts: list, greedy: bool) -> list:
    how = GenerationConfig(**_config(job, model, greedy))
    found = model.generate_batch(prompts, generation_config=how)
    names = sorted(found, key=lambda name: int(name.rsplit("_", 1)[-1]))  # req_0, req_1, ...
    made = [found[name].generated_tokens for name in names]
    tokenizer.batch_decode(made, skip_special_tokens=True)
    return made


def _config(job: Job, model: Any, greedy: bool) -> dict[str, Any]:
    ends = model.generation_config.eos_token_id
    chosen = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    return chosen | {"max_new_tokens": job["limit"], "eos_token_id": ends, "pad_token_id": PAD}


def _cut(ids: list[int], model: Any) -> list[int]:
    """A completion with its first end of text, without what was padded after it."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each way")
    parser.add_argument("--vocab", type=int, default=SMOLLM2, help="of the random model")
    parser.add_argument("--rows", type=int, default=64, help="prompts, random model")
    parser.add_argument("--limit", type=int, default=128, help="longest completion, random model")
    parser.add_argument("--lab-rows", type=int, default=128, help="prompts, lab")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch, all ways")
    given = parser.parse_args()
    large = LARGE | {"vocab": given.vocab, "rows": given.rows, "limit": given.limit}
    lab = {"model": "lab", "rows": given.lab_rows, "limit": 192}
    found = {}
    for suffix, size in (("", large), ("_lab", lab)):
        jobs = {way: size | {"way": way, "batch": given.batch} for way in WAYS}
        sides = measure(work, jobs, given.repeats)
        greedy = {way: job | {"greedy": True} for way, job in jobs.items()}
        equal = agreement(measure(work, greedy, 1, warm=0))
        title = f"V = {given.vocab:,}" if size is large else "lab"
        print(f"\n{title}, {size['rows']} rows of up to {size['limit']} tokens")
        print(f"{'':12}{'tokens/s':>10}{'seconds':>9}{'ours over it':>14}{'peak MB':>9}")
        ours = sides["ours"]
        for way, side in sides.items():
            ratio, peak = faster(ours, side), side.peak
            row = f"{way:12}{side.rate:10,.0f}{side.seconds:9.2f}{ratio:14.2f}"
            print(f"{row}{peak / 1e6:9,.0f}")
            found["rollout_peak_bytes" + ("" if way == "ours" else f"_{way}") + suffix] = peak
            if way != "ours":
                found[f"rollout_tokens_per_s_vs_{way}{suffix}"] = ratio
        print(f"rows whose greedy completions are equal in all ways: {equal:.0%}")
        found["rollout_greedy_equal" + suffix] = equal
    about = {"vocab": given.vocab, "batch": given.batch, "threads": torch.get_num_threads()}
    print(json.dumps(rounded(found | about)))


def agreement(sides: dict[str, Side]) -> float:
    """Share of the rows that all ways continue alike."""
    made = [side.last["made"] for side in sides.values()]
    same = [all(row == rows[0] for row in rows) for rows in zip(*made, strict=True)]
    return sum(same) / len(same)


if __name__ == "__main__":
    main()
