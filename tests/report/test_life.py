"""The life of rock tokens in words: what was measured, and a gap where nothing was."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.knockout.census import CLASSES
from rockstudy.report import figures, life
from rockstudy.runs import open_run


def tables():
    persistence = pd.DataFrame(
        {"group": "rock", "seed": [0, 0, 1, 1], "step": [1, 2] * 2, "rkl": [1.0, 0.5, 3.0, 1.5]}
    )
    knockout = pd.DataFrame(
        {"benchmark": "maths", "target": [1, 2, 3], "class": CLASSES, "delta": [-0.3, 0.0, 0.1],
         "spelling": ["$a", "b", "c"]}
    )  # fmt: skip
    utility = pd.DataFrame(
        {"arm": ["baseline", "rock-freeze"], "benchmark": "maths", "value": [0.5, 0.4],
         "lo": [0.4, np.nan], "hi": [0.6, np.nan], "seeds": 3, "n": 90}
    )  # fmt: skip
    return persistence, knockout, utility


def test_each_panel_has_a_line_from_its_table():
    lines = life.reading(*tables()).splitlines()
    assert "rock 2.00 to 1.00 nats (-50%)" in lines[0] and "2 training seeds" in lines[0]
    assert "of 3 candidates pillars 1, stumbling blocks 1, neutral 1" in lines[1]
    assert "baseline 0.500 [0.400, 0.600] and rock-freeze 0.400;" not in lines[2]
    assert "baseline 0.500 [0.400, 0.600] and rock-freeze 0.400" in lines[2]


def test_what_was_not_run_has_no_line_and_no_part_of_the_caption():
    persistence, knockout, utility = tables()
    assert life.reading(None, knockout, None).startswith("(b)")
    assert life.reading(None, None, None) == "No table of an earlier notebook is stored here."
    made = figures.lifecycle(None, knockout, None)
    assert "(b)" in made.caption and "(a)" not in made.caption and "(c)" not in made.caption
    whole = figures.lifecycle(persistence, knockout, utility)
    assert all(part in whole.caption for part in ("(a)", "(b)", "(c)", "3 training seeds and 90"))
    assert "$a" in {text.get_text() for text in whole.axes[1].texts}


def test_a_run_without_types_has_a_gap_for_the_followed_token(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    found = life.of_followed(open_run("tiny", "here"))
    assert found.found.tolist() == [life.NOT_RUN]


@pytest.mark.slow
def test_the_reference_of_the_lab_tells_the_whole_life_of_the_followed_token():
    found = life.of_followed(open_run("lab"))
    assert len(found) == 4 and life.NOT_RUN not in set(found.found)
