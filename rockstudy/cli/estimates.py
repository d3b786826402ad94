"""Estimated memory and time of a study's stages on CUDA devices, from the models' dimensions.

Memory of a training process, with P parameters of the student sharded by FSDP2 over S processes
(AdamW in float32 under bf16 mixed precision):

    4 P / S weights + 4 P / S gradients + 8 P / S moments + the bf16 copies that are multiplied with
    + activations of a micro-batch + the head: two logits tiles, its gradient, its gathered weights
    + the teacher, 2 bytes a parameter: whole, or in shards over a node, or elsewhere
    + the rollouts

Times are FLOPs over `TRAINING` of the device's peak. Decoding reads the weights and the cache of
keys and values once per new token, or takes the time of its FLOPs, whichever is longer.

Every completion counts at its token limit, so these are upper bounds if completions stop early.
Fragmentation and CUDA's own memory are left out. The shares below are ours, and none has been
measured on a device. `rockstudy.cli.simulated` replaces the parts that a simulation has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rockstudy.beyond.freezing import arms as freezing
from rockstudy.cli.dimensions import Dimensions
from rockstudy.config.fields import STAGES, EvalConfig, StageConfig, StudyConfig
from rockstudy.selective import arms

TRAINING = 0.4  # ours: share of peak FLOPs in training and in scoring given tokens
READING = 0.5  # ours: share of peak bandwidth in decoding
TILE = (4096, 32_768)  # divergence._CUDA_TILE
ENGINE_SHARE = 0.9  # vllm_engine.SHARE: share of the free memory
VLLM_SHARE = 0.3  # TRL's vllm_gpu_memory_utilization, colocated
NODE = 8  # ours: devices of a node, over which the teacher is sharded
TABLE_BYTES = 40  # ours: bytes of the token table per completion token


@dataclass(frozen=True)
class Device:
    """A CUDA device: bytes of memory, dense bf16 FLOPs and bytes read per second."""

    name: str
    memory: float
    flops: float
    bandwidth: float


DEVICES = (  # facts: NVIDIA's data sheets, SXM versions
    Device("H200", 141e9, 989e12, 4.8e12),
    Device("H100", 80e9, 989e12, 3.35e12),
    Device("A100", 80e9, 312e12, 2.04e12),
)
STATED = DEVICES[1]


class ModelPair(NamedTuple):
    """Dimensions of the two models."""

    student: Dimensions
    teacher: Dimensions


class Setting(NamedTuple):
    """What a stage runs on: prompts up to a number of tokens, and processes with a device each."""

    prompt: int
    processes: int = 1
    device: Device = STATED


@dataclass(frozen=True)
class Cost:
    """One stage: bytes of one process by use, and hours of all processes together.

    With ``host`` the bytes are a node's own memory, for all its processes.
    """

    stage: str
    parts: dict[str, float]
    hours: float
    host: bool = False

    @property
    def memory(self) -> float:
        """Total number of bytes."""
        return sum(self.parts.values())


def training_state(
    student: Dimensions, shards: int = 1, lora_rank: int | None = None
) -> dict[str, float]:
    """Bytes of weights, gradients, AdamW's two moments (float32, sharded) and bf16 copies.

    A single process has a bf16 copy of all weights. Adapters add to the weights, and only they have
    gradients and moments.
    """
    adapters = 0 if lora_rank is None else student.adapters(lora_rank)
    weights = 4 * (student.parameters + adapters) / shards
    gradients = 4 * adapters / shards or weights
    working = student.parameters if shards == 1 else _gathered(student)
    sizes = {"weights": weights, "gradients": gradients, "moments": 2 * gradients}
    return sizes | {"bf16": 2 * (working + adapters)}


def _gathered(model: Dimensions) -> int:
    """Parameters that FSDP2 gathers: those outside layers, of the current layer and the next."""
    return model.parameters - (len(model.layers) - 2) * model.layer


def head_bytes(student: Dimensions, positions: int, shards: int = 1) -> float:
    """Bytes of the projection: two tiles, the float32 gradients of head and states, the whole head.

    FSDP2's shards of the head are gathered in float32; in one process it is there already.
    """
    tiles = 2 * 4 * min(positions, TILE[0]) * min(student.config.vocab_size, TILE[1])
    states = 4 * positions * student.config.hidden_size
    return tiles + states + 4 * student.head * (1 if shards == 1 else 2)


def training(
    name: str, settings: StageConfig, pair: ModelPair, on: Setting, teacher_shards: int = 1
) -> Cost:
    """Cost one training of a stage, with its rollouts if the student samples them.

    FSDP2 shards the student over all processes, and the teacher, in bf16, over `teacher_shards`;
    with 0 it has a device of its own. `StudyError` if the rollouts do not divide evenly.
    """
    (student, teacher), (prompt, processes, device) = pair, on
    micro, _ = settings.batches(processes)
    length = prompt + settings.max_new_tokens
    rollouts = settings.prompts_per_step * settings.rollouts_per_prompt
    checkpointing = settings.gradient_checkpointing
    parts = training_state(student, processes, settings.lora_rank) | {
        "activations": student.activations(micro * length, checkpointing),
        "head": head_bytes(student, micro * settings.max_new_tokens, processes),
        "teacher": 2 * teacher.parameters / teacher_shards if teacher_shards else 0.0,
    }
    if teacher_shards > 1:
        parts["teacher"] += 2 * _gathered(teacher)
    if processes == 1:
        parts["loaded"] = 2 * student.parameters  # the pair's student
    tokens = rollouts * length
    flops = student.training_flops(tokens, length, checkpointing)
    flops += teacher.forward_flops(tokens, length)
    seconds = flops / (processes * device.flops * TRAINING)
    if settings.source == "student":
        local, new = rollouts // processes, settings.max_new_tokens
        vllm = VLLM_SHARE * device.memory
        parts["rollouts"] = vllm if settings.engine == "vllm" else student.cache(local, length)
        seconds += decoding(student, local, prompt, new, device)
    return Cost(name, parts, settings.steps * seconds / 3600)


def decoding(model: Dimensions, rows: int, prompt: int, new: int, device: Device = STATED) -> float:
    """Seconds for one device to continue rows of `prompt` tokens by `new` tokens each."""
    read = 2 * model.parameters + model.cache(rows, prompt + new // 2)
    flops = model.forward_flops(rows, 2 * prompt + new)  # attention to prompt + new / 2 on average
    return new * max(read / (device.bandwidth * READING), flops / (device.flops * TRAINING))


def sampling(
    name: str, how: EvalConfig, model: Dimensions, prompts: int, on: Setting, beside: float = 0.0
) -> Cost:
    """Cost completions by processes with a device each, of which `beside` bytes are taken.

    vLLM decodes as many rows at a time as fit into its share of the free memory, and the models on
    the device wait in the machine's memory.
    """
    completions = -(-prompts // on.processes) * how.samples
    row = model.cache(1, on.prompt + how.max_new_tokens)
    parts = {"weights": 2 * model.parameters, "rollouts": 0, "beside": beside}
    most = how.batch_size
    if how.engine == "vllm":
        most = max(1, int((ENGINE_SHARE * on.device.memory - parts["weights"]) // row))
        parts |= {"beside": 0.0, "left free": (1 - ENGINE_SHARE) * on.device.memory}
    rows = min(most, completions)
    parts["rollouts"] = rows * row
    seconds = decoding(model, rows, on.prompt, how.max_new_tokens, on.device)
    return Cost(name, parts, completions / rows * seconds / 3600)


def stages(
    config: StudyConfig, pair: ModelPair, processes: int = 1, device: Device = STATED
) -> list[Cost]:
    """Cost every stage of a study in order, each on all processes (`rockstudy.cli.measure`)."""
    student, teacher = (2 * model.parameters for model in pair)
    elsewhere = config.pair.teacher_device == "next"
    n = sum(min(task.n_eval, config.evaluation.n_prompts) for task in config.benchmarks)
    on = Setting(max(task.max_prompt_tokens for task in config.benchmarks), processes, device)
    beside = student if elsewhere else student + teacher
    name, how = "evaluation of a checkpoint", config.knockout
    return [
        *(_trainings(config, pair, processes, device) if config.models is None else []),
        sampling(name, config.evaluation, pair.student, n, on, beside),
        _statistics(config.statistics, pair, on, beside),
        sampling("knockout before candidates", how, pair.student, how.n_prompts, on, beside),
    ]


def _trainings(
    config: StudyConfig, pair: ModelPair, processes: int, device: Device
) -> Iterator[Cost]:
    """Cost the loading of the models, the teacher's completions and both stages of training."""
    student, teacher = (2 * model.parameters for model in pair)
    task, stage1 = config.trained_on, config.stage("stage1")
    elsewhere = config.pair.teacher_device == "next"
    on = Setting(task.max_prompt_tokens, processes, device)
    yield _loading(student, teacher, processes, elsewhere)
    if stage1.source == "teacher":
        same = {name: getattr(stage1, name) for name in ("max_new_tokens", "engine")}
        how = config.evaluation.model_copy(update=same | {"samples": stage1.rollouts_per_prompt})
        prompts = min(config.pools(task.n_train)[0], stage1.steps * stage1.prompts_per_step)
        beside = 3 * student if processes == 1 and not elsewhere else 0
        yield sampling("teacher's completions", how, pair.teacher, prompts, on, beside)
    shards = 0 if elsewhere else min(processes, NODE)
    for name in STAGES:
        yield training(name, config.stage(name), pair, on, shards)


