"""What a server may take, and for how long it waits: every bound of the HTTP service in one place.

Comes in: settings. Goes out: `ServeConfig`, checked. Imported by the modules of the service and the command line.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import ConfigError, unknown

TOKEN = re.compile(r"[\x21-\x7e]{16,512}")
"""A bearer token: long enough not to be guessed, and fit for a header."""

VARIABLE = "STATECAST_TOKEN"
"""The environment variable that holds the token where no file does."""

_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,260}")

_RANGES: dict[str, tuple[int, int]] = {
    "port": (0, 65_535),
    "body_bytes": (1024, 2**30),
    "held_bytes": (1024, 2**34),
    "request_lines": (1, 1_000_000),
    "batch": (1, 100_000),
    "queue_requests": (1, 100_000),
    "queue_lines": (1, 10_000_000),
    "connections": (1, 100_000),
    "header_bytes": (1024, 2**20),
    "head_s": (1, 3600),
    "body_s": (1, 3600),
    "keep_alive_s": (1, 3600),
    "send_s": (1, 3600),
    "subscribers": (0, 100_000),
    "subscriber_events": (1, 1_000_000),
    "drain_s": (1, 3600),
}


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Settings of the HTTP service. None of them changes a forecast."""

    host: str = "127.0.0.1"
    """Address or name to listen on; any but a loopback one needs a token."""
    port: int = 8080
    """Port to listen on; 0 takes one that is free."""
    token: str | None = field(default=None, repr=False)
    """Bearer token that every route but the two probes asks for; None only on a loopback address."""
    hosts: tuple[str, ...] = ()
    """Names that may stand in the Host header beside loopback names and `host`, without ports."""
    origins: tuple[str, ...] = ()
    """Values that may stand in the Origin header; any other one is refused, for it is a browser's page."""
    body_bytes: int = 8 * 2**20
    """Largest body of a request, counted as it arrives."""
    held_bytes: int = 64 * 2**20
    """Bodies of all requests together that are held in memory; further ones are told to come again."""
    request_lines: int = 10_000
    """Most lines of one request: each gives a forecast in the answer."""
    batch: int = 1000
    """Lines that the engine takes in together; a request with more is taken in alone."""
    queue_requests: int = 256
    """Requests that wait for the engine; further ones are told to come again."""
    queue_lines: int = 100_000
    """Lines that wait for the engine, of all requests; a request that finds none waiting is always taken."""
    connections: int = 512
    """Open connections; one more closes the one that has kept its request longest."""
    header_bytes: int = 16_384
    """Largest request line with its headers."""
    head_s: int = 10
    """Seconds in which the headers of a request must have come, from its first byte or the opening on."""
    body_s: int = 60
    """Seconds in which the body of a request must have come."""
    keep_alive_s: int = 30
    """Seconds that a connection may rest between two requests."""
    send_s: int = 30
    """Seconds in which a client must read 64 KiB of an answer that waits for it, or be cut off."""
    subscribers: int = 32
    """Listeners to events at a time."""
    subscriber_events: int = 1000
    """Events that wait for one listener; with one more it is cut off."""
    drain_s: int = 20
    """Seconds in which everything accepted is answered after a signal to end."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"serve.{name} is {value!r}; expected a whole number from {least} to {most}")
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise ConfigError(
                f"serve.token has {len(self.token)} characters or some that do not fit a header; expected 16 to 512 "
                "printable ASCII characters without spaces. Make one: openssl rand -hex 32"
            )
        for name in (self.host, *self.hosts):
            if not _NAME.fullmatch(name) and not _is_address(name):
                raise ConfigError(
                    f"serve.hosts: {name!r} is no host; expected a name or address without scheme or port"
                )
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"serve.origins: {origin!r} is no origin; expected scheme://host[:port] and no path")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def with_limits(given: Sequence[str], **others: Any) -> ServeConfig:
    """Build the settings from bounds written as NAME=NUMBER, and others.

    Raises
    ------
    ConfigError
        A bound has no such form, or there is none of this name.
    """
    bounds = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in _RANGES or name in others:
            raise ConfigError(unknown("limit", name, set(_RANGES) - set(others)))
        if not value.isascii() or not value.isdigit():
            raise ConfigError(f"limit {name}: expected a whole number after =, got {value!r}")
        bounds[name] = int(value)
    return ServeConfig(**bounds, **others)


def find_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Read the bearer token from a file, or from the environment where no file is named; None where neither holds one.

    Raises
    ------
    ConfigError
        When the file cannot be read, or may be read by every user of the machine.
    """
    if path is None:
        return environment.get(VARIABLE) or None
    try:
        mode, text = path.stat().st_mode, path.read_bytes()[:4096].decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"token file {path}: cannot be read ({error.strerror}). Check the path") from error
    if mode & stat.S_IRWXO:
        raise ConfigError(
            f"token file {path}: has mode {stat.S_IMODE(mode):o}, so every user may read or write it; expected none "
            f"of that. Run: chmod o-rwx {path}"
        )
    if not text:
        raise ConfigError(f"token file {path}: is empty; expected a token. Make one: openssl rand -hex 32")
    return text
