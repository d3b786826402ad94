"""Training a student in two stages, each computed once in a run, resumable, the same twice.

Stage 1 learns from the teacher's completions, stage 2 from the student's own (paper 1); what their
losses are is in `rockstudy.training.trainer`, what they train on in `rockstudy.training.prompts`.

A stage is one folder, ``<run>/training/<stage>-<arm>-s<seed>-<key>``: a checkpoint for every name
in ``keep``, and the tables ``metrics``, ``type_losses``, ``timing``. Until it is complete,
checkpoints in transformers' own format lie under the same name with ``.partial``. A killed run goes
on from the last one and ends with the same bytes. Prompts and the random numbers of the rollouts
depend on (seed, stage, step) alone, never on the arm: arms are paired.

Where several processes train (`rockstudy.cli.measure`), each of them calls `train`, and only the
first one reads and writes the run's folder. With FSDP2 (``launch/fsdp2.yaml``) student and teacher
are sharded, and TRL itself samples the student's rollouts, with other random numbers.
"""

import contextlib
import copy
import gc
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from accelerate.utils import parse_flag_from_env
from transformers import PrinterCallback, TrainerCallback
from trl import DistillationConfig

from rockstudy import progress, tasks
from rockstudy.config.fields import STAGES, StageConfig
from rockstudy.config.identity import identity
from rockstudy.models import adapters, compiled, loading
from rockstudy.parallel.distributed import agreed, once, together
from rockstudy.parallel.placement import places
from rockstudy.progress import notice
from rockstudy.runs import Run
from rockstudy.store import cache, files, resumable
from rockstudy.store.code import kept_apart
from rockstudy.store.files import read_tensors
from rockstudy.store.seeds import torch_seed
from rockstudy.training.optimizers import Optimizer
from rockstudy.training.position_weights import WeightFunction, describe
from rockstudy.training.prompts import lessons
from rockstudy.training.trainer import LEDGER, DistillTrainer

TABLES = ("metrics", "type_losses", "timing")
_CHECKPOINTING = next(  # the name that transformers gives it; the second until 5.17 and beyond
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if hasattr(DistillationConfig, name)
)


@dataclass(frozen=True)
class TrainResult:
    """A trained stage.

    ``checkpoints`` are folders in transformers' format by name; ``late``, the end of training, has
    the ``hash``, the same for the same weights. The tables have a row per logging window:

    metrics
        ``step, loss, rkl, student_entropy, lr, grad_norm, n_tokens, n_kept, mean_weight,
        mean_length, stopped_share``. ``rkl`` is the mean per projected token in nats, NaN where the
        stage's loss has no reverse KL; ``n_kept`` counts the projected positions, and
        ``mean_weight`` is over all completion tokens.
    type_losses
        One per token type: ``step, token_id, count, rkl_sum``; empty where ``rkl`` is NaN.
    timing
        Seconds per optimiser step by phase, ``tokens_per_s``. The backward pass counts as ``head``
        until it has gone through the LM heads, then as ``student``; ``optimizer`` is clipping and
        the update.
    """

    checkpoints: dict[str, Path]
    metrics: pd.DataFrame
    type_losses: pd.DataFrame
    timing: pd.DataFrame
    hash: str


@kept_apart
def train(
    run: Run,
    stage: str,
    *,
    seed: int,
    arm: str = "baseline",
    weights: WeightFunction | None = None,
    optimizer: Optimizer | None = None,
) -> TrainResult:
    """Train one stage, or read it back when the run has it; a killed one is continued.

    ``stage2`` starts from the end of ``stage1`` at the study's seed. `seed` is for the order of
    prompts and the rollouts, `arm` (the regime) is part of the folder's name, and `weights` is a
    dataclass (`training.position_weights`); None is 1 everywhere. With an `optimizer` each
    checkpoint holds what it remembers (`training.optimizers`); None is AdamW, which keeps nothing.

    `StudyError`: too few problems, a loss or weights that are not finite, anything wrong with the
    pair or the run's files.
    """
    job = _Job(run, stage, seed, arm, weights, optimizer)
    with _quiet():
        place = run.addressed("training", job.name, **job.key, by=train)
        folder = once(place, job.fill).path
    tables = {name: cache.load(folder / name) for name in TABLES}
    checkpoints = {name: folder / name for name in run.config.stage(stage).keep}
    return TrainResult(checkpoints, **tables, hash=cache.hash_folder(checkpoints["late"]))


