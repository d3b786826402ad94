"""Tests of the report page, the claims table and provenance."""

import base64
import hashlib
import html
import re

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from rockstudy import figure_style, paths
from rockstudy.claims import records
from rockstudy.display import Html, prose
from rockstudy.errors import StudyError
from rockstudy.report import listing, page, render
from rockstudy.rocks import causes
from rockstudy.runs import REFERENCE, open_run
from rockstudy.store import cache

PIXEL = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & </td>"


NUMBERS = {"value": 0.12, "lo": 0.1, "hi": 0.15, "unit": "problems", "n": 500}
NOT_RUN = {"direction": "not run", "value": None, "lo": None, "hi": None, "n": None}
NOT_RUN |= {"size": "", "reason": "no rocks here"}
KINDS = {  # changes of a claim for each kind
    "finding": {},
    "shown": {"direction": "", "size": ""},
    "check": {"direction": "passed", "size": ""},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    return open_run("tiny", "here", seed=3)


def claim(**changes) -> dict:
    row = {"kind": "finding", "claim": "gain", "statement": "OPD raises Pass@1", "paper": 0.1}
    row |= {"direction": "reproduced", "size": "differs", "reason": "a rule"}
    return row | {"locator": "table 2"} | NUMBERS | changes


def executed(run, *cells, name="00_first"):
    """Put an executed notebook into the run."""
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    notebook.metadata["language_info"] = {"name": "python"}
    (run.path / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, run.path / "notebooks" / f"{name}.ipynb")


def output(data: dict, source: str = "show()", **metadata):
    shown = nbformat.v4.new_output("display_data", data=data)
    return nbformat.v4.new_code_cell(source, outputs=[shown], metadata=metadata)


def text(source: str):
    return nbformat.v4.new_markdown_cell(source)


def rendered(run) -> BeautifulSoup:
    return BeautifulSoup(render.render(run.path).read_text(encoding="utf-8"), "html.parser")


# Opening a run.


def test_a_run_opens_under_runs(run, tmp_path):
    assert run.path == tmp_path / "runs" / "here"
    assert run.path.is_dir()
    assert run.config.seed == 3
    assert run.reference is None
    assert records.read_claims(run).empty


def test_a_reference_is_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    (tmp_path / "data" / "reference").mkdir(parents=True)
    open_run("tiny", "here").path.rename(tmp_path / "data" / "reference" / "tiny")
    run = open_run("tiny", "reference")
    assert run.reference == run.path
    table = records.claims(run, "00_first", [claim()])
    assert len(table) == 1
    assert [p.name for p in run.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"preset": "laab"}, "preset: must be one of .*got 'laab'"),
        ({"preset": "tiny", "run_id": "../x"}, "run_id: must be .*got '../x'"),
        (
            {"preset": "tiny", "run_id": "reference"},
            "run_id: no reference for preset 'tiny'",
        ),
        (
            {"preset": "tiny", "run_id": "reference", "from_run": "mine"},
            "from_run: must not be given with run_id 'reference'",
        ),
        ({"preset": "tiny", "run_id": "a", "overrides": {"stage2__steps": -2}}, "stage2__steps: "),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_makes_no_folder(
    tmp_path, monkeypatch, arguments, expected
):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path / "data")
    with pytest.raises(StudyError, match=expected) as error:
        open_run(**arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# Claims.


def test_claims_are_stored_with_the_run_and_read_back_as_they_were(run):
    table = records.claims(run, "01_second", [claim(), claim(claim="loss", paper=None)])
    assert list(table.columns) == list(records.CLAIM_COLUMNS)
    assert table.value.tolist() == [0.12, 0.12]
    assert set(table.run_id) == {"here"}
    assert set(table.preset) == {"tiny"}
    pd.testing.assert_frame_equal(records.read_claims(run), table)


def test_claims_of_several_notebooks_come_in_the_notebooks_order(run):
    records.claims(run, "02_b", [claim(claim="later")])
    records.claims(run, "01_a", [claim(claim="earlier")])
    records.claims(run, "00_none", [])
    assert records.read_claims(run).claim.tolist() == ["earlier", "later"]


def test_only_the_claims_of_earlier_notebooks_are_read_where_one_is_named(run):
    for name in ("fork", "10_c", "09_b", "02_a"):
        records.claims(run, name, [claim(claim=name)])
    assert records.read_claims(run).notebook.tolist() == ["02_a", "09_b", "10_c", "fork"]
    assert records.read_claims(run, before="09_b").claim.tolist() == ["02_a"]


def test_claims_by_other_rules_than_todays_are_left_out(run):
    old = records.claims(run, "01_second", [claim()]).drop(columns=["kind", "direction", "size"])
    cache.save(run.path / "claims" / "01_second", old.assign(verdict="reproduced"), config={})
    records.claims(run, "02_third", [claim()])
    assert records.read_claims(run).notebook.tolist() == ["02_third"]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_text_is_empty_wherever_claims_are_shown(run, missing):
    columns = ["statement", "locator", "unit", "reason", "size"]
    row = claim(**dict.fromkeys(columns, missing), direction=missing, kind="shown")
    given = records.claims(run, "01_first", [row])
    assert (given[columns] == "").all(axis=None)
    texts = [name for name, kind in records.TYPES.items() if kind == "str"]
    stored = given.assign(**dict.fromkeys(texts, None), n=float("nan")).drop(columns="headline")
    cache.save(run.path / "claims" / "02_second", stored, config={})
    table = records.read_claims(run)
    assert table.notebook.tolist() == ["01_first", "02_second"]
    executed(run, text("# Whole"))
    page = str(rendered(run).find(id="claims"))
    for shown in (*listing.lines(table), *listing.markdown(table), listing.tables(table), page):
        assert not re.search(r"\b(nan|None|NaN|NA|NaT)\b", shown)


def test_a_shown_number_may_be_undefined(run):
    row = claim(kind="shown", direction="", size="", value=float("nan"))
    assert records.claims(run, "00", [row]).value.isna().all()


def test_a_claim_that_was_not_run_needs_no_number(run):
    row = {k: v for k, v in claim(**NOT_RUN).items() if k not in NUMBERS}
    assert records.claims(run, "00", [row]).value.isna().all()
    both = claim(**NOT_RUN | {"size": "not testable here"})
    assert records.claims(run, "01", [both]).value.isna().all()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([claim(direction="yes")], "verdict: must be one of reproduced, .*got 'yes'"),
        ([claim(size="yes")], "verdict: must be one of reproduced, .*got 'yes'"),
        ([claim(kind="fact")], "kind: must be one of finding, shown, check; got 'fact'"),
        ([claim(kind="shown")], "verdict: must be empty; got 'reproduced'"),
        ([claim(kind="check")], "verdict: must be one of passed, failed; got 'reproduced'"),
        ([claim(direction="", size="")], "verdict: must be given for a finding; got none"),
        ([{"claim": "a"}], "missing or unknown: kind, locator, statement"),
        ([claim(interval=1)], "missing or unknown: interval"),
        ([claim(), claim()], "claim: must be unique within a notebook; got 'gain' twice"),
        ([claim(value=None)], "value: must be a number, or else the verdicts not run or"),
        ([claim(**NOT_RUN | {"size": "differs"})], "value: must be a number, or else"),
        ([claim(lo=0.2, hi=0.1)], "lo: must not be above hi; got 0.2 and 0.1"),
        ([claim(paper="ten")], "must be numbers"),
        ([claim(**NOT_RUN | {"reason": ""})], "reason: must be given with a verdict"),
    ],
)
def test_a_wrong_claim_is_one_line_and_stores_nothing(run, rows, expected):
    with pytest.raises(StudyError, match=expected) as error:
        records.claims(run, "00", rows)
    assert "\n" not in str(error.value)
    assert not (run.path / "claims").exists()


