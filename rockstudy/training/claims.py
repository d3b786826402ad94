"""Claims rows of notebook 01: the effect of distillation on accuracy."""

import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.runs import Run

WIDEST = 0.05  # ours: half widths of a gain in accuracy, below a third of the paper's gain


def distillation_claims(run: Run, gain: pd.DataFrame | None) -> list[dict]:
    """Claims rows of the baseline regime: the rise of its accuracy (figure 5).

    `gain` is that of `steps.gains`, None where nothing was graded.
    """
    name, trained = run.config.main_benchmark, run.config.train_task
    where = name if trained is None else f"{name}, not trained on"
    where = "the trained benchmark" if trained is not None and name == trained.label else where
    words = f"On-policy distillation raises the student's Pass@1 on {where}."
    number = "accuracy-gain/baseline"
    about = {"number": number, "headline": True}
    if gain is None:
        why = verdicts.not_run("notebook 00, which grades given models, was not run")
        row = verdicts.finding("opd-accuracy-rises", words, None, direction=why, size=why, **about)
        return [row]
    one = gain[gain.benchmark == name].iloc[0].to_dict()
    rules = {"direction": verdicts.above(0, widest=WIDEST)}
    rules |= {"size": verdicts.near(number, widest=WIDEST)}
    return [verdicts.finding("opd-accuracy-rises", words, one, **rules, **about)]
