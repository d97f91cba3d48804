"""Which locked packages an extra needs: read from `requirements.lock`, where each entry says what it came via."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.offline.errors import OfflineError

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>.+?))? \\")
_HASH = re.compile(r"\s+--hash=sha256:(?P<digest>[0-9a-f]{64})")
_VIA = re.compile(r"\s+# (?:via | +)(?P<name>[A-Za-z0-9._-]+)")


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of the lock file.

    Attributes
    ----------
    name, version
        Name in normal form, and the one version.
    marker
        Where it applies, empty for everywhere.
    digests
        SHA-256 of each file that may be installed.
    via
        Names of what depends on it.
    """

    name: str
    version: str
    marker: str
    digests: frozenset[str]
    via: frozenset[str]

    def line(self, digests: Iterable[str], *, marked: bool = True) -> str:
        """Line of a requirements file that allows only the files with these digests."""
        marker = f" ; {self.marker}" if marked and self.marker else ""
        return f"{self.name}=={self.version}{marker} " + " ".join(f"--hash=sha256:{one}" for one in sorted(digests))


def read(text: str) -> list[Locked]:
    """Read a lock file."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if _ENTRY.fullmatch(line)]
    return [_entry(lines[here:following]) for here, following in pairwise([*starts, len(lines)])]


def _entry(lines: list[str]) -> Locked:
    head = _ENTRY.fullmatch(lines[0])
    assert head is not None
    return Locked(
        canonicalize_name(head["name"]),
        head["version"],
        head["marker"] or "",
        frozenset(found["digest"] for line in lines if (found := _HASH.match(line))),
        frozenset(canonicalize_name(found["name"]) for line in lines if (found := _VIA.match(line))),
    )


def needed(locked: list[Locked], dependencies: Iterable[str]) -> list[Locked]:
    """Entries that the dependencies need, directly or through others.

    Raises
    ------
    OfflineError
        If a dependency is not locked.
    """
    names: set[str] = {canonicalize_name(Requirement(one).name) for one in dependencies}
    if missing := names - {entry.name for entry in locked}:
        raise OfflineError(f"requirements.lock has no {', '.join(sorted(missing))}; allowed: all dependencies locked")
    while more := {entry.name for entry in locked if entry.via & names} - names:
        names |= more
    return [entry for entry in locked if entry.name in names]
