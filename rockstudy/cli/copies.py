"""Copies of the notebooks with their outputs, for readers on GitHub: Markdown and pictures.

    python -m rockstudy.cli.copies        # or: make docs

Each notebook replays the committed reference of the lab. A copy begins with a fingerprint of the
notebook's source and of the reference's tables, by which a test tells whether it is current.
Pictures are vectors for a light and a dark ground.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from rockstudy import paths, runs
from rockstudy.cli import execute
from rockstudy.cli.messages import say
from rockstudy.figure_style import for_both_grounds
from rockstudy.notebooks import read
from rockstudy.report import page
from rockstudy.store import cache

PRESET = "lab"
FENCE = "~~~~~~~~"
WIDTH = 100  # characters of a line of prose
# what Markdown could take for its own, anywhere or at the beginning of a line
_MARKS = re.compile(r"[\\`*_~<>&|]|\](?=[(\[:])|:(?=//)|www\.|^[-+=#]|^\d{1,9}[.)](?= )")


def folder() -> Path:
    """Where the copies are."""
    return paths.REPO / "docs" / "notebooks"


def fingerprint(notebook: Path) -> str:
    """Return the SHA-256 of a notebook's cells and of the tables of the reference."""
    cells = [(cell.cell_type, cell.source) for cell in read(notebook).cells]
    made = cache.manifests(runs.reference_dir(PRESET))
    tables = sorted((name, manifest.sha256) for name, manifest in made.items())
    return hashlib.sha256(json.dumps([cells, tables]).encode()).hexdigest()


def recorded(copy: Path) -> str:
    """Return the fingerprint that a copy begins with."""
    found = re.match(r"<!-- rockstudy (\w{64}) -->", copy.read_text(encoding="utf-8"))
    return found[1] if found else ""


def write(to: Path) -> list[Path]:
    """Execute every notebook on the reference, and write the copies and their index."""
    to.mkdir(parents=True, exist_ok=True)
    for stale in [*to.glob("*.md"), *to.glob("*.svg"), *to.glob("*.png")]:
        stale.unlink()
    written, number = [], 0
    for notebook in sorted(paths.notebooks_dir().glob("[0-9]*.ipynb")):
        say(f"copying {notebook.stem}")
        with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
            output = Path(scratch) / notebook.name
            execute.execute(notebook, output, {"run_id": runs.REFERENCE, "preset": PRESET})
            text, number = _copied(read(output), to, notebook.stem, number)
        target = to / f"{notebook.stem}.md"
        target.write_text(f"<!-- rockstudy {fingerprint(notebook)} -->\n{text}", encoding="utf-8")
        written.append(target)
    _index(to, written)
    return written


def _index(to: Path, copies: list[Path]) -> None:
    lines = ["# The notebooks with their outputs", ""]
    lines += [f"They replay the reference of the preset {PRESET}; `make docs` makes them anew.", ""]
    lines += [f"- [{_title(copy)}]({copy.name})" for copy in copies]
    (to / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _title(copy: Path) -> str:
    found = re.search(r"^# (.+)$", copy.read_text(encoding="utf-8"), re.MULTILINE)
    return f"{copy.stem.split('_')[0]} {found[1] if found else copy.stem}"


def _copied(notebook: Any, to: Path, stem: str, number: int) -> tuple[str, int]:
    """A notebook as Markdown, and the number of its last figure."""
    parts = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        if cell.cell_type == "code":
            parts.append(_folded(f"code {place}", f"{FENCE}python\n{cell.source}\n{FENCE}"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if page.SVG in data or "image/png" in data:
                number += 1
                parts.append(_picture(output, to, f"{stem}-{number}", number))
            elif page.CAPTION.match(str(data.get("text/html", ""))):
                continue  # it stands below its picture
            elif str(data.get("text/html", "")).startswith('<div class="reading '):
                parts.append(_sentences(data["text/html"]))
            elif "text/html" in data:
                parts.append(_table(data["text/html"]))
            elif output.output_type != "error" and output.get("name") != "stderr":
                text = output.get("text") or data.get("text/plain", "")
                parts.append(f"{FENCE}text\n{text.rstrip().translate(page.REORDERING)}\n{FENCE}")
    return "\n\n".join(part for part in parts if part.strip()) + "\n", number


def _folded(name: str, text: str) -> str:
    return f"<details><summary>{name}</summary>\n\n{text}\n\n</details>"


def _picture(output: Mapping[str, Any], to: Path, name: str, number: int) -> str:
    data, about = output["data"], output.get("metadata", {})
    told = about.get("image/png", {})
    if page.SVG in data:
        file = to / f"{name}.svg"
        file.write_text(for_both_grounds(data[page.SVG]), encoding="utf-8")
    else:
        file = to / f"{name}.png"
        file.write_bytes(base64.b64decode(data["image/png"]))
    width = f' width="{told["width"]}"' if "width" in told else ""
    image = f'<img src="{file.name}" alt="{html.escape(str(told.get("alt", "figure")))}"{width}>'
    return f"{image}\n\n<b>Figure {number}.</b> {_plain(html.escape(about.get('caption', '')))}"


def _table(text: str) -> str:
    """HTML in Markdown: cleaned, on one line (a blank one would end it), and no formula."""
    cleaned = re.sub(r"\s*\n\s*", " ", page.clean(text))
    return _plain(cleaned.translate(page.REORDERING))


def _sentences(text: str) -> str:
    """The paragraphs and items of `display.prose` as lines of Markdown that mean nothing else."""
    blocks = []
    for element in BeautifulSoup(text, "html.parser")(["p", "li"]):
        told = element.get_text().translate(page.REORDERING)
        lines = textwrap.wrap(told, WIDTH, break_long_words=False, break_on_hyphens=False)
        block = "\n".join(_MARKS.sub(_spelled, line) for line in lines)
        block = block.replace("$", "<span>$</span>")
        listed = element.name == "li"
        blocks.append(f"- {textwrap.indent(block, '  ').lstrip()}" if listed else block)
    return "\n\n".join(blocks)


def _spelled(found: re.Match) -> str:
    return f"{found[0][:-1]}&#{ord(found[0][-1])};"


def _plain(text: str) -> str:
    """Text in which GitHub sees neither a formula nor a list nor emphasis."""
    text = text.replace("$", "<span>$</span>").replace("\\", "&#92;")
    return re.sub(r"[*_`~]", lambda found: f"&#{ord(found[0])};", text) if "<" not in text else text


if __name__ == "__main__":
    write(folder())
    print(folder())