def is_trained(
    run: Run,
    stage: str,
    *,
    seed: int,
    arm: str = "baseline",
    weights: WeightFunction | None = None,
    optimizer: Optimizer | None = None,
) -> bool:
    """Whether `train` with the same arguments would only read."""
    if stage != "stage1" and not is_trained(run, "stage1", seed=run.config.seed):
        return False
    job = _Job(run, stage, seed, arm, weights, optimizer)
    return run.is_stored("training", job.name, **job.key)


@contextlib.contextmanager
def _freed() -> Iterator[None]:
    """Free the memory of a trainer, a cycle of objects, at the end of what made it."""
    try:
        yield
    finally:
        gc.collect()
        torch.cuda.empty_cache()


@_freed()
def timed(
    run: Run, stage: str, *, seed: int, steps: int, weights: WeightFunction | None = None
) -> pd.DataFrame:
    """Train the first steps of a stage to time them: `TrainResult.timing`, a row per step.

    Nothing is stored, and of the stored artefacts only the start of the stage is used.
    """
    short = {"steps": steps, "logging_steps": 1, "keep": {}}
    settings = run.config.stage(stage).model_copy(update=short)
    job = _Job(run, stage, seed, "timed", weights)

    with _quiet(), tempfile.TemporaryDirectory(prefix="rockstudy-") as folder:
        trainer = job.trainer(settings, Path(folder))
        trainer.train()
        return trainer.ledger.table("timing")


