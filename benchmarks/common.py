"""Shared code of the benchmarks: alternating sides in separate processes, and random models.

`measure` starts a process for every side of a comparison. Their repetitions alternate, so that a
busy machine slows all of them; a ratio is the median over pairs of repetitions. Seconds are
wall-clock time, or processor time if one CPU thread does the work (OMP_NUM_THREADS=1), which
depends less on other load. A side's peak memory is the increase over its process's memory before
the first repetition, on the device if there is one, else resident; `whole` is with what that
process had. On CUDA, models that only read are bf16, as in a study.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(  # where workers find rockstudy
    filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")))
)

import torch
from tokenizers import Tokenizer
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = 49_152  # its vocabulary
END, PAD = 1, 0  # token ids of the random models
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
READING = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # models that are not trained
# Bodies of models. Facts: config.json of HuggingFaceTB/SmolLM2-135M, Qwen/Qwen3-0.6B and Qwen3-4B.
SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "smollm2": {"hidden": 576, "layers": 30, "heads": 9, "kv_heads": 3, "intermediate": 1_536},
    "qwen3-0.6b": {
        **{"hidden": 1_024, "layers": 28, "heads": 16, "kv_heads": 8},
        **{"head_dim": 128, "intermediate": 3_072},
    },
    "qwen3-4b": {
        **{"hidden": 2_560, "layers": 36, "heads": 32, "kv_heads": 8},
        **{"head_dim": 128, "intermediate": 9_728},
    },
}
PRELOADED = [
    "trl",
    "rockstudy.training.stages",
    "rockstudy.knockout.prefix_reuse",
    "rockstudy.rocks.contexts",
]
Job = dict[str, Any]


class Turns:
    """In a worker: waits for the parent before a repetition and reports after it."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.base = pipe, None

    def begin(self) -> None:
        """Count memory from here; the first `wait` does it where nobody did before."""
        if DEVICE == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        self.base = _peak()

    def wait(self) -> bool:
        """Return whether another repetition is wanted."""
        if self.base is None:
            self.begin()
        self.pipe.send({})
        try:
            wanted = self.pipe.recv()
        except EOFError:  # the parent is gone
            wanted = False
        self.start = clock()
        return wanted

    def done(self, **found: Any) -> None:
        """Report a repetition: the tokens that it made, and what else is to be known of it."""
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - self.start
        whole = _peak()
        self.pipe.send(found | {"seconds": seconds, "peak": whole - self.base, "whole": whole})

    def run(self, once: Callable[[], dict[str, Any]]) -> None:
        """Repeat a call, which returns what `done` takes."""
        while self.wait():
            self.done(**once())


def count_memory_exactly() -> None:
    """Have the C library give freed memory back at once; resident memory is then what lives.

    glibc otherwise keeps what was freed, more of it after longer texts. Every large tensor then
    costs page faults: not for timings.
    """
    if DEVICE == "cpu" and sys.platform == "linux":
        ctypes.CDLL(None).mallopt(-3, 65_536)  # M_MMAP_THRESHOLD of malloc.h


def clock() -> float:
    """Seconds from a fixed start, of the processor or by the clock."""
    alone = DEVICE == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def _peak() -> int:
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


Work = Callable[[Job, Turns], None]


class Side:
    """One side of a comparison: a worker's repetitions."""

    def __init__(self, name: str, work: Work, job: Job) -> None:
        # A fork of a server that has imported everything starts at once; CUDA forbids forks.
        context = multiprocessing.get_context("spawn" if DEVICE == "cuda" else "forkserver")
        if DEVICE == "cpu":
            context.set_forkserver_preload(PRELOADED)
        self.name, self.reports = name, []
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, job, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._read()

    def repeat(self, timed: bool) -> None:
        """Do one repetition."""
        self.pipe.send(True)
        report = self._read()
        self._read()
        self.last = report
        if timed:
            self.reports.append(report)

    def stop(self) -> None:
        """End the process."""
        self.pipe.send(False)
        self.process.join(60)

    @property
    def seconds(self) -> float:
        """Seconds of a repetition, median."""
        return statistics.median(report["seconds"] for report in self.reports)

    @property
    def rate(self) -> float:
        """Tokens per second, median."""
        return statistics.median(r["tokens"] / r["seconds"] for r in self.reports)

    @property
    def peak(self) -> int:
        """Peak memory in bytes, over all repetitions."""
        return self.last["peak"]

    @property
    def whole(self) -> int:
        """The same with what the process had before: models, and without CUDA the libraries."""
        return self.last["whole"]

    @property
    def tokens(self) -> int:
        """Tokens of the last repetition."""
        return self.last["tokens"]

    def _read(self) -> dict[str, Any]:
        try:
            return self.pipe.recv()
        except EOFError:
            sys.exit(f"{self.name}: the worker ended early")


def _serve(work: Work, job: Job, pipe: Any) -> None:
    work(job, Turns(pipe))


def measure(work: Work, jobs: Mapping[str, Job], repeats: int, warm: int = 1) -> dict[str, Side]:
    """Run jobs in turns: `warm` untimed repetitions of each, then `repeats` timed ones."""
    sides = [Side(name, work, job) for name, job in jobs.items()]
    for i in range(warm + repeats):
        for side in sides:
            side.repeat(timed=i >= warm)
            print(".", end="", file=sys.stderr, flush=True)
    for side in sides:
        side.stop()
    print(file=sys.stderr)
    return {side.name: side for side in sides}


def faster(side: Side, other: Side) -> float:
    """Tokens per second of `side` over those of `other`: median over pairs of repetitions."""
    return statistics.median(
        (a["tokens"] / a["seconds"]) / (b["tokens"] / b["seconds"])
        for a, b in zip(side.reports, other.reports, strict=True)
    )


def rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as the last line of a script has them."""
    return {k: round(float(v), 4) if isinstance(v, float) else v for k, v in numbers.items()}


def random_model(
    vocab: int,
    hidden: int,
    layers: int,
    heads: int,
    seed: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate: int | None = None,
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, on `DEVICE` in float32; weights of embedding and head tied.

    What is left out has SmolLM2's proportions.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate or hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        head_dim=head_dim or hidden // heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    with torch.device(DEVICE):  # a CPU draws billions of numbers for minutes
        return Qwen3ForCausalLM(config)


def writer(
    vocab: int, shape: Mapping[str, int], mean_length: float, seed: int = 0
) -> Qwen3ForCausalLM:
    """A random model that writes as people do in one respect: token frequencies are Zipf's.

    Its head has a bias: the k-th id after the special ones has a probability of about 1/k, the
    weights move the logits by about 1 up and down, and the end of text comes with probability
    1/`mean_length` at every position, so that lengths are about geometric.
    """
    hidden = shape["hidden"]
    model = random_model(vocab, **shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(hidden, vocab)
    bias = -torch.arange(1, vocab + 1).log().roll(2)
    bias[PAD] = -torch.inf
    weight = torch.randn(vocab, hidden, generator=generator) / hidden**0.5
    weight[END] = 0
    bias[END] = (bias[2:].exp().sum() * 2.718281828**0.5).log() - torch.tensor(mean_length).log()
    head.weight.data, head.bias.data = weight, bias
    model.lm_head = head
    model.config.tie_word_embeddings = False
    return model.eval().to(DEVICE, READING)


def random_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One token per id."""
    vocabulary = {f"t{i}": i for i in range(vocab)}
    plain = Tokenizer(token_models.WordLevel(vocabulary, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="t1", pad_token="t0")
