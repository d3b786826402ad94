"""The style of the figures. A figure is a function of a frame and measures nothing.

All share one seaborn style, and a role (`ROLES`), a category (`CATEGORIES`) and a cause (`CAUSES`)
have the same colour everywhere. The colours of each of these were found by search: no two that
stand in one figure are alike for readers without red or green cones (Machado et al. 2009,
severity 1, distance in CIELAB), and lines in the colour of a role have a contrast of at least 3 to
white and to the dark ground (WCAG 1.4.11). tests/test_figure_style.py holds that.

An inch is 96 pixels of CSS, so that a font of 8 points is one on the page too. The drawing is
vectors, but for artists of many points, and the same bytes from the same data.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib import axis as mpl_axis
from matplotlib import collections, lines, text
from matplotlib import figure as mpl_figure

from rockstudy.display import Html

PIXELS = 96  # of CSS, an inch
WIDEST = 10.0  # inches: the width of a page of the report
SMALLEST = 8.0  # points of a text
MANY = 1_200  # points of an artist; more are drawn as pixels, which are fewer bytes
INK, EDGE, GRID, GROUND = "#24292f", "#8b949e", "#d8dee4", "#ffffff"
DARK = {INK: "#e6edf3", EDGE: "#8b949e", GRID: "#30363d", GROUND: "#0d1117"}
ROLES = {
    "teacher": "#276cdb",
    "student": "#d08415",
    "rock": "#bf182c",
    "high-KL": "#9e4fac",
    "random": "#818182",
    "control": "#2f9e5e",
    "pillar": "#be152c",
    "neutral": "#898a8a",
    "stumbling block": "#3b6cd1",
}
MARKERS = dict(zip(ROLES, "osDX^vD.^", strict=True))
CATEGORIES = {  # of token types, by the names of `rocks.categories`
    "latex": "#0b5fa5",
    "structure": "#df8918",
    "marker": "#17b176",
    "digit": "#d54014",
    "punctuation": "#bb99dd",
    "letter": "#5d4820",
    "word": "#9a9a9a",
    "other": "#ebd655",
}
CAUSES = {  # why a token is hard, by the lab's names
    "learnable style": "#029e73",
    "style beyond the student": "#c44e20",
    "noise": "#7e9398",
    "arithmetic": "#2076b6",
    "copy": "#5db6ea",
    "format": "#d9d9d9",
    "off the grammar": "#ad674a",
}
OTHERS = ("#cc78bc", "#de8f05", "#ece133", "#fbafe4")  # causes of a task of one's own, in order
CAUSE_CSS = ".tokens { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }\n"
CAUSE_CSS += "".join(  # half transparent: text stays readable on light and on dark pages
    f".cause-{colour[1:]} {{ background: {colour}59; border-bottom: 2px solid {colour}; }}\n"
    for colour in (*CAUSES.values(), *OTHERS)
)


class Figure(mpl_figure.Figure):
    """A figure that notebooks show with its caption below it, and that has two grounds."""

    alt = "figure"
    caption = ""  # what is seen, the unit, n, what is resampled and the paper's number

    def png(self) -> bytes:
        """Return the figure for a light ground, with two pixels for each of CSS."""
        return self._saved("png", dpi=2 * PIXELS, metadata={"Software": None})

    def svg(self) -> str:
        """Return the figure as vectors for a light ground; `for_both_grounds` adds the dark one."""
        for artist in self.findobj(_of_many_points):
            artist.set_rasterized(True)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn = self._saved("svg", dpi=2 * PIXELS, metadata=nothing).decode()
        return drawn[drawn.index("<svg") :]

    def _saved(self, kind: str, **how: Any) -> bytes:
        _legible(self)
        file = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "rockstudy", "svg.fonttype": "path"}):
            self.savefig(file, format=kind, **how)
        return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png()).decode(), "image/svg+xml": self.svg()}
        width, height = (round(inches * PIXELS) for inches in self.get_size_inches())
        size = {"alt": self.alt, "width": width, "height": height}
        about = {kind: size for kind in data} | {"caption": self.caption}
        return data | {"text/plain": self.alt}, about

    def _ipython_display_(self) -> None:
        """Show the figure and below it the caption, an output of its own, in every front end."""
        from IPython.display import display

        data, about = self._repr_mimebundle_()
        display(data, metadata=about, raw=True)
        if self.caption:
            caption = f'<p class="figure-caption"><small>{html.escape(self.caption)}</small></p>'
            display(Html(caption))


def figure(
    width: float = 6.4, height: float = 3.6, columns: int = 1, *, caption: str = ""
) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the study's style and its axes, shape (columns,).

    Sizes are in inches; a figure is at most `WIDEST` wide. The caption can also be set later.
    """
    made, axes = panels(width, height, 1, columns)
    made.caption = caption
    return made, axes[0]


