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
_INTEGERS = ["step", "n_tokens", "n_kept"]


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
        self.sums = dict.fromkeys(_SUMS, 0.0)
        self.type_count = np.zeros(vocab)
        self.type_rkl = np.zeros(vocab)
        self._metrics, self._timing = np.empty((0, len(METRICS))), np.empty((0, len(TIMING)))
        self._types = np.empty((0, 4))
        self._spent = dict.fromkeys(_LAPS, 0.0)

    def add_step(self, seconds: dict[str, float]) -> None:
        """Count an optimiser step that is done, and its seconds by phase."""
        self.sums["n_steps"] += 1
        for phase, value in seconds.items():
            self._spent[phase] += value

    def add_rollouts(self, lengths: Tensor, stopped: Tensor) -> None:
        """Count the completions of one step."""
        counted = (lengths.sum(), len(lengths), stopped.sum())
        for name, value in zip(("n_tokens", "n_rows", "n_stopped"), counted, strict=True):
            self.sums[name] += float(value)

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
        return self._types

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
        times.append(_ratio(total["n_tokens"], seconds))
        self._metrics = np.vstack([self._metrics, [row[name] for name in METRICS]])
        self._timing = np.vstack([self._timing, times])
        seen = count.nonzero()[0]
        types = np.column_stack([np.full(len(seen), step), seen, count[seen], rkl[seen]])
        self._types = np.vstack([self._types, types])
        self.sums = dict.fromkeys(_SUMS, 0.0)
        self.type_count, self.type_rkl = np.zeros_like(count), np.zeros_like(rkl)
        self._spent = dict.fromkeys(_LAPS, 0.0)
        return row

    def metrics(self) -> pd.DataFrame:
        """One row per logging window: means over it, in nats per token where a divergence."""
        return pd.DataFrame(self._metrics, columns=METRICS).astype(
            dict.fromkeys(_INTEGERS, "int64")
        )

    def timing(self) -> pd.DataFrame:
        """One row per logging window: seconds per optimiser step by phase, on the main process."""
        return pd.DataFrame(self._timing, columns=TIMING).astype({"step": "int64"})

    def type_losses(self) -> pd.DataFrame:
        """One row per logging window and token type that was projected in it."""
        frame = pd.DataFrame(self._types, columns=["step", "token_id", "count", "rkl_sum"])
        return frame.astype({"step": "int64", "token_id": "int32", "count": "int64"})

    def state(self, windows: np.ndarray) -> dict[str, Tensor]:
        """The state to resume from; `windows` has a row for the `window` of each process."""
        arrays = {
            "windows": windows,
            "metrics": self._metrics,
            "timing": self._timing,
            "types": self._types,
            "spent": np.array(list(self._spent.values())),
        }
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def restore(self, state: dict[str, Tensor], process: int, processes: int) -> None:
        """Restore a state, and in each process its share of the windows."""
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        own = arrays["windows"][process::processes].sum(0)
        self.sums = dict(zip(_SUMS, own.tolist(), strict=False))
        self.type_count, self.type_rkl = own[len(_SUMS) :].reshape(2, -1)
        self._metrics, self._timing = arrays["metrics"], arrays["timing"]
        self._types = arrays["types"]
        self._spent = dict(zip(_LAPS, arrays["spent"].tolist(), strict=True))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
