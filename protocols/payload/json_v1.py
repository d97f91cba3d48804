"""Codec ``json1``: columnar JSON, readable with any MQTT client.

::

    {"v": 1, "tenant": "acme", "agent": "gw1", "epoch": "<32 hex>", "seq": 7, "schema": "<64 hex>",
     "at": 1655136000000000, "clock": {"sync": true, "boot": "b1", "mono": 12345},
     "t0": 1655135999000000,
     "f": {"p": [0, 1], "t": [0, 1500], "v": [12.5, null], "q": [0, 130]}}

The groups ``f`` (float), ``i`` (int), ``b`` (bool) and ``s`` (text) are left out when empty, ``q`` when all
readings are good.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import orjson

from protocols import wire
from protocols.errors import PayloadError
from protocols.quality import FIRST_BAD
from protocols.reading import INT_MAX, INT_MIN, MAX_POINT, Batch, BatchKey, ClockState, Columns, ValueType

_GROUPS: dict[ValueType, str] = {"float": "f", "int": "i", "bool": "b", "text": "s"}
_TYPES: dict[ValueType, frozenset[type]] = {
    "float": frozenset({float, int}),
    "int": frozenset({int}),
    "bool": frozenset({bool}),
    "text": frozenset({str}),
}
_CLOCK_KEYS = {"sync", "boot", "mono"}
_KEYS = {"v", "tenant", "agent", "epoch", "seq", "schema", "at", "clock", "t0", *_GROUPS.values()}
_INT = {int}
MAX_OFFSET_US = 366 * 86_400 * 1_000_000
"""A batch spans at most a year."""
MAX_BASE_US = 2**62
"""Base time and offset always add up within 64 bits."""


class JsonV1:
    """Columnar JSON, version 1."""

    name = "json1"

    def encode(self, batch: Batch) -> bytes:
        """Encode; see `Codec.encode`."""
        key = batch.key
        document: dict[str, Any] = {
            "v": 1,
            "tenant": key.tenant,
            "agent": key.agent,
            "epoch": key.epoch,
            "seq": key.seq,
            "schema": batch.schema_id,
            "at": batch.created_us,
            "clock": {
                "sync": batch.clock.synchronised,
                "boot": batch.clock.boot_id,
                "mono": batch.clock.monotonic_us,
            },
            "t0": batch.base_us,
        }
        for value_type, short in _GROUPS.items():
            group = batch.columns.get(value_type)
            if group is None or not len(group):
                continue
            columns: dict[str, Any] = {
                "p": _listed(group.points),
                "t": _listed(group.offsets_us),
                "v": _listed(group.values),
            }
            if any(group.qualities):
                columns["q"] = _listed(group.qualities)
            document[short] = columns
        return orjson.dumps(document)

    def decode(self, payload: bytes) -> Batch:
        """Decode and check; see `Codec.decode`."""
        document = wire.loads(payload, "batch")
        wire.only(document, _KEYS, "batch")
        wire.version(document, 1, "batch")
        clock = wire.mapping(document, "clock", "batch")
        wire.only(clock, _CLOCK_KEYS, "batch.clock")
        without_bools = _without_bools(payload)
        columns: dict[ValueType, Columns] = {}
        for value_type, short in _GROUPS.items():
            if short in document:
                group = wire.mapping(document, short, "batch")
                columns[value_type] = _decode_group(group, value_type, short, without_bools=without_bools)
        if not columns:
            raise PayloadError("batch has no readings")
        return Batch(
            key=wire.key(document, "batch"),
            schema_id=wire.hex_digits(document, "schema", 64, "batch"),
            created_us=wire.integer(document, "at", "batch"),
            clock=ClockState(
                synchronised=wire.boolean(clock, "sync", "batch.clock"),
                boot_id=wire.text(clock, "boot", "batch.clock"),
                monotonic_us=wire.integer(clock, "mono", "batch.clock"),
            ),
            base_us=wire.integer(document, "t0", "batch", -MAX_BASE_US, MAX_BASE_US),
            columns=columns,
        )

    def identity(self, payload: bytes) -> tuple[str, int] | None:
        """Find (epoch, seq) if the payload is JSON that carries them."""
        try:
            found: BatchKey = wire.key(wire.loads(payload, "batch"), "batch")
        except PayloadError:
            return None
        return found.epoch, found.seq


def _without_bools(payload: bytes) -> bool:
    """Whether surely no column holds true or false; found by looking for single bytes, since that costs nothing."""
    start = payload.find(b'"t0"')
    return start > 0 and max(payload.find(b"[", 0, start), payload.find(b"u", start), payload.find(b"l", start)) < 0


def _listed(column: Any) -> Any:
    return column if type(column) is list else list(column)


def _decode_group(group: dict[str, Any], value_type: ValueType, short: str, *, without_bools: bool) -> Columns:
    """Check one group; loops over readings stay inside C (`pack`, `sum`, `map`, `min`, `max`, `set`)."""
    wire.only(group, {"p", "t", "v", "q"}, f"batch.{short}")
    points, offsets, values = (wire.array(group, name, f"batch.{short}") for name in ("p", "t", "v"))
    qualities = wire.array(group, "q", f"batch.{short}") if "q" in group else []
    size = len(points)
    if not size or len(offsets) != size or len(values) != size or len(qualities) not in (0, size):
        raise PayloadError(
            f"batch.{short}: columns p, t, v, q have {size}, {len(offsets)}, {len(values)}, {len(qualities)} "
            "entries; allowed: one length above 0 (q may be absent)"
        )
    _check_ints(points, 0, MAX_POINT, "iI", f"batch.{short}.p", without_bools)
    _check_ints(offsets, -MAX_OFFSET_US, MAX_OFFSET_US, "i", f"batch.{short}.t", without_bools)
    if qualities:
        _check_ints(qualities, 0, 255, "B", f"batch.{short}.q", without_bools)
    types = _types(values, without_bools)
    without_value = type(None) in types
    types.discard(type(None))
    if not types <= _TYPES[value_type]:
        names = ", ".join(sorted(t.__name__ for t in types - _TYPES[value_type]))
        raise PayloadError(f"batch.{short}.v holds {names}; allowed: {value_type} or null")
    if value_type == "int":
        present = [v for v in values if v is not None] if without_value else values
        if present and (min(present) < INT_MIN or max(present) > INT_MAX):
            raise PayloadError(f"batch.{short}.v holds an integer beyond 64 bits signed")
    if value_type == "text" and any("\0" in v for v in values if v is not None):
        raise PayloadError(f"batch.{short}.v holds a NUL character")
    if without_value or (qualities and max(qualities) >= FIRST_BAD):
        for position, value in enumerate(values):
            code = qualities[position] if qualities else 0
            if (value is None) != (code >= FIRST_BAD):
                raise PayloadError(
                    f"batch.{short}: entry {position} has value {value!r} with quality {code}; "
                    f"allowed: no value exactly when the quality is {FIRST_BAD} or above"
                )
    return Columns(points, offsets, values, qualities)


def _check_ints(column: list[Any], low: int, high: int, codes: str, where: str, without_bools: bool) -> None:
    """Check a column; what packs as every one of the `codes` of `struct` is within bounds."""
    if without_bools and _packs(column, codes):
        return
    if set(map(type, column)) != _INT:
        raise PayloadError(f"{where} holds something other than integers")
    if min(column) < low or max(column) > high:
        raise PayloadError(f"{where} holds a number outside {low} to {high}")


def _packs(column: list[Any], codes: str) -> bool:
    """Whether a column without bools holds integers of the machine's types only: the fastest check there is."""
    try:
        for code in codes:
            struct.pack(f"={len(column)}{code}", *column)
    except struct.error:
        return False
    return True


def _types(column: list[Any], without_bools: bool) -> set[type]:
    """Types in a column, or of numbers only the widest: the type of their sum, which is much faster to find."""
    if without_bools:
        with contextlib.suppress(TypeError):
            return {type(sum(column))}
    return set(map(type, column))
