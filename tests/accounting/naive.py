"""Plain twin of the counter kernel: whole numbers, lists and loops, written from the kernel's docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ROLLOVER, RESET, TRANSIENT, GAP, ESTIMATED, PARTIAL_START, PARTIAL_END, JUMP = (1 << bit for bit in range(8))
LONGEST_RUN = 60
US_PER_HOUR = 3_600_000_000


@dataclass
class Use:
    use: list[int]
    has_use: list[bool]
    covered_us: list[int]
    estimated: list[int]
    flags: list[int]
    needs_from_us: int = -(2**62)
    needs_to_us: int = 2**62


@dataclass
class Counter:
    gap_limit_us: int
    resolution: float = 1e-6
    modulus: float | None = None
    max_rate_per_h: float | None = None
    step: float = 0.0
    times: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def plausible(self, a: int, b: int) -> int | None:
        """Use from reading a to reading b, None if it is not plausible."""
        first, last = self.units[a], self.units[b]
        use = last - first
        modulus = None if self.modulus is None else round(self.modulus / self.resolution)
        if use < 0:
            if modulus is None or use + modulus < 0:
                return None
            use += modulus
        rolled = last < first
        if self.max_rate_per_h is not None:
            rate = self.max_rate_per_h / self.resolution / US_PER_HOUR
            bound = rate * float(self.times[b] - self.times[a]) + (self.step / self.resolution + 1.0)
            if float(use) > bound:
                return None
            if modulus is not None and (float(use + modulus) <= bound or (rolled and use > modulus // 2)):
                return None
        elif modulus is not None and use > (modulus // 10 if rolled else modulus // 2):
            return None
        return use

    def stands_out(self, i: int, j: int, *, far_end_is_last: bool) -> bool:
        """Whether the run between i and j stands out at its other end too."""
        other = (j - 1, j) if far_end_is_last else (i, i + 1)
        step = self.plausible(*other)
        return step is None or step > self.units[j - 1] - self.units[i + 1]

    def transients(self) -> set[int]:
        dropped: set[int] = set()
        count = len(self.units)
        for s in range(count - 1):
            if self.plausible(s, s + 1) is not None:
                continue
            ahead = [
                j
                for j in range(s + 2, count)
                if self.times[j] - self.times[s] <= self.gap_limit_us
                and j - s - 1 <= LONGEST_RUN
                and self.plausible(s, j) is not None
            ]
            if ahead and self.stands_out(s, ahead[0], far_end_is_last=True):
                dropped.update(range(s + 1, ahead[0]))
                continue
            behind = [
                i
                for i in range(s)
                if self.times[s + 1] - self.times[i] <= self.gap_limit_us
                and s - i <= LONGEST_RUN
                and self.plausible(i, s + 1) is not None
            ]
            if behind and self.stands_out(behind[-1], s + 1, far_end_is_last=False):
                dropped.update(range(behind[-1] + 1, s + 1))
        return dropped

    def use(self, times: Sequence[int], values: Sequence[float], edges: Sequence[int]) -> Use:
        self.times, self.units = list(times), [round(v / self.resolution) for v in values]
        dropped = self.transients()
        dropped_times = [self.times[k] for k in dropped]
        kept = [k for k in range(len(self.times)) if k not in dropped]
        self.times, self.units = [self.times[k] for k in kept], [self.units[k] for k in kept]
        m = len(edges) - 1
        result = Use([0] * m, [False] * m, [0] * m, [0] * m, [0] * m)
        for n in range(m):
            self.fill(result, n, edges[n], edges[n + 1])
            if any(edges[n] <= t < edges[n + 1] for t in dropped_times):
                result.flags[n] |= TRANSIENT
        before = [t for t in self.times if t <= edges[0]]
        after = [t for t in self.times if t >= edges[-1]]
        if before:
            result.needs_from_us = before[-1] - self.gap_limit_us
        if after:
            result.needs_to_us = after[0] + self.gap_limit_us
        return result

    def fill(self, result: Use, n: int, start: int, end: int) -> None:
        if not self.times or start < self.times[0]:
            result.flags[n] |= PARTIAL_START
        if not self.times or end > self.times[-1]:
            result.flags[n] |= PARTIAL_END
        for k in range(len(self.times) - 1):
            a, b = self.times[k], self.times[k + 1]
            low, high = max(a, start), min(b, end)
            if low >= high:
                continue
            use = self.plausible(k, k + 1)
            falls = self.units[k + 1] < self.units[k]
            if use is None:
                result.flags[n] |= RESET if falls else JUMP
                continue
            part = even(use, high - a, b - a) - even(use, low - a, b - a)
            result.use[n] += part
            result.has_use[n] = True
            result.flags[n] |= ROLLOVER if falls else 0
            if b - a > self.gap_limit_us:
                result.flags[n] |= GAP | (ESTIMATED if part else 0)
                result.estimated[n] += part
            else:
                result.covered_us[n] += high - low


def even(use: int, elapsed: int, length: int) -> int:
    """Use after `elapsed` of `length`, rounded half up."""
    return (2 * use * elapsed + length) // (2 * length)
