"""What a study does first, on a CUDA device against the CPU; `make gpu` begins with these."""

import copy

import pytest
import torch

from rockstudy.config.overrides import from_parameters
from rockstudy.models import loading
from rockstudy.rocks.token_table import in_memory
from rockstudy.runs import Run
from rockstudy.sampling import rollout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def pair():
    return loading.tiny_pair()  # float32, on the CPU


def on_cuda(model):
    return copy.deepcopy(model).cuda()


def rollouts(pair, model, temperature=1.0):
    prompts = ["What is 2 + 3?", "Count to ten.", "Why?", "Name a prime number above 20."]
    ids = rollout.prompt_ids(pair.tokenizer, prompts, 256)
    how = {"max_new_tokens": 32, "batch_size": 2, "seed": 0, "temperature": temperature}
    return ids, rollout.generate(model, pair.tokenizer, ids, **how)


def test_a_study_loads_its_pair_in_bf16_on_the_card():
    made = loading.load_pair(from_parameters("tiny").pair)
    for model in (made.teacher, made.student):
        assert (model.device.type, model.dtype) == ("cuda", torch.bfloat16)


def test_losses_in_float32_on_the_card_are_those_of_the_cpu(pair):
    _, rows = rollouts(pair, pair.student)
    models = {"teacher": pair.teacher, "post": pair.student}
    cpu, cuda = in_memory(rows, models), in_memory(rows, {k: on_cuda(m) for k, m in models.items()})
    for name in ("rkl_post", "fkl_post", "log_ratio_post", "entropy_post", "entropy_teacher"):
        assert cuda[name].to_numpy() == pytest.approx(cpu[name].to_numpy(), rel=1e-3, abs=1e-4)


def test_greedy_completions_on_the_card_are_those_of_generate(pair):
    model = on_cuda(pair.student)
    ids, made = rollouts(pair, model, temperature=0)
    ends = rollout.eos_ids(model, pair.tokenizer)
    for prompt, ours in zip(ids, made.completions, strict=True):
        whole = torch.tensor([prompt], device="cuda")
        how = {"do_sample": False, "max_new_tokens": 32, "eos_token_id": ends}
        theirs = model.generate(whole, attention_mask=torch.ones_like(whole), **how)
        assert ours.tolist() == theirs[0, len(prompt) :].tolist()


def test_a_training_on_the_card_is_repeated_by_the_next(tmp_path):
    from rockstudy.training import stages

    runs = [Run(from_parameters("tiny"), tmp_path / name) for name in ("one", "two")]
    first, second = (stages.train(run, "stage2", seed=0).metrics for run in runs)
    assert first.loss.tolist() == pytest.approx(second.loss.tolist(), rel=1e-2)
    assert (first.loss > 0).all()
