"""The viewer's data against the tables behind them, and its page as one harmless file."""

import base64
import json
import re
import shutil
import unicodedata
import zlib
from dataclasses import replace

import numpy as np
import pytest
from pages import HOSTILE, shown, tokenizer_of

from rockstudy import runs
from rockstudy.cli import main, running
from rockstudy.errors import StudyError
from rockstudy.rocks import likeliest
from rockstudy.rocks import steps as rocks_steps
from rockstudy.viewer import page, scales, study
from rockstudy.viewer.payload import payload
from rockstudy.viewer.safe_text import safe


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return tokenizer_of(tiny_tokenizer)


@pytest.fixture(scope="module")
def corpus():
    return shown(few=5)


@pytest.fixture(scope="module")
def data(corpus, tokenizer):
    return payload(corpus, tokenizer, "title", {"run": "mine"})


def unpacked(data, one, name, kinds):
    """The arrays of a rollout's stream, as the page cuts them.

    Bytes of a kind lie in planes: the first bytes of all its numbers, then the second ones.
    """
    content, at, found = zlib.decompress(base64.b64decode(one[name])), 0, []
    for kind, width in kinds:
        size = int(kind[1]) * one["n"] * width
        planes = np.frombuffer(content[at : at + size], "u1").reshape(int(kind[1]), -1)
        found.append(planes.T.copy().view(f"<{kind}").reshape(one["n"], width))
        at += size
    assert at == len(content)
    return found


def test_every_measure_of_a_position_is_that_of_the_token_table(corpus, data):
    assert [(one["prompt"], one["sample"]) for one in data["rollouts"]] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0)
    ]  # fmt: skip
    for one in data["rollouts"]:
        mine = corpus.tokens[
            (corpus.tokens.prompt_index == one["prompt"])
            & (corpus.tokens.sample_index == one["sample"])
        ]
        (place,) = unpacked(data, one, "t", [(data["index"], 1)])
        ids = np.array(data["types"]["id"])[place[:, 0]]
        assert ids.tolist() == mine.token_id.tolist()  # column t is the prediction of token t
        kinds = [(kind, 1) for _, kind in data["columns"]]
        found = unpacked(data, one, "m", kinds)
        found = {n: x[:, 0] for (n, _), x in zip(data["columns"], found, strict=True)}
        for name in found.keys() & set(mine.columns) - {"cause", "rank_teacher"}:
            wanted = mine[name].to_numpy(np.float64)
            assert np.allclose(found[name], wanted, rtol=5e-4, atol=1e-7), name
        assert found["rank_teacher"].tolist() == mine.rank_teacher.tolist()
        assert [data["causes"][i][0] for i in found["cause"]] == mine.cause.tolist()
        change = mine.rkl_post.astype(float) - mine.rkl_pre.astype(float)
        assert np.allclose(found["rkl_change"], change, rtol=5e-4, atol=1e-7)
        rocks = set(corpus.found.rocks().ids)
        assert [bool(f & 1) for f in found["flags"]] == [i in rocks for i in ids]
        assert found["weight Rock-Freeze"].tolist() == [float(i not in rocks) for i in ids]
        occurrences = corpus.found.occurrences
        there = occurrences[
            (occurrences.prompt_index == one["prompt"])
            & (occurrences.sample_index == one["sample"])
        ]
        persistent = set(there.position)
        repeating = set(there.position[there.rock])
        assert {t for t, f in enumerate(found["flags"]) if f & 2} == persistent
        assert {t for t, f in enumerate(found["flags"]) if f & 4} == repeating


def test_the_likeliest_tokens_of_a_position_are_those_of_the_table(corpus, data):
    width, start = data["top"] * 3, 0
    for one in data["rollouts"]:
        ids, p = unpacked(data, one, "k", [(data["index"], width), ("f2", width)])
        rows = corpus.likeliest.iloc[start : start + one["n"]]
        start += one["n"]
        for m, (name, _) in enumerate(data["models"]):
            some = slice(m * data["top"], (m + 1) * data["top"])
            wanted = np.stack(rows[f"top_ids_{name}"])
            assert np.array_equal(np.array(data["types"]["id"])[ids[:, some]], wanted)
            assert np.allclose(p[:, some], np.stack(rows[f"top_probs_{name}"]), 5e-3, 1e-6)


