"""A lock that keeps a second process from opening the same buffer file.

It is held by the process and falls with it, so a file left behind by a crash locks nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edge_agent.errors import OutboxLockedError


class FileLock:
    """An exclusive lock on ``<path>.lock``.

    Raises
    ------
    OutboxLockedError
        If another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.lock")
        # No truncation before the lock is ours: the holder's pid is in the file.
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise OutboxLockedError(
                f"buffer {path} is in use by process {holder}; allowed: one agent per buffer file"
            ) from error
        os.truncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others open the buffer."""
        os.close(self._file)
