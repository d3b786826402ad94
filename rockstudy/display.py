r"""What notebooks show beside figures: tables, texts and sentences as HTML, and their numbers.

Token text is untrusted: it is escaped, blanks and marks that reorder text are visible, and MathJax
leaves it alone. JupyterLab typesets formulas (``$``, ``\(``, ``\begin``) in every HTML output,
except in elements of the class ``mathjax_ignore``; pages of nbconvert know ``tex2jax_ignore``.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Hashable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

NONE = "–"
ROWS = 60  # ours: most rows of a frame that a notebook shows; of more, the first and last halves
DIGITS = 3  # significant ones
P_VALUE = re.compile(r"(^|_)p(_|$)|^p[ -]?value", re.IGNORECASE)
NAME = re.compile(r"(^|_)(id|ids|index|seed|target|year)(_|$)", re.IGNORECASE)  # no quantity
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MARKS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)  # reorder text
SPELLED = {code: f"[U+{code:04X}]" for code in MARKS} | {10: "⏎", 13: "\\r", 9: "⇥"}
BLANKS = re.compile(r"^ +| +$| {2,}")  # that HTML would not show
TEXT = 'style="text-align: left"'  # JupyterLab aligns all cells at the right, other pages none
RIGHT = 'style="text-align: right"'
CELL = re.compile(r"<(td|th)\b((?![^>]*\bstyle=)[^>]*)>")  # without a style of its own
WIDTH = 'style="max-width: 46em"'  # of sentences: some 90 characters a line
NUMBER = 'class="n" style="text-align: right"'


class Html(str):
    """Text that a notebook shows as HTML; MathJax leaves its dollar signs alone."""

    def _repr_html_(self) -> str:
        aligned = CELL.sub(_aligned, self)
        return f'<div class="mathjax_ignore tex2jax_ignore">{aligned}</div>'


def _aligned(found: re.Match) -> str:
    """A cell aligned by itself: JupyterLab drops style sheets of notebooks it has not run."""
    at_right = re.search(r"""class=['"]?(before|number)\b""", found[2])
    return f"<{found[1]}{found[2]} {RIGHT if at_right else TEXT}>"


class Prose(str):
    """Sentences that a notebook shows as paragraphs; in a terminal they are the plain text.

    Printed text is shown as code is, in one wide line or broken in the middle of words.
    """

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        lines = [line.strip() for line in self.splitlines() if line.strip()]
        parts = []
        for listed, some in itertools.groupby(lines, lambda line: line.startswith("- ")):
            if listed:
                parts.append(f"<ul>{''.join(f'<li>{text(line[2:])}</li>' for line in some)}</ul>")
            else:
                parts += [f"<p>{text(line)}</p>" for line in some]
        return f'<div class="reading mathjax_ignore tex2jax_ignore" {WIDTH}>{"".join(parts)}</div>'


def prose(*parts: object) -> Prose:
    """Return sentences as text to read, of a readable width: ``display(prose(reading))``.

    The parts are joined by blanks, as `print` does. Each line is a paragraph, and one that begins
    with ``- `` is an item of a list. What would be HTML or a formula is shown as it is.
    """
    return Prose(" ".join(str(part) for part in parts if str(part)))


def table(frame: pd.DataFrame, caption: str = "", *, rows: int | None = None) -> Html:
    """Return a frame as an HTML table, with numbers at the right and texts at the left.

    A column of numbers has as many decimals as its middle one needs for `DIGITS` significant ones;
    what would be shown as zero and is none has digits of its own. A column named ``p`` or ``..._p``
    is one of probabilities, shown as ``< 0.001`` below that. Index values are shown unless they
    count from 0. Of more than `rows` rows, the first and the last are shown, and their number.
    """
    named = not (isinstance(frame.index, pd.RangeIndex) and frame.index.name is None)
    kept = frame
    if rows is not None and len(frame) > rows:
        kept = pd.concat([frame.iloc[: rows // 2], frame.iloc[len(frame) - rows // 2 :]])
        more = f"{len(frame):,} rows, of which the first and the last {rows // 2} are shown"
        caption = f"{caption} ({more})" if caption else more
    columns = [_column(kept.iloc[:, i], label) for i, label in enumerate(kept.columns)]
    index = _index(kept.index) if named else [""] * len(kept)
    cells = zip(*columns, strict=True) if columns else ([] for _ in range(len(kept)))
    body = "".join(f"<tr>{head}{''.join(row)}</tr>" for head, row in zip(index, cells, strict=True))
    above = f'<caption style="text-align: left">{text(caption)}</caption>' if caption else ""
    head = _head(kept, named)
    return Html(
        f'<table class="dataframe">{above}<thead>{head}</thead><tbody>{body}</tbody></table>'
    )


def shown(frame: pd.DataFrame) -> str:
    """Return the HTML of a frame that a cell ends with, for IPython's formatter."""
    return table(frame, rows=ROWS)._repr_html_()


def text(value: Any) -> str:
    """Return a text for HTML: escaped, with blanks and marks that reorder text visible."""
    visible = BLANKS.sub(lambda found: "␣" * len(found[0]), str(value).translate(SPELLED))
    return html.escape(visible)


def rounded(value: float | None) -> str:
    """Return a number with three significant digits; a dash where there is none."""
    return NONE if value is None or pd.isna(value) else _significant(float(value), DIGITS)


def p_value(value: float | None) -> str:
    """Return a probability with three decimals, and ``< 0.001`` below that."""
    if value is None or pd.isna(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """Return a probability as sentences have it: ``p = 0.031``, ``p < 0.001``."""
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def numbers(values: Sequence[float], name: Hashable = "") -> list[str]:
    """Return the numbers of one column with the same decimals, a dash where there is none."""
    known = np.array([float(v) for v in values if not pd.isna(v)])
    if P_VALUE.search(str(name)) and len(known) and known.min() >= 0 and known.max() <= 1:
        return [p_value(v) for v in values]
    finite = known[np.isfinite(known)]
    places = _decimals(np.abs(finite[finite != 0]))
    return [NONE if pd.isna(v) else _fixed(float(v), places) for v in values]


def _decimals(sizes: np.ndarray) -> int:
    """The decimals of a column, by its middle size, without zeros at the end of every number."""
    if not len(sizes):
        return 0
    middle, most = math.log10(np.median(sizes)), math.log10(sizes.max())
    places = min(DIGITS - 1 - math.floor(middle), DIGITS + 1 - math.floor(most))
    places = max(0, min(places, 6))
    while places and all(f"{size:.{places}f}".endswith("0") for size in sizes):
        places -= 1
    return places


def _fixed(value: float, places: int) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or abs(value) < 0.5 * 10.0**-places:
        return _significant(value, 2 if abs(value) < 1 else DIGITS)
    return f"{value:,.{places}f}"


def _significant(value: float, digits: int) -> str:
    """A number with some significant digits, and a power of ten where people write one."""
    if not math.isfinite(value):
        return _fixed(value, 0)
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if not -5 <= int(exponent) < 15:
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa} × 10{str(int(exponent)).translate(RAISED)}"
    places = max(0, digits - 1 - int(exponent))
    written = f"{float(f'{mantissa}e{exponent}'):,.{places}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _column(values: pd.Series, label: Hashable) -> list[str]:
    """The cells of one column."""
    name = label[-1] if isinstance(label, tuple) else label
    known = values.dropna().tolist()
    if any(map(_of_another_kind, known)) or all(isinstance(value, Integral) for value in known):
        return [_cell(value, name) for value in values]
    if NAME.search(str(name)) and all(float(value).is_integer() for value in known):
        return [_cell(None if pd.isna(v) else int(v), name) for v in values]
    return [f"<td {NUMBER}>{one}</td>" for one in numbers(values.tolist(), name)]


def _of_another_kind(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or not isinstance(value, Real)


def _cell(value: Any, name: Hashable, tag: str = "td") -> str:
    """One cell by what it holds."""
    if value is None or (not isinstance(value, list | tuple | dict | set | np.ndarray)
                         and pd.isna(value)):  # fmt: skip
        return f"<{tag} {TEXT}>{NONE}</{tag}>"
    if isinstance(value, bool | np.bool_):
        return f"<{tag} {TEXT}>{'yes' if value else 'no'}</{tag}>"
    if isinstance(value, Integral):
        plain = bool(NAME.search(str(name)))
        return f"<{tag} {NUMBER}>{int(value) if plain else format(int(value), ',')}</{tag}>"
    if isinstance(value, Real):
        shown = p_value(float(value)) if P_VALUE.search(str(name)) else rounded(float(value))
        return f"<{tag} {NUMBER}>{shown}</{tag}>"
    if isinstance(value, list | tuple | set):
        value = ", ".join(map(str, value))
    return f"<{tag} {TEXT}>{text(value)}</{tag}>"


def _index(index: pd.Index) -> list[str]:
    """The row headings of every row; one of an outer level stands at its first row alone."""
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    last = len(levels) - 1
    cells = [[""] * len(index) for _ in levels]
    starts = np.zeros(len(index), bool)
    for depth, level in enumerate(levels):
        values = list(level)
        new = [i == 0 or not _same(values[i], values[i - 1]) for i in range(len(values))]
        starts |= np.array(new, bool) if depth < last else np.ones(len(index), bool)
        places = [*np.flatnonzero(starts), len(index)]
        for first, after in itertools.pairwise(places):
            span, scope = after - first, "row" if depth == last else "rowgroup"
            cell = _cell(values[first], level.name, "th")
            spans = f' rowspan="{span}"' if span > 1 else ""
            cells[depth][first] = cell.replace("<th", f'<th scope="{scope}"{spans}', 1)
    return ["".join(row) for row in zip(*cells, strict=True)] if len(index) else []


def _same(one: Any, other: Any) -> bool:
    return bool(one is other or one == other)


def _head(frame: pd.DataFrame, named: bool) -> str:
    """The rows of column headings, one for each level of the columns."""
    levels, width = frame.columns.nlevels, frame.index.nlevels if named else 0
    rows = []
    for depth in range(levels):
        last = depth == levels - 1
        names = [name if last and name is not None else "" for name in frame.index.names][:width]
        cells = [f'<th scope="col" {TEXT}>{text(n)}</th>' if n else "<td></td>" for n in names]
        labels = [label[: depth + 1] if levels > 1 else label for label in frame.columns]
        runs = [(key, len(list(same))) for key, same in itertools.groupby(labels)]
        place = 0
        for label, span in [(one, 1) for one in labels] if last else runs:
            name = label[-1] if isinstance(label, tuple) and levels > 1 else label
            column = frame.iloc[:, place]
            kind = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
            how = NUMBER if kind and last else TEXT
            spans = f' scope="colgroup" colspan="{span}"' if span > 1 else ' scope="col"'
            cells.append(f"<th{spans} {how}>{text(name)}</th>")
            place += span
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(rows)


ALIGNED_CSS = """
table.aligned td, table.aligned th { text-align: left !important; border: 0; padding: 1px 4px; }
table.aligned td { vertical-align: top; }
table.aligned td.before, table.aligned td.token, table.aligned td.after, table.aligned td.text {
  font-family: ui-monospace, monospace; font-size: 12px; }
table.aligned td.before, table.aligned td.token, table.aligned td.after { white-space: pre; }
table.aligned td.before, table.aligned th.before, table.aligned td.number {
  text-align: right !important; }
table.aligned td.token { font-weight: 700; color: #b40426; padding: 1px 0; }
table.aligned td.note { padding-bottom: 8px; opacity: 0.8; font-size: 12px; }
table.aligned th { white-space: nowrap; }
table.aligned td.text { padding-right: 16px; overflow-wrap: anywhere; }
table.aligned mark { background: #b4042633; color: inherit; border-bottom: 2px solid #b40426; }
"""  # texts in rows that are aligned on a token; marked tokens in running text
