"""What the student writes when the token that all notebooks follow is banned, as text.

The knockouts of notebook 05 store outcomes and no texts. A few completions are therefore written
again, with the random numbers that the screen uses for them: up to rounding of the logits, these
are the screen's own. `rockstudy.rocks.followed` has the token.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy import tasks
from rockstudy.display import ALIGNED_CSS, Html
from rockstudy.knockout import prefix_reuse, steps
from rockstudy.knockout.prefix_reuse import Candidate
from rockstudy.models import loading
from rockstudy.models.token_texts import decoded, token_texts
from rockstudy.rocks import followed
from rockstudy.rocks.aligned_texts import paragraphs
from rockstudy.rocks.steps import measured
from rockstudy.runs import Run, table

WRITTEN = 24  # ours: completions that are written again, the first that hold the token
LETTERS = 140  # ours: of each text
SHOWN = 3  # ours: of those that change from right to wrong or back, and of the others


def _inputs(run: Run) -> dict[str, str]:
    return followed.types_hash(run) | steps.screened_on(run)


@table(*followed.RANKED, "knockout", "screened", inputs=_inputs)
def banned(run: Run) -> pd.DataFrame:
    """The first completions of the screened benchmark that hold the followed type, without it.

    A row for each of up to `WRITTEN`: ``prompt_index, sample_index, before`` (the text up to the
    first occurrence, which both share; empty where top-p cuts, so that everything is written anew),
    ``token``, ``after`` (what the student wrote from there on), ``instead`` (what it writes with
    the type banned), ``base_correct, correct``.
    """
    run.needs_models("texts without the followed token")
    token, task, how = int(followed.token(run).token_id), run.config.screens[0], run.config.knockout
    tokenizer, chosen = loading.tokenizer_of(run), [Candidate(token, (token,))]
    with measured(run).sampler("post", how) as student:
        base, _ = steps.baseline(run, task, student)
        mode = steps.mode_of(run)
        screen = prefix_reuse.Screen(student, tokenizer, base, chosen, how, run.config.seed, mode)
        todo = prefix_reuse.plan(screen)
        todo = todo[np.isin(base.completion_ids[todo.row], token).any(1)].head(WRITTEN)
        made = prefix_reuse.resample(screen, todo)
    problems, completions = tasks.load(task, "eval"), base.completions
    asked = [problems[i] for i in base.prompt_index[todo.row]]
    texts = decoded(tokenizer, made, skip_special_tokens=True)
    old = [completions[row] for row in todo.row]
    starts = todo.start.tolist()
    assert base.correct is not None
    return pd.DataFrame(
        {
            "prompt_index": base.prompt_index[todo.row],
            "sample_index": base.sample_index[todo.row],
            "before": decoded(tokenizer, [ids[:i] for ids, i in zip(old, starts, strict=True)]),
            "token": token_texts(tokenizer, [token] * len(todo)),
            "after": decoded(tokenizer, [ids[i:] for ids, i in zip(old, starts, strict=True)]),
            "instead": decoded(tokenizer, [ids[i:] for ids, i in zip(made, starts, strict=True)]),
            "base_correct": base.correct[todo.row],
            "correct": np.asarray(tasks.grade(task, asked, texts), bool),
        }
    )


def some_of(written: pd.DataFrame) -> pd.DataFrame:
    """Rows to show: the first `SHOWN` whose verdict changes and the first `SHOWN` others."""
    changed = written.correct != written.base_correct
    shown = pd.concat([written[changed].head(SHOWN), written[~changed].head(SHOWN)])
    return shown.reset_index(drop=True)


def banned_html(written: pd.DataFrame) -> Html:
    """The texts of `banned`: what both share, then as it was and as it is without the token."""
    rows = []
    for one in written.itertuples():
        was, now = ("right" if correct else "wrong" for correct in (one.base_correct, one.correct))
        begin = f"… {one.before[-LETTERS:]}" if len(one.before) > LETTERS else one.before
        old, new = (
            f"{text[:LETTERS]} …" if len(text) > LETTERS else text
            for text in (one.after, one.instead)
        )
        cells = (paragraphs(begin), f"{paragraphs(old)} ({was})", f"{paragraphs(new)} ({now})")
        rows.append("".join(f"<td class='text'>{cell}</td>" for cell in cells))
    head = "<th>both begin</th><th>as it was</th><th>without the token</th>"
    return Html(
        f"<style>{ALIGNED_CSS}</style><table class='aligned'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"
    )


def reading_of_banned(run: Run, written: pd.DataFrame) -> str:
    """A sentence on `banned`: what the student writes instead, and how verdicts change."""
    if written.empty:
        return (
            f"No completion of the screen holds {followed.name(run)}: a ban of it changes nothing."
        )
    first = written.instead.str.strip().str.split(n=1).str[0].fillna("")
    most = first.value_counts()
    lost = int((written.base_correct & ~written.correct).sum())
    won = int((~written.base_correct & written.correct).sum())
    return (
        f"With {followed.name(run)} banned, the student most often goes on with "
        f"{followed.bracketed(most.index[0])} ({most.iloc[0]} of {len(written)} completions). "
        f"Of these completions {lost} turn from right to wrong and {won} from wrong to right. The "
        "rest of each is drawn anew, so some would turn without any ban: the null knockouts show "
        "how many."
    )
