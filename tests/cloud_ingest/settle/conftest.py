"""A small plant in a migrated database, on each edition in turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloud_ingest.store.pool import Connection
from tests.support.small_plant import SmallPlant


@pytest.fixture
def plant(connect: Callable[[], Connection]) -> SmallPlant:
    """A small plant whose agent has announced its points."""
    return SmallPlant(connect)
