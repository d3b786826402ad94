"""Rock weights for other trainers: against plain loops and autograd, in the examples' own words."""

import re

import pandas as pd
import pytest
import torch
import trl
from torch.nn.functional import kl_div

from rockstudy.config.fields import RockConfig, StageConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks import token_file
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.token_set import TokenSet
from rockstudy.selective import rock_weights
from rockstudy.selective.rock_weights import RockWeights
from rockstudy.training import stages
from rockstudy.training.other_trainers import weigh

R, T, V = 3, 7, 11
ROCKS = (2, 5)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, V, (R, T), generator=generator)
    ids[0, :3] = torch.tensor([2, 3, 5])
    mask = torch.arange(T) < torch.tensor([[7], [4], [1]])
    losses = torch.rand(R, T, generator=generator) * mask
    return ids, mask, losses


def by_hand(ids, mask, losses, dose, threshold, width):
    """Weights of rocks and windows, position by position."""
    w = mask.float()
    high = (losses >= threshold) & mask
    for r in range(R):
        for t in range(T):
            if not mask[r, t] or int(ids[r, t]) not in ROCKS:
                continue
            w[r, t] = dose
            for step in (1, -1):
                for d in range(1, width + 1):
                    at = t + step * d
                    if not (high[r, t] and 0 <= at < T and high[r, at]):
                        break
                    w[r, at] = dose
    return w


@pytest.mark.parametrize("dose", [0.0, 0.3, 2.0])
def test_the_dose_lies_on_the_rocks_and_nowhere_else(batch, dose):
    ids, mask, _ = batch
    w = RockWeights.of(TokenSet.of("rocks", ROCKS), dose)(ids, mask)
    wanted = torch.where(torch.isin(ids, torch.tensor(ROCKS)), dose, 1.0) * mask
    assert w.dtype == torch.float32 and torch.equal(w, wanted.float())
    assert torch.equal(w, RockWeights.of(ROCKS, dose)(ids.int(), mask.long()))  # any integers


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("width", [1, 3])
def test_windows_are_the_runs_of_high_loss_around_a_rock(batch, threshold, width):
    weights = RockWeights.of(ROCKS, 0.25, windows=True, threshold=threshold, width=width)
    wanted = by_hand(*batch, 0.25, threshold, width)
    assert torch.equal(weights(*batch), wanted)
    assert torch.equal(weights(*batch[:2], batch[2].clone().requires_grad_()), wanted)


def test_a_detection_brings_its_own_threshold_and_width(batch):
    types = pd.DataFrame({"token_id": [2, 5, 7], "rank": [1, 2, 3], "score": [3.0, 2.0, 1.0]})
    settings = RockConfig(k=2, window=3)
    found = Detection(types, pd.DataFrame(), 0.1, 0.3, settings)
    assert torch.equal(
        RockWeights.of(found, 0.25, windows=True)(*batch), by_hand(*batch, 0.25, 0.3, 3)
    )
    other = Detection(types, pd.DataFrame(), 0.1, 0.3, RockConfig(k=2, loss="log_ratio"))
    with pytest.raises(StudyError, match="threshold, width: must be given"):
        RockWeights.of(other, windows=True)


def test_what_is_missing_or_has_another_shape_is_one_line(batch):
    ids, mask, losses = batch
    windows = RockWeights.of(ROCKS, windows=True, threshold=0.1, width=2)
    with pytest.raises(StudyError, match="windows need the losses"):
        windows(ids, mask)
    with pytest.raises(StudyError, match="threshold, width: must be given"):
        RockWeights.of(ROCKS, windows=True, threshold=0.1)
    with pytest.raises(StudyError, match="windows: must be True"):
        RockWeights.of(ROCKS, threshold=0.1)
    with pytest.raises(StudyError, match=r"mask: must have the two axes .* got \(3, 6\)"):
        windows(ids, mask[:, 1:], losses)
    with pytest.raises(StudyError, match="losses: must have the two axes"):
        windows(ids, mask, losses[0])
    with pytest.raises(StudyError, match="completion_ids: must be integers"):
        windows(losses, mask, losses)
    with pytest.raises(StudyError, match="ids must be at least one token id"):
        RockWeights.of([])


