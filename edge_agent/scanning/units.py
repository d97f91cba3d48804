"""Which unit ids answer on a connection.

Any answer counts, a refusal too: who says "illegal address" is there. Only what a gateway says of a unit that
did not answer it does not count.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.drivers.modbus import DEAF_S
from edge_agent.scanning.errors import OutOfRequestsError
from edge_agent.scanning.line import Answer, Line
from protocols.modbus.limits import TableName

_ROUNDS = 2
_TELL_S = 5.0
_TOLD = 20
"""Units that are told one by one."""
_EVERYBODY = 8
"""If so many unit ids or more were asked and all answer, it is one device that does not look at them."""

Tell = Callable[[str], None]
"""Shows a line of progress."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A unit that answers, and by what: the table and address it was asked for."""

    unit_id: int
    table: TableName
    address: int
    answer: Answer

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.table} {self.address}: {self.answer.text}"


@dataclass(slots=True)
class Units:
    """Units found, by unit id, and what else is to be said."""

    found: dict[int, Sighting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    asked: int = 0
    """Unit ids that were asked at least once."""

    @property
    def indifferent(self) -> bool:
        """Whether every unit id answers."""
        return self.asked >= _EVERYBODY and len(self.found) == self.asked


async def find(line: Line, unit_ids: Sequence[int], tables: Sequence[TableName], address: int, tell: Tell) -> Units:
    """Ask each unit id for one entry; those that say nothing once more, of another table if there is one.

    The first time in haste, which on a serial line some units do not hear; the second time so that all of them do.

    Raises
    ------
    ScanError
        If the connection is lost for good.
    """
    units = Units()
    gateway: set[int] = set()

    async def ask(unit_id: int, table: TableName, *, hasty: bool = False) -> None:
        answer = await line.read(unit_id, table, address, 1, hasty=hasty)
        if answer.heard:
            units.found[unit_id] = Sighting(unit_id, table, address, answer)
            if len(units.found) <= _TOLD:
                tell(f"unit {unit_id} answers: {units.found[unit_id].text}")
        elif answer.exception:
            gateway.add(unit_id)

    try:
        told_at = time.monotonic()
        for turn in range(_ROUNDS):
            # What only a gateway answered for is not asked twice: the gateway knows.
            rest = [unit_id for unit_id in unit_ids if unit_id not in units.found and unit_id not in gateway]
            count = min(len(rest), line.left)
            if turn and count and line.is_shared:
                tell(
                    f"round {turn + 1}: asking {count} unit ids that said nothing once more, each after {DEAF_S:g} s "
                    f"of silence on the line; this may take {count * line.unanswered_s:.0f} s"
                )
            for number, unit_id in enumerate(rest):
                await ask(unit_id, tables[turn % len(tables)], hasty=turn == 0)
                if turn == 0:
                    units.asked += 1
                if time.monotonic() - told_at > _TELL_S:
                    told_at = time.monotonic()
                    tell(f"round {turn + 1}: {number + 1} of {len(rest)} unit ids asked, {len(units.found)} found")
        await _ask_late_ones(line, units, tables, ask)
    except OutOfRequestsError as error:
        units.notes.append(f"not all unit ids were asked: {error}")
    absent = gateway - units.found.keys()
    if absent:
        units.notes.append(f"a gateway says of {len(absent)} unit ids that they do not answer it")
    return units


async def _ask_late_ones(
    line: Line, units: Units, tables: Sequence[TableName], ask: Callable[[int, TableName], Awaitable[None]]
) -> None:
    """Ask those again of which something came that fitted no request, now that answers are waited for longer."""
    for turn in range(_ROUNDS):
        late = sorted(line.strays.keys() - units.found.keys())
        if late:
            await line.settle()
        for unit_id in late:
            await ask(unit_id, tables[turn % len(tables)])
    for unit_id in sorted(line.strays):
        late_s = line.strays[unit_id]
        if unit_id in units.found:
            units.notes.append(f"unit {unit_id} took {late_s:.1f} s to answer; give it more time, by --timeout-s")
        else:
            units.notes.append(
                f"unit {unit_id}: something came that answers no request in time; "
                "try a longer --timeout-s, or look for a second master on the line"
            )
