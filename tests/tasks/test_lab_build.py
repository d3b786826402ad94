"""The lab's tokenizer and models: the same bytes twice, and what the student's window hides."""

import functools
import json
import random
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare
from transformers import AutoTokenizer

from rockstudy import paths
from rockstudy.errors import StudyError
from rockstudy.models.loading import load_model, load_tokenizer
from rockstudy.sampling import rollout
from rockstudy.tasks.lab import build, grammar, maths, units, words
from rockstudy.tasks.lab.register import STUDENT, TEACHER, write

LAB = paths.data_dir() / "lab"
REACH = {  # positions that a logit can depend on: layers times what a layer sees before itself
    role: spec["num_hidden_layers"] * (spec["window"] - 1)
    for role, spec in build.CONFIG.items()
    if isinstance(spec, dict)
}


@functools.cache
def tokenizer():
    return AutoTokenizer.from_pretrained(LAB / "tokenizer")


def test_two_builds_give_the_same_tokenizer_and_corpus(tmp_path):
    small = {**build.CONFIG, "tokenizer_samples": 400, "vocab_size": 600}
    for name in ("a", "b"):
        build.build_tokenizer(small).save_pretrained(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    one, two = (list(islice(build.corpus(STUDENT, 0.35, 1), 50)) for _ in range(2))
    assert one == two


def test_the_shipped_tokenizer_has_the_recorded_size_and_single_digits():
    assert len(tokenizer()) == build.CONFIG["vocab_size"]
    vocabulary = tokenizer().get_vocab()
    assert not [t for t in vocabulary if sum(c.isdigit() for c in t) and len(t) > 1]


def test_the_wide_student_differs_from_the_student_in_its_width_alone():
    one, wide = (dict(build.CONFIG[role]) for role in ("student", "student-wide"))
    for size in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
    ):
        assert wide.pop(size) == 2 * one.pop(size)
    assert wide == one and build.HABITS["student-wide"] is build.HABITS["student"]


def test_the_recorded_configuration_is_that_of_the_code():
    assert json.loads((LAB / "config.json").read_text()) == build.CONFIG


@pytest.mark.parametrize("role", list(build.HABITS))
def test_a_shipped_model_has_the_recorded_sizes_in_bfloat16(role):
    if not (LAB / role).is_dir():
        pytest.skip(f"data/lab/{role} is not built")
    model = load_model(f"lab:{role}", dtype="bfloat16", device="cpu")
    assert {size: getattr(model.config, size) for size in build.SIZES} == {
        size: build.CONFIG[role][size] for size in build.SIZES
    }
    stored = load_file(LAB / role / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


SMALL = {"examples": 8, "batch_size": 4, "hidden_size": 32, "num_hidden_layers": 1}


def small_lab(folder):
    """The configuration of a lab that is built in seconds."""
    roles = {role: {**build.CONFIG[role], **SMALL} for role in build.HABITS}
    config = {**build.CONFIG, "vocab_size": 400, "tokenizer_samples": 100, **roles}
    (folder / "small.json").write_text(json.dumps(config))
    return folder / "small.json"


def test_one_model_can_be_built_beside_the_others_which_stay_as_they_are(tmp_path):
    config, lab = small_lab(tmp_path), tmp_path / "lab"
    build.build(lab, config)
    before = {f: f.read_bytes() for f in lab.rglob("*") if f.is_file() and ".work" not in f.parts}
    assert {f.parent.name for f in before} >= {"tokenizer", *build.HABITS}
    (lab / "student-wide" / "model.safetensors").unlink()
    build.build(lab, config, ["student-wide"])
    assert {file: file.read_bytes() for file in before} == before


def test_a_model_that_the_lab_does_not_have_and_a_lab_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(StudyError, match="--only: must be one of teacher, student, student-wide"):
        build.build(tmp_path, only=["huge"])
    with pytest.raises(StudyError, match="--out: must hold a tokenizer where --only"):
        build.build(tmp_path, only=["student"])


def solved(draft, rng):
    """Token ids of a prompt with a solution; positions of the setting and of the remark."""
    start = tokenizer().apply_chat_template(
        [{"role": "user", "content": draft.question}], add_generation_prompt=True, tokenize=False
    )
    text = start + write(draft, TEACHER, rng)
    made = tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = np.array(made["offset_mapping"])[:, 1]
    causes = units.annotate(None, text[len(start) :])
    remark = len(start) + int(np.argmax(causes == grammar.BEYOND))
    setting = text.index(draft.setting)
    return (
        made["input_ids"],
        np.searchsorted(ends, setting + len(draft.setting)),
        np.searchsorted(ends, remark, side="right"),
    )


def test_the_setting_lies_outside_the_students_window_where_it_matters():
    rng = random.Random(0)
    distances = []
    for draft in maths.distinct("eval", 300, seed=0):
        _, setting, remark = solved(draft, rng)
        distances.append(remark - 1 - setting)
    assert np.mean(np.array(distances) > REACH["student"]) > 0.95
    assert max(distances) < REACH["teacher"]


@pytest.mark.parametrize("role", list(build.HABITS))
def test_only_the_teacher_can_see_the_setting_when_it_writes_the_remark(role):
    model = build.build_model(build.CONFIG[role], tokenizer(), seed=0).eval()
    rng = random.Random(0)
    for draft in maths.distinct("eval", 40, seed=3):
        ids, setting, remark = solved(draft, rng)
        if remark - 1 - setting <= REACH["student"]:
            continue
        changed = torch.tensor([ids, ids])
        changed[1, setting] = (changed[1, setting] + 7) % len(tokenizer())
        with torch.no_grad():
            one, two = model(changed).logits
        sees = not torch.allclose(one[remark - 1 :], two[remark - 1 :], atol=1e-6)
        assert sees == (role == "teacher")
        assert not torch.allclose(one[setting + 10], two[setting + 10], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_both_models_draw_noise_with_the_written_odds(role):
    """Chi-squared of sampled words; rare words, expected fewer than five times, count as one."""
    tok = load_tokenizer(str(LAB / "tokenizer"))
    questions = [draft.question for draft in maths.distinct("eval", 1500, seed=5)]
    made = rollout.generate(
        load_model(str(LAB / role)),
        tok,
        rollout.prompt_ids(tok, questions, 256),
        max_new_tokens=192,
        batch_size=256,
        seed=0,
    )
    slots = {
        "adjective": (2, words.ADJECTIVES),
        "noun": (4, words.NOUNS),
        "occasion": (6, words.OCCASIONS),
    }
    drawn = {name: [] for name in slots}
    for text in made.texts(tok):
        for _, line in grammar.lines(tuple(units.UNITS.values()), text):
            if line.unit.name == "remark" and line.complete:
                for name, (part, _) in slots.items():
                    drawn[name].append(line.texts[part])
    for name, (_, listed) in slots.items():
        expected = np.array(words.probabilities(listed)) * len(drawn[name])
        counts = np.array([drawn[name].count(word) for word in listed])
        common = expected >= 5
        counts = np.append(counts[common], counts[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
        assert len(drawn[name]) > 1000 and chisquare(counts, expected).pvalue > 1e-3, name
