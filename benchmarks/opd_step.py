"""Tokens per second and peak memory of one on-policy distillation step.

Three ways compute the same loss, reverse KL over given rollouts, in one optimiser step of loss,
backward, clipping and AdamW:

    ours         rockstudy's trainer
    trl          TRL's DistillationTrainer, in which only the source of completions is replaced
    full-logits  a plain loop that computes both models' logits over the whole vocabulary

Ours also runs with 30% of the positions at weight 0, and with gradient checkpointing, which makes
a layer's activations again in the backward pass. Models are randomly initialised Qwen3, with
the lab's vocabulary and SmolLM2's. Completions have different lengths, like real ones. Lines marked
"+ rollout" include sampling. The ways alternate step by step (`common`); seconds are medians.
"""

import argparse
import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import trl
from common import (
    DEVICE,
    READING,
    ROOT,
    SHAPES,
    SMOLLM2,
    Job,
    Side,
    Turns,
    count_memory_exactly,
    faster,
    measure,
    random_model,
    random_tokenizer,
    rounded,
)
from transformers import PrinterCallback, TrainerCallback

from rockstudy.config.fields import StageConfig
from rockstudy.training import stages
from rockstudy.training.trainer import DistillTrainer

LAB = ROOT / "data" / "lab" / "student" / "config.json"
FROZEN = 0.3
# Student and teacher. Ours: about the lab's own, and SmolLM2's width with few layers, so that a CPU
# takes seconds; the other two are those of `true_shapes`.
BODIES = {
    "lab": [{"hidden": 96, "layers": layers, "heads": 3} for layers in (3, 4)],
    "smollm2": [{"hidden": 576, "layers": layers, "heads": 9} for layers in (4, 8)],
    "small": [SHAPES["small"], SHAPES["small"]],
    "qwen3": [SHAPES["qwen3-0.6b"], SHAPES["qwen3-4b"]],
}
WAYS = ("ours", "trl", "full-logits")
RECOMPUTED = {"way": "ours", "recomputed": True}
SIZE = {"body": "lab", "vocab": SMOLLM2, "rows": 4, "micro": 4}
GROWTH = {
    "length": ("longest completion", (32, 64, 128, 256), SIZE, WAYS),
    "vocab": ("vocabulary", (12_288, 24_576, 49_152, 98_304), SIZE | {"length": 64}, WAYS),
}


def work(job: Job, turns: Turns) -> None:
    """Do one way: a step in each repetition."""
    if job.get("exactly"):
        count_memory_exactly()
    student, teacher = (
        random_model(job["vocab"], **shape, seed=seed)
        for seed, shape in enumerate(BODIES[job["body"]])
    )
    teacher = teacher.eval().to(READING)
    rows = _rows(job)
    turns.begin()
    by = _full_logits if job["way"] == "full-logits" else _by_trainer
    by(job, student, teacher, rows, turns)


