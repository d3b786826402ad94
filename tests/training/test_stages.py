"""Training: the loss against plain references, the paper's code's traps, resuming, repeating."""

import os
import re
import signal
import subprocess
import sys
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import trl
import yaml
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from rockstudy import paths
from rockstudy.config.fields import StageConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.runs import Run
from rockstudy.sampling import rollout
from rockstudy.selective.windows import RandomWindows, WindowWeights
from rockstudy.store import cache, resumable
from rockstudy.training import stages, trainer
from rockstudy.training.metrics import Ledger
from rockstudy.training.position_weights import Constant, Ramp, Redetected, TokenWeights
from rockstudy.training.trainer import DistillTrainer

STAGE = StageConfig(
    source="student",
    prompts_per_step=3,
    rollouts_per_prompt=2,
    steps=4,
    lr=1e-3,
    reverse_kl=1.0,
    max_new_tokens=9,
    micro_batch=6,
)
MIX = {"forward_kl": 0.5, "reverse_kl": 0.25, "cross_entropy": 0.3}


@pytest.fixture(scope="module")
def pair(tiny_pair_dir):
    """Teacher, student and tokenizer, in memory; trainers here never step, so it stays as it is."""
    load = loading.load_model
    return loading.Pair(
        load(str(tiny_pair_dir / "teacher"), device="cpu"),
        load(str(tiny_pair_dir / "student"), device="cpu"),
        loading.load_tokenizer(str(tiny_pair_dir / "tokenizer")),
    )


@pytest.fixture
def rows():
    """Three prompts of different lengths with two completions each, one of them empty."""
    generator = torch.Generator().manual_seed(7)

    def tokens(n):
        return torch.randint(3, 320, (n,), generator=generator).tolist()

    completions = [[tokens(9), tokens(4)], [tokens(1), []], [tokens(6), tokens(9)]]
    return [
        {"prompt_ids": tokens(n), "completions": both, "stopped": [False, False]}
        for n, both in zip((5, 2, 11), completions, strict=True)
    ]


def _trainer(pair, folder, rows, weights=None, kind=DistillTrainer, **changes):
    stage = STAGE.model_copy(update=changes)
    ours = {"stage": stage, "name": "stage2", "seed": 0, "weights": weights}
    return kind(
        model=pair.student,
        teacher_model=pair.teacher,
        processing_class=pair.tokenizer,
        args=stages._arguments(stage, folder, 64),
        train_dataset=rows,
        **(ours if kind is DistillTrainer else {}),
    )


def _repeated(rows):
    """The rows of one step as the sampler gives them."""
    return [row for row in rows for _ in range(STAGE.rollouts_per_prompt)]


def _step(trainer, rows):
    """Loss and gradients (by parameter name) of one whole step, and the step itself."""
    trainer.model.train()
    trainer.model.zero_grad()
    step = trainer._generate_and_score_completions(_repeated(rows))
    loss = trainer.compute_loss(trainer.model, step)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
    return loss.detach(), gradients, step


def _reference(pair, rows, w, stage):
    """Loss and gradients with full logits, one rollout at a time; w float (R, T)."""
    pair.student.zero_grad()
    total, n = 0.0, 0
    for i, row in enumerate(_repeated(rows)):
        completion = row["completions"][i % 2]
        ids = torch.tensor([row["prompt_ids"] + completion])
        start = len(row["prompt_ids"]) - 1
        log_p = log_softmax(pair.student(ids).logits[0, start:-1].double(), -1)
        with torch.no_grad():
            log_q = log_softmax(pair.teacher(ids).logits[0, start:-1].double(), -1)
        how = {"reduction": "none", "log_target": True}
        losses = stage.forward_kl * kl_div(log_p, log_q, **how).sum(-1)
        losses = losses + stage.reverse_kl * kl_div(log_q, log_p, **how).sum(-1)
        losses = losses + stage.cross_entropy * cross_entropy(
            log_p, torch.tensor(completion, dtype=torch.int64), reduction="none"
        )
        total, n = total + (w[i, : len(completion)] * losses).sum(), n + len(completion)
    (total / n).backward()
    return (total / n).detach(), {k: p.grad.clone() for k, p in pair.student.named_parameters()}


def _assert_same(gradients, expected, **tolerance):
    for name, wanted in expected.items():
        torch.testing.assert_close(
            gradients[name], wanted, msg=lambda m, n=name: n + m, **tolerance
        )


