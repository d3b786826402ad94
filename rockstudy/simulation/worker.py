"""One simulation, in a process of its own: ``python -m rockstudy.simulation.worker``.

A specification comes as JSON on the standard input, and what was counted goes as JSON to the
standard output. The trainer is the study's own, with transformers' loop, accelerate's FSDP2 and
AdamW; two optimiser steps run, and the second one is counted, when AdamW has its moments.
"""

import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

NODE = 8  # ours: processes of a node
_RENAMED = {"FSDP_TRANSFORMER_LAYER_CLS_TO_WRAP": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
_MMAP_THRESHOLD = -3  # glibc's name for an option of `mallopt`


def _launch(processes: int) -> None:
    """Be the first of many processes that do not exist."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes == 1:
        return
    node = str(min(NODE, processes))
    os.environ.update(_launched(), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=node)
    os.environ.update(RANK="0", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    import torch
    import torch.distributed as dist
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    start = PartialState.__init__

    def as_devices(
        self: Any, *args: Any, **kwargs: Any
    ) -> None:  # accelerate shards on those alone
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU
            self.device = torch.device("cpu")

    PartialState.__init__ = as_devices


def _launched() -> dict[str, str]:
    """The variables that `accelerate launch` sets for launch/fsdp2.yaml."""
    import yaml

    from rockstudy.paths import REPO

    shipped = yaml.safe_load((REPO / "launch" / "fsdp2.yaml").read_text(encoding="utf-8"))
    given = {
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_MIXED_PRECISION": shipped["mixed_precision"],
    }
    for name, value in shipped["fsdp_config"].items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        given[_RENAMED.get(name.upper(), name.upper())] = shown
    return given


def _resident(name: str) -> int:
    """Bytes of this process in memory, now (``VmRSS``) or at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def simulate(spec: dict[str, Any]) -> dict[str, Any]:
    """What a specification (`simulation.tables`) counts; ``real`` runs and measures it."""
    _prepare(spec)
    return _PARTS[spec["part"]](spec)


def _prepare(spec: dict[str, Any]) -> None:
    """Be one of the processes, and use the kernels of their devices."""
    _launch(spec["processes"])
    from rockstudy.models import divergence
    from rockstudy.training import losses

    if spec["cuda"]:
        divergence._CPU_TILE = divergence._CUDA_TILE
        losses.fused = lambda device: True


def _model(config: dict[str, Any], dtype: Any) -> Any:
    """A model of a configuration, with random weights."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    read = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    made = AutoModelForCausalLM.from_config(read, dtype=dtype)
    assert isinstance(made, torch.nn.Module)
    return made


def _local(tensors: Any) -> int:
    """Bytes of tensors, or of this process's shards of them, each storage once."""
    held = [getattr(t, "_local_tensor", t) for t in tensors]
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in held}.values())


def _training(spec: dict[str, Any]) -> dict[str, Any]:
    import torch

    from rockstudy.config.fields import StageConfig
    from rockstudy.models import loading
    from rockstudy.simulation.counters import Communication, Memory, flop_counter
    from rockstudy.simulation.known import faked
    from rockstudy.training import stages
    from rockstudy.training.trainer import DistillTrainer

    processes, prompt, cuda = spec["processes"], spec["prompt"], spec["cuda"]
    given = dict(spec["stage"])
    parts = given.pop("micro_batches")
    micro, new = given["micro_batch"], given["max_new_tokens"]
    rows = micro * parts * processes
    # the step's rows as prompts of their own: the sampler alone would see the difference
    given |= {"prompts_per_step": rows, "rollouts_per_prompt": 1, "steps": 2, "lr": 1e-6}
    stage = StageConfig(source="student", logging_steps=2, **given)
    stage = stage.model_copy(update={"keep": {}})
    tokenizer = loading.load_tokenizer("tiny:student", field="student")
    memory, flops, between = Memory(), flop_counter(), Communication()
    data = _data(2 * rows, prompt, new)
    if spec.get("real"):  # what is freed goes back to the system, so that its peak is that of use
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 65_536)
    before = _resident("VmRSS")
    fake = contextlib.nullcontext() if spec.get("real") else faked(prompt + new, micro * new)
    with fake, tempfile.TemporaryDirectory(prefix="rockstudy-") as folder:
        student = _model(spec["student"], torch.float32)
        teacher = _model(spec["teacher"], torch.bfloat16 if cuda else torch.float32)
        arguments = stages._arguments(stage, Path(folder), prompt, bf16_on_cpu=cuda)
        trainer = DistillTrainer(
            stage=stage,
            name="simulated",
            seed=0,
            model=student,
            teacher_model=teacher,
            processing_class=tokenizer,
            args=arguments,
            train_dataset=data,
        )
        del student, teacher
        counted: dict[str, Any] = {}
        trainer.add_callback(stages._Keeper(trainer, Path(folder), None))
        trainer.add_callback(_Second(trainer, memory, flops, between, counted))
        with contextlib.redirect_stdout(sys.stderr):
            if spec.get("real"):
                trainer.train()
                return {"peak": _resident("VmHWM") - before}
            memory.track_external(trainer.model, trainer.teacher_model)
            with flops, between, memory:
                trainer.train()
    return counted | {"micro_batches": parts}


