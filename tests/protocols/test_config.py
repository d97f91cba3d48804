from __future__ import annotations

from typing import Literal, Self

import pytest
from pydantic import Field, SecretStr, ValidationError, model_validator

from protocols import config
from protocols.config import ConfigError, Model


class Tag(Model):
    name: str
    unit: Literal["kWh", "kW"] = "kWh"
    port: int = 502


class Device(Model):
    name: str
    tag: tuple[Tag, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({tag.name for tag in self.tag}) < len(self.tag):
            raise ValueError("two tags of one name; allowed: one of each name")
        return self


class Broker(Model):
    host: str = "127.0.0.1"
    port: int = Field(default=1883, gt=0)
    password: str = Field(default="", max_length=4)
    api_token: SecretStr | None = None


class Root(Model):
    device: tuple[Device, ...] = ()
    broker: Broker = Broker()


def parse(text: str, **environment: str) -> Root:
    return config.parse(text, Root, "agent.toml", environment)


def test_a_document_becomes_a_model_that_cannot_be_changed() -> None:
    found = parse('[[device]]\nname = "mill"\n[[device.tag]]\nname = "energy"\n')
    assert found == Root(device=(Device(name="mill", tag=(Tag(name="energy"),)),))
    with pytest.raises(ValidationError, match="frozen"):
        found.device = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "agent.toml: colour: unknown key; allowed keys are those that print-config shows (found 1)"),
        ("[broker]\nhots = 'x'", "agent.toml: broker.hots: unknown key"),
        ("[[device]]\nname = 'mill'\nsped = 3", "agent.toml: device 'mill'.sped: unknown key"),
        (
            "[[device]]\nname = 'mill'\n[[device.tag]]\nname = 'energy'\nunit = 'MJ'",
            "agent.toml: device 'mill'.tag 'energy'.unit: Input should be 'kWh' or 'kW' (found 'MJ')",
        ),
        (
            "[[device]]\nname = 'mill'\n[[device.tag]]\nname = 'energy'\nport = 'x'",
            "agent.toml: device 'mill'.tag 'energy'.port: ",
        ),
        ("[[device]]\n[[device.tag]]\nunit = 'kWh'", "agent.toml: device[0].tag[0].name: Field required"),
        (
            "[[device]]\nname = 'mill'\n[[device.tag]]\nname = 'a'\n[[device.tag]]\nname = 'a'",
            "agent.toml: device 'mill': two tags of one name; allowed: one of each name",
        ),
        ("[broker]\nport = 0", "agent.toml: broker.port: Input should be greater than 0 (found 0)"),
        ("device = 3", "agent.toml: device: "),
        ("[broker", "agent.toml: not TOML: "),
    ],
)
def test_a_problem_is_told_with_file_place_value_and_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_every_problem_is_told_one_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("colour = 1\n[broker]\nport = -1\n[[device]]\n[[device]]\nname = 'b'\nx = 1")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("agent.toml: ") for line in lines)


def test_variables_of_the_environment_are_put_in() -> None:
    text = "[broker]\nhost = '${HOST}'\nport = '${PORT:-1884}'\n[[device]]\nname = '${A:-a}-${B:-}x'"
    found = parse(text, HOST="10.0.0.1", B="b")
    assert (found.broker.host, found.broker.port) == ("10.0.0.1", 1884)
    assert found.device[0].name == "a-bx"
    assert parse(text, HOST="h", PORT="99").broker.port == 99


def test_a_missing_variable_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml: broker\.host: environment variable HOST is not set"):
        parse("[broker]\nhost = '${HOST}'")


def test_text_that_only_looks_like_a_variable_stays() -> None:
    assert parse("[broker]\nhost = '$HOST {HOST} ${1} $${}'").broker.host == "$HOST {HOST} ${1} $${}"


def test_a_variable_is_put_in_once() -> None:
    assert parse("[broker]\nhost = '${A}'", A="${B}", B="x").broker.host == "${B}"


@pytest.mark.parametrize("key", ["password", "passwords", "tokens", "secret_sauce", "ssl_key"])
def test_a_secret_is_not_printed(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[broker]\n{key} = 'hunter2'\nport = 0\nhost = 5")
    assert "hunter2" not in str(caught.value)
    assert f"broker.{key}" in str(caught.value)


def test_a_secret_from_the_environment_is_not_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("[broker]\npassword = '${S}'", S="hunter2")
    assert "hunter2" not in str(caught.value)
    assert "agent.toml: broker.password: String should have at most 4 characters (found ***)" in str(caught.value)
