"""A Debian 13 root with the services and the independent clients that tests need, run by chroot.

Made once by debootstrap (as root, about 45 s) and kept in the user's cache folder, outside the repository:
PostgreSQL 17 with TimescaleDB (Apache-2 build), Mosquitto and its clients, mbpoll, and libmodbus and open62541
with a small C compiler, so that servers of our own can be built on them. Another list of packages makes another
root: a copy of an older one with what it lacks, which takes seconds. `METERCARBON_TEST_ROOT` names another place.

Invariants

- A root is complete or absent: it is made under another name and renamed when finished, under a lock.
- Tests keep their data in directories of their own inside the root and remove them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "trixie"
PACKAGES = (
    "libc6-dev",
    "libmodbus-dev",
    "libopen62541-1.4-dev",
    "libopen62541-1.4-tools",
    "mbpoll",
    "mosquitto",
    "mosquitto-clients",
    "postgresql-17-timescaledb",
    "tcc",
)
_START = "int run(int, char **);\nint main(int count, char **words) { return run(count, words); }\n"
_APT = ("-q", "-y", "-o", "APT::Sandbox::User=root")


class RootError(Exception):
    """The Debian root, or a program in it, cannot be made here; the message says why."""


def root_path() -> Path:
    """Where the root is or will be; another list of packages gives another root."""
    chosen = os.environ.get("METERCARBON_TEST_ROOT")
    if chosen:
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    tag = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:10]
    return cache / "metercarbon" / f"debian-{SUITE}-{tag}"


def debian_root() -> Path:
    """Return the root, making it first if need be.

    Raises
    ------
    RootError
        If it is not there and cannot be made.
    """
    root = root_path()
    if root.is_dir():
        return root
    if os.geteuid() != 0:
        raise RootError(f"{root} is not there, and making it takes root")
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _make(root)
    return root


def _make(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="making-") as work:
        target = Path(work) / "root"
        if _extend(root, target):
            target.rename(root)
            return
        command, environment = _debootstrap(Path(work))
        command += ["--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(target)]
        log = root.parent / f"{root.name}.log"
        for mirror in (*_apt_mirrors(), None):
            shutil.rmtree(target, ignore_errors=True)
            with log.open("wb") as out:
                done = subprocess.run(
                    [*command, mirror] if mirror else command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    timeout=1800,
                    check=False,
                )
            if done.returncode == 0:
                subprocess.run(chroot(target, "apt-get", "clean"), check=True, timeout=60)
                target.rename(root)
                return
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise RootError(f"debootstrap failed; {log} ends:\n{tail}")


def _extend(root: Path, target: Path) -> bool:
    """Copy the newest of the older roots and install what it lacks; False where that cannot be done."""
    older = sorted(root.parent.glob(f"debian-{SUITE}-*/"), key=lambda found: found.stat().st_mtime)
    if not older:
        return False
    steps = (
        ["cp", "-a", "--reflink=auto", str(older[-1]), str(target)],
        chroot(target, "apt-get", *_APT, "update"),
        chroot(target, "apt-get", *_APT, "install", "--no-install-recommends", *PACKAGES),
        chroot(target, "apt-get", "clean"),
    )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with (root.parent / f"{root.name}.log").open("wb") as out:
        return all(
            subprocess.run(
                step, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, timeout=600, check=False
            ).returncode
            == 0
            for step in steps
        )


def _debootstrap(work: Path) -> tuple[list[str], dict[str, str]]:
    """The installed debootstrap, or one unpacked from its package without installing it."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    environment["PATH"] = f"{environment.get('PATH', '')}:/usr/sbin:/sbin"
    if found := shutil.which("debootstrap", path=environment["PATH"]):
        return [found], environment
    if not shutil.which("apt-get"):
        raise RootError("neither debootstrap nor apt-get is on this machine")
    (work / "lists" / "partial").mkdir(parents=True)
    options = ["-q", "-o", f"Dir::State::lists={work / 'lists'}", "-o", "APT::Sandbox::User=root"]
    for step in (["update"], ["download", "debootstrap"]):
        done = subprocess.run(
            ["apt-get", *options, *step], cwd=work, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise RootError(f"apt-get {' '.join(step)} failed: {done.stderr.strip()[-500:]}")
    package = next(work.glob("debootstrap_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(work / "debootstrap")], check=True, timeout=60)
    environment["DEBOOTSTRAP_DIR"] = str(work / "debootstrap/usr/share/debootstrap")
    return ["sh", str(work / "debootstrap/usr/sbin/debootstrap")], environment


def _apt_mirrors() -> list[str]:
    """Mirrors of Debian proper that the machine's own apt configuration names."""
    if not shutil.which("apt-get"):
        return []
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI) $(COMPONENT)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = []
    for line in listed.stdout.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[2] == "main" and re.search(r"/debian/?$", parts[1]):
            found.append(parts[1])
    return sorted(set(found))


def chroot(root: Path, *command: str, user: str | None = None) -> list[str]:
    """Arguments that run a command inside the root."""
    program = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "chroot"
    as_user = [f"--userspec={user}:{user}"] if user else []
    return [program, *as_user, str(root), *command]


def compiled(source: Path, directory: Path, *libraries: str) -> list[str]:
    """Compile a C program inside the root; returns arguments that run it outside.

    It runs with the root's libraries, but with the machine's own files and devices: no chroot has its
    pseudo-terminals.

    Parameters
    ----------
    source
        The program.
    directory
        Where the binaries go.
    libraries
        What it stands on, as the linker names them.

    Raises
    ------
    RootError
        If there is no root, or the compiler refuses the program.
    """
    root = debian_root()
    if os.geteuid() != 0:
        raise RootError(f"compiling {source.name} in {root}: chroot takes root")
    if not (root / "usr/bin/tcc").exists():
        raise RootError(f"compiling {source.name}: {root} lacks packages; needed: {', '.join(PACKAGES)}")
    name = source.stem
    with tempfile.TemporaryDirectory(dir=root / "tmp", prefix="compiling-") as outside:
        work, inside = Path(outside), f"/tmp/{Path(outside).name}"
        shutil.copy(source, work)
        (work / "start.c").write_text(_START)
        used = [f"-l{library}" for library in libraries]
        # In a program, tcc would put copies of a library's tables, less aligned than the library relies on.
        steps = (
            ["-shared", "-Dmain=run", "-o", f"{inside}/lib{name}.so", f"{inside}/{source.name}", *used],
            ["-o", f"{inside}/{name}", f"{inside}/start.c", f"-L{inside}", f"-l{name}"],
        )
        for step in steps:
            done = subprocess.run(chroot(root, "tcc", *step), capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                raise RootError(f"{source.name} cannot be compiled in {root}: {done.stdout}{done.stderr}")
        for made in (f"lib{name}.so", name):
            shutil.copy(work / made, directory)
    loader = next((root / "usr/lib").glob("*-linux-gnu*/ld-linux*.so.*"))
    return [str(loader), "--library-path", f"{loader.parent}:{directory}", str(directory / name)]
