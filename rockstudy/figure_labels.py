"""Names beside points and lines of a figure, without overlaps and never typeset as formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

SIZE = 8.0  # points of a text
_AROUND = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_FAR = (5.0, 14.0, 26.0, 40.0)  # points from the marker, the nearest first


def name_points(axis: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> int:
    """Write a name beside each point, the first ones first, and return how many found a place.

    A name covers neither another one nor a point of the list. One that is far from its point has a
    thin line to it; one that finds no place is left out. Limits and scales of the axis must be set.
    """
    made = axis.get_figure()
    assert made is not None
    made.draw_without_rendering()  # the layout is settled now
    inside, points = axis.get_window_extent(), axis.transData.transform(np.column_stack([x, y]))
    pixels = made.dpi / 72
    taken = [Bbox.from_extents(*(p - 3 * pixels), *(p + 3 * pixels)) for p in points]
    written = 0
    for place, text in enumerate(texts):
        look = {"textcoords": "offset points", "fontsize": SIZE, "parse_math": False}
        look |= {"bbox": {"fc": "white", "alpha": 0.7, "lw": 0, "pad": 0.5}}  # over bars and lines
        label = axis.annotate(text, (x[place], y[place]), (0, 0), **look)
        label.set_in_layout(False)
        size = label.get_window_extent()
        for far in _FAR:
            boxes = [_box(points[place], size, way, far * pixels) for way in _AROUND]
            free = [
                box
                for box in boxes
                if _within(box, inside) and not any(box.overlaps(other) for other in taken)
            ]
            if free:
                corner = (np.array(free[0].min) - points[place]) / pixels
                label.set_position((float(corner[0]), float(corner[1])))
                if far > _FAR[1]:
                    _lead(axis, points[place], free[0])
                taken.append(free[0])
                written += 1
                break
        else:
            label.remove()
    return written


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


def _lead(axis: Axes, point: np.ndarray, box: Bbox) -> None:
    """A thin line from a point to the nearest place of the box of its name."""
    end = np.clip(point, box.min, box.max)
    ends = axis.transData.inverted().transform([point, end])
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
