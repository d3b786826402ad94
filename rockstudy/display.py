"""What notebooks show beside figures: tables as HTML, numbers as text."""

from __future__ import annotations

import pandas as pd


class Html(str):
    """Text that a notebook shows as HTML; MathJax leaves its dollar signs alone."""

    def _repr_html_(self) -> str:
        return f'<div class="mathjax_ignore tex2jax_ignore">{self}</div>'


def whole(table: pd.DataFrame) -> Html:
    """Return a table of texts as HTML, none of them cut off."""
    with pd.option_context("display.max_colwidth", None):
        return Html(table.to_html(index=False))


def rounded(value: float | None) -> str:
    """Return a number with three significant digits; a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{value:.3g}"
