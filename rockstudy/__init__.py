"""Which tokens does on-policy distillation fail to learn, and does it matter.

The functions for a notebook of one's own are those of `rockstudy.api`, under ``import rockstudy as
rs``; they import torch when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rockstudy.api import (
        checkpoints,
        knockout,
        read_rollouts,
        rocks,
        sample,
        token_table,
        view,
        weights,
    )

__version__ = "0.1.0"
__all__ = [
    "checkpoints",
    "knockout",
    "read_rollouts",
    "rocks",
    "sample",
    "token_table",
    "view",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rockstudy import api

    return getattr(api, name)
