"""How far each of the two lanes was handed out on a connection; see `handout`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Lanes:
    """How far each lane is handed out on this connection, and how much further it may go.

    Attributes
    ----------
    boundary
        Records with lower ids are the backlog, the others are live.
    live, backlog
        How many records may still be handed out of each.
    cursor, live_cursor, birth_cursor
        Highest id handed out of the backlog, of what is live, and of births.
    births
        Whether there may be births beyond that.
    """

    boundary: int = 1
    live: int = 0
    backlog: int = 0
    cursor: int = 0
    live_cursor: int = 0
    birth_cursor: int = 0
    births: bool = True

    @classmethod
    def behind(cls, next_id: int, live: int = 0, backlog: int = 0) -> Lanes:
        """Everything that is there is backlog, from its beginning; what comes is live."""
        return cls(next_id, live, backlog, live_cursor=next_id - 1)

    def with_births(self) -> Lanes:
        """There may be another birth."""
        return replace(self, births=True)

    def paid(self, count: int, *, backlog: bool) -> Lanes:
        """Less so many."""
        if backlog:
            return replace(self, backlog=self.backlog - count)
        return replace(self, live=self.live - count)
