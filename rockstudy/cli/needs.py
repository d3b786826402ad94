"""Memory and hours of every stage of a study on a device, and the disk space of its run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from rockstudy.beyond.freezing import arms as freezing
from rockstudy.cli import estimates, simulated, this_cpu
from rockstudy.config.fields import StudyConfig
from rockstudy.errors import StudyError
from rockstudy.selective import arms

DEVICES = [one.name for one in estimates.DEVICES]
Found = tuple[str, str, str | None]  # a subject, the result, an error line or None


def device(name: str | None, pair: estimates.ModelPair) -> estimates.Device:
    """A device by name; without one the first CUDA device with its real memory, or this CPU."""
    if name is not None:
        if name not in DEVICES:
            raise StudyError(f"device: must be one of {', '.join(DEVICES)}; got {name!r}")
        return next(one for one in estimates.DEVICES if one.name == name)
    if not torch.cuda.is_available():
        return this_cpu.device(pair.student)
    properties = torch.cuda.get_device_properties(0)
    rates = next((d for d in estimates.DEVICES if d.name in properties.name), estimates.STATED)
    return estimates.Device(rates.name, properties.total_memory, rates.flops, rates.bandwidth)


def of(
    config: StudyConfig,
    pair: estimates.ModelPair,
    run: Path,
    processes: int,
    on: estimates.Device,
    rented: bool = False,
) -> Iterator[Found]:
    """Memory and hours of every stage, and disk space of the run; what is wrong where too small.

    A machine to be `rented` has the device, and as much memory and disk of its own as is needed.
    """
    cpu = on.name == this_cpu.NAME
    host = math.inf if rented else this_cpu.memory()
    try:
        if cpu:
            made = [(cost, False) for cost in estimates.stages(config, pair, processes, on)]
        else:
            made = list(simulated.stages(config, pair, processes, on))
    except StudyError:  # the check of batches reports it
        made = []
    for stage, is_simulated in made:
        on_host = stage.host or cpu
        has, where = (host, "this machine") if on_host else (on.memory, f"one {on.name}")
        how = "simulated" if is_simulated else "estimated"
        found = f"{size(stage.memory)}, {_hours(stage.hours)} at most, {how}: {_parts(stage.parts)}"
        line = f"{stage.stage}: must fit {where}; needs {size(stage.memory)}, has {size(has)}"
        if not on_host and stage.memory > has:
            fits = simulated.advice(config, pair, stage, processes, on)
            line += f"; it fits with {fits}" if fits else ""
        yield stage.stage, found, line if stage.memory > has else None
    yield "hours", _rates(config, on), None
    parts = estimates.disk(config, pair.student)
    needed = sum(parts.values())
    if rented:
        yield "disk", f"{size(needed)}: {_parts(parts)}", None
        return
    free = shutil.disk_usage(_existing(run)).free
    line = f"disk: must have {size(needed)} free; {_existing(run)} has {size(free)}"
    yield (
        "disk",
        f"{size(needed)} of {size(free)} free: {_parts(parts)}",
        (line if needed > free else None),
    )


def _rates(config: StudyConfig, on: estimates.Device) -> str:
    planned = arms.plan(config) + freezing.plan(config) if config.models is None else []
    many = f"stage2 is trained {len(planned)} times by all arms and seeds"
    if on.name == this_cpu.NAME:
        measured = f"measured here for {this_cpu.SECONDS:g} s"
        return f"for {on.name}: {this_cpu.described(on)}, {measured}; {many}"
    rates = f"{estimates.TRAINING:.0%} of its FLOPs, {estimates.READING:.0%} of its bandwidth"
    return f"for {on.name} in bf16 at {rates}; {many}"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def size(size: float) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _parts(parts: Mapping[str, float]) -> str:
    """The parts of at least a hundredth of the whole, the largest first."""
    least = sum(parts.values()) / 100
    largest = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {size(value)}" for name, value in largest if value >= least)
