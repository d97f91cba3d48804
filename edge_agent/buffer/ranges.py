"""Sets of seqs as inclusive, ascending, disjoint ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]


def from_seqs(seqs: Iterable[int]) -> tuple[Range, ...]:
    """Ranges that hold exactly these seqs."""
    return union((seq, seq) for seq in seqs)


def union(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges that hold what any of the given ones holds."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def holes(ranges: Iterable[Range], first: int, last: int) -> Iterator[Range]:
    """What of `first` to `last` the ranges leave out."""
    here = first
    for low, high in union(ranges):
        if high < here:
            continue
        if low > last:
            break
        if low > here:
            yield here, low - 1
        here = high + 1
    if here <= last:
        yield here, last


def size(ranges: Iterable[Range]) -> int:
    """How many seqs they hold."""
    return sum(last - first + 1 for first, last in ranges)
