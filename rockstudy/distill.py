"""Training a student in two stages, each computed once in a run, resumable, the same twice.

Stage 1 learns from the teacher's completions, stage 2 from the student's own (paper 1); what their
losses are is in `rockstudy.trainer`. The training problems are shuffled once and divided between
the stages in proportion to the prompts that they need: stage 2 sees other prompts than stage 1.

A stage is one folder, ``<run>/<stage>-<arm>-s<seed>/training``: a checkpoint for every name in
``keep``, and the tables ``metrics``, ``type_losses``, ``timing``. Until it is complete, checkpoints
of transformers' own kind lie in ``training.partial``: a killed run goes on from the last one and
ends with the same bytes. Prompts, and the random numbers of the rollouts, depend on (seed, stage,
step) alone, never on the arm: arms are paired.

On several processes (``accelerate launch -m rockstudy.distill``) every one calls `train`; the first
alone reads and writes the run's folder.
"""

import contextlib
import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import transformers
import typer
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, TrainerCallback
from trl import DistillationConfig

from rockstudy import models, paths, progress, rollout, store, tasks
from rockstudy.config import StageConfig, StudyConfig, StudyError, fingerprint, from_parameters
from rockstudy.files import read_tensors
from rockstudy.trainer import LEDGER, DistillTrainer
from rockstudy.weights import WeightFunction, describe

TABLES = ("metrics", "type_losses", "timing")


@dataclass(frozen=True)
class TrainResult:
    """A trained stage.

    Attributes
    ----------
    checkpoints
        Folder in transformers' format by name; ``late`` is the end of training.
    metrics
        Per logging window: ``step, loss, rkl, student_entropy, lr, grad_norm, n_tokens, n_kept,
        mean_length, stopped_share``. ``rkl`` is the mean per projected token in nats, NaN where the
        stage's loss has no reverse KL; ``n_kept`` counts the projected positions.
    type_losses
        Per logging window and token type: ``step, token_id, count, rkl_sum``; empty like ``rkl``.
    timing
        Per logging window: seconds per optimiser step by phase, ``tokens_per_s``. The backward pass
        counts as ``head`` until it has gone through the LM heads, then as ``student``;
        ``optimizer`` is clipping and the update.
    hash
        Of the ``late`` checkpoint: the same for the same weights.
    """

    checkpoints: dict[str, Path]
    metrics: pd.DataFrame
    type_losses: pd.DataFrame
    timing: pd.DataFrame
    hash: str


def train(
    config: StudyConfig,
    stage: str,
    *,
    run: Path,
    seed: int,
    arm: str = "baseline",
    weights: WeightFunction | None = None,
    pair: models.Pair | None = None,
) -> TrainResult:
    """Train one stage, or read it back when the run holds it; a killed one is continued.

    Parameters
    ----------
    config
        The study. Stage 2 starts from the end of stage 1, trained before at ``config.seed``.
    stage
        ``stage1`` or ``stage2``.
    run
        Folder of the run.
    seed
        Training seed: the order of prompts and the rollouts.
    arm
        Name of the regime, part of the folder's name.
    weights
        Position weights, a dataclass (`rockstudy.weights`); None is 1 everywhere.
    pair
        ``config.pair`` where it is already loaded; it is not changed.

    Raises
    ------
    StudyError
        Too few problems, a loss or weights that are not finite, anything wrong with the pair or the
        run's files.
    """
    settings, state = config.stage(stage), _processes()
    pair = pair or models.load_pair(config.pair)
    inputs = {"teacher": models.weights_hash(pair.teacher)}
    if stage == "stage1":
        student = copy.deepcopy(pair.student)
        inputs["student"] = models.weights_hash(student)
    else:
        first = train(config, "stage1", run=run, seed=config.seed, pair=pair)
        inputs["student"] = first.hash
        student = models.load_model(str(first.checkpoints["late"]), dtype="float32")
    job = _Job(config, stage, Path(run), seed, weights, pair, student)
    described = job.describe() | {"arm": arm}
    folder = f"{stage}-{arm}-s{seed}"
    with _quiet():
        made = _once(
            state,
            lambda compute: store.cached_folder(
                Path(run), folder, "training", config=described, inputs=inputs, compute=compute
            ),
            job.fill,
        )
    tables = {name: store.load(made / name) for name in TABLES}
    checkpoints = {name: made / name for name in settings.keep}
    return TrainResult(checkpoints, **tables, hash=store.hash_folder(checkpoints["late"]))