@pytest.mark.parametrize(
    "loss",
    [
        {"forward_kl": 0.0, "reverse_kl": 1.0, "cross_entropy": 0.0},
        {"forward_kl": 0.5, "reverse_kl": 0.0, "cross_entropy": 0.5},
        {"forward_kl": 0.0, "reverse_kl": 0.0, "cross_entropy": 1.0},
        MIX,
    ],
)
def test_loss_and_gradient_equal_a_plain_loop_with_full_logits(pair, rows, tmp_path, loss):
    weights = TokenWeights(range(3, 100), 0.3)
    trainer = _trainer(pair, tmp_path, rows, weights, **loss)
    value, gradients, step = _step(trainer, rows)
    expected, wanted = _reference(pair, rows, step["weights"], trainer.stage)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    _assert_same(gradients, wanted, rtol=1e-3, atol=1e-6)


def test_weights_of_one_give_the_loss_of_trls_untouched_trainer(pair, rows, tmp_path):
    value, gradients, step = _step(_trainer(pair, tmp_path, rows), rows)
    untouched = _trainer(pair, tmp_path, rows, kind=trl.DistillationTrainer)
    untouched.model.zero_grad()
    given = {name: tensor for name, tensor in step.items() if name != "weights"}
    expected = untouched.compute_loss(untouched.model, given)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = {n: p.grad for n, p in untouched.model.named_parameters()}
    _assert_same(gradients, wanted, rtol=1e-3, atol=1e-6)


