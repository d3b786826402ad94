"""The token viewer with 200 rollouts of 2,000 tokens: bytes of its file, and milliseconds to act.

    PYTHONPATH=tests:tests/viewer python benchmarks/viewer.py [--rollouts 200] [--tokens 2000]

The numbers are random, which packs worse than real ones. Times are medians in a headless browser,
from the change to the next painted frame: opening another rollout, colouring by another measure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from browser import Browser
from pages import shown

from rockstudy import runs
from rockstudy.models import loading
from rockstudy.viewer import page
from rockstudy.viewer.payload import payload

VOCABULARY = 2_560  # of the lab's tokenizer
TIMED = """(async () => {
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const median = (all) => all.sort((a, b) => a - b)[all.length >> 1];
  const rollout = document.querySelector(".rollout"), measure = document.querySelector(".measure");
  const text = document.querySelector("#text-a"), switching = [], colouring = [];
  for (let i = 1; i <= 15; i++) {
    const start = performance.now();
    rollout.value = String((i * 13) % rollout.options.length);
    const first = text.firstChild;
    rollout.dispatchEvent(new Event("change"));
    while (text.firstChild === first || !text.firstChild) await painted();
    switching.push(performance.now() - start);
    while (text.childElementCount < TOKENS / 2) await painted();
    for (const key of ["rkl_pre", "cause", "rkl_post"]) {
      const begun = performance.now();
      measure.value = key;
      measure.dispatchEvent(new Event("change"));
      await painted();
      colouring.push(performance.now() - begun);
    }
  }
  const worst = Math.max(...switching);
  return {switching: median(switching), colouring: median(colouring), worst};
})()"""


def main() -> None:
    """Print a table, and the numbers as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=2_000)
    given = parser.parse_args()
    size = given.tokens
    corpus = shown(VOCABULARY, given.rollouts, 1, size, shortest=size, hostile=False)
    tokenizer = loading.tokenizer_of(runs.opened(runs.reference_dir("lab")))
    started = time.perf_counter()
    made = page.page(payload(corpus, tokenizer, "viewer", {}))
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        path = made.save(Path(folder) / "viewer.html")
        started = time.perf_counter()
        browser.open(path)
        while browser["document.documentElement.dataset.ready"] != "yes":
            time.sleep(0.01)
        opening = time.perf_counter() - started
        script = TIMED.replace("TOKENS", str(given.tokens))
        found = browser(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )["result"]["value"]
    numbers = {
        "positions": corpus.rollouts.n_tokens,
        "file_bytes": len(made.html),
        "seconds_to_make": round(seconds, 2),
        "seconds_to_open": round(opening, 2),
        "ms_to_switch_rollout": round(found["switching"], 1),
        "ms_to_switch_rollout_worst": round(found["worst"], 1),
        "ms_to_recolour": round(found["colouring"], 1),
    }
    for name, value in numbers.items():
        print(f"{name:<28} {value:>14,}")
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
