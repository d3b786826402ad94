"""Costs of a study's stages with the simulated memory and FLOPs in the place of the arithmetic's.

Simulated are a step of each training and a batch of the token table (`rockstudy.simulation`), where
a stored simulation has the study's models, batches, lengths, losses and processes. Sampling stays
arithmetic, and so does what stands beside a step: vLLM's share of the device, and the pair's
student that the trainer copied. A step takes the time of its FLOPs or of what a process receives
from others, whichever is longer, since FSDP2 gathers a layer while the one before computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rockstudy.cli import estimates
from rockstudy.cli.estimates import Cost, Device, ModelPair, Setting
from rockstudy.config.fields import STAGES, StageConfig, StudyConfig
from rockstudy.errors import StudyError
from rockstudy.simulation import tables

LINKS = {  # facts: bytes per second that a device receives; NVLink of H100 and H200, 400 Gb/s
    "node": 450e9,
    "cluster": 50e9,
}
FASTER = "H200"
STATISTICS = "statistics"


def specifications(
    config: StudyConfig, pair: ModelPair, processes: int
) -> dict[str, tables.Specification]:
    """What would be simulated of a study, by stage; none with adapters, or a teacher elsewhere."""
    student, teacher = pair.student.config, pair.teacher.config
    made = {}
    prompt = max(task.max_prompt_tokens for task in config.benchmarks)
    new = config.statistics.max_new_tokens
    if config.models is None and config.pair.teacher_device == "same":
        made[STATISTICS] = tables.statistics(student, teacher, prompt, new)
        for name in STAGES:
            stage = config.stage(name)
            if stage.lora_rank is None:
                longest = config.trained_on.max_prompt_tokens
                made[name] = tables.training(student, teacher, stage, longest, processes)
    return made


def stages(
    config: StudyConfig, pair: ModelPair, processes: int, device: Device
) -> Iterator[tuple[Cost, bool]]:
    """Every stage's cost on a CUDA device, and whether it is simulated."""
    asked = specifications(config, pair, processes)
    for cost in estimates.stages(config, pair, processes, device):
        found = tables.stored(asked[cost.stage]) if cost.stage in asked else None
        if found is None:
            yield cost, False
        elif cost.stage == STATISTICS:
            yield _statistics(cost, found, config, pair, device, processes), True
        else:
            yield _training(cost, found, config, pair, device, processes), True


def _training(
    cost: Cost,
    found: dict[str, Any],
    config: StudyConfig,
    pair: ModelPair,
    device: Device,
    processes: int,
) -> Cost:
    """Memory and hours of a training from its simulated step."""
    stage = config.stage(cost.stage)
    step = tables.step(found, stage.batches(processes)[1])
    before = _arithmetic_seconds(config, cost.stage, pair, device, processes)
    hours = cost.hours + stage.steps * (seconds(step, device) - before) / 3600
    kept = {name: cost.parts[name] for name in ("loaded", "rollouts") if name in cost.parts}
    return replace(cost, parts=parts(step) | kept, hours=hours)


def parts(step: tables.Step) -> dict[str, float]:
    """Bytes of a step at its peak, by use."""
    lasting = {name: getattr(step, name) for name in ("weights", "moments", "teacher")}
    return lasting | {"gradients, activations, heads": step.peak - sum(lasting.values())}


def seconds(step: tables.Step, device: Device) -> float:
    """Seconds of a step's FLOPs at the stated share, or of its communication if that is longer."""
    computing = step.flops / (device.flops * estimates.TRAINING)
    links = {many: LINKS["node" if many <= estimates.NODE else "cluster"] for many in step.received}
    receiving = sum(n / (links[many] * estimates.READING) for many, n in step.received.items())
    return max(computing, receiving)


def _arithmetic_seconds(
    config: StudyConfig, name: str, pair: ModelPair, device: Device, processes: int
) -> float:
    """Seconds of a step's FLOPs in the arithmetic, which the simulation replaces."""
    given = config.stage(name).model_copy(update={"source": "teacher"})  # no rollouts
    on = Setting(config.trained_on.max_prompt_tokens, processes, device)
    return 3600 * estimates.training(name, given, pair, on).hours / given.steps


def _statistics(
    cost: Cost,
    found: dict[str, Any],
    config: StudyConfig,
    pair: ModelPair,
    device: Device,
    processes: int,
) -> Cost:
    """The larger of sampling's memory and the token table's, whose FLOPs replace the arithmetic."""
    how = config.statistics
    beside = 2 * pair.student.parameters  # the pair's own student
    models = {"teacher": found["teacher"], "checkpoints": found["students"], "student": beside}
    rest = found["peak"] - found["teacher"] - found["students"]
    table: dict[str, float] = models | {"activations and tiles": rest}
    prompt = max(task.max_prompt_tokens for task in config.benchmarks)
    on = Setting(prompt, processes, device)
    n, student = how.n_prompts, pair.student
    held = beside + 2 * pair.teacher.parameters
    made = estimates.sampling(STATISTICS, how, student, n, on, held)
    tokens = how.n_prompts * how.samples * (prompt + how.max_new_tokens) / processes
    flops = found["flops"] * tokens / found["tokens"]
    hours = made.hours + flops / (device.flops * estimates.TRAINING) / 3600
    largest = max(made.parts, table, key=lambda used: sum(used.values()))
    return replace(cost, parts=largest, hours=hours)


def advice(
    config: StudyConfig, pair: ModelPair, cost: Cost, processes: int, device: Device
) -> str | None:
    """The first setting tried that makes a stage fit a device; None without one.

    Memory changes as the arithmetic's does, from what `cost` has.
    """
    if cost.host or cost.memory <= device.memory:
        return None
    for line, changed, many, card in _changes(config, cost.stage, processes, device):
        try:
            other = _of(estimates.stages(changed, pair, many, card), cost.stage)
            now = _of(estimates.stages(config, pair, processes, device), cost.stage)
        except StudyError:
            continue
        if other is None or now is None:
            continue
        if cost.memory + other.memory - now.memory <= card.memory:
            return line
    return None


def _of(costs: list[Cost], stage: str) -> Cost | None:
    return next((cost for cost in costs if cost.stage == stage), None)


def _changes(
    config: StudyConfig, name: str, processes: int, device: Device
) -> Iterator[tuple[str, StudyConfig, int, Device]]:
    """Settings in the order of what they cost, with a line that names each."""
    if name in STAGES:
        stage = config.stage(name)
        for settings in _cheaper(stage):
            line = " ".join(f"-p {name}__{field} {_shown(value)}" for field, value in settings)
            changed = config.model_copy(update={name: stage.model_copy(update=dict(settings))})
            yield line, changed, processes, device
        for many in (8, 16):
            if many > processes:
                yield f"--processes {many}", config, many, device
    card = next(one for one in estimates.DEVICES if one.name == FASTER)
    if card.memory > device.memory:
        yield f"--device {FASTER}", config, processes, card


def _cheaper(stage: StageConfig) -> Iterator[tuple[tuple[str, Any], ...]]:
    recomputed = () if stage.gradient_checkpointing else (("gradient_checkpointing", True),)
    if recomputed:
        yield recomputed
    micro = stage.micro_batch
    while micro > 1:
        micro //= 2
        yield (("micro_batch", micro), *recomputed)


def _shown(value: Any) -> str:
    return str(value).lower()
