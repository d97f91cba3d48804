"""Gateways that the offline file serves: interpreters, machines, the oldest glibc, and which wheels run there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.markers import Marker, default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags

PYTHONS = ("3.11", "3.12", "3.13")
"""Of Debian 12, Ubuntu 24.04 and Debian 13."""
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 28)
"""Of Debian 10 and RHEL 8; cryptography's wheels need it."""
_OLDEST_GLIBC = 17


@dataclass(frozen=True, slots=True)
class Target:
    """One CPython on one machine."""

    python: str
    machine: str

    @property
    def platforms(self) -> list[str]:
        """Platform tags that run here, the newest first."""
        newest = range(GLIBC[1], _OLDEST_GLIBC - 1, -1)
        return [*(f"manylinux_2_{minor}_{self.machine}" for minor in newest), f"manylinux2014_{self.machine}"]

    def tags(self) -> frozenset[Tag]:
        """Tags of wheels that run here."""
        version = tuple(map(int, self.python.split(".")))
        own = cpython_tags(version, platforms=self.platforms)
        interpreter = f"cp{version[0]}{version[1]}"
        return frozenset([*own, *compatible_tags(version, interpreter, platforms=self.platforms)])

    def applies(self, marker: str, extras: Iterable[str] = ()) -> bool:
        """Whether a marker holds here: without an extra, or with one of those given."""
        environment = {name: str(value) for name, value in default_environment().items()} | {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
        return not marker or any(Marker(marker).evaluate(environment | {"extra": one}) for one in ("", *extras))


TARGETS = tuple(Target(python, machine) for machine in MACHINES for python in PYTHONS)
