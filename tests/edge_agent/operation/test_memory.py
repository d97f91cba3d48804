"""What a start takes for a moment does not stay."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from edge_agent.operation import memory

_PROGRAM = """
import os, sys
from edge_agent.operation import memory

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if "tuned" in sys.argv:
    memory.return_large_blocks()
before = resident_bytes()
for _ in range(3):
    block = b"x" * 20_000_000
    del block
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_large_blocks_are_given_back_as_soon_as_they_are_free() -> None:
    command = [sys.executable, "-c", _PROGRAM, "tuned"]
    kept = int(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    assert kept < 10_000_000


def test_a_library_that_cannot_be_tuned_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())

    memory.return_large_blocks()
    memory.return_all()
