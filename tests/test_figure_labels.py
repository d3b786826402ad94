"""Names in figures: apart from each other, inside the panel, never a formula."""

import itertools

import numpy as np
import pytest

from rockstudy.figure_labels import name_lines, name_points, spread
from rockstudy.figure_style import figure


def test_spread_values_keep_their_order_and_their_distance():
    values = [1.0, 1.1, 1.05, 8.0]
    moved = spread(values, 2.0)
    assert np.argsort(moved).tolist() == np.argsort(values).tolist()
    assert np.diff(np.sort(moved)).min() >= 2.0 - 1e-9
    assert spread([0.0, 5.0, 10.0], 2.0) == pytest.approx([0, 5, 10])  # as they are
    assert moved[:3].mean() == pytest.approx(np.mean(values[:3]))  # least squares


def test_names_of_near_points_do_not_overlap_and_stay_inside():
    made, (axis,) = figure(5, 4)
    x, y = np.full(8, 0.5), np.linspace(0.45, 0.55, 8)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    assert name_points(axis, x, y, [f"name {i}" for i in range(8)]) == 8
    made.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    panel = axis.get_window_extent()
    assert all(panel.x0 <= b.x0 and b.x1 <= panel.x1 for b in boxes)


def test_a_name_without_a_place_is_left_out():
    _, (axis,) = figure(2, 2)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    n = 60
    assert name_points(axis, np.full(n, 0.5), np.full(n, 0.5), ["a long name"] * n) < n


def test_dollars_in_names_are_no_formulas():
    made, (axis,) = figure(4, 3)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    name_points(axis, [0.5], [0.5], ["$\\frac"])  # would not parse
    name_lines(axis, [0.2, 0.2], ["$x$", "}$"], ["black", "black"])
    made.draw_without_rendering()
    assert {text.get_text() for text in axis.texts} == {"$\\frac", "$x$", "}$"}


def test_names_cover_no_point_of_a_cloud_and_their_lines_cross_neither_names_nor_each_other():
    made, (axis,) = figure(6, 4)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    rng = np.random.default_rng(0)
    cloud = rng.normal(0.5, 0.06, (300, 2))
    assert name_points(axis, *cloud[:6].T, [f"name {i}" for i in range(6)], cloud) == 6
    made.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    points = axis.transData.transform(cloud)
    for box in boxes:
        assert not any(box.contains(*point) for point in points)
    lines = [line.get_path().transformed(axis.transData) for line in axis.lines]
    assert lines
    assert not any(a.intersects_path(b) for a, b in itertools.combinations(lines, 2))
    crossed = [sum(line.intersects_bbox(box.padded(-1)) for line in lines) for box in boxes]
    assert sum(crossed) == 0
