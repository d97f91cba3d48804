"""What a process has used so far, from ``/proc``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time so far [s], resident memory now and at its largest [MB]."""

    cpu_s: float
    rss_mb: float
    peak_mb: float


def usage(pid: int) -> Usage:
    """Usage of a running process: of all threads that it has now, to the nanosecond."""
    folder = Path("/proc") / str(pid)
    # The times in `stat` count in hundredths of a second, too coarse for a share of a hundredth.
    cpu_ns = sum(int(task.read_text().split()[0]) for task in folder.glob("task/*/schedstat"))
    pages = int((folder / "statm").read_text().split()[1])
    lines = (folder / "status").read_text().splitlines()
    (peak_kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return Usage(cpu_ns / 1e9, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, int(peak_kib) * 1024 / 1e6)
