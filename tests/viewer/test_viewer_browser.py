"""The viewer in a real browser: what a reader sees, with a mouse, a finger or the keyboard."""

import re
import time

import numpy as np
import pytest
from browser import Browser, executable
from pages import HOSTILE, shown, tokenizer_of

from rockstudy.models.token_texts import token_texts, visible
from rockstudy.viewer import page
from rockstudy.viewer.payload import payload
from rockstudy.viewer.safe_text import safe

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium is on the path"),
]
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27}
KEYS |= {"Home": 36, "End": 35, "Enter": 13, "Tab": 9}
TOKENS = "[...document.querySelectorAll('#text-a > span')]"
PANEL = "document.getElementById('token').innerText"
CHOSEN = "(document.querySelector('#text-a [aria-selected=true]')?.dataset.t ?? null)"


@pytest.fixture(scope="module")
def corpus():
    return shown()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return tokenizer_of(tiny_tokenizer)


@pytest.fixture(scope="module")
def data(corpus, tokenizer):
    return payload(corpus, tokenizer, f"rollouts {HOSTILE[0]}", {"written by": "the student"})


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    return page.page(data).save(tmp_path_factory.mktemp("page") / "viewer.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def opened(browser, path, width=1200, height=900, scheme="light"):
    browser.open(path, width, height, scheme)
    browser("Emulation.setFocusEmulationEnabled", enabled=True)
    until(browser, "document.documentElement.dataset.ready === 'yes'")
    return browser


def until(browser, expression):
    ended = time.monotonic() + 20
    while not browser[expression]:
        assert time.monotonic() < ended, expression
        time.sleep(0.02)


def press(browser, key):
    text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
    code = KEYS.get(key, ord(key[0].upper()))
    for kind in ("keyDown", "keyUp"):
        about = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
        browser("Input.dispatchKeyEvent", **about, **(text if kind == "keyDown" else {}))


def type_text(browser, text):
    browser("Input.insertText", text=text)


def pick(browser, selector, value):
    browser[
        f"(() => {{ const s = document.querySelector({selector!r}); s.value = {value!r};"
        "s.dispatchEvent(new Event('change')); })()"
    ]


def mine(corpus, prompt=0, sample=0):
    tokens = corpus.tokens
    return tokens[(tokens.prompt_index == prompt) & (tokens.sample_index == sample)]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_it_opens_without_an_error_and_asks_for_nothing(browser, path, width, scheme):
    opened(browser, path, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.parametrize("width", [390, 700, 1000, 1400])
def test_the_page_never_scrolls_sideways(browser, path, width):
    opened(browser, path, width)
    assert browser["document.documentElement.scrollWidth"] <= width
    browser["document.getElementById('compare').click()"]
    until(browser, "document.querySelectorAll('#text-b > span').length > 0")
    browser["document.querySelector('.worst button').click()"]
    assert browser["document.documentElement.scrollWidth"] <= width


def test_a_hostile_token_neither_runs_nor_breaks_the_page(browser, path, corpus):
    opened(browser, path)
    assert browser["window.owned"] is None
    assert browser["document.scripts.length"] == 2
    assert browser["document.querySelectorAll('img, #text-a b *').length"] == 0
    text = browser["document.getElementById('text-a').textContent"]
    for one in HOSTILE:
        assert safe(one).replace("\n", "\u23ce") in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000\u001b]", text)
    assert HOSTILE[0] in browser["document.querySelector('.prompt').textContent"]
    for t in range(len(HOSTILE)):  # a mark does not reach into another token's line
        browser[f"{TOKENS}[{t}].click()"]
        until(browser, f"{CHOSEN} === '{t}'")
    assert browser["window.owned"] is None and browser.complaints() == []


def test_the_whole_completion_is_there_token_by_token(browser, path, corpus, tokenizer):
    opened(browser, path)
    ids = mine(corpus).token_id.to_numpy()
    assert browser[f"{TOKENS}.map(s => s.dataset.t)"] == [str(t) for t in range(len(ids))]
    shown = browser[f"{TOKENS}.map(s => s.textContent)"]
    for text, one in zip(token_texts(tokenizer, ids), shown, strict=True):
        assert one.replace("\u23ce", "").replace("\n", "").replace("\u2205", "") == safe(
            text
        ).replace("\n", "")


def test_the_keyboard_alone_tells_everything_about_a_token(browser, path, corpus, tokenizer):
    opened(browser, path)
    browser["document.getElementById('text-a').focus()"]
    until(browser, f"{CHOSEN} === '0'")
    for _ in range(20):
        press(browser, "ArrowRight")
    until(browser, f"{CHOSEN} === '20'")
    row = mine(corpus).iloc[20]
    (text,) = token_texts(tokenizer, [row.token_id])
    until(browser, f"{PANEL}.includes('token 21 of')")
    told = browser[PANEL]
    assert told.startswith(visible(text)) and f"id {row.token_id}" in told
    numbers = "[...document.querySelectorAll('#token tbody tr')].map(r => r.innerText)"
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in browser[numbers]}
    for name, key in (("reverse KL", "rkl"), ("log-ratio", "log_ratio"), ("entropy", "entropy")):
        for cell, student in zip(rows[name], ("pre", "early", "post"), strict=False):
            assert value(cell) == pytest.approx(row[f"{key}_{student}"], abs=6e-4, rel=2e-3)
    assert value(rows["entropy"][3]) == pytest.approx(row.entropy_teacher, abs=6e-4, rel=2e-3)
    assert rows["tokens that the teacher finds likelier"] == [str(row.rank_teacher)]
    assert f"cause: {row.cause}" in told
    top = corpus.likeliest.iloc[20]
    lists = browser[
        "[...document.querySelectorAll('.tops ol')].map(o => [...o.children].map("
        "li => [...li.children].map(c => c.textContent)))"
    ]
    for items, name in zip(lists, ("teacher", "pre", "post"), strict=True):
        texts = token_texts(tokenizer, top[f"top_ids_{name}"])
        assert [one[1] for one in items] == [
            safe(t).replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
            for t in texts
        ]
        shares = [float(one[2].strip("<%")) / 100 for one in items]
        assert shares == pytest.approx(top[f"top_probs_{name}"].tolist(), abs=6e-3)
    live = browser["document.getElementById('live').textContent"]
    assert "Reverse KL" in live and "Likeliest for the teacher" in live
    active = browser["document.getElementById('text-a').getAttribute('aria-activedescendant')"]
    assert (
        active == "a20"
        and browser["document.getElementById('a20').getAttribute('role')"] == "option"
    )


