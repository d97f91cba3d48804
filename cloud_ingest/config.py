"""Configuration of the cloud side: the whole of ``ingest.toml``; each part is described where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import model_validator

from cloud_ingest.api.config import ApiConfig
from cloud_ingest.ingest.config import IngestConfig, MqttConfig
from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.store.config import StoreConfig
from protocols import config
from protocols.config import ConfigError, Model

Role = Literal["ingest", "settle", "api"]
M = TypeVar("M", bound=Model)


class Config(Model):
    """The whole file.

    Attributes
    ----------
    roles
        What ``run`` starts in this process.
    store, mqtt, ingest, settle, api
        The sections; mqtt is needed by the role ingest only.
    """

    roles: tuple[Role, ...] = ("ingest", "settle", "api")
    store: StoreConfig
    mqtt: MqttConfig | None = None
    ingest: IngestConfig = IngestConfig()
    settle: SettleConfig = SettleConfig()
    api: ApiConfig = ApiConfig()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.roles or len(set(self.roles)) != len(self.roles):
            raise ValueError(f"roles {list(self.roles)}; allowed: one or more of ingest, settle, api, each once")
        if "ingest" in self.roles and self.mqtt is None:
            raise ValueError("role ingest needs a section [mqtt]")
        return self


def sample() -> str:
    """A commented sample that passes ``check-config``."""
    return (resources.files("cloud_ingest") / "sample.toml").read_text(encoding="utf-8")


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read and check a configuration file; file names in it are taken relative to its directory.

    Raises
    ------
    ConfigError
        With every problem found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    return _placed(config.parse(text, Config, path.name, environment), path.parent)


def _placed(found: Config, directory: Path) -> Config:
    """The configuration with file names made relative to a directory."""
    changes: dict[str, Any] = {"store": _files_in(found.store, directory)}
    if found.mqtt is not None:
        tls = None if found.mqtt.tls is None else _files_in(found.mqtt.tls, directory)
        changes["mqtt"] = _files_in(found.mqtt, directory).model_copy(update={"tls": tls})
    plants = tuple(plant.model_copy(update={"file": str(directory / plant.file)}) for plant in found.settle.plant)
    changes["settle"] = found.settle.model_copy(update={"plant": plants})
    return found.model_copy(update=changes)


def _files_in(part: M, directory: Path) -> M:
    paths = {name: directory / value for name, value in part if isinstance(value, Path)}
    return part.model_copy(update=paths)
