"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from device_sims import truth
from device_sims.__main__ import main
from tests.support import fleets

COMMAND = [sys.executable, "-m", "device_sims"]


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.toml"
    file.write_text(fleets.SMALL, encoding="utf-8")
    return file


def test_a_fleet_says_when_it_listens_and_stops_in_order(fleet_file: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "run", str(fleet_file), "--truth", str(tmp_path / "truth"), "--seed", "11"]
    with subprocess.Popen(
        [*command, "--draw-specific-uses"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())["ready"]
            host, port = ready["modbus"]["hall"].split(":")
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall(bytes.fromhex("000100000006070200050001"))
                answer = connection.recv(100)
        finally:
            process.send_signal(signal.SIGTERM)
            printed, logged = process.communicate(timeout=60)
    assert process.returncode == 0, logged
    assert printed == ""
    assert answer[:9] == bytes.fromhex("000100000004070201")
    assert ready["plant"] == "small"
    assert ready["devices"] == 7
    assert "requests 1," in logged
    found = truth.load(tmp_path / "truth")
    assert found.header["seed"] == 11
    for periods in found.header["specific_uses"].values():
        for period in periods:
            assert f"{period['specific_use']:.3f}" not in logged


def test_a_taken_port_is_a_failure(fleet_file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = fleets.SMALL.replace('name = "hall"\nhost = "127.0.0.1"\nport = 0', f'name = "hall"\nport = {port}')
        fleet_file.write_text(text, encoding="utf-8")
        found = subprocess.run([*COMMAND, "run", str(fleet_file)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert f"gateway 'hall' can't listen on 127.0.0.1:{port}" in found.stderr
    assert "Traceback" not in found.stderr


def test_check_config_opens_no_socket_and_says_what_it_found(
    fleet_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("check-config opened a socket")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert main(["check-config", str(fleet_file)]) == 0
    assert capsys.readouterr().out.endswith("fleet.toml: ok: 7 Modbus devices, 3 OPC-UA variables\n")


def test_the_printed_sample_passes_its_own_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config"]) == 0
    file = tmp_path / "sample.toml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["check-config", str(file)]) == 0


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run"], ["check-config", "x", "--seed", "-1"], ["run", "x", "--no"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_a_wrong_or_missing_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: can't be read" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("[plant", encoding="utf-8")
    assert main(["run", str(tmp_path / "bad.toml")]) == 2
    assert "bad.toml: not TOML" in capsys.readouterr().err


def test_version_and_help_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, expected in (("--version", "device-sims "), ("--help", "check-config")):
        with pytest.raises(SystemExit) as stopped:
            main([argument])
        assert stopped.value.code == 0
        assert expected in capsys.readouterr().out
