"""Tokens per second and peak memory of one on-policy distillation step.

Three ways to the same loss, reverse KL over given rollouts, one optimiser step of loss, backward,
clipping and AdamW:

    ours         rockstudy's trainer
    trl          TRL's DistillationTrainer, with nothing but the source of completions replaced
    full-logits  a plain loop that makes both models' logits over the whole vocabulary

and ours with 30% of the positions at weight 0; at the lab's vocabulary and at that of SmolLM2, with
randomly initialised Qwen3 models. Completions have different lengths, as real ones have. Lines
marked "+ rollout" sample them too. Each way runs in its own process, so that its peak memory is its
own, and the processes take turns step by step, so that a busy machine slows all of them; seconds
are medians. Peak memory is above what the process held before its first step.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "data" / "lab" / "student" / "config.json"
SMOLLM2 = 49_152
FROZEN = 0.3
# Hidden size, layers of the student and of the teacher, attention heads. Ours: about the lab's own,
# and SmolLM2's width with few layers, so that a CPU takes seconds.
BODIES = {"lab": (96, 3, 4, 3), "smollm2": (576, 4, 8, 9)}


@dataclass(frozen=True)
class Job:
    """One way to do a step, on one size."""

    way: str  # ours | trl | full-logits
    body: str
    vocab: int
    rows: int  # rollouts in a step
    micro: int  # rollouts in a forward and backward
    length: int  # longest completion
    frozen: float = 0.0
    rollout: bool = False

    @property
    def name(self) -> str:
        """Label in the table."""
        frozen = f", {self.frozen:.0%} frozen" if self.frozen else ""
        return self.way + frozen + (" + rollout" if self.rollout else "")


# The worker: builds one way, then does one step for each line on its standard input.


def work(job: Job) -> None:
    """Run one way, a step per request, and report seconds, tokens and peak memory as JSON lines."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    student, teacher, tokenizer = _models(job)
    rows = _rows(job)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if job.way == "full-logits":
        run = _full_logits(job, student.to(device), teacher.to(device), rows)
    else:
        run = _by_trainer(job, student, teacher, tokenizer, rows)
    with tempfile.TemporaryDirectory() as folder:
        run(folder, Turns(sum(map(len, (c for row in rows for c in row["completions"])))))


class Turns:
    """Waits for the parent before a step and reports after it."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.start, self.base = tokens, 0.0, _resident()

    def wait(self) -> bool:
        """Return whether another step is wanted."""
        print(json.dumps({"ready": True}), file=sys.__stdout__, flush=True)
        wanted = sys.stdin.readline().strip() == "step"
        self.start = time.perf_counter()
        return wanted

    def done(self, tokens: int | None = None) -> None:
        """Report the step."""
        _synchronize()
        report = {"seconds": time.perf_counter() - self.start, "tokens": tokens or self.tokens}
        report["peak"] = _peak(self.base)
        print(json.dumps(report), file=sys.__stdout__, flush=True)


def _models(job: Job) -> tuple[Any, Any, Any]:
    """Student, teacher and a tokenizer of one token per id."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    hidden, layers, teacher_layers, heads = BODIES[job.body]
    vocabulary = {f"t{i}": i for i in range(job.vocab)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="t1", pad_token="t0")
    pair = []
    for seed, depth in enumerate((layers, teacher_layers)):
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=job.vocab,
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        pair.append(Qwen3ForCausalLM(config))
    return pair[0], pair[1].eval(), tokenizer