def test_weights_of_one_give_trls_chunked_divergence_loss(pair, rows, tmp_path):
    trainer = _trainer(pair, tmp_path, rows)
    value, _, step = _step(trainer, rows)
    ids = torch.cat([step["prompt_ids"], step["completion_ids"]], 1)
    mask = torch.cat([step["prompt_mask"], step["completion_mask"]], 1)
    width = step["completion_ids"].shape[1]
    both = (pair.student, pair.teacher)
    hidden = [trainer._get_last_hidden_state(model, ids, mask, width) for model in both]
    heads = [model.get_output_embeddings().weight for model in both]
    expected, _, _ = _chunked_divergence_loss(*hidden, *heads, step["completion_mask"], 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_lambda_of_one_is_the_baseline_bit_for_bit(pair, rows, tmp_path):
    baseline, gradients, _ = _step(_trainer(pair, tmp_path, rows), rows)
    ids = range(3, 100)
    windows = WindowWeights(ids, 1.0, 0.5, 2)
    for weights in (Constant(1.0), TokenWeights(ids, 1.0), windows):
        value, same, _ = _step(_trainer(pair, tmp_path, rows, weights), rows)
        assert torch.equal(value, baseline)
        assert all(torch.equal(same[name], gradient) for name, gradient in gradients.items())


def _hidden_gradients(trainer, rows):
    """Gradient of a step's loss at every position's last hidden state, on (R, T) of the completion.

    The last hidden state of a position feeds its own prediction and nothing else.
    """
    kept = []

    def keep(module, arguments, output):
        output.last_hidden_state.retain_grad()
        kept.append(output.last_hidden_state)

    hook = trainer.model.base_model.register_forward_hook(keep)
    try:
        _, _, step = _step(trainer, rows)
    finally:
        hook.remove()
    grad, start = kept[0].grad, step["prompt_mask"].sum(1) - 1
    width = step["completion_ids"].shape[1]
    padded = torch.nn.functional.pad(grad, (0, 0, 0, width))
    return torch.stack([g[s : s + width] for g, s in zip(padded, start, strict=True)]), step


def test_freezing_a_token_cuts_the_gradient_where_it_is_predicted_and_nowhere_else(
    pair, rows, tmp_path
):
    rows[0]["completions"][0][3] = rows[2]["completions"][1][5] = frozen = 11
    before, step = _hidden_gradients(_trainer(pair, tmp_path, rows), rows)
    after, _ = _hidden_gradients(_trainer(pair, tmp_path, rows, TokenWeights({frozen}, 0)), rows)
    predicts = (step["completion_ids"] == frozen) & step["completion_mask"].bool()
    assert predicts.sum() >= 2
    assert before[predicts].abs().sum(-1).min() > 0
    assert not after[predicts].any()
    others = ~predicts & step["completion_mask"].bool()
    torch.testing.assert_close(after[others], before[others], rtol=1e-5, atol=1e-9)
    assert after[others].abs().sum(-1).min() > 0  # the position after the token among them


@pytest.mark.parametrize(("normalize", "share"), [("tokens", 1.0), ("weights", None)])
def test_the_normaliser_is_the_token_count_in_every_arm_unless_asked_otherwise(
    pair, rows, tmp_path, normalize, share
):
    weights = TokenWeights(range(3, 200), 0.25)
    tokens = sum(len(c) for row in rows for c in row["completions"])
    frozen, _, step = _step(_trainer(pair, tmp_path, rows, weights, normalize=normalize), rows)
    expected, _ = _reference(pair, rows, step["weights"], STAGE)
    n = tokens if share else step["weights"].sum().item()
    assert step["num_items_in_batch"].item() == pytest.approx(n)
    assert frozen.item() == pytest.approx(expected.item() * tokens / n, rel=1e-5)


def test_micro_batches_add_up_to_the_whole_step(pair, rows, tmp_path):
    weights = TokenWeights(range(3, 200), 0.25)
    whole, gradients, _ = _step(_trainer(pair, tmp_path, rows, weights), rows)
    trainer = _trainer(pair, tmp_path, rows, weights, micro_batch=2)
    trainer.model.train()
    trainer.model.zero_grad()
    total = 0.0
    for _ in range(3):
        part = trainer._prepare_inputs(_repeated(rows))
        loss = trainer.compute_loss(trainer.model, part)
        loss.backward()
        total, trainer._step = total + loss.item(), trainer._step + 1
    assert total == pytest.approx(whole.item(), rel=1e-5)
    parts = {n: p.grad for n, p in trainer.model.named_parameters()}
    _assert_same(parts, gradients, rtol=1e-3, atol=1e-6)


def test_a_step_of_zero_weights_has_loss_zero_and_zero_gradients(pair, rows, tmp_path):
    for normalize in ("tokens", "weights"):
        trainer = _trainer(pair, tmp_path, rows, Constant(0.0), normalize=normalize, **MIX)
        loss, gradients, _ = _step(trainer, rows)
        assert loss == 0
        assert not any(gradient.any() for gradient in gradients.values())


def test_a_step_of_empty_completions_has_loss_zero(pair, rows, tmp_path):
    for row in rows:
        row["completions"] = [[], []]
    loss, gradients, _ = _step(_trainer(pair, tmp_path, rows), rows)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_positions_of_weight_zero_never_reach_a_head(pair, rows, tmp_path, monkeypatch):
    seen = []
    real = trainer.DistillTrainer._hidden

    def counted(self, model, ids, where):
        seen.append(len(where))
        return real(self, model, ids, where)

    monkeypatch.setattr(DistillTrainer, "_hidden", counted)
    _, _, step = _step(_trainer(pair, tmp_path, rows, TokenWeights(range(3, 200), 0)), rows)
    kept = int((step["weights"] > 0).sum())
    assert 0 < kept < step["completion_mask"].sum()
    assert seen == [kept, kept]  # student and teacher


@dataclass(frozen=True)
class Hardest:
    """Keeps the positions whose loss is above the median."""

    needs_losses: ClassVar[bool] = True

    def __call__(self, batch, losses):
        return (losses > losses[batch.mask].median()).float()


def _reference_losses(pair, rows, step):
    """The reverse KL at each position with full logits, (R, T), one position at a time."""
    losses, mask = torch.zeros(step["completion_mask"].shape), step["completion_mask"].bool()
    for r, t in mask.nonzero().tolist():
        one = torch.zeros_like(losses)
        one[r, t] = 1
        losses[r, t] = _reference(pair, rows, one, STAGE)[0] * mask.sum()
    return losses


@pytest.mark.parametrize("normalize", ["tokens", "weights"])
def test_weights_that_depend_on_losses_get_the_losses_and_weigh_by_them(
    pair, rows, tmp_path, normalize
):
    """By tokens in the same pass, by weights in one before; either way these are the numbers."""
    trainer = _trainer(pair, tmp_path, rows, Hardest(), normalize=normalize)
    loss, gradients, step = _step(trainer, rows)
    losses, mask = _reference_losses(pair, rows, step), step["completion_mask"].bool()
    w = (losses > losses[mask].median()).float() * mask
    assert w.sum() == mask.sum() // 2
    expected, wanted = _reference(pair, rows, w, STAGE)
    factor = 1.0 if normalize == "tokens" else mask.sum().item() / w.sum().item()
    assert loss.item() == pytest.approx(expected.item() * factor, rel=1e-5)
    scaled = {name: gradient * factor for name, gradient in wanted.items()}
    _assert_same(gradients, scaled, rtol=1e-3, atol=1e-6)
    n = mask.sum() if normalize == "tokens" else w.sum()
    assert trainer.ledger.sums["n_kept"] == n  # every position is projected where w comes late
    assert trainer.ledger.sums["weight"] == w.sum()


class Surprising:
    """Half the weight where the teacher finds the token likelier than the student does."""

    needs_losses: ClassVar[bool] = True
    needs_log_probs: ClassVar[bool] = True

    def __call__(self, batch, losses):
        self.student, self.teacher = batch.log_probs
        return torch.where(self.teacher > self.student, 0.5, 1.0)


def test_weights_get_the_log_probabilities_of_the_tokens_under_both_models(pair, rows, tmp_path):
    weights = Surprising()
    loss, gradients, step = _step(_trainer(pair, tmp_path, rows, weights), rows)
    mask, w = step["completion_mask"].bool(), torch.zeros(step["completion_mask"].shape)
    for i, row in enumerate(_repeated(rows)):
        completion = row["completions"][i % 2]
        ids, start = torch.tensor([row["prompt_ids"] + completion]), len(row["prompt_ids"]) - 1
        index = torch.tensor(completion, dtype=torch.int64)[:, None]
        with torch.no_grad():
            logs = [
                log_softmax(m(ids).logits[0, start:-1], -1) for m in (pair.student, pair.teacher)
            ]
        student, teacher = (log.gather(1, index)[:, 0] for log in logs)
        place = slice(0, len(completion))
        torch.testing.assert_close(weights.student[i, place], student, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weights.teacher[i, place], teacher, rtol=1e-4, atol=1e-4)
        w[i, place] = torch.where(teacher > student, 0.5, 1.0)
    assert not weights.student[~mask].any()
    expected, wanted = _reference(pair, rows, w, STAGE)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    _assert_same(gradients, wanted, rtol=1e-3, atol=1e-6)


def test_a_window_cuts_the_gradient_inside_it_and_nowhere_else(pair, rows, tmp_path):
    rows[0]["completions"][0][4] = frozen = 11
    before, step = _hidden_gradients(_trainer(pair, tmp_path, rows), rows)
    losses, mask = _reference_losses(pair, rows, step), step["completion_mask"].bool()
    threshold = losses[0, 3:6].min().item() - 1e-4  # both neighbours are in the window
    window = WindowWeights({frozen}, 0.0, threshold, 1)
    after, _ = _hidden_gradients(_trainer(pair, tmp_path, rows, window), rows)
    inside = torch.zeros_like(mask)
    inside[0, 3:6] = True
    inside |= (step["completion_ids"] == frozen) & mask
    assert before[inside].abs().sum(-1).min() > 0
    assert not after[inside].any()
    torch.testing.assert_close(after[mask & ~inside], before[mask & ~inside], rtol=1e-5, atol=1e-9)


def test_random_windows_freeze_as_many_positions_as_the_rocks_windows(pair, rows, tmp_path):
    common = {"ids": {*range(3, 40)}, "value": 0.0, "threshold": 0.5, "width": 2}
    kept = []
    for weights in (
        WindowWeights(**common),
        RandomWindows(controls={*range(40, 80)}, seed=1, **common),
    ):
        trainer = _trainer(pair, tmp_path, rows, weights, micro_batch=2)
        for _ in range(3):
            trainer.compute_loss(trainer.model, trainer._prepare_inputs(_repeated(rows)))
            trainer._step += 1
        kept.append(trainer.ledger.sums["weight"])
    assert kept[0] == kept[1] < trainer.ledger.sums["n_tokens"]


def test_completions_are_trained_on_as_given_and_get_no_end_of_text(pair, rows, tmp_path):
    tokenizer = pair.tokenizer
    text = "add: 12"
    apart = [i for letter in text for i in tokenizer.encode(letter)]
    assert tokenizer.encode(text) != apart and tokenizer.decode(apart) == text
    rows[0]["completions"][0] = apart
    rows[0]["completions"][1] = [7, tokenizer.pad_token_id, 8]  # a sampled token like any other
    _, _, step = _step(_trainer(pair, tmp_path, rows), rows)
    given = [row["completions"][i % 2] for i, row in enumerate(_repeated(rows))]
    ids, mask = step["completion_ids"], step["completion_mask"].bool()
    assert [i[m].tolist() for i, m in zip(ids, mask, strict=True)] == given
    assert not (ids[mask] == tokenizer.eos_token_id).any()


def test_own_rollouts_are_kept_as_sampled_and_a_cut_one_gets_no_end_of_text(
    pair, rows, tmp_path, monkeypatch
):
    made = []
    real = rollout.generate
    monkeypatch.setattr(rollout, "generate", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    for row in rows:
        del row["completions"], row["stopped"]
    trainer = _trainer(pair, tmp_path, rows, max_new_tokens=40)
    _, _, step = _step(trainer, rows)
    (sampled,) = made
    ids, mask = step["completion_ids"], step["completion_mask"].bool()
    assert torch.equal(mask, torch.from_numpy(sampled.mask))
    assert torch.equal(ids[mask], torch.from_numpy(sampled.completion_ids[sampled.mask]).long())
    ends = rollout.eos_ids(trainer.model, pair.tokenizer)
    last = [row[kept][-1].item() in ends for row, kept in zip(ids, mask, strict=True)]
    assert last == sampled.stopped.tolist()
    cut = ~torch.from_numpy(sampled.stopped)
    assert cut.any() and (mask[cut].sum(1) == 40).all()


def test_a_process_samples_for_its_rows_what_one_process_would_have_sampled(pair, rows):
    prompts = [row["prompt_ids"] for row in rows]
    how = {"max_new_tokens": 12, "batch_size": 8, "seed": 3, "desc": None}
    whole = rollout.generate(pair.student, pair.tokenizer, prompts, **how)
    part = rollout.generate(pair.student, pair.tokenizer, prompts[1:], first=1, **how)
    own = part.completion_ids[part.mask]
    assert own.tolist() == whole.completion_ids[1:][whole.mask[1:]].tolist()


def test_every_prompt_of_a_step_comes_with_all_of_its_rollouts(pair, tmp_path):
    rows = [{"prompt_ids": [5 + i]} for i in range(12)]
    trainer = _trainer(pair, tmp_path, rows, micro_batch=2)
    batches = list(trainer.get_train_dataloader())
    firsts = [[row["prompt_ids"][0] - 5 for row in batch] for batch in batches]
    assert firsts[:3] == [[0, 0, 1, 1, 2, 2]] * 3  # once for each of the three micro-batches
    assert firsts[3] == [3, 3, 4, 4, 5, 5]
    assert len(firsts) == 12


def test_the_seed_of_trls_rollouts_is_numpys_as_well_and_the_rest_of_a_run_draws_as_before(
    pair, rows, tmp_path, monkeypatch
):
    """What vLLM draws the noise of a rollout without a seed of its own from."""

    def drawn(self, prompts, images, fields):
        return [[int(i)] for i in np.random.randint(0, 300, len(prompts))]  # noqa: NPY002

    monkeypatch.setattr(DistillTrainer, "_generate_single_turn", drawn)
    trainer = _trainer(pair, tmp_path, rows)
    prompts = [[5]] * 8
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, _ = trainer._trl_rollouts(prompts, 2**32 - 1 + 8)  # of the eighth process
    assert trainer._trl_rollouts(prompts, 2**32 + 7)[0] == first
    assert trainer._trl_rollouts(prompts, 8)[0] != first
    assert len({tuple(ids) for ids in first}) > 4  # equal prompts have their own noise
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# Whole stages, on the `tiny` preset.

STEPS = {"stage2__steps": 6, "stage2__save_steps": 2, "stage2__logging_steps": 3}


def _run(folder, **changes):
    """A run of `tiny` in a folder."""
    return Run(from_parameters("tiny", **changes), folder)


def _stored(run, name):
    """The folder of a training, whose name ends with its key."""
    (manifest,) = (run.path / "training").glob(f"{name}-????????.json")
    return manifest.with_suffix("")


def _tables(result):
    """The bytes of what training recorded, times left out."""
    folder = result.checkpoints["late"].parent
    return {n: (folder / f"{n}.parquet").read_bytes() for n in ("metrics", "type_losses")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An uninterrupted run of both stages."""
    run = _run(tmp_path_factory.mktemp("run"), **STEPS)
    return run, stages.train(run, "stage2", seed=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(trained, tmp_path):
    _, first = trained
    run = _run(tmp_path, **STEPS)
    again = stages.train(run, "stage2", seed=0)
    assert _tables(again) == _tables(first)
    assert again.hash == first.hash
    other = stages.train(run, "stage2", seed=1)
    assert other.hash != first.hash


def test_a_stage_that_is_there_is_read_back_without_training(trained, monkeypatch):
    run, first = trained
    monkeypatch.setattr(DistillTrainer, "train", None)
    again = stages.train(run, "stage2", seed=0)
    assert again.hash == first.hash
    pd.testing.assert_frame_equal(again.metrics, first.metrics)


def test_a_timed_run_keeps_nothing_saves_nothing_and_gives_its_memory_back(trained, monkeypatch):
    run, first = trained
    before, made, real = set(run.path.rglob("*")), [], DistillTrainer.__init__

    def seen(self, *arguments, **named):
        real(self, *arguments, **named)
        made.append(weakref.ref(self))

    monkeypatch.setattr(DistillTrainer, "__init__", seen)
    for name in ("keep", "_save_checkpoint"):
        monkeypatch.setattr(DistillTrainer, name, lambda *_: pytest.fail("a model was written"))
    table = stages.timed(run, "stage2", seed=0, steps=2)
    assert table.columns.tolist() == first.timing.columns.tolist()
    assert table.step.tolist() == [1, 2]
    assert set(run.path.rglob("*")) == before
    assert [one() for one in made] == [None]


def test_another_weight_function_under_the_same_name_is_trained_next_to_the_first(trained):
    run, first = trained
    found = [
        stages.train(run, "stage2", seed=0, arm="frozen", weights=TokenWeights(range(200), value))
        for value in (0, 0.5)
    ]
    assert len({first.hash, *(one.hash for one in found)}) == 3
    assert found[0].metrics["n_kept"].lt(found[0].metrics["n_tokens"]).all()
    assert all(one.checkpoints["late"].is_dir() for one in (first, *found))


def test_a_stage_is_trained_only_where_its_arm_and_its_seed_are_there(trained):
    run, _ = trained
    assert stages.is_trained(run, "stage1", seed=0) and stages.is_trained(run, "stage2", seed=0)
    assert not stages.is_trained(run, "stage2", seed=1)
    assert not stages.is_trained(run, "stage2", seed=0, weights=TokenWeights(range(5), 0))
    longer = replace(run, config=from_parameters("tiny", **STEPS | {"stage2__steps": 7}))
    assert not stages.is_trained(longer, "stage2", seed=0)


def test_windows_of_weight_one_train_the_same_student_as_the_baseline(trained):
    run, first = trained
    weights = WindowWeights(range(200), 1.0, 0.1, 2)
    assert stages.train(run, "stage2", seed=0, arm="one", weights=weights).hash == first.hash


def test_types_are_detected_again_by_the_losses_of_the_steps_before(trained):
    run, first = trained
    again = Redetected(50, 3, Ramp(0.0, 1.0, 6))
    result = stages.train(run, "stage2", seed=0, arm="again", weights=again)
    weight = result.metrics.mean_weight.tolist()
    assert weight[0] == 1.0 > weight[1]  # nothing is frozen before three steps have been seen
    assert (result.metrics.n_kept == result.metrics.n_tokens).all()
    early = result.type_losses[result.type_losses.step == 3]
    pd.testing.assert_frame_equal(early, first.type_losses[first.type_losses.step == 3])


def test_the_tables_agree_with_each_other(trained):
    run, result = trained
    metrics, types = result.metrics, result.type_losses
    assert metrics["step"].tolist() == [3, 6]
    by_step = types.groupby("step")[["count", "rkl_sum"]].sum()
    assert by_step["count"].tolist() == metrics["n_kept"].tolist() == metrics["n_tokens"].tolist()
    mean = by_step["rkl_sum"] / by_step["count"]
    assert mean.tolist() == pytest.approx(metrics["rkl"].tolist())
    assert types["rkl_sum"].dtype == "float64" and (types["count"] > 0).all()
    timing = result.timing
    phases = timing.filter(regex="seconds_(?!step)").sum(axis=1)
    assert (phases <= timing["seconds_step"] * 1.0001).all()
    assert (phases > 0.5 * timing["seconds_step"]).all()
    stage1 = cache.load(_stored(run, "stage1-baseline-s0") / "metrics")
    assert stage1["rkl"].isna().all() and stage1["loss"].notna().all()
    assert cache.load(_stored(run, "stage1-baseline-s0") / "type_losses").empty


def test_named_checkpoints_are_models_without_pickles_and_nothing_else_is_left(trained):
    run, result = trained
    assert set(result.checkpoints) == {"early", "late"}
    early, late = (loading.load_model(str(result.checkpoints[n])) for n in ("early", "late"))
    assert loading.weights_hash(early) != loading.weights_hash(late)
    left = {file.name for file in run.path.rglob("*") if file.is_file()}
    assert not [name for name in left if name.endswith((".bin", ".pt", ".pth", ".pkl", ".tmp"))]
    assert not [*run.path.rglob("checkpoint-*"), *run.path.rglob("*.partial")]


def test_the_type_losses_are_the_reverse_kl_of_each_predicted_token(pair, rows, tmp_path):
    trainer = _trainer(pair, tmp_path, rows)
    _, _, step = _step(trainer, rows)
    token = rows[0]["completions"][0][3]
    only = (step["completion_ids"] == token) & step["completion_mask"].bool()
    mean, _ = _reference(pair, rows, only.float(), STAGE)
    n = step["completion_mask"].sum().item()
    assert trainer.ledger.type_count[token] == only.sum().item()
    assert trainer.ledger.type_rkl[token] == pytest.approx(mean.item() * n, rel=1e-5)


def test_stages_train_on_different_prompts(trained):
    from rockstudy.training.prompts import lessons

    run, _ = trained
    first, second = (
        {tuple(row["prompt_ids"]) for row in lessons(run, stage, 0)}
        for stage in ("stage1", "stage2")
    )
    assert first and second and not first & second


KILLED = """
import os, signal, sys
from pathlib import Path
from rockstudy.config.overrides import from_parameters
from rockstudy.runs import Run
from rockstudy.training import stages

real = stages._Keeper.on_step_end

def dying(self, args, state, control, **kwargs):
    if state.max_steps == 6 and state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, args, state, control, **kwargs)

stages._Keeper.on_step_end = dying
overrides = dict(pair.split("=") for pair in sys.argv[2:])
run = Run(from_parameters("tiny", **overrides), Path(sys.argv[1]))
stages.train(run, "stage2", seed=0)
"""


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_same_bytes(trained, tmp_path, monkeypatch):
    _, whole = trained
    given = [f"{name}={value}" for name, value in STEPS.items()]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *given], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("checkpoint-4"))
    steps, real = [], DistillTrainer.training_step

    def counted(self, *arguments):
        steps.append(self.state.global_step)
        return real(self, *arguments)

    monkeypatch.setattr(DistillTrainer, "training_step", counted)
    resumed = stages.train(_run(tmp_path, **STEPS), "stage2", seed=0)
    assert steps == [4, 5]  # stage 1 was there, and so were four steps of stage 2
    assert resumed.hash == whole.hash
    assert _tables(resumed) == _tables(whole)


def test_a_resume_checkpoint_that_was_cut_while_written_is_not_used(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "ledger.safetensors").touch()
    resumable.seal(tmp_path / "checkpoint-2", {})
    assert stages._last_whole(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-4").exists()


def test_open_windows_come_back_to_their_processes_and_add_up_on_fewer():
    ledgers = []
    for n in (1, 2, 4):
        ledgers.append(Ledger(8))
        ledgers[-1].add_rollouts(torch.full((n,), 3), torch.zeros(n))
        ids, one = torch.arange(n), torch.ones(n)
        ledgers[-1].add_positions(one, one, ids, one)
    windows = np.stack([ledger.window() for ledger in ledgers])
    state = ledgers[0].state(windows)
    for processes in (3, 2, 1):
        again = [Ledger(8) for _ in range(processes)]
        for process, ledger in enumerate(again):
            ledger.restore(state, process, processes)
        own = np.stack([ledger.window() for ledger in again])
        assert own.sum(0).tolist() == windows.sum(0).tolist()
        assert processes < 3 or np.array_equal(own, windows)


def test_a_loss_that_is_not_finite_stops_training_with_one_line(tmp_path, monkeypatch):
    real = DistillTrainer._compute_loss

    def broken(self, *arguments):
        factor = float("nan") if self.state.global_step == 1 else 1.0
        return real(self, *arguments) * factor

    monkeypatch.setattr(DistillTrainer, "_compute_loss", broken)
    with pytest.raises(StudyError, match=r"stage1 step 2: the loss .* nan; lower stage1__lr") as e:
        stages.train(_run(tmp_path), "stage1", seed=0)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("training/*.json")) and not list(tmp_path.rglob("late"))


def test_out_of_memory_says_what_to_lower_and_the_next_run_goes_on(trained, tmp_path, monkeypatch):
    (_, whole), run = trained, _run(tmp_path, **STEPS)
    real = DistillTrainer._hidden

    def greedy(self, *arguments):
        if self.state.max_steps == 6 and self.state.global_step == 4:
            torch.empty(10**15)  # more than any machine has
        return real(self, *arguments)

    line = (
        "stage2 step 5: out of memory; lower stage2__micro_batch (now 4) or "
        "stage2__max_new_tokens (now 24), or set stage2__gradient_checkpointing true"
    )
    with monkeypatch.context() as patch:
        patch.setattr(DistillTrainer, "_hidden", greedy)
        with pytest.raises(StudyError, match=f"^{re.escape(line)}$"):
            stages.train(run, "stage2", seed=0)
    assert list(tmp_path.rglob("checkpoint-4"))
    assert stages.train(run, "stage2", seed=0).hash == whole.hash


def test_too_high_a_learning_rate_is_found_before_a_checkpoint_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillTrainer, "_check_finite", lambda *_: None)
    real = DistillTrainer.training_step

    def breaking(self, model, *arguments):
        loss = real(self, model, *arguments)
        next(model.parameters()).grad.fill_(float("inf"))
        return loss

    monkeypatch.setattr(DistillTrainer, "training_step", breaking)
    with pytest.raises(StudyError, match="stage1 step 2: the student's weights must be finite"):
        stages.train(_run(tmp_path), "stage1", seed=0)


def test_one_problem_cannot_feed_two_stages(tmp_path):
    run = _run(tmp_path, train_task__n_train=1)
    with pytest.raises(
        StudyError, match=r"train_task: must leave each .* n_train 1 gives 1 distinct"
    ):
        stages.train(run, "stage1", seed=0)


@pytest.mark.slow
def test_two_gloo_processes_equal_one(trained, tmp_path):
    run, _ = trained
    given = [a for n, value in (STEPS | {"seeds": [0]}).items() for a in ("-p", f"{n}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "rockstudy", "measure", "training", "--preset", "tiny", *given]
    repository = Path(stages.__file__).parents[1]
    environment = os.environ | {"ROCKSTUDY_HOME": str(tmp_path), "PYTHONPATH": str(repository)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _assert_trained_alike(run, Run(run.config, tmp_path / "runs" / "tiny"))


SHARDED = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.parallel.distributed import together
from rockstudy.runs import Run
from rockstudy.selective.windows import WindowWeights
from rockstudy.training import stages

start, step_end = PartialState.__init__, stages._Keeper.on_step_end
arm, weights = "baseline", None
if sys.argv[2] == "windows":
    arm, weights = "windows", WindowWeights(range(200), 0.0, 0.1, 2)

def as_devices(self, *args, **kwargs):  # accelerate shards on devices alone; gloo does as well
    start(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

def checked(self, args, state, control, **kwargs):
    if state.max_steps == 6 and state.global_step == 5 and sys.argv[2] == "fails":
        raise StudyError("as asked")
    for model in (self.trainer.model, self.trainer.teacher_model):
        whole = sum(parameter.numel() for parameter in model.parameters())
        own = sum(parameter.to_local().numel() for parameter in model.parameters())
        assert own == whole / 2
    if weights is not None:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for module in (self.trainer.model, self.trainer.model.get_decoder().layers[0]):
            assert module._get_fsdp_state()._mp_policy == policy
    step_end(self, args, state, control, **kwargs)

PartialState.__init__, stages._Keeper.on_step_end = as_devices, checked
together()
config = from_parameters("tiny", **dict(pair.split("=") for pair in sys.argv[3:]))
run = Run(config, Path(sys.argv[1]))
stages.train(run, "stage2", seed=0, arm=arm, weights=weights)
"""


def _sharded(folder, run, ending, given, precision="no"):
    """Train with FSDP2 over two gloo processes, as `SHARDED` says."""
    shipped = yaml.safe_load((paths.REPO / "launch" / "fsdp2.yaml").read_text(encoding="utf-8"))
    on_cpu = {"num_processes": 2, "use_cpu": True, "mixed_precision": precision}
    (folder / "fsdp2.yaml").write_text(yaml.safe_dump(shipped | on_cpu))
    (folder / "script.py").write_text(SHARDED)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(folder / "fsdp2.yaml"), str(folder / "script.py"), str(run.path), ending]
    command += [f"{name}={value}" for name, value in given.items()]
    environment = os.environ | {"PYTHONPATH": str(paths.REPO)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_student_and_teacher_sharded_over_two_processes_train_as_one_does(tmp_path):
    """FSDP2 on gloo, stopped and resumed: sums in another order are all that differs.

    Rollouts are greedy, because a sharded student's are TRL's own, which draws other numbers.
    """
    given = STEPS | {"stage2__temperature": 0, "stage2__lr": 2e-3}
    one, two = (_run(tmp_path / name, **given) for name in ("one", "two"))
    stages.train(one, "stage2", seed=0)
    for ending in ("fails", "ends"):
        done = _sharded(tmp_path, two, ending, given)
        assert (done.returncode == 0) == (ending == "ends"), done.stderr
        assert bool([*two.path.rglob("checkpoint-4")]) == (ending == "fails")
    _assert_trained_alike(one, two)


@pytest.mark.slow
def test_a_student_sharded_in_bf16_has_weights_losses_and_gradient_sums_in_float32(tmp_path):
    """As the shipped configuration has it on devices; windows are made of the losses."""
    run = _run(tmp_path / "run", **STEPS)
    done = _sharded(tmp_path, run, "windows", STEPS, precision="bf16")
    assert done.returncode == 0, done.stderr
    metrics = cache.load(_stored(run, "stage2-windows-s0") / "metrics")
    assert metrics.loss.gt(0).all() and metrics.mean_weight.between(0, 1, "neither").all()


def _assert_trained_alike(one, two):
    """Two runs of both stages agree up to the order in which floating-point numbers are added."""
    for stage in ("stage1", "stage2"):
        first, second = (_stored(run, f"{stage}-baseline-s0") for run in (one, two))
        for name, tolerance in (("metrics", {}), ("type_losses", {"atol": 1e-4})):
            found, wanted = (cache.load(folder / name) for folder in (second, first))
            pd.testing.assert_frame_equal(found, wanted, rtol=1e-4, **tolerance)
        weights = [
            loading.load_model(str(folder / "late")).state_dict() for folder in (first, second)
        ]
        for name, wanted in weights[0].items():
            torch.testing.assert_close(weights[1][name], wanted, rtol=1e-3, atol=1e-4)
