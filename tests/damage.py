"""Five ways in which a file is damaged, for the tests of what notices it."""

from pathlib import Path


def cut(file: Path) -> None:
    """Lose the last third, as a full disk or a killed copy does."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])


def empty(file: Path) -> None:
    """Lose all bytes."""
    file.write_bytes(b"")


def zero(file: Path) -> None:
    """Turn all bytes to zeros, as a crash before the disk was written does."""
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def delete(file: Path) -> None:
    """Remove the file."""
    file.unlink()


WAYS = (cut, empty, zero, flip, delete)
