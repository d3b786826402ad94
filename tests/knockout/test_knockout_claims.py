"""Every number of the paper's census has a row, with the verdict that its rule gives by hand."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.claims import paper
from rockstudy.knockout import claims as knockout_claims
from rockstudy.knockout import steps as knockout_steps
from rockstudy.models.token_texts import visible

TOKENS = [" certain", "-like", " a", " b", " c", " d"]
K = 2
ANSWERS = [1, 4]  # ids of answer-bearing types


def screen(benchmarks=("maths", "words")) -> pd.DataFrame:
    """On maths the first three are pillars and the last one a stumbling block; on words none is."""
    rows = []
    for benchmark in benchmarks:
        for target in range(len(TOKENS)):
            strong = benchmark == "maths" and (target < 3 or target == 5)
            delta = (0.2 if target == 5 else -0.2) if strong else 0.0
            for level in ("token", "window"):
                row = {"benchmark": benchmark, "level": level, "target": target, "delta": delta}
                rows.append(row | {"p": 0.001 if strong else 1.0, "base": 0.6, "n_problems": 90})
    return pd.DataFrame(rows)


def candidates() -> pd.DataFrame:
    spelling = [visible(text) for text in TOKENS]
    ids = range(len(TOKENS))
    return pd.DataFrame({"level": "token", "target": ids, "rank": [i + 1 for i in ids]}).assign(
        spelling=spelling
    )


def modes() -> pd.DataFrame:
    frame = {"benchmark": "maths", "mode": "null", "delta": 0.0, "lo": -0.01, "hi": 0.02}
    return pd.DataFrame([frame | {"candidates": 3, "n": 90}])


def rows(**changes) -> dict[str, dict]:
    found = knockout_claims.of_screen(K, screen(**changes), candidates(), modes(), ANSWERS)
    named = {row["claim"]: row for row in found}
    assert len(named) == len(found)
    return named


def verdict(named: dict[str, dict], claim: str) -> str:
    return named[claim]["verdict"]


def test_shares_are_compared_by_wilsons_interval_and_state_their_counts():
    named = rows()
    row = named["census-pillar-maths"]
    assert (row["value"], row["paper"], row["verdict"]) == (0.5, 0.035, "differs")
    assert "3 of 6 (the paper: 7 of 200 on MATH-500)" in row["statement"]
    assert verdict(named, "census-pillar-words") == "reproduced"  # 0 of 6 may be 1.5%
    assert named["census-cross-pn"]["value"] == 0.5
    assert named["census-cross-pp"]["value"] == 0


def test_pillars_are_counted_once_more_without_answer_bearing_candidates():
    row = rows()["census-pillar-without-answers-maths"]
    assert row["value"] == 0.5 and row["statement"].endswith("left out: 2 of 4.")
    assert row["verdict"] == "inconclusive" and row["paper"] == 0.035
    for answers, why in ((None, "not in this reference"), (range(6), "every candidate is answer")):
        found = knockout_claims.of_screen(K, screen(), candidates(), modes(), answers)
        named = {one["claim"]: one for one in found}
        row = named["census-pillar-without-answers-maths"]
        assert row["verdict"] == "not run" and row["reason"].startswith(why)


def test_tests_and_corrections_are_compared_by_conclusion_and_count():
    named = rows()
    assert named["census-bonferroni-maths"]["value"] == 4
    assert verdict(named, "census-bonferroni-maths") == "differs"
    assert verdict(named, "census-fdr-words") == "reproduced"
    both = named["census-sign-test-both"]
    assert "3 to 1 (the paper: 10 to 0)" in both["statement"]
    assert (both["value"], both["verdict"]) == (pytest.approx(0.625), "inconclusive")
    assert "2 to 0 (the paper: 6 to 0)" in named["census-sign-test-core"]["statement"]


def test_what_means_another_thing_here_is_shown_and_not_judged():
    named = rows()
    for claim in ("census-base-maths", "census-smallest-p-words", "census-core"):
        assert verdict(named, claim) == "inconclusive"
        assert named[claim]["reason"].startswith("not judged: ")
    assert named["census-core"]["value"] == pytest.approx(2 / 3)


def test_a_pillar_of_the_paper_is_looked_for_by_its_spelling():
    named = rows()
    assert (named["pillar-rank-certain"]["value"], verdict(named, "pillar-rank-certain")) == (
        1, "reproduced",
    )  # fmt: skip
    assert verdict(named, "pillar-rank-like") == "differs"
    assert verdict(named, "pillar-rank-tech") == "not run"
    assert "' tech'" in named["pillar-rank-tech"]["reason"]
    assert sum(claim.startswith("pillar-rank-") for claim in named) == 10


def test_one_benchmark_leaves_the_second_half_out_and_says_that_nothing_is_crossed():
    named = rows(benchmarks=("maths",))
    assert verdict(named, "census-cross-nn") == "not run"
    assert not [claim for claim in named if claim.endswith("-words")]


def test_every_row_states_its_rule_and_every_number_of_the_census_is_used():
    named = rows()
    assert all(row["reason"] for row in named.values())
    for kind in ("base-accuracy", "pillar-share", "cross-task-share", "smallest-p", "sign-p"):
        for number in paper.labelled(kind).values():
            assert [r for r in named.values() if r.get("paper") == number.value], number.id


def test_table_1_has_a_row_for_each_predictor_and_its_smallest_p():
    names = list(knockout_steps.PREDICTORS)
    table = pd.concat(
        pd.DataFrame({"predictor": names, "r": 0.0, "lo": -0.1, "hi": 0.1, "p": p, "n": 50}).assign(
            benchmark=benchmark
        )
        for benchmark, p in (("maths", 0.001), ("words", 0.01))
    )
    found = {row["claim"]: row for row in knockout_claims.of_predictors(table)}
    assert len(found) == 20
    assert {row["verdict"] for claim, row in found.items() if "smallest" not in claim} == {
        "reproduced"
    }
    assert found["predictor-ccr-words"]["paper"] == -0.047
    assert "the paper: 0.512" in found["predictor-ccr-words"]["statement"]
    assert found["predictor-smallest-p-maths"]["verdict"] == "differs"
    assert found["predictor-smallest-p-words"]["verdict"] == "reproduced"  # 0.01 of nine
    assert found["predictor-smallest-p-words"]["reason"].endswith("at 0.0056")


def test_a_predictor_that_is_not_defined_is_not_run():
    names = list(knockout_steps.PREDICTORS)
    numbers = dict.fromkeys(("r", "lo", "hi", "p"), np.nan)
    table = pd.DataFrame({"predictor": names, "n": 3} | numbers).assign(benchmark="maths")
    assert {row["verdict"] for row in knockout_claims.of_predictors(table)} == {"not run"}


def test_a_benchmark_where_nothing_is_right_has_no_census_and_no_null():
    never = screen().assign(base=lambda table: np.where(table.benchmark == "maths", 0.0, 0.6))
    found = knockout_claims.of_screen(K, never, candidates(), modes(), ANSWERS)
    named = {row["claim"]: row for row in found}
    for claim in ("census-pillar-maths", "census-fdr-maths", "census-cross-nn", "null-knockout"):
        assert verdict(named, claim) == "not run" and "value" not in named[claim]
        assert "never right" in named[claim]["reason"]
    assert verdict(named, "census-pillar-words") == verdict(rows(), "census-pillar-words")


def test_the_null_is_judged_over_problems_and_is_not_run_where_nothing_is_reused():
    null = rows()["null-knockout"]
    assert (null["lo"], null["hi"], null["n"], null["verdict"]) == (-0.01, 0.02, 90, "reproduced")
    naive = modes().assign(mode="naive")
    found = knockout_claims.of_screen(K, screen(), candidates(), naive, ANSWERS)
    assert found[-1]["claim"] == "null-knockout" and found[-1]["verdict"] == "not run"


def test_a_null_without_any_difference_holds():
    same = modes().assign(lo=0.0, hi=0.0)  # as greedy decoding gives it
    found = knockout_claims.of_screen(K, screen(), candidates(), same, ANSWERS)
    null = next(row for row in found if row["claim"] == "null-knockout")
    assert (null["lo"], null["hi"], null["verdict"]) == (0, 0, "reproduced")
