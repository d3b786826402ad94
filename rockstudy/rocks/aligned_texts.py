"""Running text as HTML: in rows that are aligned on a token, or over several lines; escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rockstudy.display import ALIGNED_CSS, Html
from rockstudy.models.token_texts import visible

WIDTH = 40  # ours: characters of text on either side of a token, what a line of a page holds


def aligned_table(numbers: Sequence[str], rows: Sequence[str]) -> Html:
    """A table of rows that end in the cells of `aligned`, after columns of numbers."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in numbers)
    head += "<th class='before'>text before</th><th>token</th><th class='after'>text after</th>"
    return Html(
        f"<style>{ALIGNED_CSS}</style><table class='aligned'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def aligned(before: str, middle: str, after: str) -> str:
    """Three cells of a row that is aligned on its token: a line of text on either side, escaped."""
    sides = readable(before)[-WIDTH:], visible(middle), readable(after)[:WIDTH]
    cells = zip(("before", "token", "after"), map(html.escape, sides), strict=True)
    return "".join(f"<td class='{kind}'>{part}</td>" for kind, part in cells)


def readable(text: str) -> str:
    """Running text on one line: spaces as they are, every other blank visible."""
    return " ".join(map(visible, text.split(" ")))


def paragraphs(text: str) -> str:
    """Running text over several lines, escaped for HTML."""
    return html.escape(readable(text)).replace("⏎", "<br>")
