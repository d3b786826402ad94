"""Two notebooks in a real JupyterLab: tables and figures are shown, and nothing is a formula.

All cells are run by JupyterLab itself, as a person does it. The first notebook is a fork of a new
user, whose tokens look like LaTeX; the second is a committed one, on the reference of the lab.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from browser import SECONDS, Browser, executable

from rockstudy import paths

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium is on the path"),
    pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="no JupyterLab"),
]
COMMITTED = "03_what_rocks_are"
TOKEN = "of-this-test"
SETTINGS = {  # every cell is drawn at once, and nothing is fetched from elsewhere
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
HOSTILE = ["$x$", "\\(a\\)", "\\[b\\]", "$$", "\\begin{equation}c\\end{equation}", "\\frac{", " $ "]
FORK = [
    "from rockstudy import display, figure_style\nfrom rockstudy.report import listing\n"
    "from rockstudy.rocks import causes\nfrom rockstudy.runs import open_run\n"
    "import pandas as pd\nrun = open_run()",
    f"frame = pd.DataFrame({{'token': {HOSTILE!r}, 'p': 0.0, 'rkl': -0.0}})\nframe.round(3)",
    "frame.set_index('token')",
    "frame.style",
    "display.table(frame, 'Tokens such as $x$ and \\\\(a\\\\)')",
    "solutions = frame.assign(model='student $m$', cause='noise')\n"
    "causes.coloured(solutions, ['noise'])",
    "made, (axis,) = figure_style.figure(3, 2, caption='The token $x$ and \\\\(a\\\\) & <b>')\n"
    "axis.set_xlabel('$x$ and $')\nmade",
    "print(frame.token.tolist())",
    "sentences = display.prose('Tokens are', *frame.token, 'here. ' * 40)\nsentences",
]
OUTPUTS = "[...document.querySelectorAll('.jp-OutputArea-output')]"
PANEL = "[...(window.jupyterapp?.shell.widgets('main') ?? [])][0]"
IDLE = (
    "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
    ".every(p => /\\[\\d+\\]/.test(p.innerText))"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A JupyterLab on a free port whose folder holds both notebooks; yields its address."""
    folder = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    (folder / "work").mkdir()
    shutil.copy(paths.notebooks_dir() / f"{COMMITTED}.ipynb", folder / "work")
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_markdown_cell("# A fork\n\n$x^2$")]
    cells += [nbformat.v4.new_code_cell(source) for source in FORK]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.write(notebook, folder / "work" / "fork.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    named |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {name: str(folder / where) for name, where in named.items()}
    environment |= {"PYTHONPATH": str(paths.REPO)}
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--no-browser"]
    options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder / 'work'}"]
    options += ["--LabApp.expose_app_in_browser=True", "--ServerApp.allow_root=True"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield ready(f"http://127.0.0.1:{port}", process, folder / "log")
    finally:
        process.terminate()
        process.wait()


def ready(address: str, process: subprocess.Popen, log) -> str:
    started = time.monotonic()
    while time.monotonic() - started < SECONDS and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
            return address
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"JupyterLab did not start: {log.read_text()[-500:]}")


@pytest.fixture(scope="module", params=["fork", COMMITTED])
def lab(request, server, tmp_path_factory):
    """The browser after JupyterLab has run all cells of a notebook, and the notebook's name."""
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.visit(f"{server}/doc/tree/{request.param}.ipynb?token={TOKEN}", 1280, 900)
        browser.wait_for(f"{PANEL}?.sessionContext?.session?.kernel?.status === 'idle'")
        browser.wait_for("!!document.querySelector('.jp-MarkdownCell mjx-container')")
        browser[f"window.jupyterapp.shell.activateById({PANEL}.id)"]
        browser["void window.jupyterapp.commands.execute('notebook:run-all-cells')"]
        browser.wait_for(IDLE, 3 * SECONDS)
        time.sleep(1)  # MathJax works after the output is there
        yield browser, request.param


def test_all_cells_run_and_no_output_is_typeset(lab):
    browser, name = lab
    outputs = f"{PANEL}.content.model.sharedModel.toJSON().cells.flatMap(c => c.outputs ?? [])"
    assert browser[f"{outputs}.filter(o => o.output_type === 'error').map(o => o.evalue)"] == []
    assert browser[f"{OUTPUTS}.flatMap(o => [...o.querySelectorAll('mjx-container')]).length"] == 0
    assert browser[f"{OUTPUTS}.filter(o => o.innerText.includes('Math input error')).length"] == 0
    # formulas of the text are drawn, so that the test would see those of an output
    assert browser["document.querySelectorAll('.jp-MarkdownCell mjx-container').length"] > 0
    if name == "fork":
        text = browser[f"{OUTPUTS}.map(o => o.innerText).join('\\n')"]
        for token in HOSTILE:
            assert text.count(token.strip()) >= 6


def test_tables_and_figures_with_their_captions_are_shown(lab):
    browser, name = lab
    assert browser["document.querySelectorAll('.jp-OutputArea-output table').length"] >= 3
    images = f"{OUTPUTS}.flatMap(o => [...o.querySelectorAll('img')])"
    sizes = browser[f"{images}.map(i => [i.naturalWidth, i.width])"]
    assert sizes and all(natural > 100 and width > 100 for natural, width in sizes)
    if name == "fork":
        captions = browser[
            "[...document.querySelectorAll('.figure-caption')].map(c => c.innerText)"
        ]
        assert captions == ["The token $x$ and \\(a\\) & <b>"]
        assert browser["document.querySelector('.jp-OutputArea-output caption').innerText"]
        left = "[...document.querySelectorAll('td')].map(c => getComputedStyle(c).textAlign)"
        assert {"left", "right"} <= set(browser[left])


def test_sentences_are_prose_that_breaks_between_words(lab):
    browser, name = lab
    readings = "[...document.querySelectorAll('.jp-OutputArea-output .reading p')]"
    assert browser[f"{readings}.length"] >= (1 if name == "fork" else 8)
    style = f"{readings}.map(p => getComputedStyle(p))"
    assert set(browser[f"{style}.map(s => s.wordBreak)"]) == {"normal"}
    assert set(browser[f"{style}.map(s => s.whiteSpaceCollapse)"]) == {"collapse"}
    assert not any("mono" in font for font in browser[f"{style}.map(s => s.fontFamily)"])
    wide = f"{readings}.map(p => p.clientWidth / parseFloat(getComputedStyle(p).fontSize))"
    assert all(20 < width <= 46 for width in browser[wide])
    plain = f"{OUTPUTS}.filter(o => o.dataset.mimeType?.includes('stdout')).length"
    assert browser[plain] == (name == "fork")  # the committed notebooks print nothing


def test_the_console_holds_no_error_of_ours(lab):
    browser, _ = lab
    thrown = browser.named("Runtime.exceptionThrown")
    assert [one["exceptionDetails"]["text"] for one in thrown] == []
    logged = [e["entry"] for e in browser.named("Log.entryAdded")]
    assert [e["text"] for e in logged if e["level"] == "error" and "404" not in e["text"]] == []
