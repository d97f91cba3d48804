"""The benchmarks run, on next to nothing, and write figures that others can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import __main__ as command
from benchmarks import counter_kernel, edge_modbus, edge_opcua, ingest
from benchmarks.agent import Measured, Windows
from benchmarks.edge_modbus import Case
from benchmarks.edge_opcua import Size
from benchmarks.errors import BenchmarkError
from benchmarks.ingest import Size as IngestSize
from benchmarks.results import Results


def _failing(_directory: Path) -> Results:
    raise BenchmarkError("no figures today")


def test_figures_are_written_even_when_a_benchmark_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"failing": _failing, "kernel": lambda directory: counter_kernel.run(directory, 20_000, 1)}
    monkeypatch.setattr(command, "BENCHMARKS", tiny)
    out = tmp_path / "new" / "results.json"

    assert command.main(["--out", str(out)]) == 1

    assert "failing: no figures today" in capsys.readouterr().err
    found = orjson.loads(out.read_bytes())
    assert {"kernel.load_before", "cores", "counter_kernel.clean.to_memory"} <= set(found)
    for figure in found.values():
        assert set(figure) == {"value", "unit", "ratio", "against"}
        assert figure["value"] >= 0
        assert (figure["ratio"] is None) == (figure["against"] is None)
    clean = found["counter_kernel.clean.to_memory"]
    assert clean["ratio"] > 0
    assert clean["unit"] == "readings/s"


def test_a_case_of_the_agent_is_measured_to_its_end(tmp_path: Path) -> None:
    case = Case("tiny", devices=2, tags=3, connections=2, windows=Windows(count=1, length_s=0.5, settle_s=0.0))

    with edge_modbus.responder(2) as ports:
        found = edge_modbus.measure(case, ports, {"pymodbus": 1e-4, "asyncio": 2e-5}, tmp_path)

    assert found["edge_modbus.tiny.undelivered"].value == 0
    assert found["edge_modbus.tiny.rss"].value > 10
    assert found["edge_modbus.tiny.cpu"].ratio is not None
    buffered = orjson.loads((tmp_path / "report.json").read_bytes())["readings_appended"]
    assert buffered > 0
    assert buffered % case.tags == 0


def test_a_load_that_is_too_large_is_not_called_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(count=1, length_s=0.5, settle_s=0.0)
    ladder = tuple(Case("held", devices, 3, 1, windows) for devices in (1, 2, 3))
    found = edge_modbus._agent

    def late_with_two(case: Case, *rest: Any) -> Measured:
        measured = found(case, *rest)
        return replace(measured, overruns=0 if case.devices < 2 else 1)

    monkeypatch.setattr(edge_modbus, "_agent", late_with_two)
    results = edge_modbus.largest(ladder, {"pymodbus": 1e-4, "asyncio": 2e-5}, tmp_path)

    assert results["held.held"].value == 3
    assert not (tmp_path / "held_3").exists()


def test_changes_of_an_opcua_server_are_counted_and_delivered(tmp_path: Path) -> None:
    found = edge_opcua.run(tmp_path, Size(50, Windows(count=1, length_s=2.0, settle_s=1.0), least_share=0.2))

    assert found["edge_opcua.delivered"].value > 10
    assert found["edge_opcua.undelivered"].value == 0
    assert found["edge_opcua.cpu"].ratio is not None


def test_each_way_into_the_database_is_measured(postgres_dsn: str) -> None:
    size = IngestSize(points=100, per_message=50, messages=8, repeats=1, usual_messages=4)

    found = ingest.on_server(postgres_dsn, "plain", size, ingest.load(size))

    assert set(found) == {
        f"ingest.plain.{way}"
        for way in (
            "writers_1.to_copy_1",
            "writers_1.to_copy_2",
            "writers_2.to_copy_1",
            "writers_2.to_copy_2",
            "insert_on_conflict",
            "temporary_table",
        )
    }
    assert all(result.value > 0 for result in found.values())
