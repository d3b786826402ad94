"""What the command writes beside its results: lines on stderr, and nothing of libraries before one.

Until a command is accepted, whatever libraries write to stderr waits in a temporary file. A refused
command throws it away, so that its one line stands alone; otherwise it follows.
"""

import codecs
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from rockstudy.errors import line

_KEPT: list[str] = []  # what an interrupted command has kept
_WAITING: list[tuple[int, IO[bytes]]] = []  # stderr's own descriptor, and the file in its place


def say(text: str) -> None:
    """Print a line to stderr, which results do not share, below progress bars that are open."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm and tqdm.tqdm, "_instances", ())):
        bar.leave = True  # closing then ends the bar's line
        bar.close()
    with contextlib.suppress(OSError):  # a stderr that nobody reads any more
        print(line(text), file=sys.stderr, flush=True)


def interrupted(text: str) -> None:
    """Note what an interrupted command has kept and how to go on, for its one line."""
    _KEPT.append(text)


def kept() -> str:
    """Return what `interrupted` noted last."""
    return _KEPT.pop() if _KEPT else "the same command continues from what is stored"


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let stderr wait until `release`, or until the block ends; an error throws it away."""
    with contextlib.suppress(OSError):  # without room for the file nothing waits
        file = tempfile.TemporaryFile()  # noqa: SIM115, `release` closes it
        _WAITING.append((os.dup(2), file))
        os.dup2(file.fileno(), 2)
    try:
        yield
    except Exception:
        release(keep=False)
        raise
    finally:
        release()


def release(keep: bool = True) -> None:
    """Write what waits to stderr, or throw it away, and let nothing wait any more."""
    while _WAITING:
        own, file = _WAITING.pop()
        sys.stderr.flush()
        os.dup2(own, 2)
        os.close(own)
        file.seek(0)
        with file, open(2, "wb", closefd=False) as stderr:
            if keep:
                shutil.copyfileobj(file, stderr)


def show_every_character() -> None:
    r"""Have stdout and stderr write ``\u2026`` for a character that their encoding does not have.

    TOML and JSON read these escapes in their texts.
    """
    codecs.register_error("rockstudy", _escapes)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="rockstudy")


def _escapes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{c:04x}" if c < 0x10000 else f"\\U{c:08x}" for c in codes), error.end