@dataclass(frozen=True)
class _Job:
    """One stage to be trained."""

    config: StudyConfig
    stage: str
    run: Path
    seed: int
    weights: WeightFunction | None
    pair: models.Pair
    student: Any

    @property
    def settings(self) -> StageConfig:
        return self.config.stage(self.stage)

    def describe(self) -> dict[str, Any]:
        """Return what the result depends on, beside the models."""
        return {
            "stage": self.settings.model_dump(mode="json", exclude={"report_to"}),
            "task": self.config.train_task.model_dump(mode="json"),
            "steps": [self.config.stage1.steps, self.config.stage2.steps],
            "seed": self.seed,
            "split_seed": self.config.seed,
            "weights": describe(self.weights),
        }

    def fill(self, folder: Path) -> None:
        """Train into a folder that may hold the checkpoints of a killed run."""
        settings, checkpoint = self.settings, _last_complete(folder)
        if settings.report_to == "tensorboard":
            os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.parent / "tensorboard")
        with progress.bar(settings.steps, f"{self.stage} seed {self.seed}", "step") as bar:
            trainer = DistillTrainer(
                stage=settings,
                name=self.stage,
                seed=self.seed,
                weights=self.weights,
                model=self.student.float(),  # the optimiser's own copy; autocast does the rest
                teacher_model=self.pair.teacher,
                args=_arguments(settings, folder, self.config.train_task.max_prompt_tokens),
                train_dataset=self._rows(),
                processing_class=self.pair.tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_Keeper(trainer, folder, bar))
            if checkpoint is not None:
                trainer.ledger.restore(read_tensors(checkpoint / LEDGER))
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if trainer.accelerator.is_main_process:
            for name in TABLES:
                table = getattr(trainer.ledger, name)()
                store.save(folder / name, table, config=self.describe(), seed=self.seed)
            for rest in (*folder.glob("checkpoint-*"), folder / "training_args.bin"):
                _remove(rest)

    def _rows(self) -> list[dict[str, Any]]:
        """One row per prompt and step, in the order of training."""
        prompts, order = self._prompts()
        rows: list[dict[str, Any]] = [{"prompt_ids": ids} for ids in prompts]
        if self.settings.source == "teacher":
            completions = self._teacher_completions(prompts)
            rows = [row | given for row, given in zip(rows, completions, strict=True)]
        return [rows[i] for i in order]

    def _prompts(self) -> tuple[list[list[int]], Sequence[int]]:
        """The token ids of the stage's prompts, and which of them each place in training takes."""
        known = tasks.load(self.config.train_task, "train")
        known = list(dict.fromkeys(problem.prompt for problem in known))
        needs = [s.steps * s.prompts_per_step for s in (self.config.stage1, self.config.stage2)]
        if len(known) < 2:
            raise StudyError(
                "train_task__n_train: must give each of the two stages a prompt of its own; "
                f"got {len(known)} distinct"
            )
        shuffled = store.rng(self.config.seed, "split").permutation(len(known))
        cut = min(max(round(len(known) * needs[0] / sum(needs)), 1), len(known) - 1)
        mine = shuffled[:cut] if self.stage == "stage1" else shuffled[cut:]
        order = _epochs(mine, needs[self.stage == "stage2"], self.seed, self.stage)
        used = list(dict.fromkeys(order.tolist()))
        place = {problem: i for i, problem in enumerate(used)}
        limit = self.config.train_task.max_prompt_tokens
        ids = rollout.prompt_ids(self.pair.tokenizer, [known[i] for i in used], limit)
        return ids, [place[i] for i in order.tolist()]

    def _teacher_completions(self, prompts: list[list[int]]) -> list[dict[str, Any]]:
        """Completions that the teacher samples once for every prompt, as token ids."""
        settings, config = self.settings, self.config
        sampling = {"temperature", "top_p", "max_new_tokens", "rollouts_per_prompt"}
        described = settings.model_dump(mode="json", include=sampling) | {"seed": self.seed}

        def compute(_: Any = None) -> pd.DataFrame:
            return rollout.generate(
                self.pair.teacher,
                self.pair.tokenizer,
                prompts,
                samples=settings.rollouts_per_prompt,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_new_tokens=settings.max_new_tokens,
                batch_size=config.evaluation.batch_size,
                seed=store.torch_seed(self.seed, f"{self.stage}-teacher"),
                desc="teacher's completions",
            ).to_frame()

        state = _processes()
        path = self.run / f"{self.stage}-teacher-s{self.seed}"
        if state.is_main_process:
            store.cached(
                self.run,
                path.name,
                "rollouts",
                config=described,
                inputs={
                    "teacher": models.weights_hash(self.pair.teacher),
                    "prompts": fingerprint(prompts),
                },
                compute=compute,
            )
        state.wait_for_everyone()
        frame = store.load(path / "rollouts")
        return [
            {
                "completions": [ids.tolist() for ids in group["completion_ids"]],
                "stopped": group["stopped"].tolist(),
            }
            for _, group in frame.groupby("prompt_index", sort=True)
        ]


