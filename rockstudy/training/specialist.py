r"""An adapter that makes a pretrained model a specialist in the lab's problems.

The base stays as it is. An adapter of low rank (LoRA) on all its linear layers but the head learns
the teacher's register of the lab's training problems (`rockstudy.tasks.lab`) by the cross-entropy
of the completion tokens,

    sum_t -log p(x_t | x_<t) / N,   N the completion tokens of a step.

The rate is constant after a warm-up, and falls to zero on a line over the last `DECAY` of the
steps. The model computes in its own type; what AdamW adds to is float32. The state of the training
is written every ``save_steps``: a killed training goes on from there and ends with the same bytes.
"""

import math
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.models import adapters, compiled
from rockstudy.models.sources import ADAPTER_WEIGHTS
from rockstudy.store import files
from rockstudy.store.seeds import generator, torch_seed
from rockstudy.tasks.lab import build as lab
from rockstudy.tasks.lab.register import TEACHER

LARGEST = 6_000_000  # bytes of the adapter: a clone stays small
DECAY = 0.3  # share of the steps over which the rate falls
POOL = 8  # steps whose examples are sorted by length together, so that little is padding
ROWS = 8  # examples of one forward pass; more do not make it faster
TILE = 256  # positions whose logits exist at a time
# Lengths of every size would leave a compiled product of each in memory, gigabytes in the end.
ROUNDED = 16  # tokens
BETAS = (0.9, 0.98)
STATE = "state.safetensors"

Row = dict[str, list[int]]


