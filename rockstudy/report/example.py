"""What a rock token is, in a sentence and in a line of a run's own text."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rockstudy.display import Html
from rockstudy.models.token_texts import visible
from rockstudy.rocks import steps
from rockstudy.runs import NotStored, Run

ROCK = (
    "A rock token is a token type whose loss stays high after on-policy distillation: "
    "wherever it comes next, the student still disagrees with its teacher."
)
BEFORE, AFTER = 12, 16  # ours: tokens beside the rock, about two lines of a page
CLASSES = 6  # of the loss, each with its background


@dataclass(frozen=True)
class Example:
    """A line of text as HTML, and a caption that says what its colours are."""

    line: Html
    caption: str


def of_run(run: Run) -> Example | None:
    """Return a typical occurrence of the first rock that is no answer; None without its tables.

    Typical is the occurrence whose loss after OPD is nearest to the mean of its type.
    """
    try:
        reading = replace(run, reading=True)
        types, persistent = steps.types(reading), steps.persistent(reading)
        tokens, k = steps.measured(reading).tokens, steps.rock_count(reading)
    except NotStored:
        return None
    return typical(tokens, types, persistent, k)


def typical(
    tokens: pd.DataFrame, types: pd.DataFrame, persistent: pd.DataFrame, k: int
) -> Example | None:
    """Return the example of a token table, its types and its persistent occurrences.

    The first `k` types by rank are the rocks.
    """
    ranked = types.sort_values("rank")
    first = ranked[~ranked.answer_bearing.fillna(False).astype(bool)].head(1)
    occurrences = persistent[persistent.token_id.isin(first.token_id)]
    place = ["prompt_index", "sample_index", "position"]
    losses = occurrences.merge(tokens[[*place, "rkl_post"]], on=place)
    losses = losses[losses.position >= BEFORE] if (losses.position >= BEFORE).any() else losses
    if losses.empty:
        return None
    mean = float(first.rkl_post_mean.iloc[0])
    here = losses.loc[(losses.rkl_post - mean).abs().idxmin()]
    of = (tokens.prompt_index == here.prompt_index) & (tokens.sample_index == here.sample_index)
    near = of & tokens.position.between(here.position - BEFORE, here.position + AFTER)
    row = tokens[near].sort_values("position")
    texts = types.set_index("token_id").text
    rocks = set(ranked.head(k).token_id)
    most = max(float(row.rkl_post.max()), 1e-9)
    spans = [
        _token(str(texts.get(t.token_id, "?")), float(t.rkl_post), most, t.token_id in rocks)
        for t in row.itertuples()
    ]
    spans[0] = spans[0].replace("> ", ">", 1)  # the line begins with a word
    caption = (
        f"From a completion of the student. The darker the background, the higher the loss of a "
        f"token (reverse KL after OPD, up to {most:.1f} nats); rocks are outlined. "
        f"The first rock by rank that is no answer is “{visible(str(first.text.iloc[0]))}”."
    )
    return Example(Html(f'<p class="tokens">{"".join(spans)}</p>'), caption)


def _token(text: str, loss: float, most: float, rock: bool) -> str:
    level = min(int(np.sqrt(max(loss, 0) / most) * CLASSES), CLASSES - 1)  # sqrt: most are small
    name = f"kl{level}{' rock' if rock else ''}"
    shown = html.escape(visible(text).replace("␣", " ")).replace("⏎", "⏎ ")
    title = f"{loss:.2f} nats{', a rock' if rock else ''}"
    return f'<span class="{name}" title="{title}">{shown}</span>'
