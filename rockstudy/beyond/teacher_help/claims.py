"""Claims of notebook 10: one place of a rock, set by the student or by the teacher. All are ours.

The paper bans a token everywhere and measures the KL at it. It sets no single place, so that no row
has a number of its own.
"""

from __future__ import annotations

import pandas as pd

from rockstudy.beyond.teacher_help.effects import APART, BOTH, EVERY, GROUPS
from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow, Judge
from rockstudy.knockout.tables import WITHOUT_ANSWERS

OURS = "not in the paper"
MARGIN = 0.02  # ours: effects that count as none, two points
WIDEST = 0.05  # ours: half width of a difference of accuracies
NOWHERE = verdicts.not_run("no completion holds such a token on both sides")
FLAT = verdicts.not_run("too few places, or types, to compare")


def rows(table: pd.DataFrame, on_kl: pd.DataFrame, together: pd.DataFrame) -> list[ClaimRow]:
    """Claims rows from `effects.table`, `effects.on_kl` and `effects.together`."""
    gain, ban, apart = (
        _of(table, *about) for about in (("H", "rock"), ("L", "rock"), ("L", APART))
    )
    kl = on_kl.set_index("what").loc["H, top - rest"]
    made = [
        _finding(
            "teacher-gain-rock",
            "At a rock the teacher's token leads to more right answers than the student's: draws "
            f"of both, in all texts{_rest(table, 'H', 'rock')}{_least(gain)}.",
            gain,
            verdicts.above(0, widest=WIDEST),
            headline=True,
        ),
        _finding(
            "teacher-gain-small",
            "At a rock the teacher's token changes the share of right answers by less than two "
            "points, either way.",
            gain,
            None if gain is None else verdicts.within(MARGIN, gain.lo90, gain.hi90),
        ),
        _finding(
            "high-kl-gain",
            "A high KL marks a useful correction: the teacher's gain in the quarter of positions "
            f"with the highest KL, minus that elsewhere{_least(kl)}.",
            None if pd.isna(kl.value) else kl,
            verdicts.above(0, widest=WIDEST),
            headline=True,
            none=FLAT,
        ),
        _finding(
            "local-ban-rock",
            "What stands at a rock is redundant there: another token of the student's leads to as "
            f"many right answers{_rest(table, 'L', 'rock')}.",
            ban,
            None if ban is None else verdicts.within(MARGIN, ban.lo90, ban.hi90),
        ),
        _finding(
            "local-ban-apart",
            "Another token costs less at a rock than at a type as frequent that is no rock"
            f"{_rest(table, 'L', APART)}.",
            apart,
            verdicts.above(0, widest=WIDEST),
        ),
        _together(together),
    ]
    return [*made, *_nulls(table)]


def _of(table: pd.DataFrame, measure: str, group: str, types: str = EVERY) -> pd.Series | None:
    same = (table.measure == measure) & (table.group == group) & (table.types == types)
    found = table[same & (table.side == BOTH)]
    return None if found.empty else found.iloc[0]


def _rest(table: pd.DataFrame, measure: str, group: str) -> str:
    """The same without answer-bearing types, in brackets; empty where they are not known."""
    one = _of(table, measure, group, WITHOUT_ANSWERS)
    if one is None or pd.isna(one.lo):
        return ""
    return f" ({one.value:+.3f} [{one.lo:+.3f}, {one.hi:+.3f}] without answer-bearing types)"


def _least(one: pd.Series | None) -> str:
    """What would have been found, in words; empty without an interval."""
    if one is None or pd.isna(one.detectable):
        return ""
    return f"; the smallest effect that this would find is {one.detectable:.3f}"


def _finding(
    claim: str,
    statement: str,
    one: pd.Series | None,
    judge: Judge | None,
    *,
    headline: bool = False,
    none: verdicts.Verdict = NOWHERE,
) -> ClaimRow:
    about = {"locator": OURS, "headline": headline}
    if one is None or judge is None:
        return verdicts.finding(claim, statement, None, direction=none, **about)
    return verdicts.finding(claim, statement, _measured(one), direction=judge, **about)


def _measured(one: pd.Series) -> ClaimRow:
    return {name: one[name] for name in ("value", "lo", "hi", "unit")} | {"n": int(one["n"])}


def _together(together: pd.DataFrame) -> ClaimRow:
    about = "What the ban of a type costs everywhere, its ban at one place costs in part: rank "
    about += "correlation over types of L with Delta in texts that hold the type"
    found = together[together["of"] == "delta_held"]
    if found.empty:
        return _finding("local-global", f"{about}.", None, None, none=FLAT)
    one = found.iloc[0]
    statement = f"{about} (reliability of L {one.reliability:.2f})."
    measured = pd.concat([one, pd.Series({"unit": "types"})])
    return _finding("local-global", statement, measured, verdicts.above(0, widest=0.5))


def _nulls(table: pd.DataFrame) -> list[ClaimRow]:
    made = []
    for group in GROUPS:
        one = _of(table, "null", group)
        if one is not None and not pd.isna(one.lo):
            made.append(
                verdicts.check(
                    f"local-null-{group}",
                    f"The same token of a {group}, continued with other random numbers, changes "
                    "nothing.",
                    _measured(one),
                    passed=bool(one.lo <= 0 <= one.hi),
                    rule="the interval must hold 0",
                )
            )
    return made
