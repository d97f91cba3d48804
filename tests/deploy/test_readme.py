"""The README, followed to the letter on what would be a fresh gateway: from the clone to values in the database."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from tests.support import installed
from tests.support.modbus_responder import Responder

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("protocols", "edge_agent", "cloud_ingest", "accounting", "device_sims", "pyproject.toml", "README.md")
"""What the wheel is built from."""


def commands(heading: str) -> list[str]:
    """The shell commands of a section's first block, without comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index(f"\n## {heading}\n") :]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None
    lines = (re.sub(r"\s{2,}#.*", "", line) for line in found[1].splitlines())
    return [line for line in lines if line.strip()]


def clone(folder: Path) -> Path:
    """A copy of what a clone would hold, so that nothing is left in this one."""
    folder.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def environment(home: Path) -> dict[str, str]:
    """Without what this test run has installed, but with the same Python as `python3`."""
    programs = home / "bin"
    programs.mkdir()
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (programs / "python3").symlink_to(base if base.exists() else Path(sys.executable).resolve())
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=variables, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(400)
async def test_an_agent_is_installed_by_the_readmes_commands_and_its_values_reach_the_database(
    plain_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    *before, start = commands("Install an agent on a gateway")
    assert start == "agent/bin/edge-agent run agent.toml"
    work = await asyncio.to_thread(clone, tmp_path / "clone")
    variables = await asyncio.to_thread(environment, tmp_path)
    output: dict[str, str] = {}
    async with Responder(lambda asked: asked.counting()) as meter:
        for command in before:
            output[command] = await asyncio.to_thread(run, command, work, variables)
            if "print-config" in command:
                # "Name your meters here."
                (work / "agent.toml").write_text(installed.config(mosquitto, meter.port))
        for command in ("plan", "probe"):
            assert str(installed.REGISTER) in output[f"agent/bin/edge-agent {command} agent.toml"]
        found = await installed.first_value(start.split(), work, variables, plain_database_dsn, mosquitto)
    assert found == installed.FIRST
