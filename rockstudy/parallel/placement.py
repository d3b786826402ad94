"""Devices of a process's models, or their shards under FSDP2.

By default both models are on the process's own device. Under ``accelerate launch`` with FSDP they
are loaded on the CPU, since a whole model may not fit on a device. accelerate then shards the
student over all processes. The teacher is sharded over the processes of each node, so that its
layers, which every forward pass gathers, never cross between nodes. With ``teacher_device: next``
half of a node's devices train and each of the others has a whole teacher.
"""

import copy
import functools
import os
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import parse_flag_from_env
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from rockstudy.errors import StudyError


class Places(NamedTuple):
    """Devices on which the two models are loaded."""

    student: torch.device
    teacher: torch.device


def default_device() -> torch.device:
    """CUDA if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model itself, on a device."""
    return model.to(device)  # pyright: ignore[reportArgumentType]


def sharding() -> bool:
    """Whether `accelerate launch` started this process for FSDP."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def places(teacher_device: Literal["same", "next"]) -> Places:
    """Devices on which this process loads its models; `StudyError` if there are too few."""
    own = torch.device("cpu") if sharding() else default_device()
    if teacher_device == "same":
        return Places(own, own)
    index = int(os.environ.get("LOCAL_RANK", "0"))
    return Places(own, next_device(_node_processes(), index, torch.cuda.device_count()))


def next_device(processes: int, index: int, count: int) -> torch.device:
    """Device of the teacher of process `index` on a node whose first devices train."""
    if count < 2 * processes:
        raise StudyError(
            "teacher_device: next must have 2 CUDA devices for each process of a node; "
            f"got {count} for {processes}"
        )
    return torch.device("cuda", processes + index)


def sharded(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A copy of a model for scoring, sharded over the processes of each node.

    A layer is gathered for its forward pass and dropped after it, as are embedding and head, which
    `divergence.Head.of` gathers again. The original stays whole, for sampling and hashing. On CUDA
    at most a layer or two, or embedding and head, are gathered at a time.
    """
    weights = {id(p): torch.nn.Parameter(p.detach(), False) for p in model.parameters()}
    copied: Any = copy.deepcopy(model, weights)  # shares the model's memory
    processes = _node_processes()
    mesh = _of_node(device.type, int(os.environ.get("WORLD_SIZE", "1")) // processes, processes)
    for layer in copied.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(copied, mesh=mesh, reshard_after_forward=True).eval()


@functools.cache  # a mesh creates process groups, which persist
def _of_node(kind: str, nodes: int, processes: int) -> DeviceMesh:
    """The processes of this node."""
    names = ("node", "process")
    return init_device_mesh(kind, (nodes, processes), mesh_dim_names=names)["process"]


def _node_processes() -> int:
    """Number of processes that were launched on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
