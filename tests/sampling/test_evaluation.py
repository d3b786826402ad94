"""Streams of random numbers of evaluations: one a training seed, the same for all arms of it."""

import pytest

from rockstudy.config.overrides import from_parameters
from rockstudy.models import loading
from rockstudy.models.checkpoints import in_folder
from rockstudy.runs import Run
from rockstudy.sampling import evaluation
from rockstudy.training import steps


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    small = {"benchmarks__n_eval": 4, "evaluation__max_new_tokens": 12, "seeds": [0, 3]}
    return Run(from_parameters("tiny", **small), tmp_path_factory.mktemp("runs") / "graded")


def test_checkpoints_of_one_training_seed_share_random_numbers_and_of_others_do_not(run, tmp_path):
    folder = tmp_path / "checkpoint"
    loading.pair_of(run).student.save_pretrained(folder)
    loading.tokenizer_of(run).save_pretrained(folder)

    def texts(label: str, seed: int) -> list[str]:
        return evaluation.graded(run, label, in_folder(folder, run.config.pair), seed).text.tolist()

    baseline, other = texts("baseline-s0-late", 0), texts("baseline-s3-late", 3)
    assert texts("rock-freeze-s0-late", 0) == baseline != other
    assert evaluation.graded(run, "student").text.tolist() not in (baseline, other)


def test_an_outcome_is_found_under_the_seed_that_it_was_sampled_with(run, tmp_path):
    folder = tmp_path / "checkpoint"
    loading.pair_of(run).teacher.save_pretrained(folder)
    loading.tokenizer_of(run).save_pretrained(folder)
    evaluation.graded(run, "any", in_folder(folder, run.config.pair), 0)
    assert evaluation.is_graded(run, "any", in_folder(folder, run.config.pair), 0)
    assert not evaluation.is_graded(run, "any", in_folder(folder, run.config.pair), 3)


def test_the_start_of_stage_2_is_graded_once_a_seed_with_the_baseline_of_it(run):
    along = steps.accuracy_along(run)
    stored = {path.stem[:-9] for path in (run.path / "evaluation").glob("stage1-*.json")}
    assert stored == {"stage1-late-s0", "stage1-late-s3"}
    folder = steps.stage1(run).checkpoints["late"]
    texts = []
    for seed in run.config.seeds:
        start = evaluation.graded(
            run, f"stage1-late-s{seed}", in_folder(folder, run.config.pair), seed
        )
        texts.append(start.text.tolist())
        rows = along[(along.step == 0) & (along.seed == seed)]
        assert rows.n_new_tokens.tolist() == start.n_new_tokens.tolist()
    assert texts[0] != texts[1]
