"""Simulated steps against measured ones, closed forms, and the arithmetic of shards."""

import json
from collections.abc import Iterator

import pytest
from transformers import Qwen3Config, Qwen3MoeConfig

from rockstudy import paths
from rockstudy.cli import estimates, main, simulated
from rockstudy.cli.dimensions import KNOWN, Dimensions
from rockstudy.config.fields import StageConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.simulation import tables
from rockstudy.store import files

SMALL = dict(
    num_hidden_layers=2,
    hidden_size=128,
    intermediate_size=512,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=4096,
    tie_word_embeddings=True,
)
MIXTURE = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64)
PROMPT, NEW, MICRO = 32, 64, 2


def stage(processes: int, parts: int = 2, **others) -> StageConfig:
    given = dict(source="student", rollouts_per_prompt=1, steps=5, lr=1e-5, reverse_kl=1.0)
    given |= dict(prompts_per_step=MICRO * parts * processes, max_new_tokens=NEW)
    return StageConfig(**(given | {"micro_batch": MICRO} | others))


def simulate(processes: int, teacher=None, **others):
    student = Qwen3Config(**SMALL)
    settings = stage(processes, **others)
    asked = tables.training(student, teacher or student, settings, PROMPT, processes)
    return tables.simulated(asked)


@pytest.fixture(scope="module")
def alone():
    return simulate(1)


@pytest.fixture(scope="module")
def eight():
    return simulate(8, Qwen3MoeConfig(**SMALL, **MIXTURE))


def sizes(config) -> Dimensions:
    return Dimensions.of(config)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_simulated_peak_is_within_a_tenth_of_the_measured_one(checkpointing):
    large = dict(num_hidden_layers=3, hidden_size=512, intermediate_size=2048, vocab_size=16_384)
    config = Qwen3Config(**(SMALL | large | {"num_attention_heads": 8, "head_dim": 64}))
    settings = stage(1, gradient_checkpointing=checkpointing)
    settings = settings.model_copy(update={"max_new_tokens": 224, "micro_batch": 4})
    settings = settings.model_copy(update={"prompts_per_step": 8})
    asked = tables.training(config, config, settings, PROMPT, 1, cuda=False)
    made = tables.simulated(asked)["peak"]
    measured = tables.simulated(asked | {"real": True})["peak"]
    assert made > 5e8  # large enough for what a process has besides
    assert made == pytest.approx(measured, rel=0.1)


def test_one_process_holds_whole_weights_gradients_and_moments(alone):
    n = sizes(Qwen3Config(**SMALL)).parameters
    assert (alone["weights"], alone["gradients"], alone["moments"]) == (4 * n, 4 * n, 8 * n)
    assert alone["teacher"] == 2 * n
    assert alone["received"] == {}
    assert alone["peak"] > 4 * n + 4 * n + 8 * n + 2 * n


def test_eight_processes_hold_an_eighth_of_everything_that_lasts(alone, eight):
    for name in ("weights", "gradients", "moments"):
        assert eight[name] == alone[name] / 8, name
    teacher = sizes(Qwen3MoeConfig(**SMALL, **MIXTURE))
    assert eight["teacher"] == 2 * teacher.parameters / 8


def test_gathers_and_scatters_move_what_fsdp_shards(eight):
    """Per micro-batch the teacher once; the student's layers twice, with the backward pass."""
    student = sizes(Qwen3Config(**SMALL))
    teacher = sizes(Qwen3MoeConfig(**SMALL, **MIXTURE))
    seven = 7 / 8
    # of the student, gradients go once, in float32, after the last micro-batch
    assert eight["received"]["reduce_scatter/8"] == seven * 4 * student.parameters
    layers = len(student.layers) * student.layer
    once = 2 * teacher.parameters + 2 * (student.parameters + layers)
    heads = eight["received"]["all_gather/8"] / seven / 2 - once
    # what remains are the heads, gathered once more where they multiply the states
    assert 0 <= heads <= 4 * student.head + 2 * teacher.head + 4 * student.head


def test_flops_are_six_for_each_weight_and_token_of_the_student_and_two_of_the_teacher(alone):
    model = sizes(Qwen3Config(**SMALL))
    length, rows = PROMPT + NEW, 2 * MICRO
    kept = rows * NEW  # positions of the heads
    body = model.active - model.head
    read = rows * (length - 1)
    student = 6 * read * body + 6 * kept * model.head
    teacher = 2 * read * body + 2 * kept * model.head
    queries = model.config.num_attention_heads * model.config.head_dim
    attention = 2 * read * len(model.layers) * queries * length
    expected = student + teacher + attention * (1 + 3.5)
    assert alone["flops"] == pytest.approx(expected, rel=0.15)


def test_checkpointed_layers_take_less_memory_and_one_more_forward_pass(alone):
    less = simulate(1, gradient_checkpointing=True)
    assert less["peak"] < alone["peak"]
    assert 1.05 < less["flops"] / alone["flops"] < 4 / 3


def test_a_step_has_as_many_gathers_as_micro_batches_and_one_reduction(eight):
    whole = tables.step(eight, 8)
    gathered = {k: v for k, v in eight["received"].items() if k != "reduce_scatter/8"}
    assert whole.flops == 4 * eight["flops"]
    once = eight["received"]["reduce_scatter/8"]
    assert whole.received == {8: 4 * sum(gathered.values()) + once}


