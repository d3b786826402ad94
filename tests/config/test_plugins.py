"""A user's own task, score, selector, encoder and arm, from a file outside the package."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.config.fields import RockConfig, StudyConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import ARMS, REGISTRIES, SCORES
from rockstudy.errors import StudyError
from rockstudy.rocks import detection, selectors, subcorpora
from rockstudy.sampling.rollout import Rollouts
from rockstudy.selective import arms
from rockstudy.selective.material import Material
from rockstudy.store import code
from rockstudy.store.fingerprints import canonical_json
from rockstudy.training.position_weights import TokenWeights

MINE = '''
import numpy as np
from rockstudy.config.registry import ARMS, ENCODERS, SCORES, SELECTORS, TASKS
from rockstudy.tasks import Problem, Task

@SCORES.register("rarest")
def rarest(types):
    """The rarer, the higher."""
    return 1 / types["count"]

@SELECTORS.register("highest-id")
def highest_id(tokens):
    return tokens.groupby("token_id").token_id.first()

@ENCODERS.register("same")
def same(rollouts, rows, columns, radius):
    return np.ones((len(rows), 1), np.float32)

@ARMS.register("rocks-and-next")
def rocks_and_next(made):
    return made.types(made.rocks + made.next_ranks)

def load(task, split):
    numbers = [str(i) for i in range(task.size(split))]
    return [Problem(f"Say {split} {i}.", i, "say", i, {}) for i in numbers]

def grade(task, problems, texts):
    return [problem.answer == text for problem, text in zip(problems, texts)]

TASKS.add("say", Task(load, grade))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; what plugins register and import is undone afterwards."""
    for registry in REGISTRIES:
        registry.entries()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def mine(folder):
    (folder / "mine_of_test.py").write_text(MINE)
    return folder / "mine_of_test.py"


def study(**overrides) -> StudyConfig:
    return from_parameters("tiny", plugins=["mine_of_test.py"], **overrides)


@pytest.fixture
def corpus():
    """Six rollouts of ten positions over five types, and their token table."""
    rng = np.random.default_rng(0)
    ids, mask = rng.zipf(1.5, (6, 10)).astype(np.int32) % 5, np.ones((6, 10), bool)
    index = np.arange(6, dtype=np.int32)
    prompts = [np.array([1], np.int64)] * 6
    rollouts = Rollouts(prompts, ids, mask, index, np.zeros(6, np.int16), np.ones(6, bool))
    place = {"prompt_index": index.repeat(10), "sample_index": 0, "position": np.tile(range(10), 6)}
    table = pd.DataFrame(place).assign(token_id=ids.ravel())
    for name in ("rkl_pre", "rkl_post", "entropy_post"):
        table[name] = rng.exponential(size=60).astype(np.float32)
    return table, rollouts


@pytest.mark.parametrize("name", ["mine_of_test.py", "mine_of_test", "./mine_of_test.py"])
def test_a_plugin_is_a_file_or_a_module_of_the_working_folder(mine, name):
    config = from_parameters("tiny", plugins=[name], rocks__selector="rarest")
    assert config.plugins == (str(mine),)
    assert {e.name: e.help for e in SCORES.entries()}["rarest"] == "The rarer, the higher."


def test_a_score_of_ones_own_ranks_the_types_and_their_sub_corpora(mine, corpus):
    settings = study(rocks__selector="rarest", rocks__k=2).rocks
    found = detection.detect(*corpus, settings)
    expected = found.types.sort_values(["count", "token_id"]).token_id.tolist()
    assert found.types.sort_values("rank")["count"].is_monotonic_increasing
    assert set(found.rocks().ids) <= set(expected[:3])
    features = detection.encode(corpus[1], found.occurrences, settings)
    rng = np.random.default_rng(0)
    stable = subcorpora.stability(corpus[0], found, features, [3], [1], 2, rng)
    assert len(stable[stable.kind == "nested"]) == 1


def test_a_score_must_not_replace_a_column_of_the_type_table(mine, corpus):
    mine.write_text(MINE.replace('"rarest"', '"ccr"'))
    settings = study(rocks__selector="ccr").rocks
    with pytest.raises(StudyError, match="rocks__selector: must not be a column of types; got 'cc"):
        detection.detect(*corpus, settings)


def test_an_encoder_of_ones_own_says_which_contexts_are_alike(mine, corpus):
    settings = study(rocks__encoder="same").rocks
    rho = detection.detect(*corpus, settings).occurrences.rho.dropna()
    assert len(rho) and (rho == 1).all()


def test_a_selector_of_ones_own_is_an_arm_too(mine, corpus):
    config = study(freeze__extra=["freeze-highest-id"], rocks__k=2)
    assert selectors.select(corpus[0], "highest-id", 2).ids == (3, 4)
    arm = arms.build("freeze-highest-id", material(config, corpus[0]), 0)
    assert arm.name == "freeze-highest-id" and arm.weights == TokenWeights((3, 4), 0.0)


def test_an_arm_of_ones_own_is_built_from_the_material(mine, corpus):
    config = study(freeze__extra=["rocks-and-next"], rocks__k=2)
    arm = arms.build("rocks-and-next", material(config, corpus[0]), 0)
    assert arm.name == "rocks-and-next" and arm.weights == TokenWeights((0, 1, 2, 3), 0.0)


def material(config: StudyConfig, tokens: pd.DataFrame) -> Material:
    types = pd.DataFrame({"token_id": range(5), "score": 1.0, "rank": range(1, 6)})
    found = detection.Detection(types, pd.DataFrame(), 0.1, 0.1, RockConfig(k=2))
    return Material(found, tokens, (), config)


