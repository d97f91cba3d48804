"""Settle as a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import pytest

from cloud_ingest.settle import plants
from cloud_ingest.settle.config import PlantFile, SettleConfig
from cloud_ingest.settle.runtime import Settler
from cloud_ingest.signals import Signals
from cloud_ingest.store.pool import Connection
from protocols.config import ConfigError
from tests.support.small_plant import HOUR_US, MIDNIGHT_US, MODEL, TENANT, SmallPlant, steady, write_plant
from tests.support.waiting import wait_until

_MINE: LiteralString = "application_name = 'cloud-ingest settle' AND datname = current_database()"


@contextmanager
def _running(dsn: str, directory: Path, signals: Signals) -> Iterator[Settler]:
    file = write_plant(directory)
    config = SettleConfig(plant=(PlantFile(tenant=TENANT, file=str(file)),), poll_interval_s=0.02)
    settler = Settler(dsn, config, plants.read(config.plant), signals)
    settler.start()
    try:
        wait_until(lambda: settler.ready, "settle is ready")
        yield settler
    finally:
        settler.stop()


def test_settle_follows_the_feed_and_survives_the_loss_of_its_connection(
    connect: Callable[[], Connection], database_dsn: str, tmp_path: Path
) -> None:
    plant = SmallPlant(connect)
    signals = Signals()
    with _running(database_dsn, tmp_path, signals) as settler:
        plant.send("dryer/energy", steady(60.0, -HOUR_US, 2 * HOUR_US))
        wait_until(lambda: bool(plant.rows(process="drying")), "there are accounts")
        plant.conn.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_MINE}")
        wait_until(lambda: settler.totals.retries > 0, "the loss was noticed")
        plant.send("dryer/energy", steady(60.0, 2 * HOUR_US, 4 * HOUR_US))
        wait_until(lambda: bool(plant.rows(process="drying", start_us=MIDNIGHT_US + 3 * HOUR_US)), "it goes on")
    samples = {sample.name: sample.value for sample in signals.snapshot()}
    assert samples["settle_rounds"] >= 2
    assert samples["settle_retries"] >= 1
    assert samples["settle_accounts_added"] > 0


def test_a_stopped_settler_leaves_no_connection(
    connect: Callable[[], Connection], database_dsn: str, tmp_path: Path
) -> None:
    plant = SmallPlant(connect)
    with _running(database_dsn, tmp_path, Signals()):
        pass
    left = f"SELECT count(*) FROM pg_stat_activity WHERE {_MINE}"
    wait_until(lambda: plant.conn.execute(left).fetchall() == [(0,)], "the connection is closed")


def test_a_wrong_plant_model_is_refused_before_anything_connects(tmp_path: Path) -> None:
    file = write_plant(tmp_path, MODEL.replace("drying", "grinding"))
    with pytest.raises(ConfigError, match=r"plant\.toml: process 'grinding'\.name"):
        plants.read([PlantFile(tenant=TENANT, file=str(file))])
    with pytest.raises(ConfigError, match=r"missing\.toml: can't be read"):
        plants.read([PlantFile(tenant=TENANT, file=str(tmp_path / "missing.toml"))])


def test_two_files_of_one_site_are_refused(tmp_path: Path) -> None:
    file = write_plant(tmp_path)
    (tmp_path / "other.toml").write_text(MODEL, encoding="utf-8")
    files = [PlantFile(tenant=TENANT, file=str(path)) for path in (file, tmp_path / "other.toml")]
    with pytest.raises(ConfigError, match="site 'works' of tenant 'acme' is described in"):
        plants.read(files)
    assert len(plants.read([files[0], files[1].model_copy(update={"tenant": "other"})])) == 2