def test_communication_is_that_of_the_slower_link_only_between_nodes():
    step = tables.Step(1, 1, 1, 1, 1, 0.0, {8: 450e9, 16: 50e9})
    assert simulated.seconds(step, estimates.STATED) == 1 / estimates.READING * 2
    computing = tables.Step(1, 1, 1, 1, 1, 1e18, {16: 50e9})
    assert simulated.seconds(computing, estimates.STATED) == 1e18 / (989e12 * estimates.TRAINING)


def test_the_token_table_holds_three_models_and_never_whole_logits():
    config = Qwen3Config(**(SMALL | {"vocab_size": 65_536}))
    teacher = Qwen3MoeConfig(**(SMALL | {"vocab_size": 65_536}), **MIXTURE)
    found = tables.simulated(tables.statistics(config, teacher, 24, 1000))
    assert found["students"] == 2 * 2 * sizes(config).parameters
    assert found["teacher"] == 2 * sizes(teacher).parameters
    n = found["tokens"] * 1000 // 1024
    held = found["students"] + found["teacher"]
    assert found["tokens"] == 8 * 1024
    tile = 4 * min(n, 4096) * 32_768
    assert found["peak"] - held < 8 * tile < 3 * 4 * n * 65_536 * 3


def shipped():
    return list(tables.all_stored(tables.shipped()))


def test_shipped_simulations_are_of_this_code_and_of_these_versions():
    """Made again by `make simulations` where the trainer, the table or a library has changed."""
    assert len(shipped()) >= 8
    for one in shipped():
        assert one["code"] == tables.identity(one["specification"]["part"])
        assert one["made_with"].keys() == set(tables.LIBRARIES)


def rows_of() -> Iterator[str]:
    """The rows of the table in docs/speed.md."""
    card = estimates.STATED
    for preset in ("qwen3", "paper"):
        study = from_parameters(preset)
        pair = (KNOWN[study.pair.student], KNOWN[study.pair.teacher])
        for name in ("stage1", "stage2"):
            own = study.stage(name)
            for many in (1, 8, 16):
                prompt = study.trained_on.max_prompt_tokens
                found = tables.stored(tables.training(*pair, own, prompt, many))
                step = tables.step(found, own.batches(many)[1])
                lasting = step.weights + step.gradients + step.moments + step.teacher
                tokens = own.prompts_per_step * own.rollouts_per_prompt
                tokens *= prompt + own.max_new_tokens
                speed = tokens / simulated.seconds(step, card)
                sizes = (step.peak, lasting, sum(step.received.values()))
                shown = " | ".join(f"{size / 1e9:.1f}" for size in sizes)
                yield f"| {preset}, {name} | {many} | {shown} | {speed:,.0f} |\n"


def test_the_table_of_simulated_steps_is_theirs():
    text = (paths.REPO / "docs" / "speed.md").read_text(encoding="utf-8")
    assert "".join(rows_of()) in text
    made_with = {json.dumps(one["made_with"]) for one in shipped()}
    assert len(made_with) == 1
    for name, version in json.loads(made_with.pop()).items():
        assert f"{name} {version}" in " ".join(text.split())


def test_a_result_is_found_again_by_what_determines_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    student = Qwen3Config(**SMALL)
    asked = tables.training(student, student, stage(2), PROMPT, 2)
    assert tables.stored(asked) is None
    file = tables.store(asked, {"peak": 1}, tables.own())
    assert tables.stored(json.loads(json.dumps(asked))) == {"peak": 1}
    assert json.loads(file.read_text())["specification"] == asked
    assert tables.stored(asked | {"prompt": PROMPT + 1}) is None


def test_the_command_stores_what_the_dry_run_then_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(tables, "simulated", lambda spec: asked.append(spec) or {"peak": 5e9})
    for _ in range(2):  # the second time all are read
        with pytest.raises(SystemExit) as end:
            main.main(["simulate", "--preset", "tiny"])
        assert not end.value.code
        assert "stage2          5.00 GB at the peak" in capsys.readouterr().out
    assert [spec["part"] for spec in asked] == ["statistics", "training", "training"]
    assert all(tables.stored(spec) == {"peak": 5e9} for spec in asked)
    monkeypatch.setattr(tables, "identity", lambda part: "changed" * (part == "training"))
    old = [json.loads((tables.own() / f"{tables.key(spec)}.json").read_text()) for spec in asked]
    for one in old:  # made by other code, but for the statistics
        files.write_json(
            tables.own() / f"{tables.key(one['specification'])}.json",
            one | {"code": "" if one["specification"]["part"] == "statistics" else one["code"]},
        )
    with pytest.raises(SystemExit):
        main.main(["simulate", "--preset", "tiny"])
    assert [spec["part"] for spec in asked[3:]] == ["training", "training"]
    with pytest.raises(SystemExit) as end:
        main.main(["simulate", "--preset", "tiny", "-p", "pair__teacher_device", "next"])
    assert end.value.code == 2
    assert "simulate: must be a study that trains" in capsys.readouterr().err
