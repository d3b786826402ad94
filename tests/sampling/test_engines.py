"""Engines without vLLM: what is refused, and what a stub of its engine is asked for.

The stub has vLLM's interface and decodes greedily with a transformers model; `test_vllm` has the
engine itself.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from test_rollout import END, TOKENIZER, completions, sample, small_llama

from rockstudy.config.fields import EvalConfig
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Request
from rockstudy.store.seeds import torch_seed

HOW = EvalConfig(n_prompts=1, samples=1, max_new_tokens=12, batch_size=4, engine="vllm")
GREEDY = Chooser(temperature=0)


def engine_of(model, log):
    """A class with the parts of `vllm.LLM` that are used; the last request is finished first."""

    class Engine:
        def __init__(self, **settings):
            log.append(settings)
            self.llm_engine, self.queue, self.count = self, [], 7
            self.engine_core = SimpleNamespace(shutdown=lambda: log.append("shutdown"))

        def enqueue(self, prompts, parameters, use_tqdm):
            log.extend(parameters)
            names = []
            for prompt, one in zip(prompts, parameters, strict=True):
                self.queue.append((str(self.count), prompt["prompt_token_ids"], one))
                names.append(f"{self.count}-0a1b2c3d")
                self.count += 1
            return names

        def has_unfinished_requests(self):
            return bool(self.queue)

        @torch.no_grad()
        def step(self):
            name, ids, one = self.queue.pop()
            new = []
            while len(new) < one.max_tokens and not set(new) & set(one.stop_token_ids):
                logits = model(torch.tensor([[*ids, *new]])).logits[0, -1]
                for token, bias in (one.logit_bias or {}).items():
                    logits[token] += bias
                new.append(int(logits.argmax()))
            made = SimpleNamespace(token_ids=new)
            return [SimpleNamespace(request_id=name, finished=True, outputs=[made])]

    return Engine


@pytest.fixture
def model():
    return small_llama()


@pytest.fixture
def stubbed(model, monkeypatch, tmp_path):
    log = []
    vllm = ModuleType("vllm")
    vllm.LLM = engine_of(model, log)
    vllm.SamplingParams = lambda **given: SimpleNamespace(**given)
    vllm.TokensPrompt = lambda **given: given
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.delitem(sys.modules, "rockstudy.sampling.vllm_engine", raising=False)
    model.save_pretrained(tmp_path / "model")
    yield str(tmp_path / "model"), log
    sys.modules.pop("rockstudy.sampling.vllm_engine", None)


def opened(name, **given):
    return engines.opened(HOW, name, lambda: pytest.fail("loaded"), max_prompt_tokens=20, **given)


def nothing(_):
    pass


def test_without_vllm_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "rockstudy.sampling.vllm_engine", raising=False)
    with pytest.raises(StudyError, match=r"engine: .*rockstudy\[vllm\].*") as error, opened("x/y"):
        pass
    assert "\n" not in str(error.value)


def test_transformers_is_the_default_and_loads_the_model(model):
    how = HOW.model_copy(update={"engine": "transformers"})
    assert EvalConfig(n_prompts=1, samples=1, max_new_tokens=1, batch_size=1).engine == how.engine
    with engines.opened(how, "unused", lambda: model, max_prompt_tokens=20) as engine:
        (ids,) = engine.complete([Request([2], 4, (0, "x", 0))], GREEDY, [END], nothing)
    assert ids.tolist() == completions(sample(model, [[2]], temperature=0, max_new_tokens=4))[0]


def test_the_large_presets_sample_with_vllm():
    for name, config in PRESETS.items():
        parts = (config.evaluation, config.statistics, config.knockout)
        wanted = "vllm" if name in ("qwen3", "paper") else "transformers"
        assert {part.engine for part in parts} == {wanted}


def test_rollouts_of_a_served_model_are_those_of_the_model(model, stubbed):
    folder, _ = stubbed
    prompts = [[2, 3], [4], [5, 6, 7]]
    how = {"temperature": 0, "max_new_tokens": 12, "batch_size": 2, "seed": 0}
    ours = rollout.generate(model, TOKENIZER, prompts, **how)
    with opened(folder) as served:
        theirs = rollout.generate(served, TOKENIZER, prompts, **how)
    assert completions(theirs) == completions(ours)
    assert theirs.stopped.tolist() == ours.stopped.tolist()


def test_a_request_says_all_that_a_row_does(stubbed):
    folder, log = stubbed
    rows = [Request([2, 3], 5, (1, "x", 9), (4, 8)), Request([2], 1, (1, "x", 10))]
    with opened(folder) as served:
        assert log == []  # nothing starts before there are rows
        assert served.complete([], GREEDY, [END], nothing) == [] and log == []
        seen = []
        served.complete(rows, Chooser(0.7, 0.9, 5), [END, 3], seen.append)
    settings, first, second, last = log
    assert (settings["model"], settings["max_model_len"]) == (folder, 32)
    assert settings["skip_tokenizer_init"] and not settings["trust_remote_code"]
    assert (first.temperature, first.top_p, first.top_k, first.max_tokens) == (0.7, 0.9, 5, 5)
    assert first.logit_bias == {4: -np.inf, 8: -np.inf} and second.logit_bias is None
    assert (first.stop_token_ids, first.ignore_eos) == ([END, 3], True)
    assert [first.seed, second.seed] == [torch_seed(1, "x", unit) for unit in (9, 10)]
    assert seen == rows[::-1] and last == "shutdown"


def test_an_interrupted_engine_is_closed_and_the_next_rows_start_another(stubbed):
    folder, log = stubbed

    def interrupt(_):
        raise KeyboardInterrupt

    rows = [Request([2, 3], 5, (1, "x", i)) for i in range(3)]
    with opened(folder) as served:
        with pytest.raises(KeyboardInterrupt):
            served.complete(rows, GREEDY, [END], interrupt)
        assert log[-1] == "shutdown"
        assert len(served.complete(rows, GREEDY, [END], nothing)) == 3
    assert sum(isinstance(entry, dict) for entry in log) == 2 and log.count("shutdown") == 2


def test_an_engine_that_writes_a_banned_token_is_not_believed(stubbed, monkeypatch):
    folder, _ = stubbed
    with opened(folder) as served:
        (ids,) = served.complete([Request([2, 3], 1, (1, "x", 0))], GREEDY, [END], nothing)
        vllm_engine = sys.modules["rockstudy.sampling.vllm_engine"]
        ask = vllm_engine.SamplingParams
        monkeypatch.setattr(
            vllm_engine, "SamplingParams", lambda **given: ask(**given | {"logit_bias": None})
        )
        with pytest.raises(RuntimeError, match="broke a row's limit or ban"):
            served.complete(
                [Request([2, 3], 1, (1, "x", 0), (int(ids[0]),))], GREEDY, [END], nothing
            )


def test_more_bans_than_the_engine_can_hold_are_refused(stubbed):
    folder, _ = stubbed
    row = Request([2, 3], 1, (1, "x", 0), tuple(range(2_000)))
    with opened(folder) as served, pytest.raises(StudyError, match="at most 1024 tokens"):
        served.complete([row], GREEDY, [END], nothing)


@pytest.mark.parametrize("name", ["tiny:teacher", "no/such", "not a name"])
def test_models_that_vllm_cannot_read_are_refused(stubbed, name):
    with (
        pytest.raises(StudyError, match="teacher: must be") as error,
        opened(name, field="teacher"),
    ):
        pass
    assert "\n" not in str(error.value)


def test_weights_in_a_gguf_file_are_refused_by_name(stubbed):
    folder, _ = stubbed
    with (
        pytest.raises(StudyError, match="take the engine transformers"),
        opened(folder, gguf_file="x.gguf"),
    ):
        pass
