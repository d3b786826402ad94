"""The style of the figures. A figure is a function of a frame and measures nothing.

All share one seaborn style, and a role (`ROLES`) has the same colour and marker everywhere.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import figure as mpl

ROLES = {
    "teacher": "#3b4cc0",
    "student": "#e07b39",
    "rock": "#b40426",
    "high-KL": "#7b3294",
    "random": "#7f7f7f",
    "control": "#2a9d5c",
    "pillar": "#b40426",
    "neutral": "#949494",
    "stumbling block": "#3b4cc0",
}
MARKERS = dict(zip(ROLES, "osDX^vD.^", strict=True))
CATEGORIES = {  # of token types, by the names of `rocks.categories`
    "latex": "#0173b2",
    "structure": "#de8f05",
    "marker": "#029e73",
    "digit": "#d55e00",
    "punctuation": "#cc78bc",
    "letter": "#ca9161",
    "word": "#949494",
    "other": "#ece133",
}
CAUSES = {  # why a token is hard, by the lab's names
    "learnable style": "#029e73",
    "style beyond the student": "#d55e00",
    "noise": "#949494",
    "arithmetic": "#0173b2",
    "copy": "#56b4e9",
    "format": "#d9d9d9",
    "off the grammar": "#ca9161",
}
OTHERS = ("#cc78bc", "#de8f05", "#ece133", "#fbafe4")  # causes of a task of one's own, in order
CAUSE_CSS = ".tokens { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }\n"
CAUSE_CSS += "".join(  # half transparent: text stays readable on light and on dark pages
    f".cause-{colour[1:]} {{ background: {colour}59; border-bottom: 2px solid {colour}; }}\n"
    for colour in (*CAUSES.values(), *OTHERS)
)


class Figure(mpl.Figure):
    """A figure that notebooks show as a sharp PNG with its alternative text."""

    alt = "figure"
    caption = ""  # what is seen, the unit, n, what is resampled and the paper's number

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=144, metadata={"Software": None})
        width, height = (round(inches * 72) for inches in self.get_size_inches())
        data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def figure(width: float = 6.4, height: float = 3.6, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the study's style and its axes, shape (columns,)."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.9):
        made = Figure(figsize=(width, height), layout="constrained")
        axes = made.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        sns.despine(ax=axis)
    return made, axes


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
