"""Names beside points and lines of a figure, without overlaps and never typeset as formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

SIZE = 8.0  # points of a text
_AROUND = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_FARTHER = [(x / 2, y) for y in (1, -1) for x in (0, 1, -1, 2, -2, 3, -3)] + [(1, 0), (-1, 0)]
_FAR = (5.0, 14.0, 26.0, 40.0, 56.0, 74.0)  # points from the marker, the nearest first
_LED = 5.0  # a name that is farther away has a line to its point
_MARKER, _GAP = 3.0, 1.5  # points: half a marker, and between two names


def many_seeds(n: int) -> str:
    """So many training seeds, in words of a caption or a reading."""
    return "one training seed" if n == 1 else f"{n} training seeds"


def seed_lines(n: int) -> str:
    """What the lines of a figure are that has a line for each training seed, and their mean."""
    if n == 1:
        return "lines are one training seed"
    return f"thin lines are {many_seeds(n)}, thick ones their mean"


def name_points(
    axis: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    others: np.ndarray | None = None,
) -> int:
    """Write a name beside each point, the first ones first, and return how many found a place.

    A name covers neither another one nor a point, be it of the list or of `others`, an array
    (points, 2) of coordinates. One that is far from its point has a thin line to it, which crosses
    no name and no such line; one that finds no place is left out. Limits and scales of the axis
    must be set.
    """
    made = axis.get_figure()
    assert made is not None
    made.draw_without_rendering()  # the layout is settled now
    inside, points = axis.get_window_extent(), axis.transData.transform(np.column_stack([x, y]))
    pixels = made.dpi / 72
    half = _MARKER * pixels
    taken = [Bbox.from_extents(*(p - half), *(p + half)) for p in points]
    cloud = np.empty((0, 2)) if others is None else axis.transData.transform(others)
    names: list[Bbox] = []
    lines: list[np.ndarray] = []
    for place, text in enumerate(texts):
        look = {
            "textcoords": "offset points",
            "fontsize": SIZE,
            "parse_math": False,
            "va": "bottom",
        }
        look |= {"bbox": {"fc": "white", "alpha": 0.7, "lw": 0, "pad": 0.5}}  # over bars and lines
        label = axis.annotate(text, (x[place], y[place]), (0, 0), **look)
        label.set_in_layout(False)
        size = label.get_window_extent()
        ways = [(way, far) for far in _FAR for way in (_AROUND if far <= _LED else _FARTHER)]
        for way, far in ways:
            box = _box(points[place], size, way, far * pixels)
            line = _line(points[place], box) if far > _LED else box.corners()[:0]
            wide = box.padded(_GAP * pixels)
            if (
                _within(box, inside)
                and not any(wide.overlaps(other) for other in (*taken, *names))
                and not _holds(box.padded(half), cloud)
                and not any(_holds(name.padded(pixels), line) for name in names)
                and not any(_holds(wide, other) or _cross(line, other) for other in lines)
            ):
                corner = (np.array(box.min) - points[place]) / pixels
                label.set_position((float(corner[0]), float(corner[1])))
                if len(line):
                    _lead(axis, line)
                names.append(box)
                lines.append(line)
                break
        else:
            label.remove()
    return len(names)


def ring(axis: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw a black ring around points, such as those of the followed token."""
    axis.scatter(x, y, s=60, facecolors="none", edgecolors="black", lw=1.2, zorder=4)


def _box(point: np.ndarray, size: Bbox, way: tuple[int, int], far: float) -> Bbox:
    """The box of a text on one side of a point."""
    centre = point + np.array(way) * (far + np.array([size.width, size.height]) / 2)
    half = np.array([size.width, size.height]) / 2
    return Bbox.from_extents(*(centre - half), *(centre + half))


def _within(box: Bbox, outer: Bbox) -> bool:
    return box.x0 >= outer.x0 and box.x1 <= outer.x1 and box.y0 >= outer.y0 and box.y1 <= outer.y1


def _holds(box: Bbox, points: np.ndarray) -> bool:
    """Whether any of some points lies in a box."""
    return bool(np.all((points >= box.min) & (points <= box.max), axis=1).any())


def _line(point: np.ndarray, box: Bbox) -> np.ndarray:
    """Places along the way from a point to the nearest place of the box of its name."""
    return np.linspace(point, np.clip(point, box.min, box.max), 100)


def _cross(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two lines, arrays (places, 2), cross each other; not at the point of both."""
    if not len(one) or not len(other):
        return False

    def sides(line: np.ndarray, of: np.ndarray) -> float:
        (x, y), ends = line[-1] - line[0], of[[0, -1]] - line[0]
        return float(np.prod(x * ends[:, 1] - y * ends[:, 0]))

    return sides(one, other) < 0 and sides(other, one) < 0


def _lead(axis: Axes, line: np.ndarray) -> None:
    """A thin line from a point to its name."""
    ends = axis.transData.inverted().transform(line[[0, -1]])
    axis.plot(*ends.T, color="0.5", lw=0.6, scalex=False, scaley=False, zorder=1)


def name_lines(axis: Axes, ends: Sequence[float], texts: Sequence[str], colours: Sequence) -> None:
    """Write the names of lines to the right of the axis, in the order of their last values."""
    made = axis.get_figure()
    assert made is not None
    made.draw_without_rendering()
    box, pixels = axis.get_window_extent(), made.dpi / 72
    heights = axis.transData.transform(np.column_stack([np.ones(len(ends)), ends]))[:, 1]
    places = spread((heights - box.y0) / pixels, 1.35 * SIZE) * pixels / box.height
    for place, text, colour in zip(places, texts, colours, strict=True):
        look = {"color": colour, "fontsize": SIZE, "va": "center", "parse_math": False}
        axis.text(1.02, float(place), text, transform=axis.transAxes, **look)


def legend_above(axis: Axes, columns: int) -> None:
    """Put the legend above the panel, where no data are."""
    look = {"frameon": False, "fontsize": SIZE, "ncols": columns, "borderaxespad": 0}
    look |= {"columnspacing": 1.2, "handlelength": 1.6}
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.02), **look)


def spread(values: Sequence[float] | np.ndarray, gap: float) -> np.ndarray:
    """Values moved as little as possible, in least squares, until neighbours are `gap` apart."""
    from scipy.optimize import isotonic_regression

    values = np.asarray(values, float)
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    moved = np.empty(len(values))
    moved[order] = isotonic_regression(values[order] - steps).x + steps
    return moved
