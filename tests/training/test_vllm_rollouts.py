"""The engine inside a training process, with a stand-in; `test_vllm_engine` has the real one."""

import gc
import os
import sys
from types import SimpleNamespace

import pytest
from trl.generation.vllm_generation import VLLMGeneration

from rockstudy.config.fields import StageConfig
from rockstudy.models import loading
from rockstudy.training import stages, vllm_rollouts
from rockstudy.training.trainer import DistillTrainer


@pytest.fixture
def started(monkeypatch):
    """The engines that were started, each of which spoils the process as TRL's does."""
    engines = []

    def start(self):
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        gc.freeze()
        self.llm = object()
        engines.append(self.llm)

    monkeypatch.setattr(VLLMGeneration, "_init_vllm", start)
    monkeypatch.setattr(vllm_rollouts, "_ENGINES", {})
    return engines


def trainer(folder, max_new_tokens=8, **changes):
    stage = StageConfig(
        source="student",
        prompts_per_step=2,
        rollouts_per_prompt=1,
        steps=1,
        lr=1e-3,
        reverse_kl=1.0,
        max_new_tokens=max_new_tokens,
        micro_batch=2,
        engine="vllm",
        **changes,
    )
    pair = loading.tiny_pair()
    return DistillTrainer(
        stage=stage,
        name="stage2",
        seed=0,
        model=pair.student,
        teacher_model=pair.teacher,
        processing_class=pair.tokenizer,
        args=stages._arguments(stage, folder, 64),
        train_dataset=[{"prompt_ids": [5]}] * 2,
    )


def test_trainings_share_an_engine_and_each_writes_its_own_weights_into_it(started, tmp_path):
    first, second = trainer(tmp_path), trainer(tmp_path, temperature=0.5)
    assert [second.vllm_generation.llm, first.vllm_generation.llm] == started * 2
    for one in (first, second):
        assert one.vllm_generation.model is one.model
        assert one.vllm_generation.accelerator is one.accelerator
        assert one.vllm_generation.temperature == one.stage.temperature
        assert one.use_vllm and one._last_loaded_step == -1  # so that step 0 writes them
    longer = trainer(tmp_path, max_new_tokens=9)
    assert started == [first.vllm_generation.llm, longer.vllm_generation.llm]


def test_a_process_is_after_an_engines_start_what_it_was_before(started, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    forgotten = []
    envs = SimpleNamespace(disable_envs_cache=lambda: forgotten.append(1))
    monkeypatch.setitem(sys.modules, "vllm.envs", envs)
    before = dict(os.environ)
    with vllm_rollouts.unchanged():
        VLLMGeneration._init_vllm(SimpleNamespace())
        assert gc.get_freeze_count() > 0 and os.environ["RANK"] == "0"
    assert dict(os.environ) == before
    assert gc.get_freeze_count() == 0 and forgotten == [1]


def test_the_process_is_left_as_it_was_where_an_engine_does_not_start(started):
    before = dict(os.environ)
    with pytest.raises(RuntimeError, match="no memory"), vllm_rollouts.unchanged():
        VLLMGeneration._init_vllm(SimpleNamespace())
        raise RuntimeError("no memory")
    assert dict(os.environ) == before and gc.get_freeze_count() == 0
