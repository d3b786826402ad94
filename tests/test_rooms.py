"""The house: imports go one way, from the rooms of analyses down to errors and paths."""

import ast
import itertools
import subprocess
import sys
from graphlib import TopologicalSorter

from rockstudy import paths

PACKAGE = paths.REPO / "rockstudy"
ORDER = [  # a room imports from its own and from those below it (the design's section 3)
    {"cli"},
    {"report", "viewer", "exports", "api", "simulation"},
    {"beyond"},
    {"knockout", "gradients", "selective"},
    {"rocks"},
    {"training"},
    {"sampling"},
    {"claims"},
    {"models"},
    {"runs"},
    {"tasks"},
    {"parallel"},
    {"store", "config"},
    {"figure_style", "intervals", "display", "notebooks", "progress", "status", "paths", "errors"}
    | {"callable_rooms", "figure_labels"},
]
LEVEL = {room: len(ORDER) - i for i, rooms in enumerate(ORDER) for room in rooms}


def name_of(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in PACKAGE.rglob("*.py")}


def imported(file, nested=True):
    """Modules of the package that a file imports; those of functions too, where `nested`."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rockstudy":
            base = node.module.removeprefix("rockstudy").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if full in MODULES else base


def edges():
    for name, file in MODULES.items():
        if name not in ("", "__main__"):
            yield from ((name, other) for other in imported(file) if other)


def test_every_room_has_its_place():
    assert {name.split(".")[0] for name in MODULES} - {"", "__main__"} == set(LEVEL)


def test_a_room_imports_from_rooms_below_it_alone():
    rooms = {(a.split(".")[0], b.split(".")[0]) for a, b in edges()}
    wrong = {(a, b) for a, b in rooms if a != b and LEVEL[a] < LEVEL[b]}
    same_level = {(a, b) for a, b in rooms if a != b and LEVEL[a] == LEVEL[b]}
    assert wrong == set()
    assert not {pair for pair in same_level if pair[::-1] in same_level}


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set() for name in MODULES}
    for name, file in MODULES.items():
        graph[name] = {o for o in imported(file, nested=False) if o in MODULES and o != name}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_opening_a_run_imports_neither_an_html_renderer_nor_a_trainer():
    code = (
        "import sys; from rockstudy.runs import open_run; open_run();"
        "print([m for m in ('nbconvert', 'bleach', 'trl', 'papermill') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_notebook_room_has_steps_claims_and_figures():
    for room, part in itertools.product(
        ("training", "rocks", "gradients", "knockout", "selective"), ("steps", "claims", "figures")
    ):
        assert f"{room}.{part}" in MODULES