def _loading(student: float, teacher: float, processes: int, elsewhere: bool) -> Cost:
    """The pair and the trained float32 student; with FSDP2 they are loaded on the CPU."""
    parts = {} if elsewhere else {"teacher": teacher}
    parts |= {"student": student, "float32 student": 2 * student}
    if processes == 1:
        return Cost("loading", parts, 0.0)
    whole = {name: min(processes, NODE) * size for name, size in parts.items()}
    return Cost("loading, host memory of a node", whole, 0.0, host=True)


def _statistics(how: EvalConfig, pair: ModelPair, on: Setting, beside: float) -> Cost:
    """Completions, then one pass each of the teacher and the student before and after OPD."""
    made = sampling("statistics", how, pair.student, how.n_prompts, on, beside)
    length = on.prompt + how.max_new_tokens
    tokens = how.n_prompts * how.samples * length / on.processes
    flops = sum(model.forward_flops(tokens, length) for model in (*pair, pair.student))
    checkpoints = {"checkpoints": 4 * pair.student.parameters, "pair": beside}
    parts = max(made.parts, checkpoints, key=lambda used: sum(used.values()))  # in turn
    return Cost(made.stage, parts, made.hours + flops / (on.device.flops * TRAINING) / 3600)


def disk(config: StudyConfig, student: Dimensions) -> dict[str, float]:
    """Bytes of a run on disk, permanent or temporary, by use.

    Named checkpoints are float32. Resume checkpoints include AdamW's moments (with adapters fewer
    than estimated), and a third one is written before the oldest of two is deleted. Token ids take
    4 bytes. Given models are not copied.
    """
    how, trained = config.evaluation, {}
    graded = sum(min(task.n_eval, how.n_prompts) for task in config.benchmarks) * how.samples
    tokens = 2 * graded * how.max_new_tokens
    if config.models is None:
        first, second = map(config.stage, STAGES)
        planned = arms.plan(config) + freezing.plan(config)
        kept = len(first.keep) + len(planned) * len(second.keep)
        answers = first.steps * first.prompts_per_step * first.rollouts_per_prompt
        tokens = graded * how.max_new_tokens * (kept + 1 + len(config.seeds))
        tokens += answers * first.max_new_tokens
        trained = {
            "checkpoints": 4 * student.parameters * kept,
            "resuming": 3 * 12 * student.parameters,
        }
    measured = config.statistics.n_prompts * config.statistics.samples
    return trained | {
        "token ids": 4 * tokens,
        "token table": TABLE_BYTES * measured * config.statistics.max_new_tokens,
    }
