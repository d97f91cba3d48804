"""Say which real services the tests will use, and make the Debian root ahead of them if it is needed."""

from __future__ import annotations

import os
import shutil
import sys

from tests.support import debian, services

CLIENTS = ("mosquitto_sub", "mbpoll")


def main() -> int:
    """Print one line a service; exit code 0 even where something is missing: the tests say the rest."""
    docker = services.docker_answers()
    given = bool(os.environ.get("METERCARBON_TEST_DSN_TIMESCALE"))
    here = all(shutil.which(name) for name in CLIENTS)
    root = ""
    if not (given or docker) or not here:
        try:
            root = str(debian.debian_root())
        except debian.RootError as error:
            print(f"services: NO Debian root: {error}", file=sys.stderr)
            print("services: tests that need what is missing are SKIPPED; see docs/testing.md", file=sys.stderr)
    where = "the DSN given" if given else "Docker" if docker else f"the Debian root {root}" if root else "NOWHERE"
    print(f"services: TimescaleDB from {where}", file=sys.stderr)
    print(f"services: Mosquitto from {shutil.which('mosquitto') or where}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
