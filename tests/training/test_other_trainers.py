"""Weights and the ledger in trainers of others: against full logits, autograd and plain sums."""

import warnings
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trl
from torch.nn.functional import kl_div, log_softmax
from trl.trainer import distillation_trainer

from rockstudy.config.fields import StageConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts
from rockstudy.store import files
from rockstudy.training import stages
from rockstudy.training.other_trainers import TypeLosses, weigh

STAGE = StageConfig(
    source="student",
    prompts_per_step=2,
    rollouts_per_prompt=1,
    steps=5,
    logging_steps=2,
    save_steps=4,
    keep={"late": 1.0},
    lr=1e-3,
    reverse_kl=1.0,
    max_new_tokens=6,
    micro_batch=1,
)


@pytest.fixture
def pair(tiny_pair_dir):
    load = loading.load_model
    return loading.Pair(
        load(str(tiny_pair_dir / "teacher"), device="cpu"),
        load(str(tiny_pair_dir / "student"), device="cpu"),
        loading.load_tokenizer(str(tiny_pair_dir / "tokenizer")),
    )


def make_trainer(pair, folder):
    """TRL's trainer as it comes; two accumulated micro-batches of one rollout each step."""
    prompts = [{"prompt": f"What is {i} + 1?"} for i in range(STAGE.steps * 2)]
    return trl.DistillationTrainer(
        model=pair.student,
        teacher_model=pair.teacher,
        processing_class=pair.tokenizer,
        args=stages._arguments(STAGE, folder, 64),
        train_dataset=prompts,
    )


@pytest.fixture
def step():
    """A micro-batch as TRL makes it: prompts padded on the left, completions on the right."""
    generator = torch.Generator().manual_seed(7)
    prompts, completions = (5, 2, 8), (6, 1, 4)
    ids = torch.randint(3, 320, (3, 14), generator=generator)
    prompt_mask = torch.arange(8) >= 8 - torch.tensor(prompts)[:, None]
    mask = torch.arange(6) < torch.tensor(completions)[:, None]
    return {
        "prompt_ids": ids[:, :8].where(prompt_mask, 0),
        "prompt_mask": prompt_mask.long(),
        "completion_ids": ids[:, 8:].where(mask, 0),
        "completion_mask": mask.long(),
        "num_items_in_batch": torch.tensor(11),
    }


def divergences(pair, step):
    """KL(student || teacher) at each position with full logits, row by row: double (R, T)."""
    rows = []
    for r in range(3):
        prompt = step["prompt_ids"][r][step["prompt_mask"][r].bool()]
        completion = step["completion_ids"][r][step["completion_mask"][r].bool()]
        ids, start = torch.cat([prompt, completion])[None], len(prompt) - 1
        log_p = log_softmax(pair.student(ids).logits[0, start:-1].double(), -1)
        with torch.no_grad():
            log_q = log_softmax(pair.teacher(ids).logits[0, start:-1].double(), -1)
        each = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        rows.append(torch.cat([each, each.new_zeros(6 - len(each))]))
    return torch.stack(rows)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def training_loss(trainer, step):
    trainer.model.train()
    return trainer.compute_loss(trainer.model, step)


def test_weights_of_one_change_no_bit_of_the_loss_or_of_a_gradient(pair, step, tmp_path):
    trainer = make_trainer(pair, tmp_path)
    loss = training_loss(trainer, step)
    wanted = gradients(pair.student, loss)
    weigh(trainer, lambda ids, mask, losses: mask.float())
    again = training_loss(trainer, step)
    assert torch.equal(loss, again)
    found = gradients(pair.student, again)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("with_tools", [False, True])
def test_a_weighted_loss_is_that_of_full_logits(pair, step, tmp_path, with_tools):
    trainer, seen = make_trainer(pair, tmp_path), []
    w = torch.rand(3, 6, generator=torch.Generator().manual_seed(2))
    w[0, 2] = w[2, 0] = 0.0

    def weights(*given):
        seen.append(given)
        return w

    if with_tools:  # positions that TRL itself leaves out
        step["tool_mask"] = torch.ones(3, 6, dtype=torch.int64)
        step["tool_mask"][0, 4] = 0
    weigh(trainer, weights)
    found = gradients(pair.student, loss := training_loss(trainer, step))
    counted = step["completion_mask"] * step.get("tool_mask", 1)
    each = divergences(pair, step) * counted
    expected = (each * w).sum() / 11
    wanted = gradients(pair.student, expected)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-6)
    ((ids, mask, losses),) = seen
    assert torch.equal(ids, step["completion_ids"]) and torch.equal(mask, counted.bool())
    torch.testing.assert_close(losses.double(), each.detach(), rtol=1e-4, atol=1e-6)
    assert not losses.requires_grad


