"""OPC-UA: what becomes of a value, its status and its timestamps."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from edge_agent.points import NodeTag
from protocols.quality import Quality
from protocols.reading import INT_MAX, INT_MIN, Value, ValueType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US = 1_420_070_400_000_000
"""2015: controllers that have lost their time begin again in 1970, 1984, 2000 or the year they were made for."""
_SEVERITY = 0xC0000000
_UNCERTAIN = 0x40000000
_CODE = 0xFFFF0000
_OVERFLOW = 0x00000480
"""Info type "data value" with the overflow bit."""

_STATUS: dict[int, Quality] = {
    StatusCodes.BadNodeIdUnknown: Quality.BAD_CONFIGURATION,
    StatusCodes.BadNodeIdInvalid: Quality.BAD_CONFIGURATION,
    StatusCodes.BadAttributeIdInvalid: Quality.BAD_CONFIGURATION,
    StatusCodes.BadConfigurationError: Quality.BAD_CONFIGURATION,
    StatusCodes.BadNoCommunication: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadNotConnected: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadCommunicationError: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadWaitingForInitialData: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadTimeout: Quality.BAD_TIMEOUT,
    StatusCodes.BadDeviceFailure: Quality.BAD_DEVICE_FAILURE,
    StatusCodes.BadSensorFailure: Quality.BAD_DEVICE_FAILURE,
    StatusCodes.UncertainLastUsableValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainSubstituteValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainInitialValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainNoCommunicationLastUsableValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainEngineeringUnitsExceeded: Quality.UNCERTAIN_OUT_OF_RANGE,
}
_TYPES: dict[ValueType, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "text": (str,),
}


def quality_of(status: int) -> Quality:
    """Quality for an OPC-UA status code."""
    severity = status & _SEVERITY
    if severity == 0:
        return Quality.UNCERTAIN_OVERFLOW if status & _OVERFLOW == _OVERFLOW else Quality.GOOD
    otherwise = Quality.UNCERTAIN if severity == _UNCERTAIN else Quality.BAD_EXCEPTION
    return _STATUS.get(status & _CODE, otherwise)


def value_of(raw: object, tag: NodeTag) -> Value:
    """Value of a point for what the server sent; None if it does not fit the point."""
    if not isinstance(raw, _TYPES[tag.value_type]) or (isinstance(raw, bool) and tag.value_type != "bool"):
        return None
    if isinstance(raw, bool | str):
        return raw if "\0" not in str(raw) else None
    if tag.value_type == "int":
        return raw if isinstance(raw, int) and INT_MIN <= raw <= INT_MAX else None
    if not isinstance(raw, int | float):
        return None
    value = float(raw) * tag.scale + tag.offset
    return value if math.isfinite(value) else None


def stamp_us(found: ua.DataValue) -> int | None:
    """Time that a value carries [µs UTC]: the source's, else the server's; a clock that was never set has none."""
    stamps = (time_us(stamp) for stamp in (found.SourceTimestamp, found.ServerTimestamp) if stamp is not None)
    return next((at_us for at_us in stamps if at_us >= _EARLIEST_US), None)


def time_us(stamp: datetime) -> int:
    """An OPC-UA time, which is UTC whether it says so or not [µs UTC]."""
    since: timedelta = (stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp) - _EPOCH
    return since // timedelta(microseconds=1)