# --- the loop of the module's own words -----------------------------------------------------------


@pytest.fixture
def loop(monkeypatch, batch):
    """Run the module's example of a plain loop; return the loss and the logits' gradient."""
    blocks = re.findall(r"```python\n(.*?)```", rock_weights.__doc__, re.DOTALL)
    (example,) = (block for block in blocks if "student_logits" in block)
    ids, mask, _ = batch

    def run(dose, ids_of_rocks=ROCKS):
        made = token_file.TokenFile.model_construct(
            name="rocks",
            window=token_file.Window(threshold=0.2, width=2),
            tokens=tuple(token_file.Token.model_construct(id=i) for i in ids_of_rocks),
        )
        monkeypatch.setattr(token_file, "read", lambda file, tokenizer: made)
        generator = torch.Generator().manual_seed(3)
        student, teacher = (torch.randn(R, T, V, generator=generator) for _ in range(2))
        names = {
            "RockWeights": RockWeights,
            "token_file": token_file,
            "tokenizer": None,
            "student_logits": student.requires_grad_(),
            "teacher_logits": teacher,
            "completion_ids": ids,
            "mask": mask,
        }
        exec(example.replace("dose=0.0", f"dose={dose}"), names)
        return names["loss"].detach(), student, teacher, names["w"]

    return run


def test_weights_of_one_change_neither_the_loss_nor_a_gradient(loop, batch):
    _, mask, _ = batch
    loss, student, teacher, w = loop(1.0)
    assert torch.equal(w, mask.float())
    logits = student.detach().clone().requires_grad_()
    each = kl_div(
        teacher.log_softmax(-1), logits.log_softmax(-1), reduction="none", log_target=True
    )
    plain = each.sum(-1)[mask].sum() / mask.sum()
    plain.backward()
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(student.grad, logits.grad)


def test_weights_of_zero_remove_exactly_the_gradient_of_their_positions(loop, batch):
    _, mask, _ = batch
    _, whole, *_ = loop(1.0)
    _, frozen, _, w = loop(0.0)
    zero = (w == 0) & mask
    assert 0 < zero.sum() < mask.sum()
    assert frozen.grad[w == 0].eq(0).all()
    assert whole.grad[zero].ne(0).any(-1).all()
    assert torch.equal(frozen.grad[w == 1], whole.grad[w == 1])


# --- TRL's trainer in the module's own words ------------------------------------------------------


# TRL reads an attribute that the newest transformers deprecates
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("dose", [0.0, 1.0])
def test_trls_trainer_learns_nothing_where_every_type_is_left_out(
    tiny_pair_dir, tmp_path, monkeypatch, dose
):
    example, *_ = re.findall(r"```python\n(.*?)```", rock_weights.__doc__, re.DOTALL)
    roles = ("teacher", "student")
    models = {name: loading.load_model(str(tiny_pair_dir / name), device="cpu") for name in roles}
    tokenizer = loading.load_tokenizer(str(tiny_pair_dir / "tokenizer"))
    how = {"prompts_per_step": 2, "rollouts_per_prompt": 1, "steps": 2, "lr": 1e-2}
    stage = StageConfig(
        source="student", reverse_kl=1.0, max_new_tokens=5, micro_batch=2, weight_decay=0.0, **how
    )
    trainer = trl.DistillationTrainer(
        model=models["student"],
        teacher_model=models["teacher"],
        processing_class=tokenizer,
        args=stages._arguments(stage.model_copy(update={"keep": {}}), tmp_path, 64),
        train_dataset=[{"prompt": f"What is {i} + 1?"} for i in range(4)],
    )
    monkeypatch.setattr(token_file, "read", lambda *_: range(len(tokenizer)))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    names = {"RockWeights": RockWeights, "token_file": token_file, "weigh": weigh}
    code = example.replace("dose=0.0", f"dose={dose}")
    exec(code, names | {"trainer": trainer, "tokenizer": tokenizer})
    assert trainer.state.global_step == 2
    same = [torch.equal(p, before[name]) for name, p in trainer.model.named_parameters()]
    assert all(same) if dose == 0 else not any(same)
