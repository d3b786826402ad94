"""Copies of the notebooks for GitHub: safe, small, and as new as notebooks and reference."""

import html

import markdown_it
import nbformat
import pytest
from bs4 import BeautifulSoup

from rockstudy import display, paths
from rockstudy.cli import copies

COPIES = sorted(copies.folder().glob("[0-9]*.md"))
LARGEST = 6_000_000  # bytes of all: a clone stays small


@pytest.mark.parametrize("copy", COPIES, ids=lambda path: path.stem)
def test_a_copy_is_current(copy):
    notebook = paths.notebooks_dir() / f"{copy.stem}.ipynb"
    assert copies.recorded(copy) == copies.fingerprint(notebook), "run make docs"


@pytest.mark.skipif(not COPIES, reason="make docs has not been run")
def test_every_notebook_has_a_copy_in_the_index_and_all_are_small():
    stems = [path.stem for path in sorted(paths.notebooks_dir().glob("[0-9]*.ipynb"))]
    assert [copy.stem for copy in COPIES] == stems
    index = (copies.folder() / "README.md").read_text()
    assert all(f"({stem}.md)" in index for stem in stems)
    assert sum(path.stat().st_size for path in copies.folder().iterdir()) < LARGEST


def test_a_copy_holds_no_script_and_no_formula_of_an_output(tmp_path):
    hostile = "<script>alert(1)</script><table><tr><td>$x$ \\(a\\)\n\n</td></tr></table>"
    picture = {"image/png": "aGk=", "text/plain": "x"}
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": hostile}),
        nbformat.v4.new_output("display_data", data=picture, metadata={"caption": "a $b$ <i>"}),
        nbformat.v4.new_output("stream", text="$x$ \u202e\n"),
    ]
    cells = [nbformat.v4.new_markdown_cell("# T"), nbformat.v4.new_code_cell("1", outputs=outputs)]
    text, number = copies._copied(nbformat.v4.new_notebook(cells=cells), tmp_path, "00", 3)
    assert number == 4 and (tmp_path / "00-4.png").read_bytes() == b"hi"
    assert "<script" not in text and "\u202e" not in text and "<i>" not in text
    assert "<td><span>$</span>x<span>$</span> &#92;(a&#92;) </td>" in text
    assert "<b>Figure 4.</b> a <span>$</span>b<span>$</span> &lt;i&gt;" in text


def test_a_copy_has_sentences_as_wrapped_text_in_which_nothing_is_markdown(tmp_path):
    words = " ".join(["word"] * 40)
    hostile = "*a* [x](http://b) <i>c</i> $d$ | `e` \\\\( www.f.g ~~h~~ \u202e"
    listed = f"- 2.5 of {hostile}\n- 1. one"
    made = display.prose(f"{words} - not an item {words}\n{hostile}\n3. {words}\n{listed}")
    data = {"text/plain": str(made), "text/html": made._repr_html_()}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data)])
    text, _ = copies._copied(nbformat.v4.new_notebook(cells=[cell]), tmp_path, "00", 0)
    text = text.partition("</details>")[2]
    assert copies.FENCE not in text and "<div" not in text and "\u202e" not in text
    assert max(map(len, html.unescape(text.partition("&#42;")[0]).splitlines())) <= copies.WIDTH
    github = markdown_it.MarkdownIt("commonmark").enable(["strikethrough", "table"])
    drawn = BeautifulSoup(github.render(text), "html.parser")
    assert not drawn(["a", "i", "em", "code", "s", "table", "ol"])
    assert len(drawn("li")) == 2 and drawn("li")[1].get_text().strip() == "1. one"
    shown = hostile.replace("\u202e", "[U+202E]")
    assert shown in " ".join(drawn.get_text().split("\n"))