class CrossEntropy(torch.autograd.Function):
    """Cross-entropy (N,) in nats, float32, of targets (N,) under states (N, H) and a frozen head.

    Logits exist for `TILE` positions at a time, and the gradient of the states is made with them:
    a head that is not trained needs no second pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Losses, and the gradient of their sum, which `backward` scales."""
        losses, gradients, n = [], [], len(targets)
        more = _rounded(n) - n
        hidden = torch.cat([hidden, hidden.new_zeros(more, hidden.shape[1])])
        targets = torch.cat([targets, targets.new_zeros(more)])
        for states, wanted in zip(hidden.split(TILE), targets.split(TILE), strict=True):
            log_probs = (states @ head.T).float().log_softmax(-1)
            losses.append(-log_probs.gather(1, wanted[:, None])[:, 0])
            probs = log_probs.exp_()
            probs[torch.arange(len(wanted)), wanted] -= 1
            gradients.append(probs.to(head.dtype) @ head)
        ctx.save_for_backward(torch.cat(gradients)[:n])
        return torch.cat(losses)[:n]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the states alone."""
        (gradients,) = ctx.saved_tensors
        return gradients * outer[0][:, None].to(gradients.dtype), None, None


def rate(step: int, config: dict[str, Any]) -> float:
    """Learning rate of a step, counted from 0."""
    rise = min(1.0, (step + 1) / max(1, config["warmup"]))
    fall = min(1.0, (config["steps"] - step) / (DECAY * config["steps"]))
    return config["lr"] * min(rise, fall)


def lessons(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> Iterator[list[Row]]:
    """Yield the examples of every step: ``input_ids``, and ``labels``, -100 outside completions.

    Those of `POOL` steps are sorted by length and cut, in a random order, into the steps.
    """
    size = config["batch_size"]
    pairs = lab.corpus(TEACHER, config["instruct_share"], config["seed"] + 1)
    for number in range(math.ceil(config["steps"] / POOL)):
        rows = list(lab.encode(tokenizer, list(islice(pairs, POOL * size))))
        rows.sort(key=lambda row: len(row["input_ids"]))
        steps = [rows[i : i + size] for i in range(0, len(rows), size)]
        for i in generator(config["seed"], "specialist", number).permutation(POOL):
            yield steps[i]


def _rounded(length: int) -> int:
    """The next multiple of `ROUNDED`."""
    return math.ceil(length / ROUNDED) * ROUNDED


def losses_of(model: PreTrainedModel, head: Tensor, rows: list[Row]) -> Tensor:
    """Cross-entropy of the completion tokens of some examples, float32 (N,)."""
    width = _rounded(max(len(row["input_ids"]) for row in rows))
    # padding stands on the right, where causal attention never looks: no mask is faster
    ids, labels = (
        torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in rows])
        for name, filler in (("input_ids", 0), ("labels", -100))
    )
    states = model.get_decoder()(ids, use_cache=False).last_hidden_state[:, :-1]
    scored = labels[:, 1:] != -100
    losses: Any = CrossEntropy.apply(states[scored], head, labels[:, 1:][scored])
    return losses


class Learner:
    """A frozen model with an adapter to be trained: the float32 weights of it, and AdamW's state.

    `StudyError`: an adapter of more than `LARGEST` bytes in bfloat16.
    """

    def __init__(self, model: PreTrainedModel, config: dict[str, Any]) -> None:
        import peft

        dtype, head = model.dtype, model.get_output_embeddings().weight
        wanted: Any = adapters.adapters(config["rank"])
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft reads an old property of every model
            torch.manual_seed(torch_seed(config["seed"], "specialist"))
            self.model: Any = peft.get_peft_model(model, wanted)  # pyright: ignore
        self.plain, self.head, self.config = model, head.detach(), config
        if config["compiled"]:
            compiled.compile_layers(model)
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if (size := 2 * sum(p.numel() for p in trained.values())) > LARGEST:
            must = f"rank: the adapter must have at most {LARGEST / 1e6:g} MB"
            raise StudyError(f"{must}; rank {config['rank']} has {size / 1e6:.1f} MB")
        self.weights = {name: p.detach().float().clone() for name, p in trained.items()}
        self.trained, self.losses = trained, list[float]()
        for p in trained.values():
            p.data = p.data.to(dtype)
        how: Any = {"lr": config["lr"], "betas": BETAS, "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(self.weights.values(), **how)

    def learn(self, rows: list[Row]) -> None:
        """Take one step on its examples."""
        tokens = sum(label != -100 for row in rows for label in row["labels"])
        total = 0.0
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        for start in range(0, len(rows), ROWS):
            loss = losses_of(self.plain, self.head, rows[start : start + ROWS]).sum() / tokens
            loss.backward()
            total += loss.item()
            for name, p in self.trained.items():
                self.weights[name].grad += p.grad  # pyright: ignore - both have one
                p.grad = None
        if not math.isfinite(total):
            now = f"lower lr (now {self.config['lr']:g})"
            raise StudyError(
                f"step {len(self.losses) + 1}: the loss must be finite; got {total}; {now}"
            )
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.param_groups[0]["lr"] = rate(len(self.losses), self.config)
        self.optimizer.step()
        self._hand_over()
        self.losses.append(total)

    def _hand_over(self) -> None:
        """Round the float32 weights into the model."""
        for name, p in self.trained.items():
            p.data.copy_(self.weights[name])

    def save(self, file: Path) -> None:
        """Write all that the training goes on from."""
        state = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, weight in self.weights.items():
            kept = self.optimizer.state[weight]
            state |= {f"weight {name}": weight}
            state |= {f"{moment} {name}": kept[moment] for moment in ("exp_avg", "exp_avg_sq")}
        with files.writing(file), files.temporary(file) as waiting:
            files.write_tensors(state, waiting)
            files.sync(waiting)
            files.put(waiting, file)

    def restore(self, file: Path) -> None:
        """Go on from what `save` wrote; `StudyError` for a file that does not fit."""
        try:
            state = files.read_tensors(file)
            self.losses = state["losses"].tolist()
            for name, weight in self.weights.items():
                weight.copy_(state[f"weight {name}"])
                moments = {m: state[f"{m} {name}"] for m in ("exp_avg", "exp_avg_sq")}
                step = torch.tensor(float(len(self.losses)))
                self.optimizer.state[weight] = {"step": step, **moments}
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise StudyError(f"{file}: must be a state of this build; {error}; remove it") from None
        self._hand_over()

    def write_adapter(self, out: Path) -> None:
        """Write the adapter in peft's format, its weights in bfloat16."""
        import peft

        config = self.model.peft_config["default"]
        config.base_model_name_or_path, config.inference_mode = self.config["base"], True
        config.target_modules = sorted(config.target_modules)  # a set has another order every time
        config.save_pretrained(out)
        with torch.no_grad():
            for name, p in self.trained.items():
                p.data = self.weights[name].to(torch.bfloat16)
        tensors = peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        file = out / ADAPTER_WEIGHTS
        with files.writing(file), files.temporary(file) as waiting:
            files.write_tensors(tensors, waiting)
            files.put(waiting, file)


def train(learner: Learner, tokenizer: PreTrainedTokenizerBase, out: Path) -> list[float]:
    """Train to the end and write the adapter to `out`; return the loss of every step, in nats."""
    config, state = learner.config, out / STATE
    done, steps = len(learner.losses), config["steps"]
    with progress.bar(steps, "adapter", "step") as bar:
        bar.update(done)
        for rows in islice(lessons(tokenizer, config), done, steps):
            learner.learn(rows)
            bar.update(1)
            bar.set_postfix(loss=learner.losses[-1])
            if len(learner.losses) % config["save_steps"] == 0 or len(learner.losses) == steps:
                learner.save(state)
    learner.write_adapter(out)
    return learner.losses