def test_an_altered_claims_file_is_refused_by_name(run):
    records.claims(run, "00", [claim()])
    with (run.path / "claims" / "00.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StudyError, match=r"00\.parquet"):
        records.read_claims(run)


def test_provenance_has_a_row_for_each_artefact(run):
    upstream = cache.save(run.path / "a" / "one", pd.DataFrame({"x": [1, 2]}), config={})
    cache.save(
        run.path / "b" / "two",
        pd.DataFrame({"x": [1]}),
        config={"seed": 7},
        inputs={"one": upstream.sha256},
        seed=7,
        seconds=1.5,
    )
    table = run.provenance()
    assert table.artefact.tolist() == ["a/one", "b/two"]
    assert table.rows.tolist() == [2, 1]
    assert table.inputs.tolist() == ["", "one"]
    assert table.hash[0] == upstream.sha256[:12]


# The page.


def test_the_page_asks_for_nothing_outside_itself(run):
    executed(run, text("# A\n\n$x^2$"), output({"image/png": PIXEL}))
    records.claims(run, "00", [claim()])
    html = render.render(run.path).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert not re.search(r"<(link|iframe)\b|@import|url\(", html)
    assert not re.search("mathjax|require|cdnjs|unpkg", html, re.IGNORECASE)
    assert "default-src 'none'" in html


def test_the_one_script_is_the_packages_own_and_allowed_by_its_hash_alone(run):
    executed(run, text("# A"))
    soup = rendered(run)
    (script,) = soup.find_all("script")
    assert script.string == (paths.REPO / "rockstudy" / "report" / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.string.encode()).digest()).decode()
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "script-src" in policy and "unsafe-inline" not in policy.split("script-src")[1]