@dataclass(frozen=True)
class _Job:
    """One stage to be trained, from the pair's student or from a checkpoint."""

    run: Run
    stage: str
    seed: int
    arm: str
    weights: WeightFunction | None
    optimizer: Optimizer | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.arm}-s{self.seed}"

    @cached_property
    def first(self) -> TrainResult | None:
        """Stage 1, which stage 2 starts from: it is trained first, at the study's seed."""
        if self.stage == "stage1":
            return None
        return train(self.run, "stage1", seed=self.run.config.seed)

    @property
    def key(self) -> dict[str, Any]:
        """Configuration and inputs that determine the result."""
        config, pair = self.describe(), self.run.config.pair
        start = self.first.hash if self.first else loading.identity_of(pair, "student")
        inputs = {"teacher": loading.identity_of(pair, "teacher"), "student": start}
        return {"config": config, "inputs": lambda: inputs}

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the result; the models are inputs."""
        config = self.run.config
        settings = {k: v for k, v in identity(config.stage(self.stage)).items() if v is not None}
        own = {} if self.optimizer is None else {"optimizer": self.optimizer.kind}
        return own | {
            "stage": settings,
            "task": tasks.identity(config.trained_on),
            "prompts": [s.steps * s.prompts_per_step for s in map(config.stage, STAGES)],
            "split_seed": config.seed,
            "seed": self.seed,
            "weights": describe(self.weights),
        }

    @_freed()
    def fill(self, folder: Path) -> None:
        """Train into a folder that may hold the checkpoints of a killed run."""
        settings, here = self.run.config.stage(self.stage), together()
        if settings.compiled and not torch.cuda.is_available():
            compiled.check_compiler(f"{self.stage}__compiled")
        checkpoint = agreed(_last_whole(folder) if here.is_main_process else None)
        if settings.report_to == "tensorboard":
            os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.run.path / "tensorboard" / self.name)
        shown = progress.bar(settings.steps, f"{self.stage} seed {self.seed}", "step")
        with shown if here.is_main_process else contextlib.nullcontext() as bar:
            trainer = self.trainer(settings, folder, bar)
            if checkpoint is not None:
                state = read_tensors(checkpoint / LEDGER)
                trainer.ledger.restore(state, here.process_index, here.num_processes)
                before = resumable.sealed(checkpoint) if here.is_main_process else {}
                trainer.kept = {n: before[n] for n in before if n.split("/")[0] in settings.keep}
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if here.is_main_process:
            for name in TABLES:
                table = trainer.ledger.table(name)
                cache.save(folder / name, table, config=self.describe(), seed=self.seed)
            files.remove(*folder.glob("checkpoint-*"))

    def trainer(
        self, settings: StageConfig, folder: Path, bar: progress.Bar | None = None
    ) -> DistillTrainer:
        """Return a trainer of this job, as long as `settings` say."""
        pair, task = loading.pair_of(self.run), self.run.config.trained_on
        if self.first is None:
            student = copy.deepcopy(pair.student)
        else:
            start, device = str(self.first.checkpoints["late"]), places("same").student
            student = loading.load_model(start, dtype="float32", device=device)
        fast = loading.is_fastest_in_bfloat16(self.run.config.pair)
        arguments, lora = _arguments(settings, folder, task.max_prompt_tokens, fast), None
        if settings.lora_rank is not None:
            lora = adapters.adapters(settings.lora_rank)
            arguments.seed = torch_seed(self.seed, f"{self.stage}-lora")  # draws their start
        if settings.compiled:
            compiled.compile_layers(student)
        ours = {"stage": settings, "name": self.stage, "seed": self.seed, "weights": self.weights}
        ours |= {"own_optimizer": self.optimizer}
        made = DistillTrainer(
            **ours,
            model=student.float(),  # what the optimiser adds to; autocast may compute in bf16
            teacher_model=pair.teacher,
            processing_class=pair.tokenizer,
            args=arguments,
            peft_config=lora,
            train_dataset=lessons(self.run, self.stage, self.seed),
        )
        made.remove_callback(PrinterCallback)
        made.add_callback(_Keeper(made, folder, bar))
        return made


class _Keeper(TrainerCallback):
    """Times the optimiser, keeps the named checkpoints, moves the bar of the main process."""

    def __init__(self, trainer: DistillTrainer, folder: Path, bar: progress.Bar | None) -> None:
        self.trainer, self.folder, self.bar = trainer, folder, bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step)  # what a resumed run has done

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.clock.lap("other")  # logs and checkpoints between two steps: in neither
        self.trainer.clock.drain()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.clock.lap("optimizer")
        self.trainer.ledger.add_step(self.trainer.clock.drain())
        control.should_log |= state.global_step == state.max_steps
        for name, share in self.trainer.stage.keep.items():
            if state.global_step == max(1, round(share * state.max_steps)):
                self.trainer.keep(self.folder / name)
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = {k: v for k, v in kwargs["logs"].items() if k in ("loss", "rkl") and v == v}
        if self.bar is not None and last:
            self.bar.set_postfix(**last)


def _arguments(
    settings: StageConfig, folder: Path, max_prompt_tokens: int, bf16_on_cpu: bool = False
) -> DistillationConfig:
    """The stage in TRL's terms."""
    cuda = torch.cuda.is_available()
    micro, parts = settings.batches(together().num_processes)
    arguments = DistillationConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=parts,
        max_steps=settings.steps,
        learning_rate=settings.lr,
        lr_scheduler_type="constant_with_warmup",  # ours: the paper names the warm-up only
        warmup_steps=math.ceil(settings.warmup_ratio * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.keep else "no",
        save_steps=settings.save_steps,
        save_total_limit=2,  # of which the older is complete while the newer is written
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature or 1.0,
        top_p=settings.top_p,
        top_k=0 if settings.temperature else 1,  # greedy, where TRL writes the rollouts
        **{_CHECKPOINTING: settings.gradient_checkpointing and not _fsdp_checkpoints()},
        vllm_max_model_length=max_prompt_tokens + settings.max_new_tokens,
        disable_dropout=True,
        ddp_find_unused_parameters=False,
        bf16=cuda or bf16_on_cpu,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        log_level="error",
        report_to=settings.report_to,
    )
    arguments._n_gpu = 1  # a process trains on one device, however many it sees: no DataParallel
    return arguments


def _fsdp_checkpoints() -> bool:
    """Whether FSDP checkpoints activations (`accelerate launch`), so that the trainer must not."""
    names = ("ACCELERATE_USE_FSDP", "FSDP_ACTIVATION_CHECKPOINTING")
    return all(parse_flag_from_env(name) for name in names)


def _last_whole(folder: Path) -> Path | None:
    """The newest resume checkpoint that is whole, with what was kept before it; None: the start.

    Newer ones are removed, and so is what an interrupted process was writing.
    """
    files.remove(*folder.glob(".*.tmp"))
    refused, whole = {}, None
    for one in sorted(folder.glob("checkpoint-*"), key=lambda c: -int(c.name.split("-")[1])):
        if (reason := resumable.damage(one)) is None:
            whole = one
            break
        refused[one] = reason
    for one, reason in refused.items():
        start = whole.name if whole else "the start"
        notice(f"{one}: not used, {reason}; training goes on from {start}")
    files.remove(*refused)
    return whole


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own bars and notices away from ours."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads it from every model
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
