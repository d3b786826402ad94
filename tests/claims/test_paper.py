"""The paper's numbers: whole, findable, and as the paper states them."""

import ast
import re

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from rockstudy import paths
from rockstudy.claims import paper
from rockstudy.errors import StudyError

# A sample, copied from the paper by hand and not from the files.
STATED = {
    "stage1-answers": 20_000,
    "stage1-lr": 2e-5,
    "stage1-max-new-tokens": 16_384,
    "stage2-lr": 2e-6,
    "stage2-rollouts": 4,
    "stage2-batch": 4,
    "evaluation-runs": 5,
    "competition-problems/HMMT Feb 2025": 30,
    "prompts": 500,
    "cutoff": 100,
    "jaccard-to-cutoff": 0.70,
    "jaccard-at-50": 0.81,
    "jaccard-floor": 0.57,
    "density/text": 0.18,
    "density/caption": 0.185,
    "density/plot": 0.525,
    "norm/rock": 0.016,
    "norm/high-KL": 0.54,
    "cos-balanced/random": 0.006,
    "kl-change": -0.58,
    "base-accuracy/MATH-500": 0.750,
    "base-accuracy/IFEval": 0.752,
    "pillars/MATH-500": 7,
    "pillars/IFEval": 3,
    "cross-task/N|N": 190,
    "cross-task/P|N": 7,
    "cross-task/N|P": 3,
    "cross-task/P|P": 0,
    "smallest-p/MATH-500": 0.0038,
    "smallest-p/IFEval": 0.0016,
    "sign-p/both": 0.00195,
    "sign-p/core": 0.031,
    "pillar-rank/MATH-500/ certain": 16,
    "pillar-rank/MATH-500/Do": 109,
    "pillar-rank/IFEval/-like": 35,
    "predictor-r/MATH-500/rkl_improvement": -0.062,
    "predictor-p/MATH-500/entropy_teacher_mean": 0.378,
    "predictor-r/IFEval/ccr": -0.047,
    "predictor-p/IFEval/rkl_improvement": 0.320,
    "speed-up/one-place": 1.7,
    "speed-up/elsewhere": 1.4,
    "frozen-share/one-place": 0.18,
    "frozen-share/elsewhere": 0.30,
    "share-of-vocabulary": 0.06,
    "share-of-observed-text": 0.025,
    "unselected-types": 4_470,
    "frozen-share/public-rocks": 0.665,
    "code-random-match/worst-pair": 44.7,
    "code-training/max-new-tokens": 1_024,
    "horse-race/rocks-at-0.5": 0.359,
}
# which argument of these functions is the id of a number, or the start of ids, if it has no name
CALLS = {"number": 0, "labelled": 0, "near": 0, "shown": 3, "finding": 99}


@pytest.mark.parametrize("name", STATED)
def test_a_sample_of_numbers_is_as_the_paper_states_it(name):
    assert paper.number(name).value == STATED[name]


def test_every_number_says_what_it_is_and_where_it_stands():
    table = paper.table()
    assert len(table) >= 150
    assert table.id.is_unique
    assert (table.what.str.len() > 5).all()
    assert table.locator.str.contains("section|appendix|figure|setting|code").all()
    assert table.value.notna().all()


def test_shares_follow_from_the_counts():
    screened = paper.number("screened").value
    for share, count in (("pillar", "pillars"), ("neutral", "neutral"), ("stumbling", "stumbling")):
        for label, one in paper.labelled(f"{share}-share").items():
            assert one.value == paper.number(f"{count}/{label}").value / screened
    for label, one in paper.labelled("cross-task-share").items():
        assert one.value == paper.number(f"cross-task/{label}").value / screened
    assert sum(one.value for one in paper.labelled("cross-task").values()) == screened
    core = [paper.number(f"sign-pillars/{part}").value for part in ("core", "both")]
    assert paper.number("core-share").value == core[0] / core[1]


def test_pillars_by_rank_agree_with_the_counts_and_with_the_core():
    ranks = {name: paper.labelled(f"pillar-rank/{name}") for name in ("MATH-500", "IFEval")}
    assert {name: len(of) for name, of in ranks.items()} == {"MATH-500": 7, "IFEval": 3}
    core = [one for of in ranks.values() for one in of.values() if one.value <= 100]
    assert len(core) == paper.number("sign-pillars/core").value


