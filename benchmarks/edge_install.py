"""What an agent's install takes: a wheel built from this clone, with its ``edge`` set, in a fresh environment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, Results

ROOT = Path(__file__).resolve().parent.parent


def run(directory: Path) -> Results:
    """Download and disk size; needs the network."""
    dist, wheels = directory / "dist", directory / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _call([*pip, "wheel", "--no-deps", "--wheel-dir", str(dist), str(ROOT)])
    (wheel,) = dist.glob("metercarbon-*.whl")
    _call([*pip, "download", "--only-binary", ":all:", "--dest", str(wheels), f"{wheel}[edge]"])
    _call([sys.executable, "-m", "venv", str(directory / "agent")])
    (packages,) = (directory / "agent").glob("lib/python*/site-packages")
    empty = size(packages)
    begun = time.monotonic()
    installed = [str(directory / "agent" / "bin" / "python"), "-m", *pip[2:]]
    _call([*installed, "install", "--no-index", "--find-links", str(wheels), f"{wheel}[edge]"])
    took_s = time.monotonic() - begun
    _call([str(directory / "agent" / "bin" / "edge-agent"), "--version"])
    return {
        "edge_install.download": Result(size(wheels) / 1e6, "MB"),
        "edge_install.packages": Result(len(list(wheels.iterdir())), "wheels"),
        "edge_install.disk": Result((size(packages) - empty) / 1e6, "MB"),
        "edge_install.time": Result(took_s, "s"),
    }


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
