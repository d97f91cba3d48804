"""Builds the offline file: `make offline`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.offline.bundle import build
from deploy.offline.errors import OfflineError


def main(arguments: list[str] | None = None) -> int:
    """Build the file and print its size and digest; exit code 1 if it cannot be built."""
    parser = argparse.ArgumentParser(prog="make offline", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the file (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.out))
    except OfflineError as error:
        print(f"offline: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