def _rows(job: Job) -> list[dict[str, Any]]:
    """Prompts with one completion each, between a quarter and the whole of the longest."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(job["rows"]):
        prompt, length = rng.integers(12, 33), rng.integers(job["length"] // 4, job["length"] + 1)
        ids = [rng.integers(2, job["vocab"], n).tolist() for n in (prompt, length)]
        rows.append({"prompt_ids": ids[0], "completions": [ids[1]], "stopped": [True]})
    return rows


def _tokens(rows: list) -> int:
    return sum(len(row["completions"][0]) for row in rows)


@dataclass(frozen=True)
class RandomFreeze:
    """Weight 0 at a random share of the positions."""

    share: float
    needs_losses: ClassVar[bool] = False

    def __call__(self, batch: Any, losses: Any) -> Any:
        """Return the weights, float (R, T)."""
        generator = torch.Generator().manual_seed(batch.step)
        draws = torch.rand(batch.mask.shape, generator=generator).to(batch.mask.device)
        return (draws >= self.share).float()


def _by_trainer(job: Job, student: Any, teacher: Any, rows: list, turns: Turns) -> None:
    """Let a trainer's own loop do the steps."""
    rollout = job.get("rollout", False)
    stage = StageConfig(
        source="student",
        prompts_per_step=job["rows"],
        rollouts_per_prompt=1,
        steps=1_000,
        save_steps=1_000,
        logging_steps=1_000,
        lr=1e-5,
        reverse_kl=1.0,
        max_new_tokens=job["length"],
        micro_batch=job["micro"],
        gradient_checkpointing=job.get("recomputed", False),
    )

    class Untouched(trl.DistillationTrainer):
        """TRL's trainer with given prompts and completions."""

        def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
            return [rows[int(p)]["prompt_ids"] for p in prompts], None, {}

        def _generate_single_turn(self, prompt_ids, images, fields, has_tool_images=False):
            if rollout:
                return super()._generate_single_turn(prompt_ids, images, fields)
            known = {tuple(row["prompt_ids"]): row["completions"][0] for row in rows}
            return [known[tuple(ids)] for ids in prompt_ids]

    class Steps(TrainerCallback):
        """Takes turns with the other processes."""

        def on_step_begin(self, args, state, control, **kwargs):
            """Wait for the request."""
            if not turns.wait():
                raise KeyboardInterrupt

        def on_step_end(self, args, state, control, **kwargs):
            """Report the step."""
            turns.done(tokens=job["rows"] * job["length"] if rollout else _tokens(rows))

    with tempfile.TemporaryDirectory() as folder:
        common = {
            "model": student,
            "teacher_model": teacher,
            "processing_class": random_tokenizer(job["vocab"]),
            "args": stages._arguments(stage, Path(folder), 64),
        }
        if job["way"] == "ours":
            given = [{"prompt_ids": row["prompt_ids"]} for row in rows] if rollout else rows
            trainer = DistillTrainer(
                stage=stage,
                name="stage2",
                seed=0,
                weights=RandomFreeze(job["frozen"]) if job.get("frozen") else None,
                train_dataset=given * 1_000,
                **common,
            )
        else:
            prompts = [{"prompt": str(i)} for i in range(job["rows"])]
            trainer = Untouched(train_dataset=prompts * 1_000, **common)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Steps())
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train()


