"""bfloat16 where the processor has it: it is asked, and weights that are trained stay float32."""

import numpy as np
import pytest
import torch

from rockstudy.config.overrides import from_parameters
from rockstudy.models import checkpoints, loading
from rockstudy.rocks import token_table
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.training import stages
from rockstudy.training.trainer import DistillTrainer

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "answer"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_the_processor_is_asked(has, answer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert loading.multiplies_bfloat16(CPU) is answer
    wanted = torch.bfloat16 if answer else torch.float32
    assert loading.load_model("tiny:student", dtype="fastest", device="cpu").dtype == wanted
    assert loading.load_model("tiny:student", device="cpu").dtype == torch.float32


def test_a_torch_that_cannot_tell_has_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not loading.multiplies_bfloat16(CPU)


def test_a_stage_computes_in_bfloat16_and_keeps_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda device: True)
    made, computed = {}, []
    rollouts = DistillTrainer._rollouts
    decode = engines.decode

    def decoded(*args, **kwargs):
        computed.append(torch.is_autocast_enabled("cpu"))
        yield from decode(*args, **kwargs)

    def watched(trainer, inputs):
        with pytest.MonkeyPatch.context() as patched:  # not while the teacher writes its answers
            patched.setattr(engines, "decode", decoded)
            return rollouts(trainer, inputs)

    monkeypatch.setattr(DistillTrainer, "_rollouts", watched)
    for dtype in ("float32", "fastest"):
        config = from_parameters("tiny", pair__dtype=dtype, stage2__steps=2)
        run = Run(config, tmp_path / dtype)
        made[dtype] = stages.train(run, "stage2", seed=0)
        one = checkpoints.in_folder(made[dtype].checkpoints["late"], config.pair)
        plain = checkpoints.in_folder(one.folder, from_parameters("tiny").pair)
        fast = dtype == "fastest"
        assert one.load().dtype == (torch.bfloat16 if fast else torch.float32)
        assert (one.hash != plain.hash) is fast  # what was sampled in another type is sampled anew
    assert computed == [False, False, True, True]  # two steps of stage 2 each
    late = {
        dtype: loading.load_model(str(one.checkpoints["late"]), dtype="auto", device="cpu")
        for dtype, one in made.items()
    }
    a, b = (late[dtype].state_dict() for dtype in ("float32", "fastest"))
    assert {w.dtype for w in b.values()} == {torch.float32}
    assert not all(torch.equal(a[name], b[name]) for name in a)
    losses = [one.metrics.rkl.to_numpy() for one in made.values()]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)


def test_the_reverse_kl_of_bfloat16_states_is_close_to_that_of_float32():
    pair = loading.tiny_pair()
    ids = rollout.prompt_ids(pair.tokenizer, ["What is 3 + 4?", "Count to five."], 64)
    how = {"max_new_tokens": 24, "batch_size": 2, "seed": 0}
    rollouts = rollout.generate(pair.student, pair.tokenizer, ids, samples=4, **how)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        models = {"teacher": pair.teacher.to(dtype), "post": pair.student.to(dtype)}
        found[dtype] = token_table.in_memory(rollouts, models).rkl_post
    exact, rounded = found.values()
    assert abs(rounded - exact).mean() < 0.02 * exact.mean()
    assert abs(rounded.mean() / exact.mean() - 1) < 0.01
