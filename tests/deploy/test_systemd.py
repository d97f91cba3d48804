"""The service on a gateway: its unit is valid and hardened, and the setup script installs, upgrades, removes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "metercarbon-agent.service"
SCRIPT = FOLDER / "agent-setup.sh"
MOST_EXPOSED = 25
"""Of 100, by `systemd-analyze security`: 20 is what it calls OK."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is NOT on this machine: the unit file is NOT CHECKED here",
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here, since that is checked too."""
    path = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/opt/metercarbon/current/bin/edge-agent run /etc/metercarbon/agent.toml" in text
    path.write_text(text.replace("/opt/metercarbon/current/bin/edge-agent", sys.executable), encoding="utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=120, check=False)


@needs_systemd
def test_systemd_accepts_the_unit_without_a_warning(unit: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_does_not_accept_just_anything(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notifi").replace("ProtectHome=yes", "ProtectHom=yes"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert "notifi" in done.stderr
    assert "ProtectHom" in done.stderr


@needs_systemd
def test_the_unit_leaves_little_exposed(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_watchdog_and_the_drain_fit_the_agent() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert settings["Type"] == "notify"
    assert float(settings["WatchdogSec"]) > 0
    drain_s = float(settings["ExecStart"].split("--drain-s ")[1])
    assert float(settings["TimeoutStopSec"]) > 2 * drain_s
    assert settings["RestartPreventExitStatus"] == "2"
    # It would forbid to ask whether the clock is synchronised.
    assert "ProtectClock" not in settings


# The script, with every tool that changes the system replaced by one that writes down how it was called

TOOLS = {
    "getent": 'case "$*" in "group dialout") exit 0 ;; "passwd metercarbon") [ -e "$STUBS/user" ] ;; *) exit 2 ;; esac',
    "useradd": 'touch "$STUBS/user"',
    "userdel": 'rm "$STUBS/user"',
    "chown": "exit 0",
    "systemctl": '[ ! -e "$STUBS/broken" ] || [ "$1" != restart ] || { rm "$STUBS/broken"; exit 1; }',
    "python3": 'mkdir -p "$3/bin"; cp "$STUBS/pip" "$STUBS/edge-agent" "$3/bin"',
}
PROGRAMS = {
    "pip": "exit 0",
    "edge-agent": '[ "$1" != print-config ] || echo "# sample"; [ "$1" != check-config ] || [ ! -e "$STUBS/wrong" ]',
}


class Gateway:
    """A root folder, and stubs in place of the system."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.stubs = folder / "stubs"
        self.wheel = folder / "metercarbon-1-py3-none-any.whl"
        self.root.mkdir()
        self.stubs.mkdir()
        self.wheel.touch()
        for name, body in (TOOLS | PROGRAMS).items():
            path = self.stubs / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >>"$STUBS/calls"\n{body}\n')
            path.chmod(0o755)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.stubs}{os.pathsep}{os.environ['PATH']}",
            "METERCARBON_ROOT": str(self.root),
            "STUBS": str(self.stubs),
        }
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )

    def calls(self) -> list[str]:
        """What was called since the last time."""
        path = self.stubs / "calls"
        found = path.read_text().replace(str(self.root), "").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def current(self) -> str:
        return str((self.root / "opt/metercarbon/current").readlink())

    def installed(self, *arguments: str) -> None:
        done = self.run("install", self.wheel, *arguments)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_an_installation_makes_user_directories_configuration_and_service(gateway: Gateway) -> None:
    gateway.installed()
    calls = gateway.calls()
    assert any(call.startswith("useradd --system") and call.endswith("nologin metercarbon") for call in calls)
    assert f"pip install --quiet {gateway.wheel}[edge]" in calls
    assert calls[-2:] == ["systemctl daemon-reload", "systemctl enable metercarbon-agent.service"]
    # It is not started with the addresses of a sample.
    assert not any("start " in call for call in calls)
    config = gateway.root / "etc/metercarbon/agent.toml"
    assert config.read_text() == "# sample\n"
    assert config.stat().st_mode & 0o777 == 0o640
    assert (gateway.root / "var/lib/metercarbon").stat().st_mode & 0o777 == 0o750
    assert (gateway.root / "etc/systemd/system/metercarbon-agent.service").read_bytes() == UNIT.read_bytes()
    assert (gateway.root / "opt/metercarbon/current/bin/edge-agent").exists()
    assert not (gateway.root / "etc/systemd/system/metercarbon-agent.service.d").exists()


