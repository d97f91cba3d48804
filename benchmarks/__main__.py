"""Runs benchmarks and writes their figures. Exit codes: 0 ok, 1 a benchmark has failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results as files
from benchmarks.errors import BenchmarkError
from benchmarks.registry import BENCHMARKS
from benchmarks.results import Result, Results
from deploy.local.errors import StackError
from tests.support.services import ServiceError

OUT = Path(__file__).resolve().parent / "results.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="run this one only; may be repeated")
    parser.add_argument("--out", type=Path, default=OUT, help="where the figures go, as JSON (default: %(default)s)")
    options = parser.parse_args(arguments)
    found: Results = {}
    failed = False
    for name in options.only or BENCHMARKS:
        found[f"{name}.load_before"] = Result(os.getloadavg()[0], "processes in the last minute")
        begun = time.monotonic()
        try:
            # The embedded PostgreSQL, which never runs as root, may take its files along later.
            with tempfile.TemporaryDirectory(prefix="metercarbon-bench-", ignore_cleanup_errors=True) as directory:
                figures = BENCHMARKS[name](Path(directory))
        except (BenchmarkError, StackError, ServiceError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{name}, {time.monotonic() - begun:.0f} s")
        for figure, result in figures.items():
            print(f"  {_line(figure, result)}")
        found |= figures
    found["cores"] = Result(len(os.sched_getaffinity(0)), "cores")
    files.write(options.out, found)
    return 1 if failed else 0


def _line(name: str, result: Result) -> str:
    text = f"{name}: {files.rounded(result.value):,g} {result.unit}"
    return text if result.ratio is None else f"{text}, {result.ratio:.2f} of {result.against}"


if __name__ == "__main__":
    sys.exit(main())
