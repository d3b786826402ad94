"""Executed notebooks as one self-contained HTML page: no network, no other file.

A notebook's output is untrusted, especially token text. HTML is reduced to allowed tags, text is
escaped, characters that reorder text are spelled out, and the content security policy allows only
the page's own script, by its hash. Formulas become MathML, which browsers draw without a library; a
formula that does not parse stays LaTeX. Figures are numbered in the order of the page.
"""

import base64
import copy
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bleach
import jinja2
import latex2mathml.converter
import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from rockstudy.claims.verdicts import FINDING, VERDICTS
from rockstudy.display import ALIGNED_CSS, MARKS, SPELLED
from rockstudy.figure_style import CAUSE_CSS, for_both_grounds
from rockstudy.report import listing
from rockstudy.viewer import page as viewer

REORDERING = {code: SPELLED[code] for code in MARKS}
IMAGE_TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
SVG = "image/svg+xml"

TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 "
    "h6 hr i img input kbd li mark ol p pre s small span strong sub summary sup table tbody td "
    "tfoot th thead tr u ul".split()
)

CELLS = """
{%- extends 'classic/base.html.j2' -%}
{% block codecell %}<div class="cell">{{ super() }}</div>{% endblock %}
{% block input_group %}{{ super() }}{% endblock %}
{% block input %}<details class="code"><summary>code</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) }}</details>{% endblock %}
{% block markdowncell %}<div class="prose">{{ cell.source | safe_markdown }}</div>{% endblock %}
{% block rawcell %}{% endblock %}
{% block unknowncell %}{% endblock %}
{% block data_html %}<div class="wide">{{ output.data['text/html'] | safe_html }}</div>
{% endblock %}
{% block data_markdown %}<div class="prose">{{ output.data['text/markdown'] | safe_markdown }}</div>
{% endblock %}
{% block data_latex %}<pre>{{ output.data['text/latex'] | e }}</pre>{% endblock %}
{% block data_javascript %}{% endblock %}
{% block data_widget_view %}{% endblock %}
{% block stream_stderr %}<details class="code"><summary>messages</summary>
<pre>{{ output.text | ansi2html }}</pre></details>{% endblock %}
{% block footer %}{% endblock %}
"""

LIGHT, DARK = (
    HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark")
)
HIGHLIGHTING = f"{LIGHT}\n@media (prefers-color-scheme: dark) {{\n{DARK}\n}}\n"


SLOT = "\ue002{}\ue003"  # where a figure goes once its number is known; removed from input
PRIVATE = dict.fromkeys((0xE000, 0xE001, 0xE002, 0xE003))


@dataclass(frozen=True)
class Picture:
    """A figure of a notebook as a page shows it: data of an image, texts, pixels of CSS."""

    source: str
    alt: str
    caption: str
    size: tuple[int, int] | None
    two_grounds: bool


@dataclass(frozen=True)
class Section:
    """One notebook on the page, with its headings' anchors, and its figures in their slots."""

    anchor: str
    title: str
    html: str
    headings: tuple[tuple[str, str], ...]
    question: str = ""
    pictures: tuple[Picture, ...] = ()


def clean(text: str) -> str:
    """Return HTML with only the allowed tags and attributes; others are dropped or escaped."""
    soup = BeautifulSoup(text, "html.parser")
    for element in soup(["script", "style", "template", "noscript", "iframe", "object"]):
        element.decompose()
    for image in soup("img"):
        if not _allowed("img", "src", str(image.get("src", ""))):
            image.decompose()
    return bleach.clean(str(soup), tags=TAGS, attributes=_allowed, protocols={"https", "http"})


def _allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img" and name == "src":
        return re.match(r"data:image/(png|jpeg);base64,", value) is not None
    names = {"a": {"href"}, "img": {"alt"}, "details": {"open"}}
    names["input"] = {"type", "checked", "disabled"}
    cells = {"colspan", "rowspan", "scope"} if tag in ("td", "th") else set()
    return name in {"class", "title"} | cells | names.get(tag, set())


def mathml(latex: str, *, block: bool) -> str:
    """Return a formula as MathML with its source as title, or as LaTeX if it does not parse."""
    source = html.escape(latex.strip())
    try:
        drawn = latex2mathml.converter.convert(latex, display="block" if block else "inline")
    except Exception:  # any parser error: the formula stays readable
        return f'<code class="math">{source}</code>'
    return f'<span class="math" title="{source}">{drawn}</span>'


