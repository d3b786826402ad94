"""Claims rows of notebook 01: the effect of distillation on accuracy."""

import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.runs import Run

WIDEST = 0.05  # ours: half widths of a gain in accuracy, below a third of the paper's gain


def distillation_claims(run: Run, gain: pd.DataFrame) -> list[dict]:
    """Claims rows of the baseline regime: the rise of its accuracy (figure 5)."""
    config, name = run.config, run.config.main_benchmark
    where = (
        "the trained benchmark" if name == config.trained_on.label else f"{name}, not trained on"
    )
    words = f"On-policy distillation raises the student's Pass@1 on {where}."
    one = gain[gain.benchmark == name].iloc[0].to_dict()
    number = "accuracy-gain/baseline"
    row = verdicts.finding(
        "opd-accuracy-rises",
        words,
        one,
        direction=verdicts.above(0, widest=WIDEST),
        size=verdicts.near(number, widest=WIDEST),
        number=number,
        headline=True,
    )
    return [row]
