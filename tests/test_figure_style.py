"""The style of figures: colours that everybody can tell apart, legible text, two grounds."""

import io
import itertools
import re

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from rockstudy import figure_style
from rockstudy.figure_style import CATEGORIES, CAUSES, DARK, GROUND, ROLES

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
READERS = {
    "with all cones": np.eye(3),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array(  # of linear sRGB, D65
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
KINDS = ("pillar", "neutral", "stumbling block")
TOGETHER = {
    "roles": ([c for role, c in ROLES.items() if role not in KINDS], 15),
    "kinds of candidates": ([ROLES[kind] for kind in KINDS], 25),
    "categories": (list(CATEGORIES.values()), 12),  # areas with names, side by side
    "causes": (list(CAUSES.values()), 12),
}


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    t = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours."""
    lighter, darker = sorted((XYZ[1] @ linear(c) + 0.05 for c in (one, other)), reverse=True)
    return lighter / darker


def drawn(**lines):
    made, (axis,) = figure_style.figure(4, 3, caption="What is seen; n = 3.")
    axis.plot([0, 1, 2], [1, 2, 4], color="black", label="$x$ and $y$", **lines)
    axis.text(1, 2, "tiny", fontsize=4)
    axis.set_yticks([1, 4], ["\\frac$a$", "b"], fontsize=5)
    axis.legend()
    made.alt = "a line"
    return made


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("together", TOGETHER)
def test_colours_of_one_figure_differ_for_every_reader(together, reader):
    colours, least = TOGETHER[together]
    seen = {c: cielab(READERS[reader] @ linear(c)) for c in colours}
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > least, (one, other)


def test_lines_in_the_colour_of_a_role_stand_out_on_both_grounds():
    for colour in ROLES.values():
        assert contrast(colour, GROUND) >= 2.99 and contrast(colour, DARK[GROUND]) >= 2.99


def test_a_figure_is_shown_at_its_true_width_with_two_pixels_for_each_of_css():
    data, about = drawn()._repr_mimebundle_()
    assert about["image/png"] == {"alt": "a line", "width": 384, "height": 288}
    assert about["caption"] == "What is seen; n = 3." and data["text/plain"] == "a line"
    image = Image.open(io.BytesIO(drawn().png()))
    assert image.size == (768, 576)
    assert image.convert("RGBA").getextrema()[3] == (255, 255)  # opaque
    assert 'width="288pt"' in data["image/svg+xml"]  # 384 pixels of CSS
    assert figure_style.figure(40, 3)[0].get_size_inches()[0] == figure_style.WIDEST


def test_the_same_data_gives_the_same_bytes():
    assert drawn()._repr_mimebundle_() == drawn()._repr_mimebundle_()
    assert "<metadata>" not in drawn().svg() and "Matplotlib" not in drawn().svg()


def test_no_text_is_small_and_no_label_is_typeset():
    made = drawn()
    made.svg()
    shown = [t for axis in made.axes for t in axis.findobj(lambda a: hasattr(a, "get_fontsize"))]
    assert len(shown) > 5
    assert min(text.get_fontsize() for text in shown) >= 8
    assert [t.get_text() for t in shown if "$" in t.get_text() and t.get_parse_math()] == []


def test_the_drawing_for_both_grounds_holds_no_colour_of_one_ground():
    svg = figure_style.for_both_grounds(drawn().svg())
    style, rest = re.search(r"<style>(.*?)</style>(.*)", svg, re.DOTALL).groups()
    assert "prefers-color-scheme:dark" in style and DARK[GROUND] in style
    assert not set(re.findall(r"#\w{6}\b", rest)) & {*DARK, "#000000"}
    assert "var(--ink)" in rest and "var(--ground)" in rest


def test_artists_of_many_points_become_pixels_and_keep_the_file_small():
    few, many = (drawn() for _ in range(2))
    rng = np.random.default_rng(0)
    for made, n in ((few, 20), (many, 20_000)):
        made.axes[0].scatter(*rng.random((2, n)))
    assert "data:image/png" in many.svg() and "data:image/png" not in few.svg()
    assert len(many.svg()) < 400_000


def test_a_notebook_shows_the_figure_and_then_its_caption_escaped():
    made = drawn()
    made.caption = "a <b> & $x$"
    InteractiveShell.instance()
    with capture_output() as captured:
        made._ipython_display_()
    picture, caption = captured.outputs
    assert {"image/png", "image/svg+xml"} <= set(picture.data)
    assert "&lt;b&gt;" in caption.data["text/html"] and "<b>" not in caption.data["text/html"]
    InteractiveShell.clear_instance()
