"""Child processes of a local stack.

Invariants

- A child writes its log to a file of its own; when it ends unasked, the error shows the log's last lines.
- A child is signalled by its own pid, and none outlives its block.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from deploy.local.errors import StackError


class Child:
    """One child process; use it as a context manager.

    Parameters
    ----------
    name
        How errors call it.
    command
        Program and arguments.
    log
        File for its standard output and error.
    environment
        Added to this process's environment.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, again if it has ended."""
        if self.running():
            raise StackError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """Process id of the running child."""
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    def running(self) -> bool:
        """Whether it is running."""
        return self._process is not None and self._process.poll() is None

    def require(self) -> None:
        """Check that it is running.

        Raises
        ------
        StackError
            With the end of its log, if it is not.
        """
        if not self.running():
            code = None if self._process is None else self._process.returncode
            raise StackError(f"{self.name} ended with exit code {code}; its log ends:\n{self.log_tail()}")

    def log_tail(self, lines: int = 15) -> str:
        """Last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait for that."""
        if self._process is not None and self.running():
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        """Ask it to end (SIGTERM), wait, and kill it only when it does not.

        Returns
        -------
        int
            Its exit code.

        Raises
        ------
        StackError
            If it had to be killed.
        """
        if self._process is None:
            return 0
        if self.running():
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            message = f"{self.name} did not end within {timeout_s:g} s; its log ends:\n{self.log_tail()}"
            raise StackError(message) from error

    def __enter__(self) -> Self:
        return self if self.running() else self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self.running():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
