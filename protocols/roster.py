"""A schema in little memory: devices whose points are defined alike share the definitions.

Invariants

- The id and the bytes of a birth are those of the `Schema` with the same points.
- What is kept grows with the number of different devices, not with the number of points.
- Nothing changes after it was made, so threads may share it.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import orjson

from protocols.birth import Point
from protocols.errors import SchemaError

Row = dict[str, Any]
"""A point as a document, its fields in order."""


class Sheet:
    """The points of a device, to be shared by all that differ only in name and serial number.

    Parameters
    ----------
    points
        Of one device; its name and serial number are left out.

    Raises
    ------
    SchemaError
        If two tags have one name.
    """

    __slots__ = ("_packed", "size")

    def __init__(self, points: Sequence[Point]) -> None:
        for tag, count in Counter(point.tag for point in points).items():
            if count > 1:
                raise SchemaError(f"{count} tags {tag!r}; allowed: one of each name")
        self.size = len(points)
        self._packed = zlib.compress(orjson.dumps([point.model_dump(mode="json") for point in points]))

    def rows(self) -> list[Row]:
        """Documents of the points, in the order of the fields."""
        found: list[Row] = orjson.loads(zlib.decompress(self._packed))
        return found


@dataclass(frozen=True, slots=True)
class Member:
    """A device: its name, its serial number, its points."""

    device: str
    serial: str | None
    sheet: Sheet


class Roster:
    """The points of one agent at one site, device by device.

    Parameters
    ----------
    site
        Site name.
    members
        The devices; their points are numbered in this order.

    Raises
    ------
    SchemaError
        If there is no point, or two devices have one name.
    """

    def __init__(self, site: str, members: Sequence[Member]) -> None:
        self.site = site
        self.members = tuple(members)
        self._ends = tuple(accumulate(member.sheet.size for member in members))
        self._id: str | None = None
        if not self._ends or not self._ends[-1]:
            raise SchemaError("schema has no point; allowed: at least one")
        seen: set[str] = set()
        for member in members:
            if member.device in seen:
                raise SchemaError(f"two devices {member.device!r}; allowed: one of each name")
            seen.add(member.device)

    @property
    def points(self) -> Sequence[Point]:
        """The points, made when they are asked for."""
        return _Points(self)

    def __len__(self) -> int:
        return self._ends[-1]

    def device_of(self, point: int) -> str:
        """Name of the device that a point belongs to."""
        return self.place_of(point)[0].device

    def column(self, name: str) -> list[Any]:
        """One field of all points, in their order; equal ones are one object."""
        known: dict[Any, Any] = {}
        return [known.setdefault(value, value) for rows in self.tables() for value in (row.get(name) for row in rows)]

    def place_of(self, point: int) -> tuple[Member, int]:
        """Which device a point belongs to, and its position on the device's sheet."""
        at = bisect_right(self._ends, point)
        member = self.members[at]
        return member, point - self._ends[at] + member.sheet.size

    def id(self) -> str:
        """SHA-256 of the canonical bytes; see `Schema.canonical`."""
        if self._id is None:
            digest = hashlib.sha256(b'{"points":[')
            for text in self._texts(orjson.OPT_SORT_KEYS):
                digest.update(text)
            digest.update(b'],"site":' + orjson.dumps(self.site) + b',"v":1}')
            self._id = digest.hexdigest()
        return self._id

    def pieces(self) -> Iterator[bytes]:
        """The document that a birth carries, piece by piece."""
        yield b'{"v":1,"site":' + orjson.dumps(self.site) + b',"points":['
        yield from self._texts(0)
        yield b"]}"

    def _texts(self, option: int) -> Iterator[bytes]:
        separator = b""
        for rows in self.tables():
            if rows:
                yield separator + orjson.dumps(rows, option=option)[1:-1]
                separator = b","

    def tables(self) -> Iterator[list[Row]]:
        """Documents of the points, device by device."""
        sheet, rows = None, []
        for member in self.members:
            if member.sheet is not sheet:
                sheet, rows = member.sheet, member.sheet.rows()
            yield [_named(row, member) for row in rows]


class _Points(Sequence[Point]):
    """The points of a roster, as a sequence; the sheet looked at last stays open."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._open: tuple[Sheet, list[Row]] | None = None

    def __len__(self) -> int:
        return len(self._roster)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Point]: ...
    def __getitem__(self, index: int | slice) -> Point | Sequence[Point]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        member, position = self._roster.place_of(range(len(self))[index])
        if self._open is None or self._open[0] is not member.sheet:
            self._open = member.sheet, member.sheet.rows()
        return Point.model_validate(_named(self._open[1][position], member))

    def __iter__(self) -> Iterator[Point]:
        for rows in self._roster.tables():
            yield from map(Point.model_validate, rows)


def _named(row: Row, member: Member) -> Row:
    return {**row, "device": member.device, "serial": member.serial}