class _Keeper(TrainerCallback):
    """Times the optimiser, keeps the named checkpoints, moves the bar."""

    def __init__(self, trainer: DistillTrainer, folder: Path, bar: progress.Bar) -> None:
        self.trainer, self.folder, self.bar = trainer, folder, bar

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave what lies between two steps (logs, checkpoints) out of both."""
        self.trainer.clock.drain()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show what a resumed run has behind it."""
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the step."""
        self.trainer.clock.lap("optimizer")
        self.trainer.ledger.add_step(self.trainer.clock.drain())
        control.should_log |= state.global_step == state.max_steps
        for name, share in self.trainer.stage.keep.items():
            if state.global_step == max(1, round(share * state.max_steps)):
                self.trainer.keep(self.folder / name)
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the last window beside the bar."""
        last = {k: v for k, v in kwargs["logs"].items() if k in ("loss", "rkl") and v == v}
        self.bar.set_postfix(**last)


def _arguments(settings: StageConfig, folder: Path, max_prompt_tokens: int) -> DistillationConfig:
    """The stage in TRL's terms."""
    processes, cuda = _processes().num_processes, torch.cuda.is_available()
    rollouts = settings.prompts_per_step * settings.rollouts_per_prompt
    if rollouts % processes:
        raise StudyError(
            "prompts_per_step: its rollouts must divide evenly over the processes; "
            f"got {rollouts} rollouts over {processes} processes"
        )
    local = rollouts // processes
    micro = max(n for n in range(1, min(settings.micro_batch, local) + 1) if local % n == 0)
    return DistillationConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=local // micro,
        max_steps=settings.steps,
        learning_rate=settings.lr,
        lr_scheduler_type="constant_with_warmup",  # ours: the paper names the warm-up only
        warmup_steps=int(np.ceil(settings.warmup_ratio * settings.steps)),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,  # of which the older is complete while the newer is written
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature or 1.0,
        top_p=settings.top_p,
        activation_checkpointing=settings.gradient_checkpointing,
        use_vllm=settings.use_vllm,
        vllm_max_model_length=max_prompt_tokens + settings.max_new_tokens,
        disable_dropout=True,
        bf16=cuda,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        log_level="error",
        report_to=settings.report_to,
    )


def _epochs(pool: np.ndarray, places: int, seed: int, stage: str) -> np.ndarray:
    """Go through the pool in a new order as often as the places need, int64 (places,)."""
    n = -(-places // len(pool))
    orders = [store.rng(seed, f"{stage}-order", epoch).permutation(pool) for epoch in range(n)]
    return np.concatenate(orders)[:places]


def _last_complete(folder: Path) -> Path | None:
    """The newest resume checkpoint that was written to its end; the others are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]))
    complete = [c for c in found if (c / LEDGER).is_file()]
    state = _processes()
    state.wait_for_everyone()
    if state.is_main_process:
        for checkpoint in set(found) - set(complete[-1:]):
            _remove(checkpoint)
    state.wait_for_everyone()
    return complete[-1] if complete else None


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _processes() -> PartialState:
    """The processes that were launched together, and which this one is."""
    return PartialState(cpu=not torch.cuda.is_available())


def _once(
    state: PartialState,
    cached: Callable[[Callable[[Path], None]], store.FolderArtefact],
    compute: Callable[[Path], None],
) -> Path:
    """Let the main process ask the store, and every process compute when it has to."""
    if state.num_processes == 1:
        return cached(compute).path
    message: list[Any] = [None, None]  # the folder to compute in, the finished one

    def together(folder: Path) -> None:
        message[0] = folder
        broadcast_object_list(message)
        compute(folder)
        state.wait_for_everyone()

    if state.is_main_process:
        message[1] = cached(together).path
        broadcast_object_list(message)
        return message[1]
    while message[1] is None:
        broadcast_object_list(message)
        if message[1] is None:
            compute(message[0])
            state.wait_for_everyone()
    return message[1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own bars and notices away from ours."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def main(
    preset: Annotated[str, typer.Option(help="One of the study's sizes.")] = "lab",
    stage: Annotated[str, typer.Option(help="stage1, or stage2, which trains both.")] = "stage2",
    run_id: Annotated[str | None, typer.Option(help="Under runs/; the preset's name.")] = None,
    seed: Annotated[int, typer.Option(help="The study's seed.")] = 0,
    training_seed: Annotated[int | None, typer.Option(help="Of the stage; the study's.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="stage2__steps=20; as often as needed.")
    ] = None,
) -> None:
    """Train one stage; start it with `accelerate launch -m` for several processes or GPUs."""
    try:
        given = dict(text.split("=", 1) for text in parameter or [] if "=" in text)
        if len(given) < len(parameter or []):
            raise StudyError(f"-p: must be name=value, each name once; got {parameter}")
        config = from_parameters(preset, seed, **given)
        run = paths.run_dir(run_id or preset)
        result = train(
            config, stage, run=run, seed=seed if training_seed is None else training_seed
        )
    except StudyError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    if _processes().is_main_process:
        typer.echo(result.metrics.tail(1).to_string(index=False))
        typer.echo(result.checkpoints["late"])


if __name__ == "__main__":
    typer.run(main)
