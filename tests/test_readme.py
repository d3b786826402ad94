"""What README and docs/ state is what the committed runs, the files and the commands say."""

import importlib.util
import json
import re
import shutil

import pandas as pd
import pytest

from rockstudy import paths
from rockstudy.cli import main

README = paths.REPO / "README.md"
DOCS = [README, paths.REPO / "CONTRIBUTING.md", *sorted((paths.REPO / "docs").glob("*.md"))]
MOST = 1500  # words of a front door


def text(name: str) -> str:
    return (paths.REPO / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def update():
    """`docs/update.py` as a module."""
    spec = importlib.util.spec_from_file_location("update", paths.REPO / "docs" / "update.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/claims.md"])
def test_the_findings_are_those_of_the_committed_runs(update, name):
    assert text(name) == update.updated(name), "python docs/update.py writes them anew"


def test_the_five_findings_are_what_the_command_prints(capsys):
    with pytest.raises(SystemExit):
        main.main(["claims", "--reference", "lab", "--five"])
    printed = capsys.readouterr().out.strip()
    assert f"<!-- claims: lab -->\n{printed}\n<!-- end -->" in text("README.md")
    assert printed.count("\n") == 4


def test_the_readme_is_short():
    assert len(text("README.md").split()) <= MOST


def test_words_of_the_field_are_explained_where_they_first_stand():
    words = " ".join(text("README.md").split("## Five findings")[0].split())
    assert "(OPD)" in words
    terms = "rock tokens, pillar, stumbling block, screen, Rock-Freeze, window, register"
    assert [term for term in terms.split(", ") if f"**{term}**" not in words] == []


def test_the_lines_on_models_of_your_own_run(tiny_pair_dir, tmp_path, monkeypatch, capsys):
    section = text("README.md").split("## Your own models")[1].split("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(source.strip().splitlines()) <= 10
    folders = {"teacher": "teacher", "before": "student", "after": "student"}
    for name, folder in folders.items():
        shutil.copytree(tiny_pair_dir / folder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "spelling" in printed and "delta" in printed


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_every_module_that_is_named_and_every_page_that_is_linked_exists(file):
    named = re.findall(r"\b([a-z_]+\.py)\b", text(str(file)))
    there = {path.name for path in paths.REPO.rglob("*.py") if ".venv" not in path.parts}
    examples = {"parity.py", "claim.py"}  # of CONTRIBUTING
    assert sorted(set(named) - there - examples) == []
    for link in re.findall(r"\]\(([^)#:]+\.md)\)", text(str(file))):
        assert (file.parent / link).is_file(), link


def test_every_notebook_has_its_question():
    notebooks = re.findall(r"^\| `notebooks/(\d\d_\w+)` \|", text("README.md"), re.MULTILINE)
    assert notebooks == sorted(p.stem for p in paths.notebooks_dir().glob("[0-9]*.ipynb"))


def test_the_seconds_of_notebooks_are_those_that_a_study_expects():
    known = json.loads(text("data/seconds.json"))["presets"]["lab"]
    rows = re.findall(r"^\| (\d\d_\w+) \| (\d+) \|$", text("docs/speed.md"), re.MULTILINE)
    assert {name: int(seconds) for name, seconds in rows} == known
    assert f"in about {sum(known.values()) / 60:.0f} minutes on two CPU cores" in " ".join(
        text("README.md").split()
    )


def test_the_shares_of_naives_tokens_are_those_of_the_references():
    rows = []
    for preset in ("lab", "smollm2"):
        (file,) = (paths.data_dir() / "reference" / preset / "tables").glob(
            "knockout.knockouts-*.parquet"
        )
        table = pd.read_parquet(file)
        for benchmark, some in table[table["mode"] == "reuse"].groupby("benchmark"):
            parts = [some[some.level == level] for level in ("token", "window", "control")]
            shares = [one.tokens_generated.sum() / one.tokens_naive.sum() for one in (*parts, some)]
            cells = [preset, benchmark, *(f"{share:.3f}" for share in shares)]
            rows.append(f"| {' | '.join(cells)} |")
    assert [row for row in rows if row not in text("docs/speed.md")] == [] and len(rows) == 3


def test_no_copy_of_a_notebook_shows_a_number_that_is_none():
    copies = sorted((paths.REPO / "docs" / "notebooks").glob("*.md"))
    none = re.compile(r".{0,40}(?<![\w.])nan(?!\w).{0,40}")
    assert copies and {one.name: none.findall(one.read_text("utf-8")) for one in copies} == {
        one.name: [] for one in copies
    }
