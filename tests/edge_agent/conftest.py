"""What tests of the agent share.

Its event loop must never be blocked: a blocking call from its code fails the test. Peers that share no code with it
are C programs on libmodbus and open62541.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tests.support import debian, libmodbus, open62541


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("edge_agent") as found:
        yield found


def _program(source: Path, directory: Path, *libraries: str) -> list[str]:
    """Arguments that run a program of `tests/support`; where there is none, see docs/testing.md."""
    try:
        return debian.compiled(source, directory, *libraries)
    except debian.RootError as error:
        message = f"a real service is missing: {error}"
        if os.environ.get("METERCARBON_REQUIRE_SERVICES", "") not in ("", "0"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def libmodbus_server(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that run the Modbus server on libmodbus."""
    return _program(libmodbus.SOURCE, tmp_path_factory.mktemp("libmodbus"), *libmodbus.LIBRARIES)


@pytest.fixture(scope="session")
def open62541_server(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that run the OPC-UA server on open62541."""
    return _program(open62541.SOURCE, tmp_path_factory.mktemp("open62541"), *open62541.LIBRARIES)
