"""Simulations by what determines them: run in a process of its own, stored, and read again.

A specification is a small JSON object: the sizes of both models, what a stage does with them, the
number of processes. The shipped results (``data/simulation``) are those of the presets; `rockstudy
simulate` adds a study's own under ``simulations`` in its folder.
"""

import functools
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rockstudy import paths
from rockstudy.config.fields import StageConfig
from rockstudy.errors import StudyError
from rockstudy.store import code, files
from rockstudy.store.fingerprints import fingerprint

MICRO_BATCHES = 2  # of a step: the second one has gradients of the first beside it
LIBRARIES = ("torch", "transformers", "trl", "accelerate")
_SIZES = (
    "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim max_position_embeddings tie_word_embeddings num_experts "
    "num_experts_per_tok moe_intermediate_size"
).split()
_STAGE = (
    "max_new_tokens forward_kl reverse_kl cross_entropy kd_temperature gradient_checkpointing"
).split()
Specification = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One optimiser step of one process: bytes at its peak, FLOPs, bytes that it receives.

    ``weights``, ``gradients``, ``moments`` and ``teacher`` are the process's own shards. ``peak``
    includes them, with gathered layers, activations and the tiles of the heads. ``received`` are
    bytes by the number of processes that exchange them.
    """

    peak: int
    weights: int
    gradients: int
    moments: int
    teacher: int
    flops: float
    received: dict[int, float]


def training(
    student: Any, teacher: Any, stage: StageConfig, prompt: int, processes: int, cuda: bool = True
) -> Specification:
    """The specification of a stage's step; `StudyError` if its rollouts do not divide evenly.

    Models are given by their configurations. `prompt` tokens precede every completion.
    """
    micro, parts = stage.batches(processes)
    settings = {"micro_batch": micro, "micro_batches": min(parts, MICRO_BATCHES)}
    settings |= stage.model_dump(include=set(_STAGE))
    spec = _of("training", student, teacher, prompt, cuda)
    return spec | {"stage": settings, "processes": processes}


def statistics(
    student: Any, teacher: Any, prompt: int, new: int, cuda: bool = True
) -> Specification:
    """The specification of one batch of the token table: the teacher and two students."""
    return _of("statistics", student, teacher, prompt, cuda) | {"new": new, "processes": 1}


def _of(part: str, student: Any, teacher: Any, prompt: int, cuda: bool) -> Specification:
    models = {"student": sizes(student), "teacher": sizes(teacher)}
    return {"part": part, **models, "prompt": prompt, "cuda": cuda}


def sizes(config: Any) -> dict[str, Any]:
    """What of a model's configuration memory and FLOPs depend on."""
    return {name: getattr(config, name) for name in _SIZES if hasattr(config, name)}


def simulated(spec: Specification) -> dict[str, Any]:
    """Simulate in a new process; `StudyError` with its last line if that fails."""
    command = [sys.executable, "-m", "rockstudy.simulation.worker"]
    done = subprocess.run(
        command, input=json.dumps(spec), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise StudyError(f"simulation of {spec['part']}: must run to its end; {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def stored(spec: Specification) -> dict[str, Any] | None:
    """The result of an equal specification, if it was simulated; the study's own come first."""
    whole = _whole(spec)
    return None if whole is None else whole["result"]


def current(spec: Specification) -> dict[str, Any] | None:
    """The same, if the code and the libraries of today made it."""
    whole = _whole(spec)
    made = whole and (whole["code"], whole["made_with"]) == (identity(spec["part"]), versions())
    return whole["result"] if whole and made else None


def _whole(spec: Specification) -> dict[str, Any] | None:
    files_of = (folder / f"{key(spec)}.json" for folder in (own(), shipped()))
    found = next((file for file in files_of if file.is_file()), None)
    return None if found is None else json.loads(found.read_text(encoding="utf-8"))


def store(spec: Specification, result: dict[str, Any], folder: Path) -> Path:
    """Write a result with its specification, and with the code and libraries that made it."""
    file = folder / f"{key(spec)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "specification": spec,
        "result": result,
        "code": identity(spec["part"]),
        "made_with": versions(),
    }
    files.write_json(file, whole)
    return file


def own() -> Path:
    """Folder of the simulations of a person's own."""
    return paths.home() / "simulations"


def shipped() -> Path:
    """Folder of those of the presets."""
    return paths.data_dir() / "simulation"


def key(spec: Specification) -> str:
    """Name of a specification, the same for equal ones."""
    return f"{spec['part']}-{spec['processes']}-{fingerprint(spec)[:12]}"


@functools.cache
def identity(part: str) -> str:
    """Hash of the code that a part's simulation runs: the trainer or the token table, and its own.

    The parts are ``training`` and ``statistics``.
    """
    from rockstudy.rocks import token_table
    from rockstudy.simulation import worker
    from rockstudy.training.trainer import DistillTrainer

    runs = {
        "training": (DistillTrainer, worker._training),
        "statistics": (token_table.in_memory, worker._statistics),
    }
    found = [code.identity(one) for one in (worker._prepare, *runs[part])]
    return fingerprint(found)[:16]


def versions() -> dict[str, str]:
    """Versions of the libraries that a simulation runs, without the builds."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {name: version.split("+")[0] for name, version in found.items()}


def step(found: dict[str, Any], parts: int) -> Step:
    """A whole step of `parts` micro-batches, from the first ones that were simulated."""
    times = parts / found["micro_batches"]
    received: dict[int, float] = {}
    for name, n in found["received"].items():
        kind, size = name.split("/")
        repeated = 1 if kind == "reduce_scatter" else times  # once, after the last micro-batch
        received[int(size)] = received.get(int(size), 0) + repeated * n
    own = {name: found[name] for name in ("peak", "weights", "gradients", "moments", "teacher")}
    return Step(**own, flops=times * found["flops"], received=received)


def all_stored(folder: Path) -> Iterator[dict[str, Any]]:
    """Every stored simulation of a folder, by name."""
    for file in sorted(folder.glob("*.json")):
        yield json.loads(file.read_text(encoding="utf-8"))