def _statistics(spec: dict[str, Any]) -> dict[str, Any]:
    """One batch of the token table: the teacher and both students, held at the same time."""
    import numpy as np
    import torch

    from rockstudy.models import divergence
    from rockstudy.rocks import token_table
    from rockstudy.sampling.rollout import Rollouts
    from rockstudy.simulation.counters import Memory, flop_counter
    from rockstudy.simulation.known import faked

    if spec["cuda"]:  # a card needs no blocks that fit into a cache
        divergence._CPU_BLOCK = sys.maxsize
    prompt, new = spec["prompt"], spec["new"]
    rows = max(1, token_table.BATCH_TOKENS // (prompt + new))
    numbers = np.arange(rows)
    rollouts = Rollouts(
        [np.ones(prompt, np.int64)] * rows,
        np.ones((rows, new), np.int32),
        np.ones((rows, new), bool),
        numbers.astype(np.int32),
        numbers.astype(np.int16) * 0,
        np.ones(rows, bool),
    )
    memory, flops = Memory(), flop_counter()
    with faked(prompt + new, rows * new):
        dtype = torch.bfloat16 if spec["cuda"] else torch.float32
        names = {"teacher": "teacher", "before": "student", "after": "student"}
        models = {name: _model(spec[role], dtype) for name, role in names.items()}
        memory.track_external(*models.values())
        with contextlib.redirect_stdout(sys.stderr), flops, memory:
            token_table.in_memory(rollouts, models)
    students = sum(_local(models[name].parameters()) for name in ("before", "after"))
    teacher = _local(models["teacher"].parameters())
    total = sum(flops.get_flop_counts()["Global"].values())
    tokens = rows * (prompt + new)
    return {"peak": memory.most, "teacher": teacher, "students": students} | {
        "flops": total,
        "tokens": tokens,
    }


_PARTS = {"training": _training, "statistics": _statistics}


def _data(rows: int, prompt: int, new: int) -> Any:
    from datasets import Dataset

    completions = {"completions": [[[1] * new]] * rows, "stopped": [[True]] * rows}
    return Dataset.from_dict({"prompt_ids": [[1] * prompt] * rows, **completions})


def _Second(trainer: Any, memory: Any, flops: Any, between: Any, counted: dict[str, Any]) -> Any:
    """A callback that counts the second step alone."""
    from transformers import TrainerCallback

    class Second(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                gc.collect()
                memory.restart()
                flops.flop_counts.clear()
                between.bytes.clear()
                between.calls.clear()

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gc.collect()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            grads = (p.grad for p in trainer.model.parameters() if p.grad is not None)
            counted["gradients"] = _local(grads)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step < 2 or not memory.most:
                return
            states = trainer.optimizer.state.values()
            moments = (v for s in states for k, v in s.items() if k != "step")
            counted["peak"] = memory.most
            counted["weights"] = _local(trainer.model.parameters())
            counted["moments"] = _local(moments)
            counted["teacher"] = _local(trainer.teacher_model.parameters())
            counted["flops"] = sum(flops.get_flop_counts()["Global"].values())
            counted["received"] = dict(between.bytes)
            counted["calls"] = dict(between.calls)

    return Second()


def main() -> None:
    """Simulate what the standard input specifies."""
    done = simulate(json.loads(sys.stdin.read()))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
