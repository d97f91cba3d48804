"""Runs a fleet until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import orjson

from device_sims.fleet import Fleet

_SWITCH_INTERVAL_S = 0.0005
"""Longest wait of the loop for a thread that computes plant days; at high clock speeds each ms counts."""


async def run(fleet: Fleet) -> None:
    """Serve until SIGTERM or SIGINT; print one line of JSON when all sockets listen."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    await fleet.start()
    try:
        # The OPC-UA address space is large and stays: keep the collector from walking through it.
        gc.collect()
        gc.freeze()
        sys.stdout.buffer.write(orjson.dumps({"ready": fleet.ready()}) + b"\n")
        sys.stdout.buffer.flush()
        await fleet.wait_until(stop)
    finally:
        await fleet.stop()
        fleet.signals.report()
