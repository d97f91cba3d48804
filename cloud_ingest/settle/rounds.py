"""One round: some rows of the change feed to base intervals to accounts, in one transaction.

Invariants

- Everything a round does, and the move of the feed's cursor, commit together: a kill in between leaves nothing
  half done, and the next round does the same again.
- What a change can touch is recomputed from readings; what comes out as it was, is not written.
- An account is final when each of its meters has a valid reading at or beyond its end, or when the site's
  clock (latest measurement of any of its points) is `closing_delay_s` past it. A later change of a final
  account is a new revision.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from accounting import intervals as calendar
from accounting.intervals import BASE_US, Level
from cloud_ingest.settle import accounts as computing
from cloud_ingest.settle import plants, use
from cloud_ingest.settle.accounts import Chunk, Wanted
from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.settle.plants import Counter, Site, Source
from cloud_ingest.settle.use import Span
from cloud_ingest.store import accounts, feed, intervals
from cloud_ingest.store.feed import Change
from cloud_ingest.store.intervals import Extent
from cloud_ingest.store.pool import Connection
from protocols.timebase import US

_log = logging.getLogger(__name__)
FOLLOWER = "settle"
PLANT_MODEL = "plant model"
"""Cause of feed rows after which all accounts of their span are computed again."""
POINT = "point"
"""Cause of feed rows after which the use of their points is computed again: their parameters changed."""
_MAX_CHANGES = 5000


@dataclass(slots=True)
class Totals:
    """What a settler has done since it started; the fields only grow."""

    rounds: int = 0
    changes: int = 0
    readings: int = 0
    intervals: int = 0
    accounts_added: int = 0
    accounts_updated: int = 0
    accounts_revised: int = 0
    accounts_withdrawn: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Touched:
    """What the changes of one round touch at one site.

    Attributes
    ----------
    spans
        Changed spans by counter.
    forced
        Spans in which all accounts are computed again.
    clock_us
        Latest measurement.
    """

    spans: dict[Counter, list[Span]] = field(default_factory=dict)
    forced: list[Span] = field(default_factory=list)
    clock_us: int | None = None


class Rounds:
    """Settles one database; not safe for use from several threads at once.

    Parameters
    ----------
    sources
        Plant models.
    config
        See `SettleConfig`.
    """

    def __init__(self, sources: Sequence[Source], config: SettleConfig) -> None:
        self._sources = sources
        self._config = config
        self._sites: list[Site] = []
        self._site_of: dict[int, Site | None] = {}
        self._told: set[tuple[str, ...]] = set()
        self.totals = Totals()
        self._doing = Totals()

    def prepare(self, conn: Connection) -> None:
        """Register the follower and the plant models; what changed since the last start goes to the feed."""
        with conn.transaction():
            feed.follow(conn, FOLLOWER)
            self._sites = [self._register(conn, source) for source in self._sources]
            self._resolve(conn)

    def refresh(self, conn: Connection) -> None:
        """Look at the points again: births may have changed their parameters."""
        with conn.transaction():
            self._resolve(conn)

    def run(self, conn: Connection) -> bool:
        """Do one round; whether there may be more to do at once."""
        self._doing = Totals()
        with conn.transaction():
            changes = feed.read(conn, FOLLOWER, _MAX_CHANGES)
            if not changes:
                return False
            unknown = {point for change in changes for point in change.points} - self._site_of.keys()
            if unknown:
                self._resolve(conn)
                # Points of sites without a plant model.
                self._site_of |= dict.fromkeys(unknown - self._site_of.keys())
            taken = self._prefix(changes)
            for site in self._sites:
                self._settle(conn, site, taken)
            feed.advance(conn, FOLLOWER, taken[-1])
        self._doing.rounds = 1
        self._doing.changes = len(taken)
        for item in fields(Totals):
            setattr(self.totals, item.name, getattr(self.totals, item.name) + getattr(self._doing, item.name))
        return len(taken) < len(changes) or len(changes) == _MAX_CHANGES

    def _register(self, conn: Connection, source: Source) -> Site:
        """Make a plant model the current one of its site, and have everything computed again if it is new."""
        tenant_id = accounts.tenant(conn, source.tenant)
        name = source.plant.site.name
        known = accounts.current_model(conn, tenant_id, name)
        if known is not None and (known.digest, known.factors) == (source.digest, source.factors):
            return Site(tenant_id, source.plant, known.plant_model_id)
        stored = accounts.add_model(
            conn, tenant_id, name, source.digest, source.factors, source.plant.site.timezone, source.text
        )
        site = Site(tenant_id, source.plant, stored.plant_model_id)
        points = intervals.catalogue(conn, tenant_id, name)
        site.resolve(points, round(self._config.estimate_limit_s * US))
        counters = list(site.counters.values())
        spans = _reading_spans(conn, counters)
        everyone = [counter.point_id for counter in counters] or [point.point_id for point in points]
        hull = [*spans.values(), *accounts.hull(conn, tenant_id, name)]
        if hull and everyone:
            self._append(conn, site, PLANT_MODEL, dict.fromkeys(everyone, (min(hull)[0], max(b for _, b in hull))))
        intervals.save_extents(conn, {c.point_id: Extent(c.parameters, None, None) for c in counters})
        _log.info("plant model of %s is new: %s", name, source.digest.hex()[:12], extra={"site": name})
        return site

    def _append(self, conn: Connection, site: Site, cause: str, spans: Mapping[int, Span]) -> None:
        """Have the history of some points computed again, a day a feed row."""
        if not spans:
            return
        first = min(first for first, _ in spans.values())
        last = max(last for _, last in spans.values())
        days = calendar.edges("day", first, last + 1, site.timezone)
        for start, end in zip(days[:-1].tolist(), days[1:].tolist(), strict=True):
            points = [point for point, (a, b) in spans.items() if a < end and b >= start]
            if points:
                feed.append(conn, site.tenant_id, cause, points, max(first, start), min(last, end - 1))

    def _resolve(self, conn: Connection) -> None:
        """Find the plant models' points; those whose parameters changed are computed again."""
        self._site_of = {point: None for point, site in self._site_of.items() if site is None}
        for site in self._sites:
            points = intervals.catalogue(conn, site.tenant_id, site.name)
            site.resolve(points, round(self._config.estimate_limit_s * US))
            self._site_of |= dict.fromkeys((point.point_id for point in points), site)
            for name, reason in site.unusable.items():
                if reason == plants.UNANNOUNCED:
                    continue  # as at every first start; its accounts say that nothing is known
                self._tell("point %s of the plant model can't be used: %s", f"{site.name}/{name}", reason)
            known = intervals.extents(conn, list(site.by_id))
            changed = [c for c in site.counters.values() if _parameters(known, c) != c.parameters]
            self._append(conn, site, POINT, _reading_spans(conn, changed))
            intervals.save_extents(conn, {c.point_id: Extent(c.parameters, None, None) for c in changed})

    def _prefix(self, changes: Sequence[Change]) -> Sequence[Change]:
        """As many changes as one round may take; at least one."""
        readings = 0
        for count, change in enumerate(changes):
            site = self._sites_point(change)
            if site is None:
                continue
            span = change.last_us - change.first_us
            touched = site.by_id.keys() & set(change.points)
            readings += sum(span // site.by_id[point].poll_interval_us + 1 for point in touched)
            if readings > self._config.max_readings_per_round and count:
                return changes[:count]
        return changes

    def _sites_point(self, change: Change) -> Site | None:
        """The site whose points a change touches: an agent's batch is of one site."""
        return next((site for point in change.points if (site := self._site_of.get(point)) is not None), None)

    def _settle(self, conn: Connection, site: Site, changes: Sequence[Change]) -> None:
        touched = self._touched(site, changes)
        if touched.clock_us is None:
            return
        intervals.save_clock(conn, site.tenant_id, site.name, touched.clock_us)
        clock_us = intervals.clock(conn, site.tenant_id, site.name)
        assert clock_us is not None
        known = intervals.extents(conn, list(site.by_id))
        result = use.compute(conn, touched.spans, known)
        changed = intervals.upsert(conn, result.rows)
        changed += intervals.remove(conn, *result.empty)
        intervals.save_extents(conn, result.extents)
        self._doing.readings += result.readings
        self._doing.intervals += len(changed)
        known = intervals.extents(conn, list(site.by_id))
        closing = _Closing(site, known, clock_us, round(self._config.closing_delay_s * US))
        self._accounts(conn, site, changed, touched.forced, closing)

    def _touched(self, site: Site, changes: Sequence[Change]) -> _Touched:
        touched = _Touched()
        for change in changes:
            if self._sites_point(change) is not site:
                continue
            touched.clock_us = max(touched.clock_us or change.last_us, change.last_us)
            if change.cause == PLANT_MODEL:
                touched.forced.append((change.first_us, change.last_us))
            for point in site.by_id.keys() & set(change.points):
                touched.spans.setdefault(site.by_id[point], []).append((change.first_us, change.last_us))
        return touched

    def _accounts(
        self,
        conn: Connection,
        site: Site,
        changed: Sequence[tuple[int, int]],
        forced: Sequence[Span],
        closing: _Closing,
    ) -> None:
        by_point: dict[str, list[int]] = {}
        for point, start_us in changed:
            by_point.setdefault(site.by_id[point].name, []).append(start_us)
        changed_starts = {name: np.array(starts, np.int64) for name, starts in by_point.items()}
        forced_starts = _starts(forced)
        ended = accounts.ended(conn, site.tenant_id, site.name, closing.clock_us)
        closed = [key for key, end_us in ended.items() if closing.is_final(key[:2], end_us)]
        closed_starts = np.array([start for *_, start in closed], np.int64)
        everything = np.unique(np.concatenate([*changed_starts.values(), forced_starts, closed_starts]))
        for chunk in computing.chunks(everything, site.timezone):
            wanted = Wanted()
            periods: dict[Level, NDArray[np.int64]] = {}
            inside = {name: _within(chunk, starts) for name, starts in changed_starts.items()}
            all_forced = _within(chunk, forced_starts)
            for period in computing.PERIODS:
                for name, starts in inside.items():
                    places = chunk.holding(period, starts).tolist()
                    for process in site.users_of(name) if places else ():
                        for account in site.accounts:
                            if account[0] == process:
                                wanted.add(*account, period, places)
                whole = chunk.holding(period, np.concatenate([*inside.values(), all_forced]))
                periods[period] = whole
                for account in site.accounts if len(all_forced) else ():
                    wanted.add(*account, period, chunk.holding(period, all_forced).tolist())
            for process, carrier, name, start_us in closed:
                if chunk.first_us <= start_us < chunk.end_us and (process, carrier) in site.inputs:
                    period = _level(name)
                    wanted.add(process, carrier, period, chunk.holding(period, np.array([start_us])).tolist())
            self._chunk(conn, site, chunk, wanted, periods, closing, withdraw=bool(len(all_forced)))

    def _chunk(
        self,
        conn: Connection,
        site: Site,
        chunk: Chunk,
        wanted: Wanted,
        touched: dict[Level, NDArray[np.int64]],
        closing: _Closing,
        *,
        withdraw: bool,
    ) -> None:
        names = {point: counter.name for point, counter in site.by_id.items()}
        rows = intervals.load(conn, list(names), chunk.first_us, chunk.end_us)
        series = computing.by_point(rows, names, chunk.edges_us["base"])
        computer = computing.Computer(site, chunk, series, lambda *what: self._missing_factor(site, *what))
        looked_at = {
            (period, int(chunk.edges_us[period][place]))
            for period, places in touched.items()
            for place in places.tolist()
        } | {
            (period, int(chunk.edges_us[period][place]))
            for (_, _, period), places in wanted.places.items()
            for place in places
        }
        stored = accounts.latest(conn, site.tenant_id, site.name, sorted(looked_at))
        told = {period: computer.told(period) for period in computing.PERIODS}
        for period, places in touched.items():
            edges = chunk.edges_us[period]
            for process, carrier in site.accounts:
                missing = {
                    place
                    for place in places.tolist()
                    if told[period][place] and not _current(stored.get((process, carrier, period, int(edges[place]))))
                }
                if missing:
                    wanted.add(process, carrier, period, missing)
        computed = {}
        for key, figures in computer.figures(wanted):
            period = _level(key[2])
            place = int(np.searchsorted(chunk.edges_us[period], key[3]))
            if told[period][place] or key in stored:
                computed[key] = (figures, closing.is_final(key[:2], figures.ends_us))
        gone = [key for key, row in stored.items() if row.current and key[:2] not in site.inputs] if withdraw else []
        written = accounts.write(conn, site.tenant_id, site.name, site.plant_model_id, stored, computed, gone)
        self._doing.accounts_added += written.added
        self._doing.accounts_updated += written.updated
        self._doing.accounts_revised += written.revised
        self._doing.accounts_withdrawn += written.withdrawn

    def _missing_factor(self, site: Site, carrier: str, year: int, reason: str) -> None:
        self._tell("no CO2 of %s at %s in %s: %s", carrier, site.name, str(year), reason)

    def _tell(self, message: str, *what: str) -> None:
        """Warn once of each thing."""
        if what not in self._told:
            self._told.add(what)
            _log.warning(message, *what)


class _Closing:
    """Decides when an account is final."""

    def __init__(self, site: Site, known: dict[int, Extent], clock_us: int, delay_us: int) -> None:
        self.clock_us = clock_us
        self._delay_us = delay_us
        self._heard: dict[tuple[str, str], int | None] = {}
        last = {
            name: (extent.last_us if (extent := known.get(counter.point_id)) else None)
            for name, counter in site.counters.items()
        }
        for account, points in site.inputs.items():
            heard = [last.get(point) for point in points]
            self._heard[account] = None if None in heard else min(at for at in heard if at is not None)

    def is_final(self, account: tuple[str, str], end_us: int) -> bool:
        """Whether an account that ends at `end_us` is complete, or has waited long enough."""
        heard = self._heard.get(account)
        return (heard is not None and heard >= end_us) or self.clock_us >= end_us + self._delay_us


def warm_up(sources: Iterable[Source]) -> None:
    """Compile the kernels before the first round needs them."""
    plants.compile_kernels()
    for source in sources:
        _ = source.factors


def _reading_spans(conn: Connection, counters: Iterable[Counter]) -> dict[int, Span]:
    """First and last reading of those counters that have any."""
    return {
        counter.point_id: span
        for counter in counters
        if (span := intervals.reading_span(conn, counter.value_type, counter.point_id)) is not None
    }


def _parameters(known: dict[int, Extent], counter: Counter) -> str | None:
    extent = known.get(counter.point_id)
    return None if extent is None else extent.parameters


def _level(period: str) -> Level:
    """The period of a stored account, typed."""
    return "hour" if period == "hour" else "day"


def _current(row: accounts.Stored | None) -> bool:
    return row is not None and row.current


def _starts(spans: Iterable[Span]) -> NDArray[np.int64]:
    """Starts of all base intervals that spans touch."""
    parts = [np.arange(first // BASE_US * BASE_US, last + 1, BASE_US, dtype=np.int64) for first, last in spans]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def _within(chunk: Chunk, starts_us: NDArray[np.int64]) -> NDArray[np.int64]:
    return starts_us[(starts_us >= chunk.first_us) & (starts_us < chunk.end_us)]
