"""The metrics of training: sums over a logging window, losses per token type, time by phase.

Sums are float64 and taken on the CPU in a fixed order, so the same seed gives the same bytes. The
per-type sums cost no forward pass, because the loss has just computed the reverse KL:

    rkl_sum[v] = sum over positions that predict v of KL(student || teacher)

They are unweighted and cover the projected positions: those with a weight above 0, or all where the
weights depend on the losses. They are empty in a stage whose loss has no reverse KL.
"""

import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

METRICS = (
    "step loss rkl student_entropy lr grad_norm n_tokens n_kept mean_weight mean_length"
    " stopped_share"
).split()
PHASES = ("rollout", "teacher", "student", "head", "optimizer")
_LAPS = (*PHASES, "other")
TIMING = ["step", *(f"seconds_{phase}" for phase in PHASES), "seconds_step", "tokens_per_s"]
_SUMS = "loss rkl entropy weight n_kept n_tokens n_rows n_stopped n_steps".split()
_TYPES = ["step", "token_id", "count", "rkl_sum"]
# columns and types of the tables; other columns are float64
_TABLES: dict[str, tuple[list[str], dict[str, str]]] = {
    "metrics": (METRICS, dict.fromkeys(["step", "n_tokens", "n_kept"], "int64")),
    "timing": (TIMING, {"step": "int64"}),
    "type_losses": (_TYPES, {"step": "int64", "token_id": "int32", "count": "int64"}),
}


class Clock:
    """Adds the time since the last lap to a phase; by events on CUDA, which runs asynchronously."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks = [("start", self._mark())]

    def _mark(self) -> "float | torch.cuda.Event":
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, phase: str) -> None:
        """Attribute the time since the last lap to a phase."""
        self._marks.append((phase, self._mark()))

    def drain(self) -> dict[str, float]:
        """Return seconds by phase since the last drain."""
        if self._cuda:
            torch.cuda.synchronize()
        spent = dict.fromkeys(_LAPS, 0.0)
        for (_, a), (phase, b) in zip(self._marks, self._marks[1:], strict=False):
            spent[phase] += a.elapsed_time(b) / 1000 if self._cuda else b - a  # type: ignore
        self._marks = self._marks[-1:]
        return spent


class Ledger:
    """Sums of the current logging window, and the rows of the windows before it."""

    def __init__(self, vocab: int) -> None:
        self._rows = {name: np.empty((0, len(columns))) for name, (columns, _) in _TABLES.items()}
        self._start(vocab)

    def _start(self, vocab: int) -> None:
        self.sums, self._spent = dict.fromkeys(_SUMS, 0.0), dict.fromkeys(_LAPS, 0.0)
        self.type_count, self.type_rkl = np.zeros(vocab), np.zeros(vocab)

    def add_step(self, seconds: dict[str, float]) -> None:
        """Count an optimiser step that is done, and its seconds by phase."""
        self.sums["n_steps"] += 1
        for phase, value in seconds.items():
            self._spent[phase] += value

    def add_rollouts(self, lengths: Tensor, stopped: Tensor) -> None:
        """Count the completions of one step."""
        self.sums["n_tokens"] += float(lengths.sum())
        self.sums["n_rows"] += len(lengths)
        self.sums["n_stopped"] += float(stopped.sum())

    def add_positions(
        self, rkl: Tensor | None, entropy: Tensor, ids: Tensor, weights: Tensor
    ) -> None:
        """Add the projected positions of a micro-batch, (N,) each: ``ids`` are the tokens."""
        self.sums["entropy"] += float(entropy.detach().double().cpu().sum())
        self.sums["weight"] += float(weights.double().cpu().sum())
        self.sums["n_kept"] += len(ids)
        if rkl is not None:
            values, types = rkl.detach().double().cpu().numpy(), ids.cpu().numpy()
            size = len(self.type_count)
            self.sums["rkl"] += float(values.sum())
            self.type_count += np.bincount(types, minlength=size)
            self.type_rkl += np.bincount(types, weights=values, minlength=size)

    @property
    def types(self) -> np.ndarray:
        """The closed windows' types, float64 (N, 4): step, token id, count, summed reverse KL."""
        return self._rows["type_losses"]

    def window(self) -> np.ndarray:
        """Everything of the current window in one array, to be summed over processes."""
        return np.concatenate([list(self.sums.values()), self.type_count, self.type_rkl])

    def close(self, step: int, window: np.ndarray, lr: float, grad_norm: float) -> dict[str, float]:
        """Turn a window (summed over processes) into rows, start the next, return the metrics."""
        total = dict(zip(_SUMS, window, strict=False))
        count, rkl = window[len(_SUMS) :].reshape(2, -1)
        row = {
            "step": step,
            "loss": total["loss"] / total["n_steps"],
            "rkl": _ratio(total["rkl"], count.sum()),
            "student_entropy": _ratio(total["entropy"], total["n_kept"]),
            "lr": lr,
            "grad_norm": grad_norm,
            "n_tokens": total["n_tokens"],
            "n_kept": total["n_kept"],
            "mean_weight": _ratio(total["weight"], total["n_tokens"]),
            "mean_length": total["n_tokens"] / total["n_rows"],
            "stopped_share": total["n_stopped"] / total["n_rows"],
        }
        steps, seconds = self.sums["n_steps"], sum(self._spent.values())
        times = [step, *(self._spent[p] / steps for p in PHASES), seconds / steps]
        seen = count.nonzero()[0]
        rows = {
            "metrics": [row[name] for name in METRICS],
            "timing": [*times, _ratio(total["n_tokens"], seconds)],
            "type_losses": np.column_stack(
                [np.full(len(seen), step), seen, count[seen], rkl[seen]]
            ),
        }
        self._rows = {name: np.vstack([self._rows[name], new]) for name, new in rows.items()}
        self._start(len(count))
        return row

    def table(self, name: str) -> pd.DataFrame:
        """One of `stages.TrainResult`'s tables; the times are those of the main process."""
        columns, types = _TABLES[name]
        return pd.DataFrame(self._rows[name], columns=columns).astype(types)

    def state(self, windows: np.ndarray) -> dict[str, Tensor]:
        """The state to resume from; `windows` has a row for the `window` of each process."""
        arrays = self._rows | {"windows": windows, "spent": np.array([*self._spent.values()])}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def restore(self, state: dict[str, Tensor], process: int, processes: int) -> None:
        """Restore a state, and in each process its share of the windows."""
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        own = arrays.pop("windows")[process::processes].sum(0)
        self.sums = dict(zip(_SUMS, own.tolist(), strict=False))
        self.type_count, self.type_rkl = own[len(_SUMS) :].reshape(2, -1)
        self._spent = dict(zip(_LAPS, arrays.pop("spent").tolist(), strict=True))
        self._rows = arrays


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
