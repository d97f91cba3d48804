"""The fleet file: what the plant does, which devices measure it, and where they listen.

Everything that can be known without a socket is checked here and in `device_sims.fleet`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, model_validator

from device_sims.faults import Fault
from device_sims.kinds import registry
from device_sims.plant.description import Finite, MainMeter, Name, PlantConfig, Step, Use, distinct
from protocols import birth
from protocols.clock import ClockConfig
from protocols.meters.schema import RegisterMap

Port = Annotated[int, Field(ge=0, le=65_535)]
"""0: any free port; the ready line says which."""


class LogConfig(Finite):
    """What goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["text", "json"] = "text"


class LocalModel(RegisterMap):
    """A meter model that is not in the catalogue."""

    name: Name


class Device(Finite):
    """A simulated device on a gateway.

    Attributes
    ----------
    unit_id
        On its gateway.
    kind
        Simulated kind; see `device_sims.kinds`.
    model
        Of ``[[model]]`` in this file, or else of the catalogue.
    series
        Role → series that the device measures. Empty: its main role measures the series of its own name.
    start
        Field → what the counter shows at the start [unit of the field]; others start at 0.
    modulus
        Field → where the counter starts again from 0 [unit of the field]; others as the model says.
    holes
        Registers between the model's fields read as zero, or are refused with exception 2.
    fault
        What goes wrong, and when.
    options
        Of the kind.
    """

    name: Name
    unit_id: int = Field(ge=0, le=255)
    kind: str
    model: str
    series: dict[str, Name] = Field(default_factory=dict)
    start: dict[str, float] = Field(default_factory=dict)
    modulus: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    holes: Literal["zero", "refuse"] = "zero"
    fault: Fault | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def measures(self) -> dict[str, str]:
        """Role → series, the default filled in."""
        return self.series or {next(iter(registry.KINDS[self.kind].roles)): self.name}

    @model_validator(mode="after")
    def _kind(self) -> Self:
        kind = registry.KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"kind {self.kind!r} is unknown; allowed: {', '.join(sorted(registry.KINDS))}")
        try:
            kind.options.model_validate(self.options)
        except pydantic.ValidationError as error:
            raise ValueError(f"options: {birth.explain(error)}") from error
        for role in self.series:
            if role not in kind.roles:
                raise ValueError(f"series has role {role!r}; allowed for {self.kind}: {', '.join(kind.roles)}")
        return self


class Gateway(Finite):
    """A Modbus TCP listener with devices behind it.

    Attributes
    ----------
    unknown_unit
        What a request for another unit id gets: no answer, or exception 0x0B.
    max_connections
        Further ones are closed at once.
    devices
        In TOML ``[[gateway.device]]``.
    """

    name: Name
    host: str = "127.0.0.1"
    port: Port
    unknown_unit: Literal["silent", "exception"] = "silent"
    max_connections: int = Field(default=32, ge=1)
    devices: tuple[Device, ...] = Field(alias="device", min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        distinct("devices with unit_id", (device.unit_id for device in self.devices))
        return self


class Node(Finite):
    """A variable of an OPC-UA server.

    Attributes
    ----------
    id
        String identifier of its node id, such as ``kiln.clinker_total``; what stands before the last dot is
        the object that holds it.
    value
        The total or the rate of a series, or whether a machine runs.
    of
        Series or machine.
    start
        What a total shows at the start [unit of the series].
    modulus
        Totals: where they start again from 0 [unit of the series].
    """

    id: str = Field(pattern=r"^[\w\-]+(\.[\w\-]+)*$")
    value: Literal["total", "rate", "running"]
    of: Name
    start: float = 0.0
    modulus: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.value != "total" and (self.start or self.modulus is not None):
            raise ValueError(f"start or modulus on node {self.id!r} with value {self.value!r}; allowed: on totals")
        return self


class OpcUaServer(Finite):
    """An OPC-UA server: anonymous, without security.

    Attributes
    ----------
    kind
        Simulated kind; see `device_sims.kinds`.
    tick_ms
        All variables are written so often [real ms].
    tick_plant_s
        The same in plant time [s]; give one of the two.
    nodes
        In TOML ``[[opcua.node]]``.
    """

    name: Name
    kind: str = "dcs"
    host: str = "127.0.0.1"
    port: Port
    tick_ms: float | None = Field(default=None, ge=5, le=60_000)
    tick_plant_s: float | None = Field(default=None, gt=0)
    nodes: tuple[Node, ...] = Field(alias="node", min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind not in registry.SERVER_KINDS:
            raise ValueError(f"kind {self.kind!r} is unknown; allowed: {', '.join(sorted(registry.SERVER_KINDS))}")
        if (self.tick_ms is None) == (self.tick_plant_s is None):
            raise ValueError("tick_ms and tick_plant_s; allowed: exactly one of them")
        distinct("nodes", (node.id for node in self.nodes))
        return self


class FleetConfig(Finite):
    """A fleet file.

    Attributes
    ----------
    steps, uses, main, models, gateways, opcua
        In TOML ``[[step]]``, ``[[use]]``, ``[main]``, ``[[model]]``, ``[[gateway]]``, ``[[opcua]]``.
    """

    plant: PlantConfig
    clock: ClockConfig = ClockConfig()
    log: LogConfig = LogConfig()
    steps: tuple[Step, ...] = Field(alias="step", min_length=1)
    uses: tuple[Use, ...] = Field(default=(), alias="use")
    main: MainMeter | None = None
    models: tuple[LocalModel, ...] = Field(default=(), alias="model")
    gateways: tuple[Gateway, ...] = Field(default=(), alias="gateway")
    opcua: tuple[OpcUaServer, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        listeners: tuple[Gateway | OpcUaServer, ...] = (*self.gateways, *self.opcua)
        distinct("machines", (machine.name for step in self.steps for machine in step.machines))
        distinct("uses", (use.name for use in self.uses))
        distinct("models", (model.name for model in self.models))
        distinct("gateways or servers", (listener.name for listener in listeners))
        distinct("devices", (device.name for gateway in self.gateways for device in gateway.devices))
        distinct("listeners at", (f"{each.host}:{each.port}" for each in listeners if each.port))
        if not listeners:
            raise ValueError("neither gateway nor opcua; allowed: at least one, or nothing is served")
        return self
