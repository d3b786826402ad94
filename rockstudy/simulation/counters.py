"""What a simulation counts: bytes that live at the same time, FLOPs, bytes between processes.

Memory is counted by torch's `MemTracker`, from the storages of tensors, FLOPs by its
`FlopCounterMode`. Attention that is causal counts half of its pairs of positions.
"""

import contextlib
from collections import Counter
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
_COLLECTIVES = {  # the place of the whole tensor among the arguments of each
    "_allgather_base_": 0,
    "_reduce_scatter_base_": 1,
    "allreduce_": 0,
}
NAMES = {
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "allreduce_": "all_reduce",
}


class Memory(MemTracker):
    """torch's tracker, of all modules together; ``most`` are the bytes of all storages at most."""

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker: Any = _NoModules()
        self.most = 0

    def _update_peak_stats(self, peak_state: Any) -> None:
        total = sum(snap["Total"] for snap in self._curr_mem_snap.values())
        self.most = max(self.most, total)

    def restart(self) -> None:
        """Forget the peak: the next one is that of what follows."""
        self.most = 0


class _NoModules(contextlib.nullcontext[None]):
    """Stands for a tracker of modules, whose hooks keep the graphs of checkpointed layers alive."""

    is_bw, parents = False, ("Global",)

    def register_user_hooks(self, *_: Any) -> None:
        """Nothing."""

    def clear_user_hooks(self) -> None:
        """Nothing."""


class Communication(TorchDispatchMode):
    """Bytes that this process receives: (S - 1) / S of the whole tensor, from a group of S.

    They are counted by collective and S, as in ``all_gather/8``. An all-reduce counts twice, as the
    ring's two halves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        if func.namespace == "c10d" and name in _COLLECTIVES:
            whole = args[_COLLECTIVES[name]]
            tensors = whole if isinstance(whole, list | tuple) else [whole]
            group = next(a for a in args if isinstance(a, torch.ScriptObject) and _is_group(a))
            size = torch.distributed.ProcessGroup.unbox(group).size()
            n = sum(t.numel() * t.element_size() for t in tensors)
            named = f"{NAMES[name]}/{size}"
            self.calls[named] += 1
            factor = 2 if name == "allreduce_" else 1
            self.bytes[named] += factor * n * (size - 1) // size
        return func(*args, **kwargs or {})


def _is_group(value: Any) -> bool:
    return "ProcessGroup" in str(value._type())


def flop_counter() -> FlopCounterMode:
    """A counter that knows the attention and the grouped products which fake tensors run."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            _aten._grouped_mm: _grouped,
        },
    )
    counter.mod_tracker = _NoModules()
    return counter


def _attention(q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    return sdpa_flop_count(q, k, v) // (2 if causal else 1)


def _attention_backward(
    grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, dropout: Any, causal: bool, **_: Any
) -> int:
    return sdpa_backward_flop_count(grad, q, k, v) // (2 if causal else 1)


def _grouped(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Rows (S, K) times the matrix (K, N) of their group."""
    return 2 * a[-2] * a[-1] * b[-1]
