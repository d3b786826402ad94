r"""How many continuations a local effect needs: its variance by problems, places and continuations.

The difference of two choices in draw r at place o of problem p is taken to be

    d_por = m + a_p + b_po + e_por

with independent parts of variance A (problems), B (places of a problem) and E (continuations). The
mean over P problems with M places each and R draws at each has the variance

    V = A / P + B / (P M) + E / (P M R)

and its 95% interval the half width 1.96 sqrt(V). More draws shrink the last part alone, more places
the last two; the first is the benchmark's own, and takes more problems.

The parts are estimated from pairs of places, each pair weighted by the product of its weights: half
the mean squared difference of two places of different problems is A + B + E / R, of two places of
one problem B + E / R, and E is the mean variance within a place. All three are unbiased under the
model; an estimate below 0 is taken to be 0. Trainings are not part of it: their differences shrink
with more of them, and with no number of continuations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.beyond.teacher_help.effects import GROUPS, MEASURES
from rockstudy.intervals import LEVEL

WIDTH = 0.02  # ours: two points, the half width at which an effect of 0 excludes that much
DRAWS = (1, 4, 16)  # ours: continuations of a place, for the curve
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
PARTS = ("problems", "places", "continuations")
NEEDED = (*(f"sd_{name}" for name in PARTS), "places_1", "continuations_1")
NEEDED += ("places", "continuations")


def components(some: pd.DataFrame, measure: str, draws: int) -> dict[str, float]:
    """Variance of a measure between ``problems``, ``places`` and ``continuations``.

    `some` has a row for each place: ``prompt_index, weight``, the mean over `draws` and
    ``<measure>_within``. NaN where no problem has two places, or all are one's.
    """
    if some.empty:
        return dict.fromkeys(PARTS, float("nan"))
    y, w = some[measure].to_numpy(float), some.weight.to_numpy(float)
    within = float(np.average(some[f"{measure}_within"].to_numpy(float), weights=w))
    sums = pd.DataFrame({"w": w, "wy": w * y, "wyy": w * y * y, "ww": w * w})
    by = sums.groupby(some.prompt_index.to_numpy()).sum()
    total = by.sum()
    same, of_same = (by.w * by.wyy - by.wy**2).sum(), (by.w**2 - by.ww).sum()
    apart = total.w * total.wyy - total.wy**2 - same
    of_apart = total.w**2 - total.ww - of_same
    if of_same <= 1e-12 * total.w**2 or of_apart <= 0:
        return dict.fromkeys(PARTS, float("nan"))
    near, far = same / of_same, apart / of_apart
    return {
        "problems": max(0.0, float(far - near)),
        "places": max(0.0, float(near - within / draws)),
        "continuations": within,
    }


def half_width(parts: dict[str, float], problems: int, places: float, draws: int) -> float:
    """Half of the 95% interval of the mean over so many places, with `draws` draws each.

    They are spread evenly over `problems` problems; fewer places are in one problem each.
    """
    of_places = parts["places"] + parts["continuations"] / draws
    return Z * float(np.sqrt(parts["problems"] / min(places, problems) + of_places / places))


def places_needed(
    parts: dict[str, float], problems: int, draws: int, width: float = WIDTH
) -> float:
    """Places for a half width of `width`; infinite where no number does."""
    of_places = parts["places"] + parts["continuations"] / draws
    variance = (width / Z) ** 2
    alone = (parts["problems"] + of_places) / variance
    if alone <= problems:
        return alone
    room = variance - parts["problems"] / problems
    return of_places / room if room > 0 else np.inf


def needed(some: pd.DataFrame, draws: int, problems: int) -> pd.DataFrame:
    """The parts of each measure's variance at rocks and at controls, and what they ask for.

    `some` is that of `effects.of_places`. Columns: ``measure, group``; the standard deviations
    ``sd_problems, sd_places, sd_continuations``; the places over `problems` problems that give a
    half width of `WIDTH` with one draw and with `draws` at each (``places_1, places``; infinite
    where no number does); and the continuations, two for each place and draw (``continuations_1,
    continuations``).
    """
    rows = []
    for measure in (name for name in MEASURES if name != "null"):
        for group in GROUPS:
            parts = components(some[some.group == group], measure, draws)
            if np.isnan(parts["places"]):
                continue
            row = {"measure": measure, "group": group}
            row |= {f"sd_{name}": np.sqrt(value) for name, value in parts.items()}
            for end, r in (("_1", 1), ("", draws)):
                places = places_needed(parts, problems, r)
                row |= {f"places{end}": places, f"continuations{end}": 2 * places * r}
            rows.append(row)
    made = pd.DataFrame(rows, columns=["measure", "group", *NEEDED])
    return made.astype(dict.fromkeys(NEEDED, float))


def curve(
    some: pd.DataFrame, draws: int, problems: int, numbers: Sequence[int] = DRAWS
) -> pd.DataFrame:
    """Half width against continuations: ``measure, draws, continuations, half_width`` of rocks.

    Places are added at a fixed number of draws each, on `problems` problems at most.
    """
    rows = []
    for measure in ("L", "H"):
        parts = components(some[some.group == "rock"], measure, draws)
        for r in numbers:
            for places in np.geomspace(16, 256 * problems, 40):
                width = half_width(parts, problems, float(places), r)
                rows.append((measure, r, 2 * places * r, width))
    return pd.DataFrame(rows, columns=["measure", "draws", "continuations", "half_width"])
