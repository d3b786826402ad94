"""TRL's distillation trainer with weighted positions, several rollouts per prompt, and a ledger.

The loss of an optimiser step, over all rollouts of all processes and micro-batches, is

    sum_t w_t (a KL(q_t || p_t) + b KL(p_t || q_t) - c log p_t(x_t)) / N,

p student, q teacher, x the completion, w the position weights, and (a, b, c) the stage's
``forward_kl``, ``reverse_kl``, ``cross_entropy``. N is the global number of completion tokens,
whatever the weights are, or the global sum of weights where ``normalize="weights"``. Positions of
weight 0 are dropped before the LM heads, unless the weights depend on the losses.

Completions enter as the sampled token ids. They are never decoded and tokenised again, and one that
the token limit cut gets no end-of-text token. Every override names the TRL method it replaces.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer
from trl.trainer.utils import RepeatSampler, pad

from rockstudy.config.fields import StageConfig
from rockstudy.errors import StudyError
from rockstudy.models import adapters
from rockstudy.models.divergence import Head, States, token_log_prob
from rockstudy.parallel.out_of_memory import advised
from rockstudy.parallel.placement import sharded, sharding
from rockstudy.sampling import rollout
from rockstudy.store import files, resumable
from rockstudy.store.seeds import torch_seed
from rockstudy.training.losses import Losses, Mix, weighted
from rockstudy.training.metrics import Clock, Ledger
from rockstudy.training.optimizers import Optimizer, write_moments
from rockstudy.training.position_weights import Batch, WeightFunction, evaluate
from rockstudy.training.vllm_rollouts import Generation

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
LEDGER = "ledger.safetensors"
Inputs = dict[str, Tensor]


class DistillTrainer(trl.DistillationTrainer):
    """Trains one stage, whose `name` errors give; `seed` is that of its rollouts.

    Without position `weights` they are 1 everywhere. With `own_optimizer` each kept checkpoint has
    what it remembers, which FSDP2 does not allow: it shards the parameters. `teacher_model` is not
    changed: on a different device of the same kind it computes there; on the CPU, FSDP2 trains with
    a sharded copy of it (`rockstudy.parallel.placement`). Other arguments are TRL's.
    ``train_dataset`` holds one row per prompt in the order of training: ``prompt_ids``, and
    ``completions`` with ``stopped``, one per rollout, where they were sampled before.
    """

    def __init__(
        self,
        *args: Any,
        stage: StageConfig,
        name: str,
        seed: int,
        weights: WeightFunction | None = None,
        own_optimizer: Optimizer | None = None,
        teacher_model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        self.stage, self.stage_name, self.rollout_seed = stage, name, seed
        self.position_weights = weights
        self._needs_losses = weights is not None and weights.needs_losses
        self._needs_log_probs = bool(getattr(weights, "needs_log_probs", False))
        # Then weights are made from the losses of the micro-batch that is trained on, which costs
        # nothing on a card and a sweep over the vocabulary on a CPU (`training.losses`). Where the
        # normaliser is the sum of weights, it must be known before the first micro-batch, which
        # takes one more forward pass of both models (`_losses_before`).
        self._weighs_late = self._needs_losses and stage.normalize == "tokens"
        factors = (stage.forward_kl, stage.reverse_kl, stage.cross_entropy)
        self.mix = Mix(*factors, stage.kd_temperature)
        self.kept: dict[str, str] = {}  # hashes of the files of kept checkpoints (`resumable`)
        super().__init__(*args, **kwargs)  # without the teacher, which TRL would move
        self.own_optimizer = own_optimizer
        if own_optimizer is not None:
            self.optimizer_cls_and_kwargs = own_optimizer.made_by(self.args.learning_rate)
        self._keep_float32()
        if stage.engine == "vllm" and stage.source == "student":
            self._take_engine()
        self._place(teacher_model)
        self.clock = Clock(self.accelerator.device)
        self.ledger = Ledger(self.model.config.get_text_config().vocab_size)

    def _keep_float32(self) -> None:
        """Let FSDP2 compute in bf16 with weights, losses and sums of gradients in float32.

        Changes what accelerate shards with when training starts: all that goes in and out is bf16.
        """
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        policy = getattr(plugin, "mixed_precision_policy", None)
        if isinstance(policy, MixedPrecisionPolicy):
            plugin.mixed_precision_policy = dataclasses.replace(
                policy, cast_forward_inputs=False, output_dtype=None, reduce_dtype=torch.float32
            )

    def _take_engine(self) -> None:
        """Have vLLM write the rollouts, by this process's engine (`training.vllm_rollouts`).

        Replaces a part of DistillationTrainer.__init__: it starts an engine for every trainer.
        """
        own = "model accelerator processing_class temperature top_p top_k max_completion_length"
        args = self.args
        self.vllm_generation = Generation(
            **{name: getattr(self, name) for name in own.split()},
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_model_length=args.vllm_max_model_length,
            max_num_seqs=args.per_device_train_batch_size * args.gradient_accumulation_steps,
            model_impl=args.vllm_model_impl,
            logprobs=None,
        )
        self.use_vllm, self._last_loaded_step = True, -1  # the engine has another's weights

    # Replaces a part of DistillationTrainer.__init__: it moves a teacher to the student's device.
    def _place(self, teacher: PreTrainedModel) -> None:
        """Take the teacher where it is, or shard it; a whole one's head comes to this device."""
        device, self.teacher_head = self.accelerator.device, None
        if sharding() and teacher.device.type == "cpu":
            teacher = sharded(teacher, device)
        else:
            teacher = teacher if teacher.device.type == device.type else teacher.to(device)
            self.teacher_head = Head.of(teacher).to(device)
        self.teacher_model = teacher.eval()

    # Extends Trainer.train: out of memory, in a forward pass or in the optimiser, is one line.
    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train to the end of the stage; checkpoints stay where training fails."""
        knobs = ("micro_batch", "max_new_tokens", "gradient_checkpointing")
        now = {f"{self.stage_name}__{name}": getattr(self.stage, name) for name in knobs}
        with advised(self._where, now):
            return super().train(*args, **kwargs)

    # Replaces DistillationTrainer._get_train_sampler, which has one rollout per prompt.
    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        """Repeat a prompt for its rollouts, a step for its micro-batches, in the data's order."""
        return RepeatSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.stage.rollouts_per_prompt,
            batch_size=self.stage.prompts_per_step,
            repeat_count=self.args.gradient_accumulation_steps,
            shuffle=False,
        )

    # Replaces DistillationTrainer._prepare_inputs, which shuffles the rollouts of a step.
    def _prepare_inputs(self, generation_batch: Any) -> Inputs:
        """Roll out once per step; micro-batches of similar length, so that little is padding."""
        parts = self.args.gradient_accumulation_steps
        if self._step % parts == 0 or self._buffered_inputs is None:
            step = self._generate_and_score_completions(generation_batch)
            lengths = step["prompt_mask"].sum(1) + step["completion_mask"].sum(1)
            self._buffered_inputs = [
                {name: value[rows] if value.ndim else value for name, value in step.items()}
                | {"part": step["part"] + number}
                for number, rows in enumerate(lengths.argsort(stable=True).chunk(parts))
            ]
        return self._buffered_inputs[self._step % parts]

    # Replaces DistillationTrainer._generate_and_score_completions: no tools, no images.
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Inputs:
        """Return the padded rollouts of a step with their weights and the loss's normaliser."""
        completions, stopped = self._rollouts(inputs)
        self.clock.lap("rollout")
        prompt_ids, prompt_mask = self._padded([row["prompt_ids"] for row in inputs], "left")
        ids, mask = self._padded(completions, "right")
        lengths = mask.sum(1)
        self.ledger.add_rollouts(lengths, torch.tensor(stopped))
        parts = self.accelerator.process_index * self.args.gradient_accumulation_steps
        step = {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": ids}
        step |= {"completion_mask": mask, "part": torch.tensor(parts), "weights": mask.float()}
        if not self._weighs_late:
            losses = self._losses_before(step) if self._needs_losses else None
            step["weights"] = self._weighed(step, losses)
        counted = lengths if self.stage.normalize == "tokens" else step["weights"].double()
        step["num_items_in_batch"] = self.accelerator.gather(counted.sum()).sum()
        return step

    def _weighed(
        self, rows: Inputs, losses: Tensor | None, log_probs: Tensor | None = None
    ) -> Tensor:
        """Weights of some rollouts, float32 (R, T)."""
        ids, mask = rows["completion_ids"], rows["completion_mask"].bool()
        where: Any = (self.state.global_step, int(rows["part"]), self.ledger.types)
        batch = Batch(ids, mask, *where, log_probs)
        return evaluate(self.position_weights, batch, losses)

    def _rollouts(self, inputs: list[dict[str, Any]]) -> tuple[list[Sequence[int]], list[bool]]:
        """Completions for the local rows of a step, and whether each ended by itself."""
        process = self.accelerator.process_index
        first = len(inputs) * process
        if "completions" in inputs[0]:
            per_prompt = self.stage.rollouts_per_prompt
            slots = [(row, (first + i) % per_prompt) for i, row in enumerate(inputs)]
            return [r["completions"][s] for r, s in slots], [r["stopped"][s] for r, s in slots]
        seed = torch_seed(self.rollout_seed, self.stage_name, self.state.global_step)
        prompts = [row["prompt_ids"] for row in inputs]
        if self.use_vllm or self.accelerator.distributed_type in _SHARDED:
            return self._trl_rollouts(prompts, seed + process)
        how: Any = self.stage.model_dump(include={"temperature", "top_p", "max_new_tokens"})
        how |= {"batch_size": len(prompts), "seed": seed, "first": first, "desc": None}
        try:
            with self.accelerator.autocast():
                made = rollout.generate(self._student(), self._tokenizer, prompts, **how)
        except StudyError as error:
            raise StudyError(f"{self._where()}: {error}") from None
        return [ids.tolist() for ids in made.completions], made.stopped.tolist()

    def _student(self) -> PreTrainedModel:
        """The student itself, with its adapters at work where it has any."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return model if self.stage.lora_rank is None else model.get_base_model()

    def _trl_rollouts(
        self, prompts: list[list[int]], seed: int
    ) -> tuple[list[Sequence[int]], list[bool]]:
        """Rollouts by TRL's own path: vLLM, or a model that is sharded over processes.

        vLLM's newer model runner draws the seed of a rollout that has none from numpy's global
        generator. A seed that is given would be that of all rollouts, equal for equal prompts.
        """
        before = np.random.get_state()  # noqa: NPY002 - the one that vLLM draws from
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                completions = self._generate_single_turn(prompts, None, {})
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return completions, [bool(ids) and ids[-1] in self.eos_token_ids for ids in completions]

    @torch.no_grad()
    def _losses_before(self, step: Inputs) -> Tensor:
        """Loss at every position, float32 (R, T), for a normaliser that depends on it."""
        student, size = self.accelerator.unwrap_model(self.model), self._train_batch_size
        losses = torch.zeros(step["completion_ids"].shape, device=self.accelerator.device)
        for start in range(0, len(losses), size):
            part = {name: rows[start : start + size] for name, rows in step.items() if rows.ndim}
            given = (student, student, self._positions, student, part)
            with self.accelerator.autocast():
                _, found, *_ = self._forward_redirection(*given)
            losses[start : start + size][part["completion_mask"].bool()] = found.each
        self.clock.lap("head")
        return losses

    def _padded(self, rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids int64 (R, L) and their mask, int64 as in TRL."""
        ids = [torch.tensor(row, dtype=torch.int64) for row in rows]
        padded = pad(ids, self._tokenizer.pad_token_id, side)
        mask = pad([torch.ones_like(row) for row in ids], 0, side)
        return padded.to(self.accelerator.device), mask.to(self.accelerator.device)

    # Replaces DistillationTrainer.compute_loss: another normaliser, and entropy goes to the ledger.
    def compute_loss(self, model: Any, inputs: Inputs, **_: Any) -> Tensor:
        """Return this process's share of the loss, through the model's wrapper as in TRL."""
        student = self.accelerator.unwrap_model(model)
        total = self._forward_redirection(model, student, self._compute_loss, student, inputs)
        # DDP averages gradients over processes, so each one's loss is a sum over N / processes
        normaliser = inputs["num_items_in_batch"].clamp(min=torch.finfo(torch.float32).tiny)
        loss = total / (normaliser.float() / self.accelerator.num_processes)
        self.ledger.sums["loss"] += loss.item()
        self._check_finite(loss)
        return loss

    # Replaces DistillationTrainer._compute_loss: weights, and the heads at kept positions alone.
    def _compute_loss(self, student: Any, inputs: Inputs) -> Tensor:
        """Return the weighted sum of the losses of one micro-batch."""
        with self.accelerator.autocast():
            total, losses, w, ids = self._positions(student, inputs)
        self.ledger.add_positions(losses.rkl, losses.entropy, ids, w)
        self.clock.lap("head")
        return total

    def _positions(self, student: Any, inputs: Inputs) -> tuple[Tensor, Losses, Tensor, Tensor]:
        """The weighted sum of losses, and the losses, weights and tokens (N,) at each position.

        The N positions are those whose weight is above 0, row by row; all of them where the weights
        are made from these losses.
        """
        stage, w = self.stage, inputs["weights"]
        rows, columns = w.nonzero(as_tuple=True)
        tokens = inputs["completion_ids"][rows, columns]
        ids, first = _left_aligned(inputs)
        where = rows * (ids.shape[1] - 1) + first[rows] + columns  # into (R * (L - 1), H)
        hidden = self._hidden(student, ids, where)
        self.clock.lap("student")
        if hidden.requires_grad:  # called when backward has gone through the heads
            hidden.register_hook(lambda _: self.clock.lap("head"))
        compared = stage.reverse_kl or stage.forward_kl or self._needs_log_probs
        teacher = self._teacher(ids, where) if compared else ()
        self.clock.lap("teacher")
        own, other = States(hidden, Head.of(student)), States(*teacher) if compared else None

        def weights(losses: Tensor) -> Tensor:
            known = torch.zeros(w.shape, device=w.device)
            known[rows, columns] = losses
            log_probs = None
            if self._needs_log_probs:
                log_probs = torch.zeros((2, *w.shape), device=w.device)
                log_probs[:, rows, columns] = _log_probs(tokens, own, other)
            return self._weighed(inputs, known, log_probs)[rows, columns]

        given = weights if self._weighs_late else w[rows, columns]
        return *weighted(own, other, tokens, given, self.mix), tokens

    def _hidden(self, model: Any, ids: Tensor, where: Tensor) -> Tensor:
        """Hidden states (N, H) at flat indices into (R, L - 1).

        Padding is on the right, where causal attention never looks from a real token: no mask.
        """
        hidden = self._get_last_hidden_state(model, ids, None, ids.shape[1] - 1)
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, where)

    @torch.no_grad()
    def _teacher(self, ids: Tensor, where: Tensor) -> tuple[Tensor, Head]:
        """Hidden states (N, H) on this device, and the head, gathered where it is sharded."""
        teacher = self.teacher_model
        given = (teacher, ids.to(teacher.device), where.to(teacher.device))
        hidden = self._forward_redirection(teacher, teacher, self._hidden, *given)
        return hidden.to(ids.device), self.teacher_head or Head.of(teacher)

    # Extends DistillationTrainer.training_step: the time of the backward pass.
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch; `_positions` splits backward into its phases."""
        self.clock.lap("other")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.clock.lap("student")
        self._metrics["train"].clear()  # TRL's, which its log would have emptied
        return loss

    # Replaces DistillationTrainer.log: the ledger's row instead of TRL's averages.
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Close a logging window; reporters get its row."""
        if "grad_norm" in logs:
            window = self.accelerator.reduce(self._window(), "sum").cpu().numpy()
            step, lr = self.state.global_step, logs["learning_rate"]
            row = self.ledger.close(step, window, lr, logs["grad_norm"])
            logs = logs | {key: row[key] for key in ("loss", "rkl", "student_entropy")}
        Trainer.log(self, logs, start_time)

    def _window(self) -> Tensor:
        return torch.from_numpy(self.ledger.window()).to(self.accelerator.device)

    # Replaces DistillationTrainer._save_checkpoint, which writes a model card.
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a resume checkpoint with the ledger, sealed last: it is complete."""
        self._check_weights()
        Trainer._save_checkpoint(self, model, trial)
        windows = self.accelerator.gather(self._window()[None]).cpu().numpy()
        if self.accelerator.is_main_process:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            files.write_tensors(self.ledger.state(windows), folder / LEDGER)
            resumable.seal(folder, self.kept)

    def keep(self, folder: Path) -> None:
        """Write the student and the tokenizer in transformers' format, whole or not at all.

        Of a student with adapters, their sum with the weights; neither of them is touched.
        """
        self._check_weights()
        waiting, main = folder.with_name(f".{folder.name}.tmp"), self.accelerator.is_main_process
        if main:
            files.remove(waiting, folder)
        try:
            if self.stage.lora_rank is None:
                self.save_model(str(waiting), _internal_call=True)
            else:
                state, student = self.accelerator.get_state_dict(self.model), self._student()
                if main:
                    student.save_pretrained(waiting, state_dict=adapters.merged(state, student))
                    self._tokenizer.save_pretrained(waiting)
        except BaseException:
            files.remove(*[waiting] * main)
            raise
        if main:
            (waiting / "training_args.bin").unlink(missing_ok=True)  # a pickle
            if self.own_optimizer is not None:
                write_moments(self.optimizer, self.model.named_parameters(), waiting)
            waiting.rename(folder)
            self.kept |= resumable.hashed(folder)

    def _send_telemetry(self) -> None:
        """Send nothing. Replaces _BaseTrainer._send_telemetry."""

    def _where(self) -> str:
        return f"{self.stage_name} step {self.state.global_step + 1}"

    def _check_finite(self, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            also = f" or {self.stage_name}__max_grad_norm"
            raise StudyError(f"{self._broken('loss', loss.item())}{also}")

    def _check_weights(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise StudyError(self._broken("student's weights", "NaN or infinity"))

    def _broken(self, what: str, got: Any) -> str:
        lower = f"lower {self.stage_name}__lr (now {self.stage.lr:g})"
        return f"{self._where()}: the {what} must be finite; got {got}; {lower}"


@torch.no_grad()
def _log_probs(tokens: Tensor, *models: Any) -> Tensor:
    """Log-probability of the tokens by the states and the head of each model, float32 (2, N)."""
    states = [(hidden.detach(), head) for hidden, head in models]
    return torch.stack([token_log_prob(*one, tokens)[0] for one in states])


def _left_aligned(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Prompt and completion without a gap, padded on the right, int64 (R, L).

    And int64 (R,): the column whose hidden state predicts completion column 0.
    """
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    order = mask.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)[:, : int(mask.sum(1).max())], inputs["prompt_mask"].sum(1) - 1