def test_both_halves_of_table_1_have_nine_predictors():
    for letter in "rp":
        for benchmark in ("MATH-500", "IFEval"):
            assert len(paper.labelled(f"predictor-{letter}/{benchmark}")) == 9


def test_an_unknown_id_is_one_line_with_the_nearest_ones():
    with pytest.raises(
        StudyError, match="got 'coverge/100', the nearest are 'coverage/100'"
    ) as error:
        paper.number("coverge/100")
    assert "\n" not in str(error.value)
    with pytest.raises(StudyError, match="got 'zzzzzz', none is near"):
        paper.number("zzzzzz")
    with pytest.raises(StudyError, match="'accuracy/baseline/0'"):
        paper.labelled("acuracy/baseline")


def test_a_bound_is_part_of_where_a_number_stands():
    assert paper.number("norm-p").where == "paper, section 2.6, figure 3a: <\N{NO-BREAK SPACE}1e-30"
    assert paper.number("norm/rock").where == "paper, section 2.6, figure 3a"
    assert paper.number("frozen-share/public-rocks").where.endswith(": ≥\N{NO-BREAK SPACE}0.665")


def test_a_label_may_have_a_place_of_its_own():
    places = {name: one.locator for name, one in paper.labelled("speed-up").items()}
    assert places["one-place"] == "section 4.3"
    assert "take-away" in places["elsewhere"]


def test_disagreements_name_two_sides_a_stance_and_numbers_that_exist():
    table = paper.disagreements()
    assert len(table) >= 20
    assert (table.map(len) > 3).all(axis=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[a]\nwhat = "w"\nvalue = 1\nunit = ""', "a: locator: Field required; got nothing"),
        (
            '[a]\nwhat = ""\nvalue = 1\nunit = ""\nlocator = "l"',
            "what: String should have at least 1 character; got ''",
        ),
        (
            '[a]\nwhat = "w"\nvalue = 1\nunit = ""\nlocator = "l"\nx = 1',
            "a: x: Unexpected keyword argument; got 1",
        ),
        (
            '[a]\nwhat = "w"\nvalue = "1"\nunit = ""\nlocator = "l"',
            "a: value: Input should be a valid number; got '1'",
        ),
        (
            '[a]\nwhat = "w"\nvalue = 1\nunit = ""\nlocator = "l"\nbound = "x"',
            "bound: Input should be '', 'about', 'above', 'below' or 'at least'; got 'x'",
        ),
        ("[a", "must be a TOML file"),
        ("", "must hold the paper's numbers"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path, monkeypatch, text, expected):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "a.toml").write_text(text)
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path)
    with pytest.raises(StudyError, match=expected) as error:
        paper.numbers()
    assert "\n" not in str(error.value)


def test_an_id_in_two_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    for name in "ab":
        row = '[x]\nwhat = "w"\nvalue = 1\nunit = ""\nlocator = "l"\n'
        (tmp_path / "paper" / f"{name}.toml").write_text(row)
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path)
    with pytest.raises(StudyError, match="unique; got 'x' twice"):
        paper.numbers()


def used_ids() -> list[tuple[str, str]]:
    """Every id in the package as a pattern; the gaps of an f-string stand for any text."""
    found = []
    for file in sorted((paths.REPO / "rockstudy").rglob("*.py")):
        imported = "paper" in file.read_text()
        for node in ast.walk(ast.parse(file.read_text())) if imported else []:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            place = CALLS.get(node.func.attr)
            if owner not in ("paper", "verdicts") or place is None:
                continue
            given = [one.value for one in node.keywords if one.arg == "number"]
            given += node.args[place : place + 1]
            pattern = as_pattern(given[0]) if given else None
            if pattern:
                ending = "/.+" if node.func.attr == "labelled" else ""
                found.append((file.name, pattern + ending))
    return found


def as_pattern(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            re.escape(part.value) if isinstance(part, ast.Constant) else ".+"
            for part in node.values
        )
    return None


def test_every_id_that_the_package_uses_exists():
    used = used_ids()
    assert len(used) > 20
    known = list(paper.numbers())
    missing = [(file, p) for file, p in used if not any(re.fullmatch(p, one) for one in known)]
    assert missing == []