def test_hostile_token_text_is_inert_wherever_it_is_shown(run):
    frame = pd.DataFrame({"token": [HOSTILE]})
    executed(
        run,
        text(f"# {HOSTILE}\n\nbefore {HOSTILE} after $x < {HOSTILE}$"),
        output({"text/html": frame.to_html(), "text/plain": str(frame)}),
        output({"text/html": frame.to_html(escape=False)}),
        output({"text/html": "<style>body{display:none}</style><svg onload=alert(3)></svg>"}),
        output({"text/markdown": f"{HOSTILE} [x](javascript:alert(4))"}),
        output({"text/latex": HOSTILE}),
        output({"text/html": prose(f"A reading: {HOSTILE}")._repr_html_()}),
        output({"application/javascript": "alert(5)"}),
        output({"text/plain": HOSTILE}, source=f"print({HOSTILE!r})"),
    )
    records.claims(run, "00", [claim(statement=HOSTILE, locator=HOSTILE)])
    soup = rendered(run)
    assert soup.find_all(["iframe", "svg", "object", "embed"]) == []
    assert [script.get_text()[:8] for script in soup.find_all("script")] == ["// Enlar"]
    assert len(soup.find_all("style")) == 1
    handlers = [name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")]
    assert handlers == []
    assert {
        image["src"].split(",")[0] for image in soup.find_all("img") if image.get("src")
    } == set()
    links = [link.get("href", "") for link in soup.find_all("a")]
    assert all(link.startswith("#") or not link for link in links)
    assert "alert(1)" in soup.find("table", class_="dataframe").get_text()
    assert "alert(1)" in soup.select_one(".reading p").get_text()


def test_a_data_frame_keeps_its_table_and_loses_its_style(run):
    frame = pd.DataFrame({"a": [1], "b": ["x"]})
    executed(run, output({"text/html": frame._repr_html_()}))
    table = rendered(run).find("table", class_="dataframe")
    assert [cell.get_text() for cell in table.find_all("th")] == ["", "a", "b", "0"]
    assert table.find_parent(class_="wide") is not None
    assert "tbody tr th" not in table.find_parent("section").get_text()


def test_tokens_keep_the_colours_of_their_causes_from_the_pages_own_style(run):
    names = ("noise", "format", "off the grammar")
    tokens = pd.DataFrame({"model": "teacher", "token": ["So ", "<b>"], "cause": names[:2]})
    shown = causes.coloured(tokens, names)._repr_html_()
    executed(run, output({"text/html": shown, "text/plain": "tokens"}))
    page = rendered(run)
    (token,) = [span for span in page.select(".tokens span") if span.text == "So␣"]
    assert token["title"] == "noise" and not page.select(".wide style")
    assert f".{token['class'][0]} {{" in page.find("style").text


def test_formulas_become_mathml_and_broken_ones_stay_readable(run):
    executed(run, text("Inline $\\pi_\\theta$ and\n\n$$D = \\sum_v p_v \\log \\frac{p_v}{q_v}$$"))
    soup = rendered(run)
    assert len(soup.find_all("math")) == 2
    assert soup.find("math", display="block") is not None
    assert "\\frac" in soup.find_all(class_="math")[1]["title"]
    assert page.mathml(r"\left(<", block=False) == r'<code class="math">\left(&lt;</code>'


def test_code_is_collapsed_but_there(run):
    executed(run, output({"text/plain": "1"}, source="answer = 41 + 1"))
    details = rendered(run).find("details", class_="code")
    assert "open" not in details.attrs
    assert "answer = 41 + 1" in details.get_text()


def test_figures_are_embedded_described_and_written_as_files(run):
    executed(
        run,
        output({"image/png": PIXEL}, alt="Loss falls from 2 to 1"),
        text("## Results\n\nReverse KL, by step."),
        output({"image/png": PIXEL}),
        output({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>"}),
    )
    images = rendered(run).find_all("img")
    described = ["Loss falls from 2 to 1", *["Figure: Reverse KL, by step."] * 2]
    assert [image["alt"] for image in images] == described
    assert all(image["src"].startswith("data:image/") for image in images)
    names = sorted(path.name for path in (run.path / "figures").iterdir())
    assert names == ["00_first-1.png", "00_first-2.png", "00_first-3.svg"]
    assert (run.path / "figures" / names[0]).read_bytes() == base64.b64decode(PIXEL)


def test_a_figure_may_describe_itself(run):
    cell = output({"image/png": PIXEL}, alt="the cell's")
    cell.outputs[0].metadata = {"image/png": {"alt": 'Loss & "gain"'}}
    executed(run, cell)
    assert rendered(run).img["alt"] == 'Loss & "gain"'


def test_contents_link_to_every_notebook_and_section_by_unique_anchors(run):
    cells = [text("# One\n\n## Question\n\nWhy?"), text("## Results\n\n### More")]
    executed(run, *cells)
    executed(run, *cells, output({"text/plain": "1"}), name="01_second")
    soup = rendered(run)
    links = [link["href"] for link in soup.nav.find_all("a")]
    assert links == ["#claims", "#00_first", "#01_second", "#provenance"]
    assert "Why?" in soup.select_one("[id='00_first'] > summary").get_text()
    links += [link["href"] for link in soup.select(".within a")]
    assert len(links) == 4 + 2 * 2
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert [h.get_text() for h in soup.find_all("h1")] == ["rockstudy: here"]


def test_the_claims_table_and_the_provenance_are_on_the_page(run):
    executed(run, text("# One"))
    records.claims(run, "00", [claim(paper_lo=0.05, paper_hi=0.2), claim(claim="b", **NOT_RUN)])
    soup = rendered(run)
    rows = soup.find(class_="claims").find_all("tr")
    assert len(rows) == 4
    assert rows[1].get_text().strip() == "00"  # the notebook
    cells = [" ".join(cell.get_text().split()) for cell in rows[2].find_all("td")]
    assert cells[1:] == [
        "0.1 [0.05, 0.2]",
        "0.12 [0.1, 0.15] 500 problems",
        "reproduced",
        "differs",
    ]
    assert soup.find(class_="verdict not-run").get_text() == "not run"
    assert "no rocks here" in rows[3].get_text()
    told = "2 findings; direction: 1 reproduced, 1 not run; size: 1 differ."
    assert told in soup.find(id="claims").get_text()
    assert "claims/00" in soup.find(id="provenance").get_text()


def test_numbers_without_a_verdict_and_checks_are_folded_below_the_findings(run):
    executed(run, text("# One"))
    rows = [claim(claim=kind, kind=kind, **changes) for kind, changes in KINDS.items()]
    records.claims(run, "00", rows)
    soup = rendered(run)
    found = [one.find("code").get_text() for one in soup.select(".claims tbody tr[data-size]")]
    assert found == ["finding"]
    below = {one.summary.get_text(): one for one in soup.select("#claims details:not(.all)")}
    assert list(below) == ["numbers without a verdict (1)", "checks of this study (1)"]
    assert all("open" not in one.attrs for one in below.values())
    shown, check = below.values()
    assert shown.find("code").get_text() == "shown" and not shown.find(class_="verdict")
    assert check.find(class_="verdict passed").get_text() == "passed"


def test_a_notebooks_own_table_of_claims_stays_open_on_the_page(run):
    table = listing.tables(records.claims(run, "00_first", [claim()]))._repr_html_()
    executed(run, text("# One"), output({"text/html": table}))
    soup = rendered(run)
    (details,) = soup.find(id="00_first").select(".wide details")
    assert "open" in details.attrs and "OPD raises Pass@1" in details.get_text()


def test_an_interval_is_drawn_with_the_papers_number_on_one_scale(run):
    executed(run, text("# One"))
    records.claims(run, "00", [claim(paper=0.5, value=0.2, lo=0.1, hi=0.3)])
    strip = rendered(run).select_one(".claims td .strip")
    places = {tag.name: re.findall(r"[\d.]+", tag["style"]) for tag in strip.find_all()}
    assert places == {"i": ["4.0", "46.0"], "b": ["27.0"], "s": ["96.0"]}  # 92% for 0.1 to 0.5


def test_characters_that_reorder_text_are_spelled_out(run):
    hostile = "abc\u202edef\u2066ghi"
    executed(run, text(f"# {hostile}"), output({"text/plain": hostile}))
    records.claims(run, "00", [claim(statement=hostile)])
    html = render.render(run.path).read_text(encoding="utf-8")
    assert "\u202e" not in html and "\u2066" not in html
    assert html.count("abc[U+202E]def[U+2066]ghi") >= 3


def test_the_provenance_of_a_notebook_is_folded(run):
    frame = pd.DataFrame({"artefact": ["a"]}).to_html()
    executed(run, text("# One\n\n## Provenance"), output({"text/html": frame}))
    table = rendered(run).find(id="00_first").find("table")
    assert table.find_parent("details").summary.get_text() == "artefacts 00.2"


def test_the_figure_of_the_closing_notebook_is_figure_1_at_the_top(run):
    executed(run, text("# One"), output({"image/png": PIXEL}, alt="a life"), name="11_report")
    executed(run, text("# Zero"), output({"image/png": PIXEL}, alt="another"))
    soup = rendered(run)
    assert [image["alt"] for image in soup.find_all("img")] == ["a life", "another"]
    assert soup.img.find_parent("header") is not None
    assert [figure["id"] for figure in soup.find_all("figure")] == ["figure-1", "figure-2"]
    assert soup.find(id="11_report").find("a", href="#figure-1") is not None


def test_a_figure_of_ours_is_vectors_with_its_caption_and_true_size(run):
    made, (axis,) = figure_style.figure(5, 2, caption=f"What is seen; n = 3. {HOSTILE}")
    axis.plot([0, 1])
    made.alt = "a line"
    data, about = made._repr_mimebundle_()
    caption = f'<p class="figure-caption"><small>{html.escape(made.caption)}</small></p>'
    picture = nbformat.v4.new_output("display_data", data=data, metadata=about)
    below = nbformat.v4.new_output("display_data", data={"text/html": Html(caption)._repr_html_()})
    cell = nbformat.v4.new_code_cell("figures.made()", outputs=[picture, below])
    executed(run, text("# One"), cell)
    soup = rendered(run)
    (image,) = soup.find_all("img")
    assert (image["width"], image["height"], image["alt"]) == ("480", "192", "a line")
    kind, encoded = image["src"].split(",")
    assert kind == "data:image/svg+xml;base64"
    assert "prefers-color-scheme:dark" in base64.b64decode(encoded).decode()
    told = soup.figcaption.get_text()
    assert told == f"Figure 1. {made.caption}"
    assert soup.get_text().count("What is seen") == 1  # not again as the output below the figure


def test_private_characters_of_an_output_move_no_figure(run):
    slot = page.SLOT.format(0)
    hostile = output({"text/html": f"<p>{slot}</p>", "text/plain": slot})
    executed(run, text(f"# One {slot}"), hostile, output({"image/png": PIXEL}))
    assert len(rendered(run).find_all("img")) == 1


def test_folded_parts_have_names_of_their_own(run):
    cells = [text("# One"), output({"text/plain": "1"}), output({"text/plain": "2"})]
    executed(run, *cells)
    executed(run, *cells, name="01_second")
    records.claims(run, "00", [claim()])
    names = [one.get_text() for one in rendered(run).find_all("summary")]
    assert "code 00.1" in names and "code 01.2" in names
    assert len(names) == len(set(names)) + 1  # both notebooks have the title One


def test_the_first_screen_has_the_findings_in_words_before_the_claims(run):
    executed(run, text("# One"))
    rows = [
        claim(
            claim="opd-accuracy-rises", headline=True, value=0.126, lo=0.085, hi=0.166, paper=0.178
        ),
        claim(claim="something", headline=True, value=0.3, lo=0.2, hi=0.4),
        claim(claim="unseen", headline=True, **NOT_RUN),
    ]
    records.claims(run, "00", rows)
    soup = rendered(run)
    first, second, third = [one.get_text(" ", strip=True) for one in soup.select(".findings li")]
    assert first.startswith("On-policy distillation raises the student's accuracy by 12.6 points")
    assert "[8.5, 16.6]" in first
    assert first.endswith("). agrees with the paper's claim of a rise")
    assert "OPD raises Pass@1" in second and third.endswith("not run")
    assert soup.select_one(".findings").find_parent("header") is not None
    assert "A rock token is" in soup.header.get_text()


def test_headline_claims_of_another_world_stand_beside_those_of_the_run(run, tmp_path):
    executed(run, text("# One"))
    records.claims(run, "00", [claim(headline=True, value=0.2)])
    assert [h.get_text() for h in rendered(run).select(".headlines thead th")][2:] == ["tiny"]
    there = open_run("lab", "there")
    records.claims(there, "00", [claim(headline=True, value=0.7, lo=0.6, hi=0.8)])
    (tmp_path / "data" / "reference").mkdir(parents=True)
    there.path.rename(tmp_path / "data" / "reference" / "lab")
    soup = rendered(run)
    assert [h.get_text() for h in soup.select(".headlines thead th")][2:] == ["tiny", "lab"]
    cells = [cell.get_text() for cell in soup.select(".headlines tbody td")]
    assert "0.2" in cells[1] and "0.7" in cells[2]


def test_every_table_of_the_page_has_a_caption_and_the_page_a_link_past_its_head(run):
    executed(run, text("# One"))
    records.claims(
        run, "00", [claim(claim=k, kind=k, headline=True, **c) for k, c in KINDS.items()]
    )
    soup = rendered(run)
    assert all(table.caption is not None for table in soup.find_all("table"))
    skip = soup.body.find("a")
    assert skip["class"] == ["skip"] and soup.find(id=skip["href"][1:]).name == "main"


def test_the_page_tells_what_the_run_changes_in_its_preset(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    run = open_run("tiny", "here", overrides={"stage2__steps": 7})
    executed(run, text("# First"))
    assert "preset tiny, stage2__steps 7" in rendered(run).get_text()


def test_the_page_suits_a_phone_and_both_colour_schemes(run):
    executed(run, text("# One"))
    html = render.render(run.path).read_text(encoding="utf-8")
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert re.search(r"\.wide \{ overflow-x: auto", html)


def test_rendering_again_gives_the_same_bytes(run):
    executed(run, text("# One\n\n$x$"), output({"image/png": PIXEL}))
    first = render.render(run.path).read_bytes()
    assert render.render(run.path).read_bytes() == first


def test_a_failed_notebook_is_named_and_a_partial_one_is_not_shown(run):
    executed(run, text("# Whole"))
    executed(run, text("# Half"), name="01_second.failed")
    executed(run, text("# Less"), name="02_third.partial")
    soup = rendered(run)
    assert "01_second did not run to its end" in soup.find(class_="failure").get_text()
    assert "Half" not in soup.get_text()
    assert "Less" not in soup.get_text()


def test_a_run_without_executed_notebooks_has_no_report(run):
    with pytest.raises(StudyError, match="must have executed notebooks; got 'here'"):
        render.render(run.path)
    assert not (run.path / "report.html").exists()


def test_a_run_remembers_what_it_was_opened_with_and_a_replay_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    opened = open_run("tiny", "more", 3, {"seeds": [4, 5, 6]})
    (tmp_path / "data" / "reference").mkdir(parents=True)
    opened.path.rename(tmp_path / "data" / "reference" / "tiny")
    replayed = open_run("tiny", REFERENCE)
    assert replayed.id == REFERENCE and replayed.config == opened.config
