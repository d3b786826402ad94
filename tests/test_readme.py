"""What the README states of results is what the reference tables and the command say."""

import re
import shutil

import pytest

from rockstudy import paths
from rockstudy.cli import main

README = paths.REPO / "README.md"


def test_the_table_of_claims_is_that_of_the_reference(capsys):
    with pytest.raises(SystemExit):
        main.main(["claims", "--reference", "lab", "--markdown"])
    printed = capsys.readouterr().out.strip()
    block = re.search(r"<!-- claims: lab -->\n(.*?)<!-- end -->", README.read_text(), re.DOTALL)
    assert block is not None and block[1].strip() == printed


def test_the_lines_on_models_of_your_own_run(tiny_pair_dir, tmp_path, monkeypatch, capsys):
    section = README.read_text().split("## Your own models")[1].split("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(source.strip().splitlines()) <= 10
    folders = {"teacher": "teacher", "before": "student", "after": "student"}
    for name, folder in folders.items():
        shutil.copytree(tiny_pair_dir / folder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "spelling" in printed and "delta" in printed


def test_every_module_and_notebook_that_is_named_exists():
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\b([a-z_]+\.py)\b", text)
    there = {path.name for path in paths.REPO.rglob("*.py") if ".venv" not in path.parts}
    assert sorted(set(named) - there) == []
    notebooks = re.findall(r"notebooks/(\d\d_\w+)", text)
    assert sorted(notebooks) == sorted(p.stem for p in paths.notebooks_dir().glob("[0-9]*.ipynb"))