def test_evaluation_and_other_trainers_are_left_alone(pair, step, tmp_path):
    weighed, other = (make_trainer(pair, tmp_path) for _ in range(2))
    weigh(weighed, lambda ids, mask, losses: torch.zeros(mask.shape))
    assert training_loss(weighed, step) == 0 and training_loss(other, step) > 0
    assert isinstance(distillation_trainer.ChunkedDivergenceFunction, type)  # TRL's own again
    weighed.model.eval()
    with torch.no_grad():
        assert weighed.compute_loss(weighed.model, step) > 0


def test_a_hook_that_cannot_work_is_an_error(pair, step, tmp_path):
    with pytest.raises(StudyError, match="trainer: must be TRL's DistillationTrainer or GKD"):
        weigh(SimpleNamespace(), lambda *given: None)
    trainer = make_trainer(pair, tmp_path)
    trainer._compute_loss = lambda student, inputs, n: torch.tensor(1.0)
    weigh(trainer, lambda *given: None)
    with pytest.raises(StudyError, match="must not be weighed twice"):
        weigh(trainer, lambda *given: None)
    trainer.model.train()
    with pytest.raises(StudyError, match="must compute its loss as TRL's DistillationTrainer"):
        trainer._compute_loss(trainer.model, step, 11)
    trainer = make_trainer(pair, tmp_path)
    weigh(trainer, lambda ids, mask, losses: mask[:, 1:])
    with pytest.raises(StudyError, match=r"one number per position, \(3, 6\); got \(3, 5\)"):
        training_loss(trainer, step)


@pytest.mark.parametrize("items", [None, 20])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gkd_has_the_same_hook(items, beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from trl.experimental.gkd import GKDTrainer
    trainer = GKDTrainer.__new__(GKDTrainer)
    trainer.model = SimpleNamespace(training=True)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 9, generator=generator) for _ in range(2))
    labels = torch.randint(0, 9, (2, 5), generator=generator)
    labels[0, :2] = labels[1, 4] = -100
    given = {"student_logits": student.requires_grad_(), "teacher_logits": teacher}
    given |= {"labels": labels, "beta": beta, "num_items_in_batch": items}
    plain = trainer.generalized_jsd_loss(**given)
    (wanted,) = torch.autograd.grad(plain, student)
    w = torch.ones(2, 5)
    weigh(trainer, lambda ids, mask, losses: w)
    same = trainer.generalized_jsd_loss(**given)
    torch.testing.assert_close(same, plain)
    torch.testing.assert_close(torch.autograd.grad(same, student)[0], wanted)
    w[0, 3] = 0.0
    (found,) = torch.autograd.grad(trainer.generalized_jsd_loss(**given), student)
    assert found[0, 3].eq(0).all()
    kept = torch.arange(10).view(2, 5) != 3
    torch.testing.assert_close(found[kept], wanted[kept])


# --- the ledger -----------------------------------------------------------------------------------


# TRL reads an attribute that the newest transformers deprecates
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_ledger_holds_the_mean_loss_of_each_type_along_training(pair, tmp_path):
    file, sums = tmp_path / "types.parquet", defaultdict(lambda: np.zeros(2))
    trainer = make_trainer(pair, tmp_path / "out")

    def add(ids, mask, losses):
        step = min(s for s in (2, 4, 5) if s > trainer.state.global_step)
        for i, loss in zip(ids[mask].tolist(), losses[mask].tolist(), strict=True):
            sums[step, i] += 1, loss
        return torch.zeros(mask.shape)  # the ledger is not weighed

    weigh(trainer, add)
    TypeLosses(file).watch(trainer)
    trainer.train()
    table = files.read_frame(file)
    assert list(table) == ["step", "token_id", "text", "count", "rkl_sum", "rkl_mean"]
    found = {(row.step, row.token_id): row for row in table.itertuples()}
    assert found.keys() == sums.keys() and {step for step, _ in found} == {2, 4, 5}
    for key, (count, loss) in sums.items():
        assert found[key].count == count
        assert found[key].rkl_sum == pytest.approx(loss, rel=1e-6, abs=1e-9)
        assert found[key].rkl_mean == pytest.approx(loss / count, rel=1e-6, abs=1e-9)
    assert table.text.tolist() == token_texts(pair.tokenizer, table.token_id)

    resumed = make_trainer(pair, tmp_path / "out")
    recorded = TypeLosses(file).watch(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    again = files.read_frame(file)
    assert again.equals(recorded.frame())
    assert again[again.step <= 4].equals(table[table.step <= 4])
    assert again.step.max() == 5


def test_a_file_that_cannot_be_is_refused_before_training(tmp_path):
    with pytest.raises(StudyError, match=r"file: must end in .parquet"):
        TypeLosses(tmp_path / "types.csv")
    with pytest.raises(StudyError, match="file: must be in a folder that exists"):
        TypeLosses(tmp_path / "no" / "types.parquet")
