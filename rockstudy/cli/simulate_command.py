"""The command `rockstudy simulate`: a study's training steps and token table, without a device."""

from pathlib import Path
from typing import Annotated

import typer

from rockstudy.cli import options
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError


def simulate_command(
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    parameter: options.Given = None,
    processes: Annotated[
        int, typer.Option(min=1, max=1024, help="How many processes train together.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; simulations by default.")
    ] = None,
) -> None:
    """Simulate a step of each training, and the token table, for CUDA devices; nothing is trained.

    Takes a minute or a few for large models. The dry run of the same study then shows the results.
    """
    from rockstudy import progress
    from rockstudy.cli import dry_run, simulated
    from rockstudy.simulation import tables

    fields = options.fields(parameter or [])
    study = from_parameters(options.chosen(preset, config) or "lab", None, **fields)
    sizes = dry_run.dimensions(study)
    if sizes is None:
        raise StudyError("pair: must be models whose configuration is known to be simulated")
    asked = simulated.specifications(study, sizes, processes)
    if not asked:
        raise StudyError(
            "simulate: must be a study that trains without adapters, both models on one device"
        )
    with progress.bar(len(asked), "simulation", "part") as bar:
        for name, spec in asked.items():
            found = tables.current(spec) if out is None else None
            found = found or tables.simulated(spec)
            tables.store(spec, found, out or tables.own())
            print(f"{name:<12}{found['peak'] / 1e9:8.2f} GB at the peak")
            bar.update(1)