def test_the_share_of_the_five_worst_tokens_is_that_of_a_sorted_list(corpus, data):
    for one in data["rollouts"]:
        mine = corpus.tokens[
            (corpus.tokens.prompt_index == one["prompt"])
            & (corpus.tokens.sample_index == one["sample"])
        ]
        for name in ("pre", "post"):
            loss = sorted(mine[f"rkl_{name}"].astype(float), reverse=True)
            assert one[f"share_{name}"] == pytest.approx(sum(loss[:5]) / sum(loss), abs=1e-6)
            assert one[f"loss_{name}"] == pytest.approx(sum(loss) / len(loss), abs=1e-6)
            worst = mine[f"rkl_{name}"].to_numpy()[one[f"worst_{name}"]]
            assert worst.tolist() == pytest.approx(loss[:5])


def test_tokens_and_likeliest_tokens_of_other_rollouts_are_refused(corpus, tokenizer):
    other = corpus.tokens.assign(token_id=corpus.tokens.token_id[::-1].to_numpy())
    with pytest.raises(StudyError, match="tokens: must be those of the rollouts"):
        payload(replace(corpus, tokens=other), tokenizer, "", {})
    wrong = corpus.likeliest.assign(token_id=0)
    with pytest.raises(StudyError, match="likeliest tokens: must be those of the rollouts"):
        payload(replace(corpus, likeliest=wrong), tokenizer, "", {})


# --- colours --------------------------------------------------------------------------------------


def test_colours_change_at_round_numbers_up_to_almost_the_largest_value():
    values = [np.linspace(0, 10, 1_001), np.linspace(-3, 0, 1_001)]
    assert scales.edges(values, 4) == [0.5, 1.0, 2.0, 5.0]
    assert scales.edges([np.zeros(3)], 2) == [5e-7, 1e-6]
    ends = scales.edges([np.random.default_rng(0).exponential(1, 10_000)], 7)
    assert ends == sorted(ends) and all(f"{one:.0e}"[0] in "125" for one in ends)


def test_all_checkpoints_of_a_measure_share_their_colours(data):
    by = {one["key"]: one for one in data["measures"]}
    wanted = [f"{s}_{c}" for s in ("rkl", "log_ratio", "entropy") for c in ("post", "pre", "early")]
    wanted += ["rkl_change", "entropy_teacher", "rank_teacher", "weight Rock-Freeze", "cause"]
    assert set(by) == set(wanted) and data["measures"][0]["key"] == "rkl_post"
    for statistic in ("rkl", "log_ratio", "entropy"):
        edges = [by[f"{statistic}_{c}"]["edges"] for c in ("pre", "early", "post")]
        assert edges[0] == edges[1] == edges[2]
    assert by["entropy_teacher"]["label"] == "Entropy of the teacher"
    assert by["rkl_early"]["label"] == "Reverse KL early"
    assert all(one["unit"] or one["key"] == "cause" for one in data["measures"])


# --- text that means harm -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" we\n", " we\n"),
        ("\u202eabc", "\\u202eabc"),
        ("a\x00\x1b[0m\r", "a\\x00\\x1b[0m\\r"),
        ("\ud83d", "\\ud83d"),
        ("\u0301", "\u25cc\u0301"),
        ("e\u0301\u0302\u0303\u0304", "e\u0301\u0302\\u0303\\u0304"),
        ("\u200b\u00a0\u2028", "\\u200b\\xa0\\u2028"),
        ("x" * 300, "x" * 199 + "\u2026"),
        ("\u0915\u094d\u0937", "\u0915\u094d\u0937"),
    ],
)
def test_text_that_hides_reorders_or_overlaps_is_spelled_out(text, wanted):
    assert safe(text) == wanted


def test_nothing_in_the_data_can_end_the_script_that_holds_it(data, corpus, tokenizer):
    made = page.page(data | {"title": HOSTILE[0]}).html
    assert made.isascii()
    start = made.index('<script type="application/json" id="data">')
    content = made[start:].partition(">")[2].partition("</script>")[0]
    assert not set("<>&") & set(content)
    assert json.loads(content) == data | {"title": HOSTILE[0]}
    assert made.count("<script") == made.count("</script>") == 2
    assert "<title>&lt;/script&gt;" in made and "{{data}}" in json.loads(content)["types"]["text"]
    every = "".join([*data["types"]["text"], *data["prompts"]])
    assert {unicodedata.category(c) for c in every} & {"Cc", "Cf", "Cs"} <= {"Cc"}
    assert {c for c in every if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}


def test_the_policy_names_the_pages_own_style_and_script_by_their_hashes(data):
    made = page.page(data).html
    policy = re.search('Content-Security-Policy" content="([^"]+)"', made)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    style = re.search("<style>(.*?)</style>", made, re.DOTALL)[1]
    for name, content in (("style-src", style), ("script-src", page.script())):
        assert rules[name] == f"'{page._hash(content)}'"
    assert "unsafe" not in policy and "http" not in made.replace("http-equiv", "")