def _rows(job: Job) -> list[dict[str, Any]]:
    """Prompts with one completion each, between a quarter and the whole of the longest."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = []
    for _ in range(job.rows):
        prompt, length = rng.integers(12, 33), rng.integers(job.length // 4, job.length + 1)
        ids = [rng.integers(2, job.vocab, n).tolist() for n in (prompt, length)]
        rows.append({"prompt_ids": ids[0], "completions": [ids[1]], "stopped": [True]})
    return rows


@dataclass(frozen=True)
class RandomFreeze:
    """Weight 0 at a random share of the positions."""

    share: float
    needs_losses: ClassVar[bool] = False

    def __call__(self, batch: Any, losses: Any) -> Any:
        """Return the weights, float (R, T)."""
        import torch

        generator = torch.Generator().manual_seed(batch.step)
        draws = torch.rand(batch.mask.shape, generator=generator).to(batch.mask.device)
        return (draws >= self.share).float()


def _by_trainer(job: Job, student: Any, teacher: Any, tokenizer: Any, rows: list) -> Any:
    """Let a trainer's own loop do the steps."""
    import trl
    from transformers import PrinterCallback, TrainerCallback

    from rockstudy import distill
    from rockstudy.config import StageConfig

    stage = StageConfig(
        source="student",
        prompts_per_step=job.rows,
        rollouts_per_prompt=1,
        steps=1_000,
        save_steps=1_000,
        logging_steps=1_000,
        lr=1e-5,
        reverse_kl=1.0,
        max_new_tokens=job.length,
        micro_batch=job.micro,
    )

    class Untouched(trl.DistillationTrainer):
        """TRL's trainer with given prompts and completions."""

        def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
            return [rows[int(p)]["prompt_ids"] for p in prompts], None, {}

        def _generate_single_turn(self, prompt_ids, images, fields, has_tool_images=False):
            if job.rollout:
                return super()._generate_single_turn(prompt_ids, images, fields)
            known = {tuple(row["prompt_ids"]): row["completions"][0] for row in rows}
            return [known[tuple(ids)] for ids in prompt_ids]

    class Steps(TrainerCallback):
        """Takes turns with the other processes."""

        def __init__(self, turns: Turns) -> None:
            self.turns = turns

        def on_step_begin(self, args, state, control, **kwargs):
            """Wait for the request."""
            if not self.turns.wait():
                raise KeyboardInterrupt

        def on_step_end(self, args, state, control, **kwargs):
            """Report the step."""
            self.turns.done(job.rows * job.length if job.rollout else None)

    def run(folder: str, turns: Turns) -> None:
        common = {
            "model": student,
            "teacher_model": teacher,
            "processing_class": tokenizer,
            "args": distill._arguments(stage, Path(folder), 64),
        }
        if job.way == "ours":
            weights = RandomFreeze(job.frozen) if job.frozen else None
            given = [{"prompt_ids": row["prompt_ids"]} for row in rows] if job.rollout else rows
            trainer = distill.DistillTrainer(
                stage=stage,
                name="stage2",
                seed=0,
                weights=weights,
                train_dataset=given * 1_000,
                **common,
            )
        else:
            prompts = [{"prompt": str(i)} for i in range(job.rows)]
            trainer = Untouched(train_dataset=prompts * 1_000, **common)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Steps(turns))
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train()

    return run


def _full_logits(job: Job, student: Any, teacher: Any, rows: list) -> Any:
    """Return the loop that one writes first: pad, both models' logits, log-softmax, KL."""
    import torch

    def run(folder: str, turns: Turns) -> None:
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.0)
        student.train()
        tokens = sum(len(row["completions"][0]) for row in rows)
        autocast = torch.autocast("cuda", torch.bfloat16, enabled=student.device.type == "cuda")
        while turns.wait():
            for start in range(0, len(rows), job.micro):
                ids, mask, predicted = _padded(rows[start : start + job.micro], student.device)
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
            turns.done()

    return run