def test_a_task_of_ones_own_is_loaded_and_graded(mine):
    task = study(benchmarks__1__name="say").benchmarks[1]
    problems = tasks.load(task, "eval")
    assert len(problems) == task.n_eval and problems[1].prompt == "Say eval 1."
    assert tasks.grade(task, problems[:2], ["0", "2"]).tolist() == [True, False]
    with pytest.raises(StudyError, match=r"benchmarks__1__path: must be None for say; got 'x"):
        study(benchmarks__1__name="say", benchmarks__1__path="x.jsonl")


def test_a_task_that_grades_too_few_texts_is_named(mine):
    mine.write_text(MINE.replace("zip(problems, texts)]", "zip(problems[1:], texts)]"))
    task = study(benchmarks__1__name="say").benchmarks[1]
    problems = tasks.load(task, "eval")
    with pytest.raises(StudyError, match=r"say: grade must give one verdict for each of 2 problem"):
        tasks.grade(task, problems[:2], ["0", "1"])


def test_columns_and_answers_are_properties_of_the_task(mine):
    mine.write_text(MINE.replace("Task(load, grade)", 'Task(load, columns=("a", "b"))'))
    with pytest.raises(
        StudyError, match="train_task__path: must be a JSONL, parquet or CSV file with a"
    ):
        study(train_task__name="say")
    given = {"benchmarks__1__name": "say", "benchmarks__1__path": "x.jsonl"}
    with pytest.raises(
        StudyError, match="benchmarks__1__name: must be a task with answers; got 's"
    ):
        study(**given)


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("absent.py", None, "must be files or modules that can be imported; got .*absent.py'"),
        ("no_such_module", None, "got 'no_such_module' .ModuleNotFoundError: No module named"),
        ("broken_of_test.py", "1 / 0", r"broken_of_test.py' \(ZeroDivisionError: division by zero"),
        ("broken_of_test.py", "def", r"broken_of_test.py' \(SyntaxError: "),
        ("broken_of_test.py", "raise SystemExit(3)", r"broken_of_test.py' \(SystemExit: 3\)"),
        ("broken_of_test.py", "class E(BaseException): 0\nraise E", r"broken_of_test.py' \(E:\)"),
        ("x" * 300, None, "must be files or modules that can be imported; got 'xxx"),
        ("nul\0.py", None, r"got 'nul\\x00.py' .ModuleNotFoundError"),
        ("~nobody_of_test/mine.py", None, "~nobody_of_test/mine.py' .ModuleNotFoundError"),
        ("empty_of_test.py", "x = 1", "got 'empty_of_test', which registers nothing"),
        ("json.py", "x = 1", "must have a name that no other module has; .*'json' is .*json"),
        (
            "taken_of_test.py",
            "from rockstudy.config.registry import SCORES as s\ns.register('score')(lambda t: t)",
            r"score 'score': must have one definition; got rockstudy.rocks.scores.score and taken",
        ),
    ],
)
def test_a_plugin_that_is_none_is_refused_in_one_line(folder, name, source, line):
    if source is not None:
        (folder / name).write_text(source)
    with pytest.raises(StudyError, match=line) as error:
        from_parameters("tiny", plugins=[name])
    assert str(error.value).startswith("plugins: ") and "\n" not in str(error.value)


def test_a_plugin_that_is_a_link_to_itself_is_refused_in_one_line(folder):
    (folder / "loop_of_test.py").symlink_to(folder / "loop_of_test.py")
    with pytest.raises(StudyError, match="plugins: must be files or modules that can be imported"):
        from_parameters("tiny", plugins=["loop_of_test.py"])


def test_plugins_must_be_a_list_of_names(folder):
    with pytest.raises(
        StudyError, match=r"plugins: must be a list of length <= 100, each text .*; got 3"
    ):
        from_parameters("tiny", plugins=3)


def test_the_source_of_a_plugin_is_part_of_the_key_of_what_uses_its_registry(mine):
    study()
    reached = code._reached(("rockstudy.rocks.steps", "types"))
    assert ("mine_of_test", "rarest") in reached
    assert "Div" in code._module("mine_of_test").sources["rarest"]


def test_a_process_that_unpickles_or_validates_a_study_imports_its_plugins(mine, tmp_path_factory):
    config = study(rocks__selector="rarest", freeze__extra=["rocks-and-next"])
    script = (
        "import pickle, sys; from rockstudy.config.fields import StudyConfig\n"
        "from rockstudy.config.registry import ARMS, SCORES\n"
        "given = sys.stdin.buffer.read()\n"
        "config = pickle.loads(given) if sys.argv[1] == 'pickle' else "
        "StudyConfig.model_validate_json(given)\n"
        "assert 'rocks-and-next' in ARMS and config.rocks.selector in SCORES"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment["PYTHONPATH"] = environment["PYTHONPATH"].replace(str(mine.parent), "")
    for how, given in (
        ("pickle", pickle.dumps(config)),
        ("json", canonical_json(config).encode()),
    ):
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        subprocess.run(
            [sys.executable, "-c", script, how],
            input=given,
            cwd=elsewhere,
            env=environment,
            check=True,
        )
    assert "rocks-and-next" in ARMS


def test_a_plugin_of_a_configuration_file_lies_next_to_it(folder):
    inner = folder / "inner"
    inner.mkdir()
    (inner / "of_a_file.py").write_text(MINE)
    (inner / "mine.toml").write_text(
        'preset = "tiny"\nplugins = ["of_a_file.py"]\n[rocks]\nselector = "rarest"\n'
    )
    config = from_parameters(str(inner / "mine.toml"))
    assert config.plugins == (str(inner / "of_a_file.py"),)
    assert config.rocks.selector == "rarest"