def test_the_services_user_can_read_the_program_whatever_roots_umask_is(gateway: Gateway) -> None:
    before = os.umask(0o077)
    try:
        gateway.installed()
    finally:
        os.umask(before)
    for folder in ("opt/metercarbon", "opt/metercarbon/releases/1/bin", "etc/systemd/system"):
        assert (gateway.root / folder).stat().st_mode & 0o005 == 0o005
    assert (gateway.root / "etc/metercarbon").stat().st_mode & 0o777 == 0o750


def test_a_folder_of_wheels_is_installed_without_any_index(gateway: Gateway, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    assert gateway.run("install", wheels).returncode == 0
    assert f"pip install --quiet --no-index --find-links {wheels} metercarbon[edge]" in gateway.calls()


def offline_file(folder: Path, script: str) -> Path:
    """Like what `make offline` makes, with another `install.sh` in it."""
    beside = folder / "metercarbon-1-offline"
    (beside / "wheels").mkdir(parents=True)
    (beside / "install.sh").write_text(script)
    path = folder / "metercarbon-1-offline.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(beside, beside.name)
    return path


INSTALLS = 'mkdir -p "$1/bin"\ncp "$STUBS/edge-agent" "$1/bin"\necho "install.sh $1" >>"$STUBS/calls"\n'


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_offline_file_installs_itself(unpacked: bool, gateway: Gateway, tmp_path: Path) -> None:
    path = offline_file(tmp_path, INSTALLS)
    source = path.with_suffix("") if unpacked else path
    done = gateway.run("install", source)
    assert done.returncode == 0, done.stderr
    calls = gateway.calls()
    assert "install.sh /opt/metercarbon/releases/1" in calls
    assert not any(call.startswith(("pip", "python3")) for call in calls)
    assert [found.name for found in (gateway.root / "opt/metercarbon/releases").iterdir()] == ["1"]
    assert gateway.run("upgrade", source).returncode == 0
    assert gateway.current() == "releases/2"


@pytest.mark.parametrize(("script", "reason"), [("echo changed >&2; exit 1", "changed"), (None, "make offline")])
def test_an_offline_file_that_is_refused_changes_nothing(
    script: str | None, reason: str, gateway: Gateway, tmp_path: Path
) -> None:
    path = offline_file(tmp_path, script or "")
    if script is None:
        with tarfile.open(path, "w") as archive:
            archive.add(gateway.wheel, "metercarbon-1/wheels/metercarbon.whl")
    done = gateway.run("install", path)
    assert (done.returncode, reason in done.stderr) == (1, True)
    assert not (gateway.root / "opt/metercarbon/current").exists()
    assert list((gateway.root / "opt/metercarbon/releases").iterdir()) == []
    assert not any(call.startswith("systemctl") for call in gateway.calls())


def test_serial_ports_are_opened_by_a_drop_in(gateway: Gateway) -> None:
    gateway.installed("--serial")
    text = (gateway.root / "etc/systemd/system/metercarbon-agent.service.d/serial.conf").read_text()
    assert "SupplementaryGroups=dialout\n" in text
    assert "DeviceAllow=char-ttyUSB rw\n" in text


@needs_systemd
def test_systemd_accepts_the_drop_in(gateway: Gateway, unit: Path) -> None:
    gateway.installed("--serial")
    shutil.copytree(gateway.root / f"etc/systemd/system/{UNIT.name}.d", unit.parent / f"{UNIT.name}.d")
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_an_upgrade_keeps_the_configuration_and_one_release_before(gateway: Gateway) -> None:
    gateway.installed()
    config = gateway.root / "etc/metercarbon/agent.toml"
    config.write_text("mine")
    gateway.calls()
    for number in (2, 3):
        done = gateway.run("upgrade", gateway.wheel)
        assert done.returncode == 0, done.stderr
        assert gateway.current() == f"releases/{number}"
    calls = gateway.calls()
    assert "edge-agent check-config /etc/metercarbon/agent.toml" in calls
    assert calls[-1] == "systemctl restart metercarbon-agent.service"
    assert config.read_text() == "mine"
    releases = gateway.root / "opt/metercarbon/releases"
    assert sorted(found.name for found in releases.iterdir()) == ["2", "3"]


def test_the_variables_are_read_as_systemd_does_and_nothing_in_them_is_run(gateway: Gateway) -> None:
    gateway.installed()
    stub = gateway.stubs / "edge-agent"
    stub.write_text(stub.read_text() + 'echo "$A|$B|$C" >"$STUBS/variables"\n')
    lines = ["# A comment; touch", "A=it's $HOME & `id`; (x)", "  ", 'B="two words"', "not a variable", "C=last"]
    (gateway.root / "etc/metercarbon/agent.env").write_text("\n".join(lines))
    done = gateway.run("upgrade", gateway.wheel)
    assert done.returncode == 0, done.stderr
    assert (gateway.stubs / "variables").read_text() == "it's $HOME & `id`; (x)|two words|last\n"


def test_a_link_that_an_interrupted_upgrade_left_misleads_no_other_one(gateway: Gateway) -> None:
    gateway.installed()
    (gateway.root / "opt/metercarbon/current.new").symlink_to("releases/1")
    assert gateway.run("upgrade", gateway.wheel).returncode == 0
    assert gateway.current() == "releases/2"


def test_a_release_that_refuses_the_configuration_changes_nothing(gateway: Gateway) -> None:
    gateway.installed()
    gateway.calls()
    (gateway.stubs / "wrong").touch()
    done = gateway.run("upgrade", gateway.wheel)
    assert done.returncode == 1
    assert "does not pass the new release; nothing was changed" in done.stderr
    assert gateway.current() == "releases/1"
    assert not any(call.startswith("systemctl") for call in gateway.calls())
    assert [found.name for found in (gateway.root / "opt/metercarbon/releases").iterdir()] == ["1"]


def test_a_release_that_does_not_start_gives_way_to_the_one_before(gateway: Gateway) -> None:
    gateway.installed()
    (gateway.stubs / "broken").touch()
    done = gateway.run("upgrade", gateway.wheel)
    assert done.returncode == 1
    assert "the old one is in use again" in done.stderr
    assert gateway.current() == "releases/1"
    assert gateway.calls()[-1] == "systemctl restart metercarbon-agent.service"
    units = gateway.root / "etc/systemd/system"
    assert [found.name for found in units.iterdir()] == ["metercarbon-agent.service"]


def test_a_removal_keeps_configuration_and_buffer_unless_told_otherwise(gateway: Gateway) -> None:
    gateway.installed("--serial")
    buffer = gateway.root / "var/lib/metercarbon/b.sqlite"
    buffer.touch()
    done = gateway.run("remove")
    assert done.returncode == 0, done.stderr
    assert "perhaps with readings not yet sent" in done.stdout
    assert "systemctl disable --now metercarbon-agent.service" in gateway.calls()
    assert buffer.exists()
    assert (gateway.root / "etc/metercarbon/agent.toml").exists()
    assert not (gateway.root / "opt/metercarbon").exists()
    assert list((gateway.root / "etc/systemd/system").iterdir()) == []
    assert gateway.run("remove", "--purge").returncode == 0
    assert not buffer.exists()
    assert "userdel metercarbon" in gateway.calls()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 2, "usage"),
        (("install",), 2, "usage"),
        (("walk", "x"), 2, "usage"),
        (("install", "none.whl"), 2, "none.whl: no such file or folder"),
        (("remove", "--serial"), 2, "usage"),
        (("upgrade", str(UNIT)), 1, "no agent is installed; allowed: install"),
    ],
)
def test_wrong_use_is_refused_before_anything_changes(
    arguments: tuple[str, ...], code: int, reason: str, gateway: Gateway
) -> None:
    done = gateway.run(*arguments)
    assert (done.returncode, reason in done.stderr) == (code, True)
    assert gateway.calls() == []
    assert list(gateway.root.iterdir()) == []


def test_a_second_installation_is_refused(gateway: Gateway) -> None:
    gateway.installed()
    gateway.calls()
    done = gateway.run("install", gateway.wheel)
    assert (done.returncode, gateway.calls()) == (1, [])
    assert "allowed: upgrade" in done.stderr
