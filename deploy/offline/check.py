"""Checks, on the gateway, that this folder is as it was built and fits this machine.

It runs before anything is installed, with whatever Python there is, and nothing but its standard library.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def main() -> int:
    """Print what is wrong; exit code 1 if anything is."""
    folder = Path(__file__).resolve().parent
    try:
        found = [*misfits(folder), *differences(folder)]
    except (OSError, ValueError, KeyError) as error:
        found = [f"{MANIFEST}: cannot be read ({error!r}); unpack the file again"]
    for problem in found:
        print(f"offline file: {problem}", file=sys.stderr)
    return 1 if found else 0


def differences(folder: Path) -> list[str]:
    """Say which files are not as they were built: changed, missing or added."""
    digests = _manifest(folder)["sha256"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    found = [f"{name}: is not of this offline file" for name in sorted(there - set(digests))]
    for name, digest in sorted(digests.items()):
        if name not in there:
            found.append(f"{name}: is missing")
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            found.append(f"{name}: is not as it was built (SHA-256 differs)")
    return found


def misfits(folder: Path) -> list[str]:
    """Say what of this machine the wheels do not serve."""
    manifest = _manifest(folder)
    python = "{}.{}".format(*sys.version_info[:2])
    libc, version = platform.libc_ver()
    found = []
    if python not in manifest["python"]:
        found.append(f"Python is {python}; allowed: {', '.join(manifest['python'])}")
    if platform.machine() not in manifest["machine"] or sys.maxsize < 2**32:
        bits = "" if sys.maxsize > 2**32 else " with a Python of 32 bits"
        found.append(
            f"the machine is {platform.machine()}{bits}; allowed: {' and '.join(manifest['machine'])}, 64 bits"
        )
    if libc != "glibc" or _numbers(version) < manifest["glibc"]:
        allowed = ".".join(map(str, manifest["glibc"]))
        found.append(
            f"the C library is {libc or 'not glibc'} {version}; allowed: glibc from {allowed}".replace(" ;", ";")
        )
    return found


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
