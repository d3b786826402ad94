"""What identifies a configuration, and where two differ."""

import pytest

from rockstudy.config import names
from rockstudy.config.identity import changes_results, differences, identity
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS

COST_ONLY = {
    "gradient_memory_mb": 64,
    "pair__teacher_device": "next",
    **{f"stage{n}__micro_batch": 2 for n in (1, 2)},
    **{f"stage{n}__save_steps": 7 for n in (1, 2)},
    **{f"stage{n}__report_to": "tensorboard" for n in (1, 2)},
    **{f"stage{n}__gradient_checkpointing": True for n in (1, 2)},
    **{f"stage{n}__compiled": True for n in (1, 2)},
    **{f"{part}__batch_size": 3 for part in ("evaluation", "statistics", "knockout")},
}
BEYOND = ("persistence", "freezing", "teacher_help")
ADDED = {  # later than runs that must stay valid
    "": ("models", "prompts", "rollouts", *BEYOND),
    "pair": ("student_gguf_file", "teacher_adapter", "student_adapter", "chat_template"),
    "knockout": ("stop_early",),
    "train_task": ("prompt_column", "answer_column", "instruction", "grader", "chat"),
}


def test_what_cannot_change_a_result_is_no_part_of_an_identity():
    lab = PRESETS["lab"]
    other = from_parameters("lab", **COST_ONLY)
    assert other != lab
    assert identity(other) == identity(lab)
    cost = {*COST_ONLY, "models__teacher_device"}  # the lab has no given models
    assert {name for name in names.FIELDS if not changes_results(name)} == cost


def test_an_identity_is_the_json_of_everything_else():
    for config in PRESETS.values():
        if config.models is not None:
            continue
        dumped = config.model_dump(mode="json")
        for name in COST_ONLY:
            section, _, field = name.rpartition("__")
            del (dumped[section] if section else dumped)[field]
        for section, fields in ADDED.items():
            for field in fields:
                del (dumped[section] if section else dumped)[field]
        for name in BEYOND:
            section = getattr(config, name)
            if section != type(section)():  # not at its default, so that it counts
                dumped[name] = section.model_dump(mode="json")
        if config.persistence.wider is None:
            dumped.get("persistence", {}).pop("wider", None)
        for task in dumped["benchmarks"]:
            for field in ADDED["train_task"]:
                del task[field]
        assert identity(config) == dumped


@pytest.mark.parametrize("name", ["stage2__steps", "evaluation__samples", "benchmarks__1__n_eval"])
def test_any_other_field_changes_the_identity(name):
    assert identity(from_parameters("lab", **{name: 3})) != identity(PRESETS["lab"])
    assert changes_results(name)


def test_a_section_has_an_identity_and_more_can_be_left_out():
    how = PRESETS["lab"].evaluation
    assert identity(how, exclude={"n_prompts"}) == {
        "samples": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 192,
        "engine": "transformers",
    }


def test_differences_are_named_with_both_values():
    given = from_parameters(
        "lab", seed=3, stage2__steps=20, rocks__k=5, benchmarks__0__n_eval=9, seeds=[1]
    )
    assert differences(PRESETS["lab"], given) == {
        "seed": (0, 3),
        "stage2__steps": (40, 20),
        "rocks__k": (0.022, 5),
        "benchmarks__0__n_eval": (500, 9),
        "seeds": ((0, 1, 2), (1,)),
    }
    assert differences(given, given) == {}


def test_a_benchmark_that_only_one_has_is_none_in_the_other():
    more = from_parameters("lab", benchmarks__2__name="arithmetic")
    found = differences(PRESETS["lab"], more)
    assert found["benchmarks__2__name"] == (None, "arithmetic")
    assert all(name.startswith("benchmarks__2__") for name in found)