def _full_logits(job: Job, student: Any, teacher: Any, rows: list, turns: Turns) -> None:
    """Do the loop that one writes first: pad, both models' logits, log-softmax, KL."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.0)
    student.train()
    tokens = _tokens(rows)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda")

    def once() -> dict[str, Any]:
        for start in range(0, len(rows), job["micro"]):
            ids, mask, predicted = _padded(rows[start : start + job["micro"]])
            with autocast:
                log_p = student(ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
                with torch.no_grad():
                    logits = teacher(ids, attention_mask=mask).logits[:, :-1]
                    log_q = logits.float().log_softmax(-1)
                rkl = (log_p.exp() * (log_p - log_q)).sum(-1)
                loss = (rkl * predicted[:, 1:]).sum() / tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"tokens": tokens}

    turns.run(once)


def _padded(rows: list) -> tuple[Any, Any, Any]:
    """Ids, mask, and where a completion token stands; (R, L), padded on the right."""
    whole = [row["prompt_ids"] + row["completions"][0] for row in rows]
    width = max(map(len, whole))
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole])
    lengths = torch.tensor([len(ids) for ids in whole])[:, None]
    starts = torch.tensor([len(row["prompt_ids"]) for row in rows])[:, None]
    columns = torch.arange(width)
    mask = (columns < lengths).long()
    return tuple(t.to(DEVICE) for t in (ids, mask, (columns >= starts) * mask))


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each way")
    parser.add_argument("--vocab", type=int, default=SMOLLM2, help="the large vocabulary")
    parser.add_argument("--rows", type=int, default=32, help="rollouts in a step")
    parser.add_argument("--length", type=int, default=128, help="longest completion")
    given = parser.parse_args()
    lab = json.loads(LAB.read_text())["vocab_size"] if LAB.exists() else 1_280
    small = {"body": "lab", "vocab": lab, "rows": 2 * given.rows, "micro": 2 * given.rows}
    small["length"] = given.length
    rows = max(given.rows // 4, 2)
    large = {"body": "smollm2", "vocab": given.vocab, "rows": rows, "micro": rows}
    large["length"] = given.length
    ways = {way: {"way": way} for way in WAYS} | {"frozen": {"way": "ours", "frozen": FROZEN}}
    ways["recomputed"] = RECOMPUTED
    sampled = {f"{way} + rollout": {"way": way, "rollout": True} for way in ("ours", "trl")}
    at_lab, at_large = (
        measure(work, {name: size | way for name, way in jobs.items()}, given.steps)
        for size, jobs in ((small, ways | sampled), (large, ways))
    )
    growth = _growth(large, lab)
    _print("lab", at_lab, small)
    _print("large", at_large, large)
    print("\npeak bytes for each further completion token, same models")
    for name, by_vocab in growth.items():
        print(f"{name:26}" + "".join(f"{f'V = {v:,}':>14}{b:12,.0f}" for v, b in by_vocab.items()))
    print(json.dumps(rounded(_summary(at_lab, at_large, growth))))


def _growth(large: Job, lab: int) -> dict[str, dict[int, float]]:
    """Peak bytes per further completion token, by way and vocabulary."""
    ways = {
        "ours": {"way": "ours"},
        "recomputed": RECOMPUTED,
        "full-logits": {"way": "full-logits"},
    }
    found: dict[str, dict[int, float]] = {name: {} for name in ways}
    for vocab in (lab, large["vocab"]):
        for name, by_vocab in found.items():
            size = large | {"vocab": vocab, "exactly": True} | ways[name]
            short, long = (
                measure(work, {name: size | {"length": n * large["length"]}}, 1)[name]
                for n in (1, 4)
            )
            by_vocab[vocab] = (long.peak - short.peak) / (long.tokens - short.tokens)
    return found


LABELS = {"frozen": f"ours, {FROZEN:.0%} frozen", "recomputed": "ours, layers recomputed"}


def _print(title: str, sides: dict[str, Side], size: Job) -> None:
    shape = f"V = {size['vocab']:,}, {size['rows']} rollouts of up to {size['length']} tokens"
    print(f"\n{title}: {shape}")
    print(f"{'':26}{'tokens/s':>10}{'s/step':>9}{'vs trl':>8}{'peak MB':>9}")
    for name, side in sides.items():
        ratio = faster(side, sides["trl + rollout" if "rollout" in name else "trl"])
        label = LABELS.get(name, name)
        print(f"{label:26}{side.rate:10,.0f}{side.seconds:9.3f}{ratio:8.2f}{side.peak / 1e6:9,.0f}")


def _summary(lab: dict, large: dict, growth: dict) -> dict[str, float]:
    """Named ratios at the large vocabulary, and with ``_lab`` at the lab's."""
    found: dict[str, float] = {}
    for suffix, sides in (("", large), ("_lab", lab)):
        ours = sides["ours"]
        found["opd_tokens_per_s_vs_trl" + suffix] = faster(ours, sides["trl"])
        found["opd_tokens_per_s_vs_full_logits" + suffix] = faster(ours, sides["full-logits"])
        found["opd_peak_bytes" + suffix] = ours.peak
        found["opd_peak_bytes_trl" + suffix] = sides["trl"].peak
        found["opd_peak_bytes_full_logits" + suffix] = sides["full-logits"].peak
        found["opd_speedup_30pct_frozen" + suffix] = faster(sides["frozen"], ours)
        recomputed = faster(sides["recomputed"], sides["trl"])
        found["opd_tokens_per_s_vs_trl_recomputed" + suffix] = recomputed
    with_rollout = faster(lab["ours + rollout"], lab["trl + rollout"])
    found["opd_tokens_per_s_vs_trl_with_rollout_lab"] = with_rollout
    for way, by_vocab in growth.items():
        for suffix, value in zip(("_lab", ""), by_vocab.values(), strict=True):
            found[f"opd_peak_bytes_per_token_{way.replace('-', '_')}{suffix}"] = value
    found["opd_tokens_per_s_vs_trl_49k"] = found["opd_tokens_per_s_vs_trl"]
    found["opd_bytes_per_token_49k"] = found["opd_peak_bytes_per_token_recomputed"]
    return found


if __name__ == "__main__":
    main()
