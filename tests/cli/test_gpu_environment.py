"""The environment of `make gpu`: the machine's torch, and only what is missing beside it."""

import importlib.util
import subprocess
import sys

import pytest

from rockstudy import paths

SCRIPT = paths.REPO / "launch" / "gpu_environment.py"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script, which installs to a folder of the test and sees no packages but those there."""
    spec = importlib.util.spec_from_file_location("gpu_environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SITE", module.ROOT / ".gpu" / "no-site")
    monkeypatch.setattr(module, "WHEELS", module.ROOT / ".gpu" / "no-wheels")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return module


def put(folder, name, version, *requires):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires)])
    )


def everything(script, folder, **versions):
    """Every package that is asked for by name, at the lock's version or another."""
    pins = script.pins()
    for one in script.wanted():
        put(folder, one.name, versions.get(one.name.replace("-", "_"), pins[one.name]))


@pytest.mark.parametrize("hidden", [(), ("packaging",)])
def test_the_script_imports_pip_only_where_packaging_is_absent(hidden):
    """To import pip puts back distutils, with which nothing compiles where warnings are errors."""
    lines = [
        "import runpy, sys",
        f"sys.modules.update(dict.fromkeys({hidden}))",
        f"found = runpy.run_path({str(SCRIPT)!r}, run_name='script')",
        "print('pip' in sys.modules, found['Requirement']('torch>=2.11').name)",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(bool(hidden)), "torch"]


def test_torch_a_linter_and_what_a_screen_needs_are_never_asked_for(script):
    names = {one.name for one in script.wanted()}
    assert {"trl", "transformers", "papermill", "pytest", "gguf", "peft"} <= names
    assert not {"torch", "ruff", "jupyterlab", "ipywidgets", "lm-eval"} & names
    gathered = script.needed()
    assert names <= gathered.keys() and not {"torch", "ruff", "jupyterlab"} & gathered.keys()


def test_what_is_absent_or_too_old_or_needed_by_another_is_missing(script, tmp_path):
    everything(script, tmp_path, transformers="5.17.0", numpy="1.26.4")
    put(tmp_path, "trl", "1.16.0", "torch>=99", "left-pad>=1", 'winonly; sys_platform == "win32"')
    assert script.missing([str(tmp_path)]) == {"numpy", "left-pad"}


def test_a_package_in_the_folder_hides_an_older_one_of_the_machine(script, tmp_path):
    for name in ("site", "own"):
        (tmp_path / name).mkdir()
    everything(script, tmp_path / "own", numpy="1.26.4")
    put(tmp_path / "site", "numpy", "2.4.6")
    assert script.missing([str(tmp_path / "site"), str(tmp_path / "own")]) == set()


def test_what_a_new_package_needs_is_installed_after_it(script, tmp_path, monkeypatch):
    everything(script, tmp_path)
    put(tmp_path, "trl", "1.15.0")
    (tmp_path / "trl-1.16.0.dist-info").rename(tmp_path / "gone")
    calls = []

    def fails(command):
        calls.append([word for word in command if "==" in word])
        for name, version in (word.split("==") for word in calls[-1]):
            (tmp_path / "trl-1.15.0.dist-info").rename(tmp_path / "old") if name == "trl" else None
            put(tmp_path, name, version, *(["datasets>=5", "xxhash>=3"] if name == "trl" else []))
        return False

    monkeypatch.setattr(script, "_fails", fails)
    assert script.install() == ""
    assert calls == [["trl==1.16.0"], [f"xxhash=={script.pins()['xxhash']}"]]


def test_what_cannot_be_had_is_named_in_one_line_after_the_wheels_and_the_index(
    script, tmp_path, monkeypatch
):
    everything(script, tmp_path)
    (tmp_path / f"papermill-{script.pins()['papermill']}.dist-info").rename(tmp_path / "gone")
    calls = []
    monkeypatch.setattr(script, "_fails", lambda command: not calls.append(command))
    told = script.install()
    assert told.startswith(f"missing: papermill=={script.pins()['papermill']}; with a network: ")
    assert "\n" not in told
    assert ["--no-index" in command for command in calls] == [True, True, False]


@pytest.mark.parametrize(
    ("version", "told"), [(None, "got none"), ("2.10.1", "got 2.10.1"), ("2.11.0+cu130", "")]
)
def test_torch_must_be_there_and_new_enough(script, tmp_path, monkeypatch, version, told):
    monkeypatch.setattr(script, "install", lambda: "")
    if version is not None:
        put(tmp_path, "torch", version)
    assert script.main(["install"]).endswith(told)


def test_a_wrong_command_is_one_line():
    done = subprocess.run(
        [sys.executable, SCRIPT, "gather", "4"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("usage: ")


def test_the_script_passes_its_words_on_and_leads_with_the_folder(tmp_path):
    """Without a Python that has torch it is one line; with one, the driver gets all words."""
    (tmp_path / "python").write_text(
        '#!/bin/bash\ncase "$1" in launch/*) exit 0;; esac\necho "$PYTHONPATH" "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python"), "PYTHONPATH": "/x"}
    words = [paths.REPO / "launch" / "first_half_hour.sh", "tiny", "--limit", "60"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    where = f"{paths.REPO}/.gpu/site:{paths.REPO}:/x"
    assert done.stdout == f"{where} -m rockstudy.cli.half_hour tiny --limit 60\n"
