"""Files written whole or not at all, in the two formats of the study: parquet and safetensors.

The same frame gives the same bytes (no time stamps, one writer version). No pickle: a column of
Python objects is refused unless Arrow holds it as text or as lists.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rockstudy.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor


_DISK = "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO EISDIR ENOTDIR".split()
_CODES = [getattr(errno, name) for name in _DISK]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_AGAIN = "free some space and run again, what is stored is kept"
_TORCH = ("PytorchStreamWriter", "unexpected pos")  # how torch.save reports a short write


def named(path: Path, suffix: str) -> Path:
    """Append a suffix (names may hold dots)."""
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn what a full or closed disk raises into one line; other errors are not about ``file``."""
    try:
        yield
    except Exception as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        raise StudyError(f"{file}: cannot be written, {reason}") from None


def _disk_error(error: BaseException | None) -> str | None:
    """What the system, safetensors (``os error 28``) or torch tells about a disk; else None."""
    if error is None or isinstance(error, StudyError):
        return None
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    if number in _CODES:
        return os.strerror(number) + (f"; {_AGAIN}" if number in _FULL else "")
    if not isinstance(error, RuntimeError) or not any(text in str(error) for text in _TORCH):
        return None
    return _disk_error(error.__context__) or f"torch wrote only a part; {_AGAIN}"


@contextlib.contextmanager
def temporary(file: Path) -> Iterator[Path]:
    """Yield a hidden name beside ``file`` to write to; whatever is left there is removed."""
    for left in file.parent.glob(f".{glob.escape(file.name)}.*.tmp"):  # of killed processes
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not _alive(int(pid)):
            left.unlink(missing_ok=True)
    waiting = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield waiting
    finally:
        waiting.unlink(missing_ok=True)


def sync(file: Path) -> None:
    """Wait until a file's bytes are on the disk, so that no rename can overtake them."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def remove(*paths: Path) -> None:
    """Remove files and folders; those that are not there are passed over."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def put(waiting: Path, file: Path) -> None:
    """Rename a file to its name, which a folder may have taken."""
    if file.is_dir():
        remove(file)
    waiting.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; `ValueError` for anything else, such as one nested too deep to read."""
    if file.exists() and not file.is_file():  # a pipe would never end
        raise ValueError(f"{file}: must be a file")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: must be a JSON object")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name and rename it."""
    with temporary(file) as waiting:
        dump_json(waiting, value)
        put(waiting, file)


def dump_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in place and wait for the disk."""
    text = json.dumps(value, indent=1, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")
    sync(file)


def write_frame(frame: pd.DataFrame, file: Path, name: str) -> None:
    """Write a frame as parquet; ``name`` is what errors call it.

    `StudyError`: an index that would be lost, or a column that would not come back as it was.
    """
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        raise StudyError(f"{name}: the index must be 0 to {len(frame) - 1}; got another one")
    columns = list(frame.columns)
    if len(set(columns)) < len(columns) or not all(isinstance(c, str) for c in columns):
        raise StudyError(f"{name}: column names must be distinct text; got {columns}")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise StudyError(f"{name}: {' '.join(str(error).split())}") from None
    for field in table.schema:
        if not _comes_back(field.type, frame[field.name].dtype == object):
            legal = "numbers, booleans, text or dates of one type, or lists of them"
            raise StudyError(f"{name}: column {field.name} must hold {legal}; got {field.type}")
    leaves = dict(_leaf(field.name, field.type) for field in table.schema)
    measured = [path for path, kind in leaves.items() if pa.types.is_floating(kind)]
    # a dictionary of measured numbers is larger than they are; their bytes apart compress well
    encodings: dict[str, Any] = {
        "use_dictionary": [path for path in leaves if path not in measured],
        "use_byte_stream_split": measured,
    }
    pq.write_table(table, file, compression="zstd", **encodings)


def _leaf(path: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """Where parquet stores the values of a column, through its lists, and their type."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return path, kind


def _comes_back(kind: pa.DataType, is_object: bool) -> bool:
    is_ = pa.types
    if is_.is_list(kind) or is_.is_large_list(kind):
        return _comes_back(kind.value_type, False)
    if is_object:  # Python numbers, dates or booleans with gaps would return as another type
        return is_.is_string(kind) or is_.is_large_string(kind) or is_.is_null(kind)
    # an empty table would lose the categories of a dictionary
    return not (is_.is_dictionary(kind) or is_.is_nested(kind) or is_.is_binary(kind))


def read_frame(file: Path) -> pd.DataFrame:
    """Read what `write_frame` wrote; lists come back as arrays."""
    return pq.read_table(file).to_pandas()


def write_tensors(tensors: "dict[str, Tensor]", file: Path) -> None:
    """Write tensors as safetensors, each with its own storage."""
    from safetensors.torch import save  # torch takes seconds to import

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    file.write_bytes(save(whole))


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """Read what `write_tensors` wrote, on the CPU."""
    from safetensors.torch import load_file

    return load_file(file)


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder by their relative names, sorted by path."""
    below = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): hash_file(file) for file in below}


def hash_folder(folder: Path) -> str:
    """SHA-256 over the sorted relative names and the bytes of all files below a folder."""
    lines = (f"{name}\0{digest}\n" for name, digest in hashes(folder).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # another user's is alive
    return True


def link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    with temporary(Path(target)) as waiting:
        try:
            os.link(source, waiting)
        except OSError:
            shutil.copy2(source, waiting)
        put(waiting, Path(target))
