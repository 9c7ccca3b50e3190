"""The containers of deploy/compose.yaml: locked, on loopback, with secrets that deploy/secrets.sh makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the script has made the secrets."""
    folder = tmp_path_factory.mktemp("secrets") / "secrets"
    done = subprocess.run(["bash", ROOT / "deploy" / "secrets.sh", folder], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    return folder


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_locked(name: str) -> None:
    """It runs as the owner of the data, writes only where it must, and gains no rights."""
    service = SERVICES[name]
    assert service["user"].startswith("${STATECAST_UID:?")
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # noqa: S108  a file system of its own
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_reached_from_this_machine_alone(name: str) -> None:
    """Every port that it opens is one of loopback; and one that stays is asked whether it is well."""
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name].get("ports", ()))
    assert ("healthcheck" in SERVICES[name]) != (name == "deploy")


def test_secrets_are_files_that_the_script_makes(secrets: Path) -> None:
    """Each that a container names is one of these; none stands in an environment or in a command."""
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert wanted <= {path.name for path in secrets.iterdir()}
    used = {
        s if isinstance(s, str) else s["source"] for service in SERVICES.values() for s in service.get("secrets", ())
    }
    assert used == COMPOSE["secrets"].keys()
    named = re.findall(r"/run/secrets/([\w.]+)", (ROOT / "deploy" / "compose.yaml").read_text())
    assert set(named) <= used


def test_secrets_are_made_once(secrets: Path) -> None:
    """Made again they stay, each readable for its owner alone; in another folder they are others."""
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    for folder in (secrets, secrets.parent / "other"):
        subprocess.run(["bash", ROOT / "deploy" / "secrets.sh", folder], check=True)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
    assert not set(before.values()) & {path.read_bytes() for path in (secrets.parent / "other").iterdir()}


def test_each_server_is_given_only_its_own_secrets() -> None:
    """The stream has its token alone, and no server the password of the database's owner."""
    assert SERVICES["stream"]["secrets"] == ["stream_token"]
    holders = [name for name, service in SERVICES.items() if "postgres_superuser" in service.get("secrets", ())]
    assert holders == ["postgres"]


def composed() -> list[str]:
    """Give the command of Compose, where there is one of the second version or later."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and int(told.stdout.lstrip("v").split(".")[0]) >= 2:
                return command
    return []


@pytest.mark.skipif(not composed(), reason="Docker Compose is not installed here")
def test_compose_takes_the_file() -> None:
    """Docker Compose itself reads it, and refuses it without the owner of the data."""
    command = [
        *composed(),
        "-f",
        "deploy/compose.yaml",
        "--project-directory",
        ".",
        "--profile",
        "*",
        "config",
        "--quiet",
    ]
    owner = {"STATECAST_UID": "1000", "STATECAST_GID": "1000"}
    own = {name: value for name, value in os.environ.items() if name not in owner}
    done = subprocess.run(command, cwd=ROOT, env=own | owner, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run(command, cwd=ROOT, env=own, capture_output=True, check=False).returncode != 0