class _Renderer(IPythonRenderer):
    """Markdown to HTML, with formulas set aside so that cleaning does not see their MathML."""

    def __init__(self) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.formulas: list[str] = []

    def inline_math(self, body: str, block: bool = False) -> str:
        self.formulas.append(mathml(body, block=block))
        return f"\ue000{len(self.formulas) - 1}\ue001"  # private-use characters, removed from input

    def block_math(self, body: str) -> str:
        return self.inline_math(body, block=True)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def markdown(source: str) -> str:
    """Return Markdown with formulas as clean HTML."""
    renderer = _Renderer()
    source = source.translate(dict.fromkeys((0xE000, 0xE001)))
    cleaned = clean(MarkdownWithMath(renderer=renderer).render(source))
    return re.sub("\ue000(\\d+)\ue001", lambda found: renderer.formulas[int(found[1])], cleaned)


@cache
def _exporter() -> HTMLExporter:
    exporter = HTMLExporter(
        template_name="basic",
        raw_template=CELLS,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_filter("safe_html", clean)
    exporter.register_filter("safe_markdown", markdown)
    return exporter


def section(notebook: nbformat.NotebookNode, name: str) -> Section:
    """Return an executed notebook as a section of the page, whose anchors begin with its name."""
    described = copy.deepcopy(notebook)
    pictures = _set_aside(described)
    converted, _ = _exporter().from_notebook_node(described)
    soup = BeautifulSoup(converted, "html.parser")
    for cell in soup.select('[id^="cell-id="]'):  # equal in all forks
        del cell["id"]
    title, headings = name, []
    for number, heading in enumerate(soup(re.compile("^h[1-5]$"))):
        level, text = int(heading.name[1]), heading.get_text().strip()
        heading.name = f"h{min(level + 2, 6)}"
        heading["id"] = f"{name}--{number}"
        if level == 1 and title == name:
            title = text
            heading.decompose()
        elif level <= 2:
            headings.append((heading["id"], text))
            if text == "Provenance":
                _fold(heading)
    number = name.split("_")[0]
    for i, summary in enumerate(soup.select("details > summary"), start=1):
        if (text := summary.get_text()) in FOLDED:  # every folded part has a name of its own
            summary.string = f"{text} {number}.{i}"
    for slot in soup.find_all(string=re.compile(SLOT.format("\\d+"))):
        if (wide := slot.find_parent(class_="wide")) and wide.get_text().strip() == slot.strip():
            wide.replace_with(slot.strip())
    return Section(name, title, str(soup), tuple(headings), _question(soup), tuple(pictures))


FOLDED = ("code", "messages", "artefacts")
CAPTION = re.compile(r'^<div class="[\w ]*"><p class="figure-caption">')


def _set_aside(notebook: nbformat.NotebookNode) -> list[Picture]:
    """Put slots in the place of a notebook's figures and return these.

    A caption that `Figure` shows below itself is dropped, since the picture has it too.
    """
    pictures: list[Picture] = []
    for cell, alt in zip(notebook.cells, alternatives(notebook), strict=True):
        cell.source = cell.source.translate(PRIVATE)
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind, value in data.items():
                if isinstance(value, str):
                    data[kind] = value.translate(PRIVATE)
            if isinstance(output.get("text"), str):
                output.text = output.text.translate(PRIVATE)
            if found := _picture(output, alt):
                data.clear()
                data["text/html"] = SLOT.format(len(pictures))
                pictures.append(found)
            elif kept and CAPTION.match(str(data.get("text/html", ""))) and pictures:
                continue
            kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept
    return pictures


def _picture(output: Mapping[str, Any], alt: str) -> Picture | None:
    """An output's figure, as vectors where there are any."""
    data, about = output.get("data", {}), output.get("metadata", {})
    kind = next((kind for kind in (SVG, *IMAGE_TYPES) if kind in data), None)
    if kind is None:
        return None
    ours = kind == SVG and "caption" in about
    value = for_both_grounds(data[kind]) if ours else data[kind]
    encoded = base64.b64encode(value.encode()).decode() if kind == SVG else "".join(value.split())
    told = next((about[k] for k in IMAGE_TYPES if isinstance(about.get(k), Mapping)), {})
    sizes = [told.get(name) for name in ("width", "height")]
    size = (sizes[0], sizes[1]) if all(isinstance(one, int) for one in sizes) else None
    source = f"data:{kind};base64,{encoded}"
    caption = str(about.get("caption", "")).translate(PRIVATE)
    return Picture(source, str(told.get("alt") or alt), caption, size, ours)


def figure_html(picture: Picture, number: int) -> str:
    """Return a figure with its number and caption; texts and data are escaped."""
    alt, source, caption = map(html.escape, (picture.alt, picture.source, picture.caption))
    size = f' width="{picture.size[0]}" height="{picture.size[1]}"' if picture.size else ""
    kind = "" if picture.two_grounds else ' class="light"'
    image = f'<img src="{source}" alt="{alt}"{size}{kind}>'
    return (
        f'<figure id="figure-{number}"><div class="drawn">{image}</div>'
        f"<figcaption><b>Figure {number}.</b> {caption}</figcaption></figure>"
    )


def numbered(sections: Sequence[Section], first: str) -> tuple[str, list[str]]:
    """Return figure 1, the first one of the section `first`, and the sections with theirs.

    Figure 1 stands at the top of the page, and a link to it in its section.
    """
    lead = next((s.pictures[0] for s in sections if s.anchor == first and s.pictures), None)
    number, filled = (1 if lead else 0), []
    for one in sections:
        parts = []
        for picture in one.pictures:
            if picture is lead:
                parts.append('<p><a href="#figure-1">Figure 1</a> is at the top of the page.</p>')
            else:
                number += 1
                parts.append(figure_html(picture, number))
        slots = re.compile(SLOT.format(r"(\d+)"))
        filled.append(slots.sub(lambda found, parts=parts: parts[int(found[1])], one.html))
    return figure_html(lead, 1) if lead else "", filled


def _question(soup: BeautifulSoup) -> str:
    heading = soup.find(re.compile("^h[2-6]$"), string="Question")
    paragraph = heading.find_next("p") if heading else None
    return paragraph.get_text().strip() if paragraph else ""


def _fold(heading: Tag) -> None:
    """Fold the tables between a heading and the next text."""
    cell = heading.find_parent(class_="prose")
    while (cell := cell and cell.find_next_sibling()) and "cell" in cell.get("class", []):
        for table in cell.select(".wide"):
            details, summary = Tag(name="details"), Tag(name="summary")
            summary.string = "artefacts"
            table.wrap(details)
            details.insert(0, summary)


def alternatives(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the alternative text of each cell's figures.

    It is the cell's ``alt`` metadata, or else the last line of text above the cell.
    """
    texts, above = [], "Figure"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines = [line.strip("#*_> ").strip() for line in cell.source.splitlines()]
            above = next((line for line in reversed(lines) if line), above)
        texts.append(str(cell.metadata.get("alt") or f"Figure: {above}"))
    return texts


def images(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Return the figures in a notebook's outputs in order, each as (suffix, data as stored)."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [next((k for k in IMAGE_TYPES if k in one.get("data", {})), None) for one in outputs]
    return [(IMAGE_TYPES[k], one.data[k]) for k, one in zip(kinds, outputs, strict=True) if k]


def page(*, title: str, sections: Sequence[Section], overview: str, **values: Any) -> str:
    """Return the whole page; further values fill the template ``report.html`` and are escaped."""
    figure, filled = numbered(sections, overview)
    return filled_template(
        "report.html",
        title=title,
        figure=figure,
        others=[(kind, title) for kind, title in listing.TITLES.items() if kind != FINDING],
        sections=list(zip(sections, filled, strict=True)),
        anchors={section.anchor for section in sections},
        **values,
    )


def filled_template(name: str, **values: Any) -> str:
    """Return a page from a template of this folder, with the style and the script of the report."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "key": lambda x: "" if x != x else repr(float(x)),
        "rank": lambda verdict: [*VERDICTS, verdict].index(verdict),
        "published": listing.published,
        "measured": listing.measured,
        "sample": listing.sample,
        "strip": _strip,
    }
    script = (here / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    whole = environment.get_template(name).render(
        style=(here / "report.css").read_text() + HIGHLIGHTING + CAUSE_CSS + ALIGNED_CSS,
        script=script,
        script_hash=f"sha256-{digest}",
        viewer_hash=viewer.script_hash(),  # a viewer in a frame keeps the rules of the report
        **values,
    )
    return whole.translate(REORDERING)


def _strip(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Positions of interval, value and the paper's number between the outermost two, in percent."""
    ends = [row[name] for name in ("lo", "hi", "value", "paper")]
    if any(end != end for end in ends) or min(ends) == max(ends):
        return None
    least, span = min(ends), max(ends) - min(ends)
    lo, hi, value, theirs = (round(4 + 92 * (end - least) / span, 2) for end in ends)
    return {"lo": lo, "width": round(max(hi - lo, 0.5), 2), "value": value, "paper": theirs}