def test_a_notebook_shows_it_in_a_frame_that_can_only_run_its_script(data):
    made = page.page(data)
    shown = made._repr_html_()
    assert shown.startswith("<iframe") and 'sandbox="allow-scripts"' in shown
    assert shown.count("<") == 2  # the frame's own: its page is an escaped attribute
    assert "srcdoc=" in shown and "allow-same-origin" not in shown


def test_a_viewer_is_saved_as_one_file_or_refused(data, tmp_path):
    made = page.page(data)
    assert made.save(tmp_path / "x.html").read_text() == made.html
    with pytest.raises(StudyError, match=r"path: must end in \.html"):
        made.save(tmp_path / "x.json")


# --- runs and references --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab():
    return runs.opened(runs.reference_dir("lab"))


def test_what_the_reference_stores_is_what_would_be_chosen_again(lab):
    corpus, stored = rocks_steps.measured(lab), likeliest.shown(lab, likeliest.SHOWN)
    rows = likeliest.chosen(corpus.rollouts, corpus.tokens, likeliest.SHOWN)
    keys = stored[["prompt_index", "sample_index"]].drop_duplicates()
    assert keys.prompt_index.tolist() == corpus.rollouts.prompt_index[rows].tolist()
    assert len(rows) == likeliest.SHOWN and corpus.rollouts.correct[rows].mean() == 0.5


def test_stored_probabilities_give_the_log_ratios_of_the_token_table(lab):
    """Both models name a probability of the same written token: their ratio is the table's."""
    keys = ["prompt_index", "sample_index", "position"]
    stored = likeliest.shown(lab, likeliest.SHOWN)
    both = stored.merge(rocks_steps.measured(lab).tokens, on=[*keys, "token_id"])
    assert len(both) == len(stored)
    compared = 0
    for one in both.itertuples():
        teacher = dict(zip(one.top_ids_teacher, one.top_probs_teacher, strict=True))
        if one.rank_teacher < 5:
            assert list(one.top_ids_teacher).index(one.token_id) == one.rank_teacher
        for name in ("pre", "post"):
            top = (getattr(one, f"top_{what}_{name}") for what in ("ids", "probs"))
            student = dict(zip(*top, strict=True))
            if one.token_id in student and one.token_id in teacher:
                ratio = np.log(student[one.token_id]) - np.log(teacher[one.token_id])
                assert ratio == pytest.approx(getattr(one, f"log_ratio_{name}"), abs=2e-3)
                compared += 1
    assert compared > len(stored)  # most tokens are among the five of all three


def test_the_command_writes_a_reference_beside_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main.main(["view", "--reference", "lab"])
    assert ended.value.code == 0
    path = tmp_path / "runs" / "viewer-lab.html"
    assert capsys.readouterr().out.splitlines() == [str(path)]
    assert path.stat().st_size < 1_000_000


def test_a_reference_without_rollouts_is_one_line(older_reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    older_reference("post*")
    with pytest.raises(SystemExit) as ended:
        main.main(["view", "--reference", "lab"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("rockstudy: rollouts/post: not stored in the run ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["view", "--reference", "lab", "--rollouts", "25"],
            "the reference of lab holds no models",
        ),
        (["view", "--reference", "labb"], "--reference: must be one of lab"),
        (["view"], "RUN: must be the name of a run, or --reference that of a preset; got none"),
        (["view", "mine"], "RUN: must name a run, and there is none yet; got 'mine'"),
        (["view", "--reference", "lab", "--to", "x.txt"], "--to: must end in .html; got 'x.txt'"),
        (["view", "--reference", "lab", "--to", "no/x.html"], "--to: must be in a folder that"),
    ],
)
def test_what_cannot_be_viewed_is_one_line(given, line, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main.main(given)
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert line in shown.err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.html"))


def test_a_study_gets_its_viewer_or_a_line_that_says_why_not(lab, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    path = tmp_path / "runs" / "mine"
    path.mkdir(parents=True)
    runs._record(path, lab.config, None)
    running.view(path)
    line = capsys.readouterr().err
    assert line.startswith("token viewer: ") and "not stored in the run 'mine'" in line
    shutil.copytree(lab.path, path, dirs_exist_ok=True)
    running.view(path)
    assert (path / "viewer.html").is_file() and study.embedded(path) is not None


def test_a_report_gets_a_frame_or_nothing(lab, tmp_path):
    frame = study.embedded(lab.path)
    assert frame is not None and frame.startswith("<iframe")
    assert study.embedded(tmp_path) is None
