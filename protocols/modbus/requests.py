"""Which requests read a device's fields: merged where that is cheaper, split where the device refuses.

Invariants of a plan

- Every field is in exactly one request, and whole.
- A request stays in one table and within the device's limits.
- No other plan that keeps the order of addresses is cheaper under the cost given; of equally cheap ones the
  plan with fewer requests is taken. So a hole is read only if that costs no more than another round trip.
- The same fields give the same plan, in whatever order they are listed.
- Where a device wants coils read from zero, those within reach are one request from there, whatever that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from protocols.errors import DecodePlanError
from protocols.modbus.limits import Limits, TableName

_TABLES: tuple[TableName, ...] = get_args(TableName)
_ADDRESSES = 65_536


@dataclass(frozen=True, slots=True)
class FieldAddress:
    """Where a field is.

    Attributes
    ----------
    index
        The caller's name for the field; distinct within a plan.
    table
        Data table.
    address
        First entry, zero-based as in the request.
    count
        Entries: registers, or 1 for a coil.
    """

    index: int
    table: TableName
    address: int
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """One read request.

    Attributes
    ----------
    unit_id
        Device on the connection.
    table
        Data table, hence the function code.
    address, count
        First entry and how many.
    fields
        Indices of the fields it reads, by ascending address.
    """

    unit_id: int
    table: TableName
    address: int
    count: int
    fields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request costs on this connection.

    Attributes
    ----------
    round_trip_s
        Time of a request that carries no data, pauses included [s].
    bytes_per_s
        Speed at which data come [B/s].
    """

    round_trip_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        if not (self.round_trip_s >= 0 and self.bytes_per_s > 0):
            raise DecodePlanError(
                f"cost of {self.round_trip_s!r} s and {self.bytes_per_s!r} B/s; allowed: from 0 s, above 0 B/s"
            )

    def seconds(self, requests: int, data_bytes: int) -> float:
        """Time of so many requests with so much data between them [s]."""
        return requests * self.round_trip_s + data_bytes / self.bytes_per_s


@dataclass(slots=True)
class _Span:
    """Fields at exactly the same place."""

    address: int
    count: int
    fields: list[int]

    @property
    def end(self) -> int:
        return self.address + self.count


def data_bytes(table: TableName, count: int) -> int:
    """Bytes of data in the answer to a request for `count` entries."""
    return 2 * count if table in ("input", "holding") else (count + 7) // 8


def plan(fields: Sequence[FieldAddress], unit_id: int, limits: Limits, cost: Cost) -> tuple[Request, ...]:
    """Plan the requests that read all `fields` of one device.

    Parameters
    ----------
    fields
        What to read. Several may share one place; a partial overlap is refused.
    unit_id
        Device on the connection.
    limits
        What it can take.
    cost
        What decides about merging.

    Raises
    ------
    DecodePlanError
        If two fields overlap without being the same, or one is beyond the table or the device's limits.
    """
    requests: list[Request] = []
    for table in _TABLES:
        spans = _spans([field for field in fields if field.table == table], table, limits.most(table))
        most = 0 if limits.one_field_per_request else limits.most(table)
        if table == "coil" and limits.coils_from_zero:
            reached = [span for span in spans if span.end <= most]
            spans = spans[len(reached) :]
            requests += [_request(unit_id, table, reached, first=0)] if reached else []
        requests += [_request(unit_id, table, group) for group in _cheapest(spans, table, most, cost)]
    return tuple(requests)


def bisect(request: Request, fields: Sequence[FieldAddress]) -> tuple[Request, Request]:
    """Split a request that the device refused, to find which of its addresses it lacks.

    Parameters
    ----------
    request
        A request with at least two fields at different places.
    fields
        The fields it was planned from.

    Raises
    ------
    DecodePlanError
        If there is nothing to split: the device lacks the field itself.
    """
    wanted = set(request.fields)
    spans = _spans([f for f in fields if f.index in wanted], request.table, request.count)
    if len(spans) < 2:
        raise DecodePlanError(
            f"unit {request.unit_id}: request for {request.table} {request.address} has one field and can't be split"
        )
    middle = len(spans) // 2
    return (
        _request(request.unit_id, request.table, spans[:middle], first=request.address),
        _request(request.unit_id, request.table, spans[middle:]),
    )


def _spans(fields: Sequence[FieldAddress], table: TableName, most: int) -> list[_Span]:
    """Distinct places by ascending address, checked."""
    spans: list[_Span] = []
    for field in sorted(fields, key=lambda f: (f.address, f.count, f.index)):
        if field.address < 0 or field.count < 1 or field.address + field.count > _ADDRESSES:
            raise DecodePlanError(
                f"{table} {field.address} with {field.count} entries; allowed: within 0 to {_ADDRESSES - 1}"
            )
        if field.count > most:
            raise DecodePlanError(
                f"{table} {field.address} takes {field.count} entries; allowed: up to {most} per request"
            )
        last = spans[-1] if spans else None
        if last and (field.address, field.count) == (last.address, last.count):
            last.fields.append(field.index)
        elif last and field.address < last.end:
            raise DecodePlanError(
                f"{table} {field.address} to {field.address + field.count - 1} overlaps {last.address} to "
                f"{last.end - 1}; allowed: the very same place, or none in common"
            )
        else:
            spans.append(_Span(field.address, field.count, [field.index]))
    return spans


def _cheapest(spans: list[_Span], table: TableName, most: int, cost: Cost) -> list[list[_Span]]:
    """Cut the spans into runs of at most `most` entries (one span at least) so that the total is least."""
    # best[n]: requests, bytes and last cut of the cheapest way to read the first n spans.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    starts = [span.address for span in spans]
    for last, span in enumerate(spans):
        end = span.end
        least: tuple[float, int, int, int] | None = None
        for cut in range(last, -1, -1):
            count = end - starts[cut]
            if count > most and cut < last:
                break
            requests, data, _ = best[cut]
            requests += 1
            data += data_bytes(table, count)
            option = cost.seconds(requests, data), requests, data, cut
            if least is None or option < least:
                least = option
        assert least is not None
        best.append(least[1:])
    groups: list[list[_Span]] = []
    n = len(spans)
    while n:
        cut = best[n][2]
        groups.append(spans[cut:n])
        n = cut
    return groups[::-1]


def _request(unit_id: int, table: TableName, spans: Sequence[_Span], first: int | None = None) -> Request:
    if first is None:
        first = spans[0].address
    return Request(unit_id, table, first, spans[-1].end - first, tuple(i for span in spans for i in span.fields))
