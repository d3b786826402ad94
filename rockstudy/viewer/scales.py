"""Measures of a token and their colours: what is shown, in which unit, and where colours change.

A colour stands for a range of values, so that a reader can tell a value from a colour by the
legend. The ranges end at round numbers that are the same for all rollouts of a page, and for all
checkpoints of a measure, so that two panes can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

STEPS = 7  # ours: changes of colour of a measure without a sign
SIDE = 4  # ours: on each side of zero of a signed one
TOP = 0.98  # ours: quantile of the sizes at which colours end
RANKS = (1, 2, 3, 5, 10, 100, 1000)  # ours: tokens that the teacher finds likelier
STUDENTS = {"pre": "before", "post": "after"}  # names of columns
NATS = {
    "rkl": ("Reverse KL", "KL(student || teacher) over the whole vocabulary"),
    "log_ratio": ("Log-ratio", "log-probability of the token, student minus teacher"),
    "entropy": ("Entropy", "entropy of the next-token distribution"),
}


def students(tokens: pd.DataFrame) -> list[str]:
    """Checkpoints of the student in a token table: before, those in between, after."""
    names = [name.removeprefix("rkl_") for name in tokens if str(name).startswith("rkl_")]
    between = [name for name in names if name not in STUDENTS]
    return ["pre", *between, "post"]


def columns(tokens: pd.DataFrame) -> dict[str, np.ndarray]:
    """The numbers of each position by key, (N,): those of the table, and the change of the loss."""
    names = [f"{s}_{name}" for s in NATS for name in students(tokens)]
    found = {name: tokens[name].to_numpy() for name in [*names, "entropy_teacher", "rank_teacher"]}
    change = tokens.rkl_post.to_numpy(np.float64) - tokens.rkl_pre.to_numpy(np.float64)
    return found | {"rkl_change": change.astype(np.float32)}


def measures(
    values: dict[str, np.ndarray], weights: Sequence[str], causes: bool
) -> list[dict[str, Any]]:
    """The measures of a page in the order in which they are offered.

    `values` are `columns`, `weights` names of arms. Each measure has ``key, group, label, unit,
    kind, edges, hue, note``; kinds are ``size`` (colours from 0 up), ``signed``, ``weight`` and
    ``cause``.
    """
    made: list[dict[str, Any]] = []
    for statistic, (group, note) in NATS.items():
        keys = [key for key in values if key.startswith(f"{statistic}_") and key != "rkl_change"]
        keys.sort(key=lambda key: (not key.endswith("_post"), key.endswith("_teacher")))
        signed = statistic == "log_ratio"
        ends = edges([values[key] for key in keys], SIDE if signed else STEPS)
        kind = {"kind": "signed" if signed else "size", "edges": ends}
        kind |= {"hue": {"rkl": "loss", "entropy": "entropy"}.get(statistic, "signed")}
        made += [
            {"key": key, "group": group, "label": _label(group, key), "note": note, **kind}
            for key in keys
        ]
        if statistic == "rkl":
            kind = {"kind": "signed", "edges": edges([values["rkl_change"]], SIDE)}
            about = {"label": "Change of reverse KL", "note": "after minus before", "hue": "signed"}
            made.append({"key": "rkl_change", "group": group, **about, **kind})
    made = [one | {"unit": "nats"} for one in made]
    rank = {"key": "rank_teacher", "group": "Teacher", "label": "Teacher's rank of the token"}
    rank |= {"note": "tokens that the teacher finds likelier; 0: its first choice", "hue": "rank"}
    made.append(rank | {"unit": "likelier tokens", "kind": "size", "edges": list(RANKS)})
    for name in weights:
        about = {"label": f"Weight in {name}", "unit": "factor on the loss", "kind": "weight"}
        about |= {"edges": [], "note": "0: the position is left out of the loss", "hue": "weight"}
        made.append({"key": f"weight {name}", "group": "Training", **about})
    if causes:
        about = {"label": "Cause", "unit": "", "kind": "cause", "edges": [], "hue": "cause"}
        note = "why the token is hard, by the task's grammar"
        made.append({"key": "cause", "group": "Task", "note": note, **about})
    return made


def _label(group: str, key: str) -> str:
    name = key.rpartition("_")[2] if key.endswith(("_pre", "_post", "_teacher")) else key
    for statistic in NATS:
        name = name.removeprefix(f"{statistic}_")
    who = "of the teacher" if name == "teacher" else STUDENTS.get(name, name)
    return f"{group} {who}"


def edges(values: Sequence[np.ndarray], steps: int) -> list[float]:
    """Where colours change: numbers of the series 1, 2, 5, 10, ..., ascending, `steps` of them.

    The last one is the largest that is not above the quantile `TOP` of the sizes of the values.
    """
    sizes = np.abs(np.concatenate([np.ravel(one) for one in values]).astype(np.float64))
    top = max(float(np.quantile(sizes, TOP)), 1e-6)
    series = [float(f"{m}e{e}") for e in range(-12, 9) for m in (1, 2, 5)]
    last = sum(one <= top for one in series)
    return series[last - steps : last]
