"""The command `rockstudy view`: a run's rollouts as text with a colour for each token."""

from pathlib import Path
from typing import Annotated

import typer

from rockstudy import runs
from rockstudy.cli import messages
from rockstudy.cli.export_commands import folder_of


def view(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a folder under runs/.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The committed tables of this preset instead of RUN.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="File to write; viewer.html in the run's folder by default."),
    ] = None,
    rollouts: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="How many to show, spread by loss (default: 24)."),
    ] = None,
) -> None:
    """Write rollouts with their tokens coloured by loss as one HTML file, and print its path."""
    folder = folder_of(run_id, reference)
    from rockstudy.rocks.likeliest import SHOWN  # these import torch and transformers
    from rockstudy.viewer import study

    messages.release()
    print(study.write(runs.opened(folder), to, SHOWN if rollouts is None else rollouts))
