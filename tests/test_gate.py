"""No route answers whom it should not, however the request is spelled."""

from __future__ import annotations

import doctest
from collections.abc import Iterator

import orjson
import pytest
from serving import BEARER, TOKEN, ask, raw, running, status_line, wait_ready

from pipeline import gate
from pipeline.gate import host_name, is_loopback

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "G")
PROBES = ("/healthz", "/readyz")
TRICKS = (
    "/x/healthz",
    "/healthz/",
    "//healthz",
    "/healthz/../status",
    "/status/../healthz",
    "/%68ealthz",
    "/healthz%00",
    "/healthz;x",
    "/healthz/status",
    "/HEALTHZ",
    "/healthz.json",
    "/status?x=/healthz",
    "/status#/healthz",
    "/.",
    "/docs",
    "/redoc",
    "/openapi.json",
    "http://localhost/healthz",
    "*",
)


FOREIGN = (
    "",
    "evil.example",
    "localhost.evil.example",
    "localhost@evil.example",
    "127.0.0.1.",
    "127.0.0.2",
    "localhost:x",
    "localhost:1:1",
    "[localhost",
    "[::1",
    "::1:",
    "localhost, evil.example",
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that the tests speak to."""
    with running() as server:
        wait_ready(server.url)
        yield server.url


def walk(url: str) -> list[str]:
    """List the paths of every route, those of the description among them."""
    described = ask(url, "GET", "/openapi.json", headers=BEARER).json
    return [path.replace("{series}", "A/B") for path in described["paths"]]


def code(url: str, method: str, target: str, *headers: str) -> int:
    """Send a request line as it is and read the status."""
    head = "".join(f"{header}\r\n" for header in headers)
    return int(status_line(f"{method} {target} HTTP/1.1\r\n{head}Content-Length: 0\r\n\r\n".encode(), url).split()[1])


HOST = "Host: localhost"
AUTH = f"Authorization: Bearer {TOKEN}"


@pytest.mark.parametrize("method", METHODS)
def test_no_route_answers_without_the_token(method: str, url: str) -> None:
    """Every route and method, those that do not exist among them, is 401; only GET of the probes is not."""
    for path in [*walk(url), *TRICKS, "/nothing"]:
        open_ = method == "GET" and path in PROBES
        assert code(url, method, path, HOST) == (200 if open_ else 401), path
        assert code(url, method, path, HOST, "Authorization: Bearer wrong") == (200 if open_ else 401), path


@pytest.mark.parametrize("method", METHODS)
def test_a_host_that_is_not_ours_is_refused_everywhere(method: str, url: str) -> None:
    """A rebound name reaches no route, not even a probe, and not with the token either."""
    for path in [*walk(url), *TRICKS]:
        assert code(url, method, path, "Host: evil.example", AUTH) == 400


@pytest.mark.parametrize("method", METHODS)
def test_a_page_of_another_site_is_refused_everywhere(method: str, url: str) -> None:
    """A foreign Origin reaches no route, with the token or without."""
    for path in [*walk(url), *TRICKS]:
        assert code(url, method, path, HOST, AUTH, "Origin: https://evil.example") == 403


@pytest.mark.parametrize("method", METHODS)
def test_with_the_token_only_routes_that_exist_answer(method: str, url: str) -> None:
    """An unknown path is 404, a known one with another method 405 with Allow; nothing is 500 and nothing redirects."""
    for path in [*walk(url), *TRICKS, "/nothing"]:
        if method != "GET" or path != "/events":
            assert code(url, method, path, HOST, AUTH) in {200, 400, 404, 405, 415, 411}, path
    assert code(url, method, "/nothing", HOST, AUTH) == 404
    assert code(url, method, "/ticks", HOST, AUTH) == (415 if method == "POST" else 405)


@pytest.mark.parametrize(
    "header",
    [
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer x {TOKEN}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer{TOKEN}",
        f"Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}",
        "Bearer \xff\xfe",
    ],
)
def test_a_token_that_is_nearly_right_is_wrong(header: str, url: str) -> None:
    """Only the whole token, once, with its scheme, opens."""
    data = f"GET /status HTTP/1.1\r\n{HOST}\r\nAuthorization: {header}\r\n\r\n".encode("latin-1")
    assert status_line(data, url).split()[1] == b"401"


def test_the_scheme_may_be_in_any_case(url: str) -> None:
    """Schemes of authorisation are compared without their case."""
    assert ask(url, "GET", "/status", headers={"Authorization": f"bearer {TOKEN}"}).status == 200


def test_a_refusal_asks_for_the_token_and_does_not_tell_it(url: str) -> None:
    """401 says how to authorise, and quotes nothing of what came."""
    answer = ask(url, "GET", "/status", headers={"Authorization": "Bearer nearly"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert b"nearly" not in answer.body
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:8080", "name.example:7"])
def test_own_names_are_let_in(host: str) -> None:
    """Loopback names, the bound address and configured names are ours, whatever the port and the case."""
    with running(hosts=("name.example",), host="127.0.0.1") as server:
        assert code(server.url, "GET", "/healthz", f"Host: {host}") == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not(host: str, url: str) -> None:
    """No suffix, prefix or list of names is taken for one of ours."""
    assert code(url, "GET", "/healthz", f"Host: {host}") == 400


def test_one_host_is_needed(url: str) -> None:
    """No Host, or two of them, is refused."""
    assert status_line(b"GET /healthz HTTP/1.0\r\n\r\n", url).split()[1] == b"400"
    assert status_line(b"GET /healthz HTTP/1.1\r\n\r\n", url).split()[1] == b"400"
    assert code(url, "GET", "/healthz", HOST, HOST) == 400


def test_a_configured_origin_is_let_in_and_others_stay_out() -> None:
    """An allowed Origin passes byte for byte, and no answer ever allows a page to read it across sites."""
    with running(origins=("https://desk.example",)) as server:
        for origin, status in (("https://desk.example", 200), ("https://desk.example.evil", 403), ("null", 403)):
            answer = ask(server.url, "GET", "/healthz", headers={"Origin": origin})
            assert answer.status == status
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_refused_body_does_not_keep_the_connection(url: str) -> None:
    """Without the token a body is not read: the answer comes, and the connection ends."""
    with raw(url, b"POST /ticks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\nx") as opened:
        head = opened.makefile("rb").read()
    assert head.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in head
    assert orjson.loads(head.partition(b"\r\n\r\n")[2])["error"] == "token"


def test_examples_in_docstrings_hold() -> None:
    """The examples of host names are what the function gives."""
    assert doctest.testmod(gate) == (0, 1)
    assert host_name(" a:80 ") == "a"


@pytest.mark.parametrize(("address", "inside"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)])
def test_loopback_addresses_are_known(address: str, inside: bool) -> None:
    """All of 127/8 and ::1 stay on this machine."""
    assert is_loopback(address) is inside


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "localhost", "", "127.0.0.1.nip.io"])  # noqa: S104
def test_other_addresses_are_not_loopback(address: str) -> None:
    """The wildcard, private addresses and names are reachable until shown otherwise."""
    assert not is_loopback(address)