def test_no_claim_repeats_a_number_of_the_paper_as_a_literal():
    for file in (
        "rocks/claims.py",
        "gradients/claims.py",
        "knockout/claims.py",
        "training/claims.py",
    ):
        tree = ast.parse((paths.REPO / "rockstudy" / file).read_text())
        given = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        keys = [key.value for d in given for key in d.keys if isinstance(key, ast.Constant)]
        assert "paper" not in keys, file


def test_points_of_figures_are_whole_and_a_caller_cannot_change_them():
    sizes = {name: len(paper.points(name)) for name in paper.POINTS}
    assert sizes == {"figure2": 7 * 16, "figure3c": 100 + 85 + 150, "figure4": 400, "figure5": 24}
    mine = paper.points("figure5")
    mine["correct"] = 0
    assert (paper.points("figure5").correct > 0).all()


def test_an_unknown_figure_is_one_line_with_the_nearest_ones():
    with pytest.raises(StudyError, match="got 'figure3', the nearest are 'figure3c'") as error:
        paper.points("figure3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "must be a CSV file that can be read"),
        ("", "must be a CSV file that can be read"),
        ("regime,step,correct\nbaseline,0,35", "columns must be regime, step, correct, problems; "),
        ("regime,step,correct,problems\nbaseline,0,,90", "correct: must be finite numbers; got "),
        ("regime,step,correct,problems\nbaseline,0,inf,90", "correct: must be finite numbers; got"),
        ("regime,step,correct,problems\nbaseline,0,x,90", "correct: must be finite .* got 'x'"),
    ],
)
def test_a_malformed_file_of_points_is_one_line(tmp_path, monkeypatch, text, expected):
    (tmp_path / "paper").mkdir()
    if text is not None:
        (tmp_path / "paper" / "figure5.csv").write_text(text)
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path)
    with pytest.raises(StudyError, match=expected) as error:
        paper.points("figure5")
    assert "\n" not in str(error.value)


HEAD = 'what = "w"\nlocator = "l"\n'


def numbers_of(text, tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "a.toml").write_text(text)
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path)
    return paper.numbers()


def test_an_interval_is_the_files_or_wilsons(tmp_path, monkeypatch):
    text = (
        f'[s]\n{HEAD}unit = "share of types"\nvalue = {{ a = 0.035, b = 0.0 }}\n'
        "n = { a = 200, b = 50 }\n"
        f'[g]\n{HEAD}unit = "accuracy"\nvalue = {{ a = -0.1, b = 0.1 }}\nn = 90\n'
        f'lo = {{ a = -0.2, b = 0.0 }}\nhi = 0.2\n[m]\n{HEAD}unit = "nats"\nvalue = 1\nn = 9\n'
    )
    known = numbers_of(text, tmp_path, monkeypatch)
    for name, count in (("s/a", 7), ("s/b", 0)):
        lo, hi = proportion_confint(count, known[name].n, method="wilson")
        assert (known[name].lo, known[name].hi) == pytest.approx((lo, hi))
    assert known["s/b"].lo == 0
    assert (known["g/a"].lo, known["g/a"].hi, known["g/a"].n) == (-0.2, 0.2, 90)
    assert (known["g/b"].lo, known["g/b"].hi) == (0.0, 0.2)
    assert np.isnan([known["m"].lo, known["m"].hi]).all() and known["m"].n == 9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("value = 0.5\nlo = 0.6\nhi = 0.7", "x: lo, hi: must be ends around 0.5; got 0.6 and 0.7"),
        ("value = 0.5\nlo = 0.4", "x: lo, hi: must be ends around 0.5; got 0.4 and nan"),
        ("value = 0.5\nn = 0", "x: n: Input should be greater than or equal to 1; got 0"),
        ("value = { a = 1 }\nn = { b = 2 }", "x: n: must have labels of the value; got 'b'"),
    ],
)
def test_an_interval_that_cannot_be_is_one_line(tmp_path, monkeypatch, fields, expected):
    with pytest.raises(StudyError, match=expected) as error:
        numbers_of(f'[x]\n{HEAD}unit = ""\n{fields}\n', tmp_path, monkeypatch)
    assert "\n" not in str(error.value)
