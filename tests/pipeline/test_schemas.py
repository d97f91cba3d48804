"""Each program exports the JSON Schema of its file, and its own sample fits the schema's outline."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable

import pytest

from accounting.__main__ import main as accounting
from cloud_ingest.__main__ import main as cloud_ingest
from device_sims.__main__ import main as device_sims
from edge_agent.__main__ import main as edge_agent


@pytest.mark.parametrize("main", [edge_agent, cloud_ingest, accounting, device_sims])
def test_the_schema_of_a_configuration_describes_its_sample(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["print-config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert main(["print-config"]) == 0
    sample = tomllib.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert sample.keys() <= schema["properties"].keys()
    assert set(schema.get("required", ())) <= sample.keys()
