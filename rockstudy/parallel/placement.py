"""Where the models of a process lie: on a device each, or sharded over processes by FSDP2.

By default both are on the process's own device. Under ``accelerate launch`` with FSDP they are
loaded on the CPU, for the whole of one may be more than a device holds. The student is then sharded
over all processes by accelerate; the teacher over those of each node, so that its layers, which are
gathered for every forward pass, never cross between nodes. With ``teacher_device: next`` half of a
node's devices train and the other half hold one teacher each.
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
    """Where the two models are loaded."""

    student: torch.device
    teacher: torch.device


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sharding() -> bool:
    """Whether `accelerate launch` started this process for FSDP."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def places(teacher_device: Literal["same", "next"]) -> Places:
    """Where this process loads its models.

    Raises
    ------
    StudyError
        Too few CUDA devices.
    """
    own = torch.device("cpu") if sharding() else default_device()
    if teacher_device == "same":
        return Places(own, own)
    index = int(os.environ.get("LOCAL_RANK", "0"))
    return Places(own, next_device(_node_processes(), index, torch.cuda.device_count()))


def next_device(processes: int, index: int, count: int) -> torch.device:
    """Device of the teacher of process `index`, the first of a node's `count` devices training.

    Raises
    ------
    StudyError
        Fewer than two devices for each of the node's processes.
    """
    if count < 2 * processes:
        raise StudyError(
            "teacher_device: next must have 2 CUDA devices for each process of a node; "
            f"got {count} for {processes}"
        )
    return torch.device("cuda", processes + index)


def sharded(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A copy of a model for scoring, of which each process of a node holds a part.

    A layer is gathered for its forward pass and dropped after it; so are embedding and head, which
    `divergence.Head.of` gathers again. The model itself is left whole where it is, so that it can
    still sample and its weights be hashed. On CUDA a device never holds more of it in whole than a
    layer or two, or its embedding and head.
    """
    weights = {id(p): torch.nn.Parameter(p.detach(), False) for p in model.parameters()}
    copied: Any = copy.deepcopy(model, weights)  # its parameters share the model's memory
    processes = _node_processes()
    mesh = _of_node(device.type, int(os.environ.get("WORLD_SIZE", "1")) // processes, processes)
    for layer in copied.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(copied, mesh=mesh, reshard_after_forward=True).eval()


@functools.cache  # a mesh makes process groups, which stay
def _of_node(kind: str, nodes: int, processes: int) -> DeviceMesh:
    """The processes of this node."""
    names = ("node", "process")
    return init_device_mesh(kind, (nodes, processes), mesh_dim_names=names)["process"]


def _node_processes() -> int:
    """How many processes were launched together on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