def panels(width: float, height: float, rows: int, columns: int, **how: Any) -> tuple[Figure, Any]:
    """Return an empty figure with a grid of axes, shape (rows, columns).

    See `figure`; `how` goes to matplotlib's `subplots`.
    """
    rc = {"axes.edgecolor": EDGE, "grid.color": GRID, "font.sans-serif": ["DejaVu Sans"]}
    rc |= {f"{name}color": INK for name in ("text.", "axes.label", "xtick.", "ytick.")}
    with sns.axes_style("whitegrid", rc), sns.plotting_context("paper"):
        made = Figure(figsize=(min(width, WIDEST), height), layout="constrained")
        axes = made.subplots(rows, columns, squeeze=False, **how)
    for axis in axes.flat:
        sns.despine(ax=axis)
    return made, axes


def for_both_grounds(svg: str) -> str:
    """Return a `Figure.svg` that follows the colour scheme of the reader.

    Ink, grid and ground change; the colours of roles, categories and causes work on both.
    """
    for colour, name in {**_VARIABLES, "#000000": "ink"}.items():
        svg = svg.replace(colour, f"var(--{name})")
    light, dark = (
        ";".join(f"--{name}:{scheme[colour]}" for colour, name in _VARIABLES.items())
        for scheme in ({c: c for c in DARK}, DARK)
    )
    css = f"svg{{{light};fill:var(--ink)}}"  # what has no fill is black
    css += f"@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{css}</style>", svg, count=1)


_VARIABLES = {INK: "ink", EDGE: "edge", GRID: "grid", GROUND: "ground"}
_OWN_GROUND = "#fefefe"  # white text stands on a coloured cell, in both schemes


def _legible(made: mpl_figure.Figure) -> None:
    """Let no text be smaller than `SMALLEST`, and no token be typeset as a formula."""
    made.draw_without_rendering()  # ticks have their labels now
    for axis in made.findobj(mpl_axis.Axis):
        for which in ("major", "minor"):
            size = axis.get_tick_params(which).get("labelsize", SMALLEST)
            if isinstance(size, float | int) and size < SMALLEST:
                axis.set_tick_params(which, labelsize=SMALLEST)
    for one in made.findobj(text.Text):
        one.set_fontsize(max(one.get_fontsize(), SMALLEST))
        colour = one.get_color()
        if isinstance(colour, str) and colour in ("w", "white", "black", "k"):
            one.set_color(_OWN_GROUND if colour[0] == "w" else INK)
        if "$" in one.get_text() and r"\mathdefault" not in one.get_text():  # a log axis has that
            one.set_parse_math(False)


def _of_many_points(artist: Any) -> bool:
    if isinstance(artist, lines.Line2D):
        return len(artist.get_xdata()) > MANY
    if isinstance(artist, collections.QuadMesh):
        return np.size(artist.get_array()) > MANY
    if isinstance(artist, collections.PathCollection):
        return len(artist.get_offsets()) > MANY
    return False


def style(role: str) -> dict[str, str]:
    """Return the colour and the marker of a role as arguments of `plot`."""
    return {"color": ROLES[role], "marker": MARKERS[role]}


def whiskers(row: Any, value: str = "value", ends: tuple[str, str] = ("lo", "hi")) -> list:
    """Return the distances of an interval's ends from its value, as `errorbar` takes them."""
    centre, lo, hi = (getattr(row, name) for name in (value, *ends))
    return [[centre - lo], [hi - centre]]


def cause_colours(causes: Iterable[str]) -> dict[str, str]:
    """Return the colour of each cause: its own by name, else the next of `OTHERS`."""
    others = itertools.cycle(OTHERS)
    return {cause: CAUSES[cause] if cause in CAUSES else next(others) for cause in causes}


def role_of(model: str) -> str:
    """Return the role whose colour a model's name takes."""
    return "teacher" if model.startswith("teacher") else "student"


def role_of_arm(arm: str) -> str:
    """Return the role whose colour a training arm takes."""
    name = arm.lower()
    return "random" if "random" in name else "rock" if "rock" in name else "student"
