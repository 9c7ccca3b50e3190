"""Settings out of range are refused, and a token that others can read is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from pipeline.limits import ServeConfig, find_token

SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105  it opens nothing


@pytest.mark.parametrize(
    "changes",
    [
        {"port": -1},
        {"port": 65_536},
        {"port": True},
        {"body_bytes": 10},
        {"batch": 0},
        {"connections": 1.5},
        {"queue_lines": "9"},
        {"subscribers": -1},
    ],
)
def test_numbers_have_a_range(changes: dict) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=f"serve.{next(iter(changes))}"):
        ServeConfig(**changes)


@pytest.mark.parametrize(
    "token",
    ["", "short", "with spaces in the middle", "x" * 513, "caf\u00e9-caf\u00e9-caf\u00e9-caf\u00e9", "a" * 20 + "\n"],
)
def test_a_weak_or_odd_token_is_refused_and_not_told(token: str) -> None:
    """A token is long and printable, and the message does not quote it."""
    with pytest.raises(ConfigError) as caught:
        ServeConfig(token=token)
    assert not token.strip() or token not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    """Settings can be printed without giving the token away."""
    assert SECRET not in repr(ServeConfig(token=SECRET))


@pytest.mark.parametrize("host", ["http://a", "a:80", "a/b", "", "a b"])
def test_hosts_are_names(host: str) -> None:
    """A host is a name or an address, without scheme, port or path."""
    with pytest.raises(ConfigError, match="no host"):
        ServeConfig(hosts=(host,))


@pytest.mark.parametrize("origin", ["a", "null", "https://a/", "*", "ftp://a"])
def test_origins_are_scheme_and_host(origin: str) -> None:
    """An origin is what a browser sends: no path, no pattern, and never null."""
    with pytest.raises(ConfigError, match="no origin"):
        ServeConfig(origins=(origin,))


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """The file is read without its line end and goes before the environment; an empty variable is none."""
    path = tmp_path / "token"
    path.write_text(SECRET + "\n")
    path.chmod(0o640)
    assert find_token(path, {"STATECAST_TOKEN": "other"}) == SECRET
    assert find_token(None, {"STATECAST_TOKEN": SECRET}) == SECRET
    assert find_token(None, {"STATECAST_TOKEN": ""}) is None
    assert find_token(None, {}) is None


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o606])
def test_a_token_that_every_user_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    """The message says the mode and the command that mends it, and not the token."""
    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}.*chmod o-rwx") as caught:
        find_token(path, {})
    assert SECRET not in str(caught.value)


def test_a_token_file_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    """A file that was named must hold a token: nothing falls back to serving without one."""
    with pytest.raises(ConfigError, match="cannot be read"):
        find_token(tmp_path / "none", {"STATECAST_TOKEN": SECRET})
    (tmp_path / "empty").touch(mode=0o600)
    with pytest.raises(ConfigError, match="is empty"):
        find_token(tmp_path / "empty", {})