def _padded(rows: list, device: Any) -> tuple[Any, Any, Any]:
    """Ids, mask, and where a completion token stands; (R, L), padded on the right."""
    import torch

    whole = [row["prompt_ids"] + row["completions"][0] for row in rows]
    width = max(map(len, whole))
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole])
    lengths = torch.tensor([len(ids) for ids in whole])[:, None]
    starts = torch.tensor([len(row["prompt_ids"]) for row in rows])[:, None]
    columns = torch.arange(width)
    mask = (columns < lengths).long()
    return tuple(t.to(device) for t in (ids, mask, (columns >= starts) * mask))


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _resident() -> int:
    """Bytes in use before the first step: on the device where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak(base: int) -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() - base
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base


# The parent: starts the workers, gives them turns, prints.


class Worker:
    """A subprocess that does one way."""

    def __init__(self, job: Job) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, "--worker", json.dumps(job.__dict__)]
        self.job, self.seconds, self.tokens, self.peak = job, [], 0, 0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def step(self, timed: bool) -> None:
        """Do one step."""
        self._tell("step")
        report = self._read()
        self._read()
        self.tokens, self.peak = report["tokens"], report["peak"]
        if timed:
            self.seconds.append(report["seconds"])

    def stop(self) -> None:
        """End the process."""
        self._tell("stop")
        self._process.communicate(timeout=60)

    @property
    def rate(self) -> float:
        """Completion tokens per second, by the median step."""
        return self.tokens / statistics.median(self.seconds)

    def _tell(self, word: str) -> None:
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.job.name}: the worker ended early")
        return json.loads(line)


def measure(jobs: list[Job], steps: int) -> dict[str, Worker]:
    """Run jobs in turns; one untimed step each, then ``steps`` timed ones."""
    workers = [Worker(job) for job in jobs]
    for i in range(steps + 1):
        for worker in workers:
            worker.step(timed=i > 0)
            print(".", end="", file=sys.stderr, flush=True)
    for worker in workers:
        worker.stop()
    print(file=sys.stderr)
    return {worker.job.name: worker for worker in workers}


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each way")
    parser.add_argument("--vocab", type=int, default=SMOLLM2, help="the large vocabulary")
    parser.add_argument("--rows", type=int, default=32, help="rollouts in a step")
    parser.add_argument("--length", type=int, default=128, help="longest completion")
    given = parser.parse_args()
    if given.worker:
        work(Job(**json.loads(given.worker)))
        return
    lab = json.loads(LAB.read_text())["vocab_size"] if LAB.exists() else 1_280
    small = {"body": "lab", "vocab": lab, "rows": 2 * given.rows, "micro": 2 * given.rows}
    small["length"] = given.length
    rows = max(given.rows // 4, 2)
    large = {"body": "smollm2", "vocab": given.vocab, "rows": rows, "micro": rows}
    large["length"] = given.length
    ways = [
        {"way": "ours"},
        {"way": "trl"},
        {"way": "full-logits"},
        {"way": "ours", "frozen": FROZEN},
    ]
    rollouts = [{"way": way, "rollout": True} for way in ("ours", "trl")]
    at_lab = measure([Job(**way, **small) for way in ways + rollouts], given.steps)
    at_large = measure([Job(**way, **large) for way in ways], given.steps)
    growth = _growth(large, lab)
    _print("lab", at_lab, small)
    _print("large", at_large, large)
    print("\npeak bytes for each further completion token, same models")
    for name, by_vocab in growth.items():
        print(f"{name:26}" + "".join(f"{f'V = {v:,}':>14}{b:12,.0f}" for v, b in by_vocab.items()))
    print(json.dumps(_summary(at_lab, at_large, growth)))


def _growth(large: dict[str, Any], lab: int) -> dict[str, dict[int, float]]:
    """Peak bytes per further completion token, by way and vocabulary."""
    found: dict[str, dict[int, float]] = {"ours": {}, "full-logits": {}}
    for vocab in (lab, large["vocab"]):
        for way, by_vocab in found.items():
            sizes = [large | {"vocab": vocab, "length": n * large["length"]} for n in (1, 4)]
            short, long = (measure([Job(way, **size)], 1)[way] for size in sizes)
            by_vocab[vocab] = (long.peak - short.peak) / (long.tokens - short.tokens)
    return found


def _print(title: str, workers: dict[str, Worker], size: dict[str, Any]) -> None:
    shape = f"V = {size['vocab']:,}, {size['rows']} rollouts of up to {size['length']} tokens"
    print(f"\n{title}: {shape}")
    print(f"{'':26}{'tokens/s':>10}{'s/step':>9}{'vs trl':>8}{'peak MB':>9}")
    for name, worker in workers.items():
        against = workers.get("trl + rollout" if worker.job.rollout else "trl")
        ratio = f"{worker.rate / against.rate:8.2f}" if against else f"{'':8}"
        seconds, peak = statistics.median(worker.seconds), worker.peak / 1e6
        print(f"{name:26}{worker.rate:10,.0f}{seconds:9.3f}{ratio}{peak:9,.0f}")


def _summary(lab: dict, large: dict, growth: dict) -> dict[str, float]:
    """Named ratios at the large vocabulary, and with ``_lab`` at the lab's."""
    found: dict[str, float] = {}
    frozen = f"ours, {FROZEN:.0%} frozen"
    for suffix, workers in (("", large), ("_lab", lab)):
        ours = workers["ours"]
        found["opd_tokens_per_s_vs_trl" + suffix] = ours.rate / workers["trl"].rate
        found["opd_tokens_per_s_vs_full_logits" + suffix] = ours.rate / workers["full-logits"].rate
        found["opd_peak_bytes" + suffix] = ours.peak
        found["opd_peak_bytes_trl" + suffix] = workers["trl"].peak
        found["opd_peak_bytes_full_logits" + suffix] = workers["full-logits"].peak
        found["opd_speedup_30pct_frozen" + suffix] = workers[frozen].rate / ours.rate
    with_rollout = lab["ours + rollout"].rate / lab["trl + rollout"].rate
    found["opd_tokens_per_s_vs_trl_with_rollout_lab"] = with_rollout
    for way, by_vocab in growth.items():
        for suffix, value in zip(("_lab", ""), by_vocab.values(), strict=True):
            found[f"opd_peak_bytes_per_token_{way.replace('-', '_')}{suffix}"] = value
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
