"""What the file system has left for the buffer."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SUFFIXES = ("", "-wal", "-shm")
"""Of the files that make a database in WAL mode."""
_FLOOR_BYTES = 200_000_000
_FLOOR_SHARE = 0.05


def space(path: Path) -> tuple[int, int]:
    """What is free for us on the file system of a file, and how large it is [B]."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def floor_bytes(setting: int | None, total: int) -> int:
    """What is to stay free on a file system of this size [B]."""
    return setting if setting is not None else min(_FLOOR_BYTES, round(total * _FLOOR_SHARE))


def taken(path: Path) -> int:
    """What a database and its log take [B]."""
    size = 0
    for suffix in SUFFIXES[:2]:
        with contextlib.suppress(FileNotFoundError):
            size += Path(f"{path}{suffix}").stat().st_size
    return size
