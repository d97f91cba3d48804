"""Fleets that run in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio

from device_sims.config import FleetConfig
from device_sims.fleet import Fleet

Start = Callable[..., Awaitable[Fleet]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Start]:
    """Start fleets; they are stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(config: FleetConfig, truth: Path | None = None) -> Fleet:
            fleet = Fleet(config, truth)
            await fleet.start()
            stack.push_async_callback(fleet.stop)
            return fleet

        yield start
