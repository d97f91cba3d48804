"""The benchmarks that exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import counter_kernel, edge_install, edge_modbus, edge_opcua, ingest
from benchmarks.results import Results

BENCHMARKS: dict[str, Callable[[Path], Results]] = {
    "edge_modbus": edge_modbus.run,
    "edge_largest": edge_modbus.run_largest,
    "edge_opcua": edge_opcua.run,
    "ingest": ingest.run,
    "counter_kernel": counter_kernel.run,
    "edge_install": edge_install.run,
}
"""Name to what runs it, given an empty directory that is removed afterwards."""
