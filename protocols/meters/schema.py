"""What a meter model file says: where each quantity is in a device's registers and what it means.

A model is a fact about a product on the market, so it names the document it was checked against. Inline
fields of a configuration have the same form (`RegisterMap`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import pydantic
from pydantic import ConfigDict, field_validator, model_validator

from protocols import quantities, topics
from protocols.config import Model
from protocols.errors import ProtocolError
from protocols.modbus.limits import Limits, TableName
from protocols.modbus.words import TEXT_TYPES, Order, RegisterType, encode, register_count
from protocols.quantities import Kind, Medium

__all__ = ["Field", "Limits", "MeterModel", "Order", "RegisterMap", "RegisterType", "SourceStatus", "TableName"]

SourceStatus = Literal["seen", "recalled"]
"""Whether the source was read when the file was written, or the map is from memory and needs checking."""


class Field(Model):
    """One value of a device.

    Attributes
    ----------
    name
        Default tag name.
    quantity, unit, kind
        See `protocols.quantities`.
    table
        Data table.
    address
        First entry, zero-based as in the request (a manual's 30001 or 40001 is 0).
    type
        How the value is coded, see `protocols.modbus.words`; ``bool`` in coils and discrete inputs, and only there.
    bit
        Type ``bit``: which one of the register, 0 the lowest.
    length
        Types ``string`` and ``hex``: how many registers.
    scale, offset
        ``value = raw * scale + offset``, in `unit`.
    no_value
        Raw integer by which the device says that it has no value; read as bad, never as a number.
    modulus
        Counters: the value at which the register starts again from 0 [unit].
    accuracy_class
        As printed on the meter.
    description
        What the number alone does not say.
    word_order, byte_order
        Where they differ from the model's.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    quantity: str
    unit: str
    kind: Kind
    table: TableName
    address: int = pydantic.Field(ge=0, le=65_535)
    type: RegisterType
    bit: int | None = pydantic.Field(default=None, ge=0, le=15)
    length: int | None = pydantic.Field(default=None, ge=1, le=125)
    scale: float = 1.0
    offset: float = 0.0
    no_value: int | None = None
    modulus: float | None = pydantic.Field(default=None, gt=0)
    accuracy_class: str | None = None
    description: str = ""
    word_order: Order | None = None
    byte_order: Order | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return topics.check_name("name", value)
        except ProtocolError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        bits = self.table in ("coil", "discrete")
        if (self.type == "bool") != bits:
            allowed = "bool" if bits else "all but bool"
            raise ValueError(f"type {self.type!r} in table {self.table!r}; allowed: {allowed}")
        for key, types in (("bit", ("bit",)), ("length", TEXT_TYPES)):
            given = getattr(self, key)
            if (given is not None) != (self.type in types):
                found = "is missing" if given is None else f"{given}"
                raise ValueError(
                    f"{key} {found} on type {self.type!r}; allowed: with {' and '.join(types)}, and needed"
                )
        if self.address + self.count > 65_536:
            raise ValueError(
                f"address {self.address} with {self.count} registers; allowed: up to {65_536 - self.count}"
            )
        if self.scale == 0:
            raise ValueError("scale 0 would make every value 0; allowed: any other number")
        if not self.is_raw and self.value_type in ("bool", "text"):
            what = "a bit" if self.value_type == "bool" else "a text"
            raise ValueError(f"scale {self.scale!r}, offset {self.offset!r} on {what}; allowed: 1 and 0")
        if self.no_value is not None and (self.value_type in ("bool", "text") or self.type.startswith("float")):
            raise ValueError(f"no_value {self.no_value} on type {self.type!r}; allowed: on integers only")
        if self.no_value is not None:
            try:
                encode(self.type, self.no_value)
            except ProtocolError as error:
                raise ValueError(f"no_value: {error}") from error
        if self.value_type == "text" and self.quantity != "text":
            raise ValueError(f"type {self.type!r} on quantity {self.quantity!r}; allowed: on quantity text only")
        if self.modulus is not None and self.kind != "counter":
            raise ValueError(f"modulus {self.modulus:g} on a {self.kind}; allowed: on counters only")
        return self

    @property
    def count(self) -> int:
        """Table entries it takes: registers, or one coil."""
        return register_count(self.type, self.length or 0)

    @property
    def part(self) -> int:
        """Which bit of the register, or how many registers; 0 where the type says all."""
        return self.bit or self.length or 0

    @property
    def is_raw(self) -> bool:
        """Whether the value is the register's content as it is."""
        return self.scale == 1 and self.offset == 0

    @property
    def value_type(self) -> Literal["float", "int", "bool", "text"]:
        """How its readings are sent and stored: unscaled integers as int, other numbers as float."""
        if self.type in ("bool", "bit"):
            return "bool"
        if self.type in TEXT_TYPES:
            return "text"
        return "int" if self.is_raw and not self.type.startswith("float") else "float"


class RegisterMap(Model):
    """Fields of a device and how to read them.

    Attributes
    ----------
    medium
        What the device measures.
    word_order, byte_order
        Order of the registers of a wide value, and of the bytes in a register.
    limits
        What the device can take.
    fields
        In TOML: ``[[field]]``.
    """

    model_config = ConfigDict(populate_by_name=True)

    medium: Medium
    word_order: Order = "big"
    byte_order: Order = "big"
    limits: Limits = Limits()
    fields: tuple[Field, ...] = pydantic.Field(alias="field", min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names: set[str] = set()
        for field in self.fields:
            if field.name in names:
                raise ValueError(f"two fields {field.name!r}; allowed: one of each name")
            names.add(field.name)
            try:
                quantities.check(field.quantity, field.unit, field.kind, self.medium)
            except ProtocolError as error:
                raise ValueError(f"field {field.name!r}: {error}") from error
            most = self.limits.most(field.table)
            if field.count > most:
                raise ValueError(f"field {field.name!r} takes {field.count} registers; allowed: max_registers {most}")
        for one, other in pairwise(sorted(self.fields, key=lambda f: (f.table, f.address, f.count))):
            apart = one.table != other.table or one.address + one.count <= other.address
            if not apart and self._place(one) != self._place(other):
                raise ValueError(
                    f"fields {one.name!r} and {other.name!r} overlap at {other.table} {other.address}; "
                    "allowed: the very same place and type, or no register in common"
                )
        return self

    def orders(self, field: Field) -> tuple[Order, Order]:
        """Word and byte order of a field."""
        return field.word_order or self.word_order, field.byte_order or self.byte_order

    def _place(self, field: Field) -> tuple[object, ...]:
        return field.table, field.address, field.count, field.type, self.orders(field)


class MeterModel(RegisterMap):
    """A meter on the market.

    Attributes
    ----------
    name
        What configurations call it; the file's stem.
    maker, model
        As on the nameplate.
    source
        The document, or public repository with path and commit, that it was checked against.
    source_status
        See `SourceStatus`.
    """

    name: str = pydantic.Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")
    maker: str = pydantic.Field(min_length=1)
    model: str = pydantic.Field(min_length=1)
    source: str = pydantic.Field(min_length=1)
    source_status: SourceStatus

    def field(self, name: str) -> Field:
        """Look a field up by its name.

        Raises
        ------
        KeyError
            If there is none of that name.
        """
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)
