"""The offline file: all that a gateway needs, for both machines, and nothing that was changed on the way."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from deploy.local.broker import Broker
from deploy.offline import bundle as building
from deploy.offline import check
from deploy.offline.errors import OfflineError
from deploy.offline.lock import Locked, needed, read
from deploy.offline.targets import Target
from tests.support import installed
from tests.support.modbus_responder import Responder

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
MOST_MB = 60

pytestmark = pytest.mark.xdist_group("offline-file")


def missing(what: str) -> NoReturn:
    if os.environ.get("METERCARBON_REQUIRE_SERVICES", "") not in ("", "0"):
        pytest.fail(f"{what}: the offline install is NOT CHECKED")
    pytest.skip(f"{what}: the offline install is NOT CHECKED here")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> building.Built:
    """The file, built once for all workers, as by `make offline`."""
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling is not in this environment")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    told = shared / "offline.json"
    with (shared / "offline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            made = building.build(shared / "offline")
            told.write_text(json.dumps([str(made.path), made.wheels, made.digest]))
    path, count, sha256 = json.loads(told.read_text())
    return building.Built(Path(path), count, sha256)


@pytest.fixture
def folder(built: building.Built, tmp_path: Path) -> Path:
    """What the file unpacks to."""
    subprocess.run(["tar", "-xf", str(built.path), "-C", str(tmp_path)], check=True, timeout=60)
    (unpacked,) = tmp_path.iterdir()
    return unpacked


@pytest.fixture
def cut_off() -> list[str]:
    """Arguments that run a command without any network, not even loopback."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False, timeout=60).returncode:
        missing("unshare cannot take the network away")
    if "{}.{}".format(*sys.version_info[:2]) not in PYTHONS:
        missing(f"Python is not one of {', '.join(PYTHONS)}")
    return command


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run with nothing of this environment but the PATH: no index, no cache, no settings of pip."""
    variables = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": "/nonexistent", **environment}
    arguments = [str(one) for one in command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=180, env=variables, check=False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def wheels(folder: Path) -> list[Path]:
    return sorted((folder / "wheels").iterdir())


def test_every_wheel_is_locked_and_the_size_is_sensible(built: building.Built, folder: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    required = (folder / "requirements.txt").read_text(encoding="utf-8")
    for wheel in wheels(folder):
        assert f"--hash=sha256:{digest(wheel)}" in required
        own = wheel.name.startswith("metercarbon-")
        assert (f"--hash=sha256:{digest(wheel)}" in lock) is not own
    assert built.wheels == len(wheels(folder)) > 20
    assert built.digest == digest(built.path)
    assert 10e6 < built.path.stat().st_size < MOST_MB * 1e6
    assert f"{built.path.stat().st_size / 1e6:.1f} MB, {built.wheels} wheels" in str(built)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_dependency_is_there_for_every_machine_and_python(python: str, machine: str, folder: Path) -> None:
    version = tuple(map(int, python.split(".")))
    platforms = [f"manylinux_2_28_{machine}", f"manylinux_2_17_{machine}"]
    runs = {*cpython_tags(version, platforms=platforms)}
    runs |= {*compatible_tags(version, "cp{}{}".format(*version), platforms=platforms)}
    usable = {}
    for wheel in wheels(folder):
        name, found, _, tags = parse_wheel_filename(wheel.name)
        if tags & runs:
            usable[name] = found
    environment = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [Requirement(re.sub(r" --hash=\S+", "", line)) for line in lines]
    assert {"cryptography", "pydantic-core", "orjson", "cffi", "metercarbon"} <= {one.name for one in required}
    for one in required:
        if one.marker is None or one.marker.evaluate(environment):
            assert one.specifier.contains(usable[canonicalize_name(one.name)])


def test_what_is_compiled_is_compiled_for_the_machine_that_its_name_says(folder: Path) -> None:
    elf_machine = {"x86_64": 62, "aarch64": 183}
    found = dict.fromkeys(MACHINES, 0)
    for wheel in wheels(folder):
        with zipfile.ZipFile(wheel) as archive:
            for name in (one for one in archive.namelist() if one.endswith(".so")):
                (machine,) = (one for one in MACHINES if wheel.name.endswith(f"_{one}.whl"))
                with archive.open(name) as library:
                    head = library.read(20)
                assert (head[:4], int.from_bytes(head[18:20], "little")) == (b"\x7fELF", elf_machine[machine]), (
                    wheel.name
                )
                found[machine] += 1
    assert found["x86_64"] == found["aarch64"] > len(PYTHONS)


def test_it_installs_the_agent_as_a_service_with_the_network_off(
    folder: Path, built: building.Built, cut_off: list[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        assert run(sys.executable, "-c", connect).returncode == 0
        assert "OSError" in run(*cut_off, sys.executable, "-c", connect).stderr
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for tool in ("getent", "useradd", "chown", "systemctl"):  # what changes the system
        (stubs / tool).write_text("#!/bin/sh\n")
        (stubs / tool).chmod(0o755)
    root = tmp_path / "root"
    environment = {"METERCARBON_ROOT": str(root), "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"}
    done = run(*cut_off, "sh", folder / "agent-setup.sh", "install", built.path, **environment)
    assert done.returncode == 0, done.stderr
    agent, config = root / "opt/metercarbon/current/bin/edge-agent", root / "etc/metercarbon/agent.toml"
    version = re.search(r"metercarbon-([^-]+)-", built.path.name)
    assert version is not None
    assert run(*cut_off, agent, "--version").stdout.split() == ["edge-agent", version[1]]
    checked = run(*cut_off, agent, "check-config", config)
    assert (checked.returncode, ": ok, " in checked.stdout) == (0, True), checked.stderr
    assert [found.name for found in (root / "opt/metercarbon/releases").iterdir()] == ["1"]


async def test_values_of_an_agent_installed_with_the_network_off_reach_the_database(
    folder: Path, cut_off: list[str], plain_database_dsn: str, mosquitto: Broker
) -> None:
    home = folder.parent
    done = await asyncio.to_thread(run, *cut_off, "sh", folder / "install.sh", home / "agent")
    assert done.returncode == 0, done.stderr
    async with Responder(lambda asked: asked.counting()) as meter:
        await asyncio.to_thread((home / "agent.toml").write_text, installed.config(mosquitto, meter.port))
        command = [str(home / "agent/bin/edge-agent"), "run", "agent.toml"]
        found = await installed.first_value(command, home, {"PATH": os.environ["PATH"]}, plain_database_dsn, mosquitto)
    assert found == installed.FIRST


def test_a_changed_byte_in_any_file_is_told_with_its_name(folder: Path) -> None:
    assert check.differences(folder) == []
    for path in [*wheels(folder), folder / "requirements.txt", folder / "install.sh"]:
        before = path.read_bytes()
        change(path)
        name = path.relative_to(folder).as_posix()
        assert check.differences(folder) == [f"{name}: is not as it was built (SHA-256 differs)"]
        path.write_bytes(before)


def test_a_file_too_many_or_too_few_is_told_with_its_name(folder: Path) -> None:
    first, *_ = wheels(folder)
    first.rename(first.with_name("other-1-py3-none-any.whl"))
    assert check.differences(folder) == [
        "wheels/other-1-py3-none-any.whl: is not of this offline file",
        f"wheels/{first.name}: is missing",
    ]


@pytest.mark.parametrize("text", [None, "", '{"python": '])
def test_a_manifest_that_is_torn_or_gone_is_told(text: str | None, folder: Path, tmp_path: Path) -> None:
    (folder / check.MANIFEST).unlink()
    if text is not None:
        (folder / check.MANIFEST).write_text(text)
    done = run("sh", folder / "install.sh", tmp_path / "agent")
    assert (done.returncode, (tmp_path / "agent").exists()) == (1, False)
    assert done.stderr.startswith("offline file: manifest.json: cannot be read (")


def test_nothing_is_installed_from_a_changed_file(folder: Path, tmp_path: Path) -> None:
    wheel = wheels(folder)[-1]
    change(wheel)
    done = run("sh", folder / "install.sh", tmp_path / "agent")
    assert done.returncode == 1
    assert f"wheels/{wheel.name}: is not as it was built" in done.stderr
    assert "nothing was installed" in done.stderr
    assert not (tmp_path / "agent").exists()


def test_pip_refuses_a_wheel_that_is_not_the_locked_one_even_if_the_manifest_has_it(
    folder: Path, cut_off: list[str], tmp_path: Path
) -> None:
    (wheel,) = (folder / "wheels").glob("idna-*.whl")
    change(wheel)
    manifest = json.loads((folder / check.MANIFEST).read_text(encoding="utf-8"))
    manifest["sha256"][f"wheels/{wheel.name}"] = digest(wheel)
    (folder / check.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    done = run(*cut_off, "sh", folder / "install.sh", tmp_path / "agent")
    assert done.returncode != 0
    assert "HASHES" in done.stderr
    assert "idna" in done.stderr
    assert not (tmp_path / "agent").exists()


def test_a_machine_that_is_not_served_is_told_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = {"python": ["3.9", "3.10"], "machine": ["x86_64", "aarch64"], "glibc": [2, 28], "sha256": {}}
    (tmp_path / check.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr("platform.machine", lambda: "armv7l")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.9"))
    python, machine, libc = check.misfits(tmp_path)
    assert python.endswith("; allowed: 3.9, 3.10")
    assert machine == "the machine is armv7l; allowed: x86_64 and aarch64, 64 bits"
    assert libc == "the C library is glibc 2.9; allowed: glibc from 2.28"
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert check.misfits(tmp_path)[2] == "the C library is not glibc; allowed: glibc from 2.28"
    # A Python of 32 bits on a kernel of 64, as on some gateways' images.
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    assert "aarch64 with a Python of 32 bits" in check.misfits(tmp_path)[1]


def test_the_installer_makes_a_new_folder_or_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = run("sh", folder / "install.sh", tmp_path / "there")
    assert (done.returncode, "exists; allowed: a new folder" in done.stderr) == (2, True)
    assert run("sh", folder / "install.sh").returncode == 2


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (
            "cffi-*-cp312-*aarch64*.whl",
            r"cffi.*, needed by cryptography-.*: no locked wheel .* CPython 3\.12 on aarch64",
        ),
        ("anyio-*.whl", r"anyio.*, needed by asyncua-.*: no locked wheel .*found: None"),
    ],
)
def test_a_file_that_lacks_a_wheel_for_a_target_is_not_built(gone: str, words: str, folder: Path) -> None:
    target = Target("3.12", "aarch64")
    building.check_complete(wheels(folder), target)
    (wheel,) = (folder / "wheels").glob(gone)
    wheel.unlink()
    with pytest.raises(OfflineError, match=words):
        building.check_complete(wheels(folder), target)
    if "cp312" in gone:
        building.check_complete(wheels(folder), Target("3.12", "x86_64"))


def test_a_wheel_of_another_digest_is_never_taken(tmp_path: Path) -> None:
    other = Locked("idna", "3.20", "", frozenset({"0" * 64}), frozenset())
    with pytest.raises(OfflineError, match=r"wheels for CPython 3\.11 on aarch64: pip ended with 1: (?s:.)*idna"):
        building._download(Target("3.11", "aarch64"), [other], tmp_path)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    files = {"b.sh": b"#!/bin/sh\n", "a": b"1", "wheels/c": bytes(700)}
    for name, given in (("1.tar", files), ("2.tar", dict(reversed(files.items())))):
        building.write_archive(tmp_path / name, "x", given)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as archive:
        assert [(one.name, oct(one.mode), one.uid) for one in archive] == [
            ("x/a", "0o644", 0),
            ("x/b.sh", "0o755", 0),
            ("x/wheels/c", "0o644", 0),
        ]


LOCK = f"""\
first==1.0 \\
    --hash=sha256:{"1" * 64} \\
    --hash=sha256:{"2" * 64}
    # via metercarbon (pyproject.toml)
second.part==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:{"3" * 64}
    # via
    #   first
    #   third
third==3.0 \\
    --hash=sha256:{"4" * 64}
    # via metercarbon (pyproject.toml)
"""


def test_the_lock_tells_what_an_extra_needs() -> None:
    entries = read(LOCK)
    first, second = needed(entries, ["First>=0.9"])
    assert (first.name, first.version, len(first.digests)) == ("first", "1.0", 2)
    assert (second.name, second.marker) == ("second-part", "python_full_version < '3.12'")
    assert second.via == {"first", "third"}
    assert second.line(["3" * 64]) == f"second-part==2.0 ; python_full_version < '3.12' --hash=sha256:{'3' * 64}"
    with pytest.raises(OfflineError, match=r"requirements\.lock has no fourth"):
        needed(entries, ["first", "fourth"])
