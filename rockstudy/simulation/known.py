"""Fake tensors for code that reads values: what is stated here replaces what only data would tell.

Under torch's `FakeTensorMode` tensors have shapes but no memory. Where code reads a value, it gets
one that makes everything as large as it can be: all positions are kept, all losses are finite, rows
have the full length. Experts need no bound: transformers' grouped products multiply as many rows as
tokens x chosen experts, whatever the router chooses.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.utils import import_utils

_SCALARS = (Tensor.item, Tensor.__float__)


class Known(TorchFunctionMode):
    """Answers what fake tensors cannot: `length` tokens a row, `kept` positions behind a mask."""

    def __init__(self, length: int, kept: int) -> None:
        super().__init__()
        self.length, self.kept = length, kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor | DTensor):
            if func in (Tensor.nonzero, torch.nonzero):
                return _all_places(args[0], kwargs.get("as_tuple", False))
            if func is Tensor.__int__:
                return self.length
            if func in _SCALARS:
                return 1.0
            if func is Tensor.data_ptr:  # accelerate finds the optimiser's parameters by it
                held = args[0]._local_tensor if isinstance(args[0], DTensor) else args[0]
                return held.untyped_storage()._cdata
            if func is Tensor.__bool__:
                return True
            if func is Tensor.numpy:
                return np.zeros(tuple(args[0].shape), str(args[0].dtype).removeprefix("torch."))
            if func is Tensor.__getitem__ and getattr(args[1], "dtype", None) == torch.bool:
                hidden = args[0]
                return hidden.reshape(-1, hidden.shape[-1])[: self.kept].clone()
        return func(*args, **kwargs)


def _all_places(tensor: Tensor, as_tuple: bool) -> Any:
    """Indices of as many entries as a tensor has."""
    if as_tuple:
        return tuple(torch.zeros(tensor.numel(), dtype=torch.int64) for _ in tensor.shape)
    return torch.zeros(tensor.numel(), tensor.ndim, dtype=torch.int64)


@contextlib.contextmanager
def faked(length: int, kept: int) -> Iterator[None]:
    """Make every tensor fake; modules stay where they are, and meshes of processes are real."""
    before = torch.nn.Module.to, DeviceMesh.__init__
    own, is_fake = PreTrainedModel.to, import_utils.is_fake_tensor

    def mesh(self: DeviceMesh, *args: Any, **kwargs: Any) -> None:
        with unset_fake_temporarily():
            if "_rank_map" in kwargs and isinstance(kwargs["_rank_map"], FakeTensor):
                kwargs["_rank_map"] = torch.arange(kwargs["_rank_map"].numel(), dtype=torch.int)
            before[1](self, *args, **kwargs)

    torch.nn.Module.to = PreTrainedModel.to = lambda self, *args, **kwargs: self  # type: ignore
    DeviceMesh.__init__ = mesh
    import_utils.is_fake_tensor = lambda _: False  # else attention gets a mask, as for a compiler
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Known(length, kept):
            yield
    finally:
        torch.nn.Module.to, DeviceMesh.__init__ = before
        PreTrainedModel.to, import_utils.is_fake_tensor = own, is_fake
