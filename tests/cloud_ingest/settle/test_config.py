"""The [settle] and [api] parts of ingest.toml refuse what can't work."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cloud_ingest.api.config import ApiConfig
from cloud_ingest.settle.config import SettleConfig


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (SettleConfig, {"plant": [{"tenant": "a", "file": "p.toml"}] * 2}, "named twice; allowed: once"),
        (
            SettleConfig,
            {"plant": [{"tenant": "a/b", "file": "p.toml"}]},
            "tenant 'a/b' is not allowed; allowed: 1 to 64",
        ),
        (SettleConfig, {"poll_interval_s": 0}, "greater than 0"),
        (SettleConfig, {"closing_delay": 5}, "closing_delay"),
        (ApiConfig, {"tenant": "#"}, "tenant '#' is not allowed"),
        (ApiConfig, {"port": 70_000}, "less than or equal to 65535"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(
    model: type[SettleConfig] | type[ApiConfig], values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=r"(?s)validation error") as caught:
        model.model_validate(values)
    assert words in str(caught.value)


def test_the_api_listens_on_loopback_unless_told_otherwise() -> None:
    assert ApiConfig().host == "127.0.0.1"
