"""Builds the offline file.

- What it holds is locked: each wheel has a digest of `requirements.lock`, but for metercarbon's own, built from
  this clone; `requirements.txt` in it repeats these digests, so that pip refuses any other file.
- It is complete: for every target all that the wheels' metadata ask for there is in it as a wheel that runs
  there, or nothing is written.
- It is the same bytes from the same input: sorted, without times and owners.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from deploy.offline.errors import OfflineError
from deploy.offline.lock import Locked, needed, read
from deploy.offline.targets import GLIBC, MACHINES, PYTHONS, TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
EXTRA = "edge"
_BESIDE = (
    ROOT / "deploy/offline/check.py",
    ROOT / "deploy/offline/install.sh",
    ROOT / "deploy/systemd/agent-setup.sh",
    ROOT / "deploy/systemd/metercarbon-agent.service",
)
"""What the file brings along with wheels, requirements and manifest."""
_LAST = 2000
"""Characters of a failed command's output that its error repeats."""


@dataclass(frozen=True, slots=True)
class Built:
    """An offline file.

    Attributes
    ----------
    path
        The archive.
    wheels
        How many it holds.
    digest
        Its SHA-256.
    """

    path: Path
    wheels: int
    digest: str

    def __str__(self) -> str:
        """What was built, in two lines."""
        size = self.path.stat().st_size / 1e6
        served = f"CPython {', '.join(PYTHONS)} on {' and '.join(MACHINES)}, glibc from {GLIBC[0]}.{GLIBC[1]}"
        return f"{self.path}: {size:.1f} MB, {self.wheels} wheels for {served}\nsha256 {self.digest}"


def build(out: Path) -> Built:
    """Build the offline file into a folder.

    Raises
    ------
    OfflineError
        If metercarbon's wheel cannot be built, a locked wheel cannot be had, or one is missing for a target.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies = [*project["dependencies"], *project["optional-dependencies"][EXTRA]]
    entries = needed(read((ROOT / "requirements.lock").read_text(encoding="utf-8")), dependencies)
    with tempfile.TemporaryDirectory(prefix="metercarbon-offline-") as work:
        own = _own_wheel(Path(work) / "own")
        wheels = _download(TARGETS[0], entries, Path(work))
        everywhere = {parse_wheel_filename(name)[0] for name in wheels if name.endswith("-none-any.whl")}
        compiled = [entry for entry in entries if entry.name not in everywhere]
        with ThreadPoolExecutor(max_workers=len(MACHINES)) as pool:
            for found in pool.map(lambda target: _download(target, compiled, Path(work)), TARGETS[1:]):
                wheels |= found
        for target in TARGETS:
            check_complete([*wheels.values(), own], target)
        version = parse_wheel_filename(own.name)[1]
        files = {f"wheels/{name}": path.read_bytes() for name, path in {**wheels, own.name: own}.items()}
        digests = {_digest(data) for data in files.values()}
        files |= {path.name: path.read_bytes() for path in _BESIDE}
        lines = [entry.line(entry.digests & digests) for entry in entries]
        lines.append(f"metercarbon[{EXTRA}]=={version} --hash=sha256:{_digest(own.read_bytes())}")
        files["requirements.txt"] = "".join(f"{line}\n" for line in lines).encode()
        files["manifest.json"] = _manifest(str(version), files)
        name = f"metercarbon-{version}-offline"
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.tar"
        write_archive(path, name, files)
    return Built(path, len(wheels) + 1, _digest(path.read_bytes()))


def check_complete(wheels: Iterable[Path], target: Target) -> None:
    """Check that a gateway gets all that metercarbon asks for, and what that asks for in turn.

    Parameters
    ----------
    wheels
        Those that there are, metercarbon's own among them.
    target
        The gateway.

    Raises
    ------
    OfflineError
        Naming the package that is missing, and where.
    """
    runs = target.tags()
    parsed = {path: parse_wheel_filename(path.name) for path in wheels}
    usable = {name: (version, path) for path, (name, version, _, tags) in parsed.items() if tags & runs}
    asked, seen = [("", Requirement(f"metercarbon[{EXTRA}]"))], set()
    while asked:
        by, wanted = asked.pop()
        version, path = usable.get(canonicalize_name(wanted.name), (None, None))
        if version is None or path is None or not wanted.specifier.contains(version, prereleases=True):
            where = f"CPython {target.python} on {target.machine}, glibc {GLIBC[0]}.{GLIBC[1]}"
            raise OfflineError(f"{wanted}, needed by {by}: no locked wheel runs on {where}; found: {version}")
        if (path, frozenset(wanted.extras)) not in seen:
            seen.add((path, frozenset(wanted.extras)))
            needs = map(Requirement, _metadata(path).get_all("Requires-Dist", []))
            asked += [(path.name, one) for one in needs if target.applies(str(one.marker or ""), wanted.extras)]


def _metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def write_archive(path: Path, folder: str, files: dict[str, bytes]) -> None:
    """Write files below one folder into an archive; the same bytes from the same input."""
    unfinished = path.with_suffix(".tar.part")
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, BytesIO(data))
    unfinished.replace(path)


def _manifest(version: str, files: dict[str, bytes]) -> bytes:
    return json.dumps(
        {
            "name": "metercarbon",
            "version": version,
            "python": PYTHONS,
            "machine": MACHINES,
            "glibc": GLIBC,
            "sha256": {name: _digest(data) for name, data in sorted(files.items())},
        },
        indent=1,
    ).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _own_wheel(folder: Path) -> Path:
    # With what the environment has: it is locked too.
    _pip("wheel of metercarbon", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.iterdir()
    return wheel


def _download(target: Target, entries: list[Locked], work: Path) -> dict[str, Path]:
    folder = work / f"{target.machine}-{target.python}"
    folder.mkdir()
    wanted = folder / "requirements.txt"
    here = [entry for entry in entries if target.applies(entry.marker)]
    # Without markers: pip takes them as of the interpreter that runs it.
    wanted.write_text("".join(f"{entry.line(entry.digests, marked=False)}\n" for entry in here), encoding="utf-8")
    # Without dependencies: pip would take their markers likewise; `check_complete` looks at them.
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    options += ["--implementation=cp", f"--python-version={target.python}"]
    options += [f"--platform={platform}" for platform in target.platforms]
    step = f"wheels for CPython {target.python} on {target.machine}"
    _pip(step, "download", *options, "--dest", str(folder / "wheels"), "--requirement", str(wanted))
    return {path.name: path for path in (folder / "wheels").iterdir()}


def _pip(step: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("WARNING"))
        raise OfflineError(f"{step}: pip ended with {done.returncode}: {said[-_LAST:]}")