def value(text):
    return float(re.sub("[<>] ?", "", text.replace("\u2212", "-")).replace(" ", ""))


def test_arrows_move_between_lines_and_to_the_ends(browser, path, corpus):
    opened(browser, path, 700)
    browser["document.getElementById('text-a').focus()"]
    n = len(mine(corpus))
    press(browser, "End")
    until(browser, f"{CHOSEN} === '{n - 1}'")
    press(browser, "ArrowUp")
    until(browser, f"{CHOSEN} !== '{n - 1}'")
    above = int(browser[CHOSEN])
    top = "document.getElementById('a{}').querySelector('b').getClientRects()[0].top"
    assert browser[f"{top.format(above)} < {top.format(n - 1)}"]
    press(browser, "Home")
    until(browser, f"{CHOSEN} === '0'")
    press(browser, "ArrowDown")
    until(browser, f"{CHOSEN} !== '0'")
    assert browser[f"{top.format(int(browser[CHOSEN]))} > {top.format(0)}"]


def test_a_mouse_shows_a_token_and_leaving_shows_the_chosen_one_again(browser, path, corpus):
    opened(browser, path)
    browser[f"{TOKENS}[15].click()"]
    until(browser, f"{PANEL}.includes('token 16 of')")
    browser["document.getElementById('a30').scrollIntoView({block: 'center'})"]
    x, y = browser[
        "(() => { const b = document.querySelector('#a30 b').getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    ]
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    until(browser, f"{PANEL}.includes('token 31 of')")
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    until(browser, f"{PANEL}.includes('token 16 of')")


def test_a_tap_opens_a_sheet_that_leaves_the_token_in_sight(browser, path):
    opened(browser, path, 390, 844)
    assert browser["document.getElementById('token').hidden"]
    browser["document.getElementById('a25').scrollIntoView({block: 'start'})"]
    x, y = browser[
        "(() => { const b = document.querySelector('#a25 b').getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    ]
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    until(browser, f"{PANEL}.includes('token 26 of')")
    sheet = browser["document.getElementById('token').getBoundingClientRect().top"]
    until(browser, f"document.getElementById('a25').getBoundingClientRect().bottom < {sheet}")
    browser["document.getElementById('close').click()"]
    until(browser, "document.getElementById('token').hidden")


def test_every_measure_colours_each_token_by_the_range_of_its_value(browser, path, corpus, data):
    opened(browser, path)
    rows = mine(corpus)
    for measure in data["measures"]:
        pick(browser, ".measure", measure["key"])
        found = [c.split(" ")[0] for c in browser[f"{TOKENS}.map(s => s.className)"]]
        assert found == wanted(measure, rows, corpus, data), measure["key"]
        legend = browser["document.querySelector('.legend').innerText"]
        assert measure["label"] in legend and measure["unit"] in legend
    rocks = set(corpus.found.rocks().ids)
    is_rock = browser[f"{TOKENS}.map(s => s.classList.contains('rock'))"]
    assert is_rock == [i in rocks for i in rows.token_id]


def wanted(measure, rows, corpus, data):
    """The classes by the table, with numpy."""
    key, edges = measure["key"], np.array(measure["edges"])
    if measure["kind"] == "cause":
        return [f"k{dict(data['causes'])[c][1:]}" for c in rows.cause]
    if measure["kind"] == "weight":
        rocks = set(corpus.found.rocks().ids)
        return ["s7" if i in rocks else "s0" for i in rows.token_id]
    change = rows.rkl_post.astype(float) - rows.rkl_pre.astype(float)
    values = change if key == "rkl_change" else rows[key].astype(float)
    if key != "rank_teacher":
        values = values.to_numpy().astype(np.float16).astype(float)  # as the page has them
    steps = np.searchsorted(edges, np.abs(values), side="right")
    if measure["kind"] == "size":
        return [f"s{step}" for step in steps]
    return [
        f"d{len(edges) + int(np.sign(v)) * step}" for v, step in zip(values, steps, strict=True)
    ]


def test_the_next_occurrence_goes_through_all_rollouts_and_back(browser, path, corpus):
    opened(browser, path)
    tokens = corpus.tokens
    start = mine(corpus).iloc[30]
    every = tokens[tokens.token_id == start.token_id]
    places = list(zip(every.prompt_index, every.sample_index, every.position, strict=True))
    assert len({place[:2] for place in places}) > 2
    browser[f"{TOKENS}[30].click()"]
    until(browser, f"{CHOSEN} === '30'")
    at = places.index((0, 0, 30))
    now = (
        "[...document.querySelector('.rollout').selectedOptions].map(o => o.text)[0]"
        f" + '|' + ({CHOSEN})"
    )
    for step in [*range(1, len(places) + 1)]:
        p, s, t = places[(at + step) % len(places)]
        press(browser, "n")
        until(browser, f"({now}).startsWith('prompt {p}.{s},') && ({now}).endsWith('|{t}')")
    p, s, t = places[(at - 1) % len(places)]
    press(browser, "p")
    until(browser, f"({now}).startsWith('prompt {p}.{s},') && ({now}).endsWith('|{t}')")
    found = browser["document.getElementById('found').textContent"]
    assert found == f"{len(places)} in {len({x[:2] for x in places})} of 8 rollouts"
    press(browser, "Escape")
    until(browser, "document.querySelectorAll('.hit').length === 0")


def test_text_is_found_where_it_crosses_tokens(browser, path, corpus, tokenizer):
    opened(browser, path)
    texts = [safe(t) for t in token_texts(tokenizer, mine(corpus).token_id)]
    query = "".join(texts[20:23]).strip()
    press(browser, "/")
    assert browser["document.activeElement.id"] == "search"
    type_text(browser, query)
    press(browser, "Enter")
    until(browser, f"({CHOSEN}) !== null")
    whole, at = "".join(texts), int(browser[CHOSEN])
    start = len("".join(texts[:at]))
    assert start <= whole.lower().index(query.lower()) < start + len(texts[at])
    press(browser, "Escape")
    assert browser["document.activeElement.id"] == "text-a"
    assert browser["document.getElementById('search').value"] == ""


def test_two_checkpoints_of_a_rollout_stand_side_by_side(browser, path, corpus, data):
    opened(browser, path)
    press(browser, "c")
    until(browser, f"document.querySelectorAll('#text-b > span').length === {len(mine(corpus))}")
    by = {one["key"]: one for one in data["measures"]}
    for letter, key in (("a", "rkl_post"), ("b", "rkl_pre")):
        classes = browser[TOKENS.replace("text-a", f"text-{letter}") + ".map(s => s.className)"]
        assert [c.split(" ")[0] for c in classes] == wanted(by[key], mine(corpus), corpus, data)
    browser[f"{TOKENS}[12].click()"]
    until(browser, "document.getElementById('b12').classList.contains('twin')")
    left, right = (
        browser[f"document.getElementById('text-{one}').getBoundingClientRect().left"]
        for one in "ab"
    )
    assert right > left + 200


def test_two_rollouts_stand_side_by_side(browser, path, corpus):
    opened(browser, path)
    press(browser, "c")
    until(browser, "document.querySelectorAll('.pane').length === 2")
    pick(browser, ".pane:nth-child(2) .rollout", "3")
    n = len(mine(corpus, 1, 1))
    until(browser, f"document.querySelectorAll('#text-b > span').length === {n}")
    assert browser[f"{TOKENS}.length"] == len(mine(corpus))
    assert browser["document.querySelectorAll('.twin').length"] == 0
    press(browser, "c")
    until(browser, "document.querySelectorAll('.pane').length === 1")


def test_rollouts_are_chosen_by_grade_and_by_loss(browser, path, corpus, data):
    opened(browser, path)
    pick(browser, "#order", "after")
    browser["[...document.querySelectorAll('#grades button')].at(-1).click()"]  # the wrong ones
    shown = "[...document.querySelector('.rollout').options].map(o => Number(o.value))"
    order = sorted(
        (r for r, one in enumerate(data["rollouts"]) if not one["right"]),
        key=lambda r: -data["rollouts"][r]["loss_post"],
    )
    assert browser[shown] == order
    until(browser, "document.querySelector('.stats').innerText.startsWith('wrong')")
    first = int(browser["document.querySelector('.rollout').value"])
    press(browser, "]")
    after = order[(order.index(first) + 1) % len(order)]
    until(browser, f"document.querySelector('.rollout').value === '{after}'")
    share = data["rollouts"][after]["share_post"]
    assert browser["document.querySelector('.share').innerText"] == f"{100 * share:.0f}%"


def test_the_worst_tokens_are_one_click_away(browser, path, data):
    opened(browser, path)
    browser["document.querySelectorAll('.worst button')[1].click()"]
    until(browser, f"{CHOSEN} === '{data['rollouts'][0]['worst_post'][1]}'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_colour(browser, path, data, scheme):
    opened(browser, path, scheme=scheme)
    ratios = browser[
        """(() => {
      const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
      const light = (colour) => {
        canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
        canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
          .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
          .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      };
      const found = [];
      const span = document.createElement("span"), b = document.createElement("b");
      span.append(b);
      for (const hue of ["loss", "entropy", "rank", "weight", "signed", "cause"]) {
        const text = document.querySelector("#text-a");
        text.className = `text ${hue}`;
        text.append(span);
        const names = hue === "signed" ? [...Array(9).keys()].map((i) => `d${i}`) :
          [...Array(8).keys()].map((i) => `s${i}`);
        for (const name of names) {
          span.className = name;
          const style = getComputedStyle(b);
          const [ink, paper] = [style.color, style.backgroundColor].map(light);
          found.push([hue + name, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)]);
        }
      }
      return found;
    })()"""
    ]
    assert [one for one in ratios if one[1] < 4.5] == []  # WCAG's AA


def test_everything_can_be_reached_by_tab_and_has_a_name(browser, path):
    opened(browser, path)
    seen = []
    for _ in range(40):
        press(browser, "Tab")
        seen.append(
            browser[
                "(e => e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText)"
                "(document.activeElement)"
            ]
        )
        if browser["document.activeElement.id"] == "text-a":
            break
    assert browser["document.activeElement.id"] == "text-a"
    assert all(seen) and seen[0] == "Skip to the text"
    for name in ("Next occurrence", "Rollout", "Colour by", "Side by side"):
        assert name in seen


def test_a_frame_in_another_page_works_without_reaching_it(browser, data, tmp_path):
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!DOCTYPE html><title>outer</title>{page.page(data).embedded()}")
    browser.open(outer)
    frame = browser["document.querySelector('iframe').contentDocument"]
    assert frame is None  # another origin
    ended = time.monotonic() + 20
    while not (made := text_of_frame(browser)) and time.monotonic() < ended:
        time.sleep(0.1)
    assert "worst tokens hold" in made
    assert browser["document.title"] == "outer" and browser.complaints() == []


def text_of_frame(browser):
    """The text of a frame in its own context or, where the browser keeps it apart, its process."""
    contexts = [e["context"] for e in browser.named("Runtime.executionContextCreated")]
    inner = [c["id"] for c in contexts if c["origin"] in ("null", "://", "")]
    expression = "document.body ? document.body.innerText : ''"
    for one in inner:
        found = browser(
            "Runtime.evaluate", expression=expression, contextId=one, returnByValue=True
        )
        if "worst tokens hold" in (text := found["result"].get("value") or ""):
            return text
    session, browser.session = browser.session, None
    try:
        for target in browser("Target.getTargets")["targetInfos"]:
            if target["type"] == "iframe":
                attached = browser(
                    "Target.attachToTarget", targetId=target["targetId"], flatten=True
                )
                browser.session = attached["sessionId"]
                text = browser[expression]
                return text if "worst tokens hold" in text else ""
    finally:
        browser.session = session
    return ""
