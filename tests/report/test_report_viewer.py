"""The viewer inside a report, in a real browser: it works there, and reaches nothing around it."""

import nbformat
import pytest
from browser import Browser, executable
from pages import HOSTILE, shown, tokenizer_of

from rockstudy.report import render
from rockstudy.runs import open_run
from rockstudy.viewer import page
from rockstudy.viewer.payload import payload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium is on the path"),
]
KEYS = {"ArrowRight": 39, "End": 35, "Escape": 27, "Tab": 9}
CHOSEN = "(document.querySelector('#text-a [aria-selected=true]')?.dataset.t ?? null)"
TOKENS = "document.querySelectorAll('#text-a > span').length"
REACHED = """(() => {
  const tries = {
    document: () => parent.document.title,
    title: () => { parent.document.title = "owned"; return "owned"; },
    frame: () => frameElement.id,
    storage: () => localStorage.length,
    cookie: () => document.cookie,
    address: () => { top.location = "about:blank"; return "moved"; },
  };
  return Object.keys(tries).filter(name => {
    try { return tries[name]() !== null; } catch { return false; }
  });
})()"""


@pytest.fixture(scope="module")
def path(tiny_tokenizer, tmp_path_factory):
    """A report with a viewer of hostile tokens."""
    data = payload(shown(), tokenizer_of(tiny_tokenizer), f"rollouts {HOSTILE[0]}", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCKSTUDY_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(render.study, "embedded", lambda folder: page.page(data).embedded())
        run = open_run("tiny", "here")
        (run.path / "notebooks").mkdir()
        cells = [nbformat.v4.new_markdown_cell("# Title\n\n## Question\n\nWhy?")]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, run.path / "notebooks" / "11_report.ipynb")
        return render.render(run.path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def opened(browser, path, *how, **scheme):
    """The frame of the viewer, once the report is scrolled to it and it is ready."""
    browser.open(path, *how, **scheme)
    browser("Emulation.setFocusEmulationEnabled", enabled=True)
    browser["document.getElementById('viewer').scrollIntoView()"]
    frame = browser.frame()
    frame("Emulation.setFocusEmulationEnabled", enabled=True)
    frame.wait_for("document.documentElement.dataset.ready === 'yes'")
    return frame


def press(browser, key):
    browser.press(key, KEYS[key])


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_it_starts_under_the_rules_of_the_report_and_asks_for_nothing(browser, path, width, scheme):
    frame = opened(browser, path, width, scheme=scheme)
    assert frame[TOKENS] > 20
    assert frame["getComputedStyle(document.querySelector('#text-a > span')).cursor"] == "default"
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("about:srcdoc")] == []


def test_a_script_that_is_not_the_viewers_own_is_refused_inside_it(browser, path):
    frame = opened(browser, path)
    frame[
        """(() => {
      const added = document.createElement("script");
      added.textContent = "window.owned = 1";
      document.body.append(added);
    })()"""
    ]
    assert frame["window.owned"] is None
    assert any("Content Security Policy" in text for text in browser.complaints())


def test_it_reaches_nothing_of_the_report_around_it(browser, path):
    frame = opened(browser, path)
    assert frame["window.parent !== window"] and frame["window.origin"] == "null"
    assert frame[REACHED] == []
    assert browser["document.title"] == "rockstudy: here"
    assert browser["document.querySelector('iframe').contentDocument"] is None


def test_the_keyboard_goes_into_it_along_the_tokens_and_out_again(browser, path):
    frame = opened(browser, path)
    browser["document.querySelector('#viewer iframe').focus()"]
    frame["document.getElementById('text-a').focus()"]
    frame.wait_for(f"{CHOSEN} === '0'", 10)
    for _ in range(3):
        press(browser, "ArrowRight")
    frame.wait_for(f"{CHOSEN} === '3'", 10)
    assert frame["document.getElementById('token').innerText.length"] > 20
    for _ in range(60):
        if browser["document.activeElement.tagName"] != "IFRAME":
            break
        press(browser, "Tab")
    assert browser["document.activeElement.closest('#notebooks') !== null"]


def test_it_fits_a_phone(browser, path):
    frame = opened(browser, path, 390)
    assert browser["document.documentElement.scrollWidth"] <= 390
    width = browser["document.querySelector('#viewer iframe').clientWidth"]
    assert 300 < width <= 390
    assert frame["document.documentElement.scrollWidth"] <= width
    frame[f"document.querySelectorAll('#text-a > span')[{len(HOSTILE)}].click()"]
    frame.wait_for(f"{CHOSEN} === '{len(HOSTILE)}'", 10)
    assert frame["window.owned"] is None
