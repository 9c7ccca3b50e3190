"""deploy/local.sh: real servers start, ask for passwords, do their work, and end without a trace."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import write_csv
from served import model_bytes
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from models.errors import ModelError
from pipeline import champions
from pipeline.prices import PriceStore
from pipeline.tracking import RETRAIN_TAGS, Tracker, TrackingConfig

ROOT = Path(__file__).parents[1]
SERVICES = ("postgres", "prefect", "mlflow", "worker", "stream", "prometheus")
EXPECTED = set(SERVICES) if shutil.which("prometheus") else set(SERVICES) - {"prometheus"}
"""What is to run here."""
POSTGRES = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])


def missing() -> str:
    """Name what is needed for this and is not here."""
    tools = [tool for tool in ("bash", "curl", "setpriv", "flock") if not shutil.which(tool)]
    tools += [tool for tool in ("initdb", "postgres", "pg_isready") if not shutil.which(tool, path=POSTGRES)]
    return ", ".join(tools + [name for name in ("psycopg", "flask_wtf") if importlib.util.find_spec(name) is None])


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"PostgreSQL and the extra `servers` are not here: {missing()}")


def free_ports(count: int) -> list[int]:
    """Give ports on which nothing listens, below those that the system gives to clients."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def running(number: int) -> bool:
    """Say whether a process runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The servers of one folder, on ports of their own."""

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))

    @property
    def deploy(self) -> Path:
        """Where the servers keep what is theirs."""
        return self.folder / "deploy"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def call(self, verb: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        own = {name: x for name, x in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        own |= {f"STATECAST_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        own |= {"STATECAST_DEPLOY_FOLDER": str(self.deploy), "STATECAST_FOLDER": str(self.data)}
        own |= {"STATECAST_BIN": str(Path(sys.executable).parent), "PREFECT_WORKER_QUERY_SECONDS": "1"} | changes
        command = ["bash", str(ROOT / "deploy" / "local.sh"), verb]
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)

    def client(self) -> dict[str, str]:
        """Read what `. client.env` sets."""
        return dict(line.split("=", 1) for line in (self.deploy / "client.env").read_text().splitlines())

    def secret(self, name: str) -> str:
        """Read a secret."""
        return (self.deploy / "secrets" / name).read_text()

    def numbers(self) -> dict[str, int]:
        """Read which process is which server."""
        return {path.name: int(path.read_text().split()[0]) for path in (self.deploy / "run").iterdir()}

    def started(self) -> set[int]:
        """List every process of the servers, and of those that they started."""
        command = ["ps", "-o", "pid=", "-s", ",".join(map(str, self.numbers().values()))]
        return set(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))

    def ask(
        self, name: str, path: str, method: str = "GET", body: str = "{}", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Send a request as it is, with the body where the method has one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=30)
        try:
            sent = None if method in ("GET", "HEAD") else body
            connection.request(method, path, sent, {"Content-Type": "application/json"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Start everything: first in vain, for a port is taken, and then for good."""
    # not below pytest's own folder, which only its owner may enter: PostgreSQL is another user where root runs this
    folder = Path(tempfile.mkdtemp(prefix="statecast-"))
    folder.chmod(0o711)
    made = Servers(folder=folder)
    champions.publish(made.data / "champions", "champion", model_bytes())
    try:
        with socket.create_server(("127.0.0.1", made.ports["mlflow"])):
            refused = made.call("up")
        assert refused.returncode == 1
        assert f"mlflow: port {made.ports['mlflow']} is taken" in refused.stderr
        assert "STATECAST_MLFLOW_PORT" in refused.stderr
        done = made.call("up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield made
    finally:
        made.call("down")
        shutil.rmtree(folder)


def test_up_again_starts_nothing(servers: Servers) -> None:
    """Every service keeps its process, and status tells of each its process, address and health."""
    before = servers.numbers()
    assert before.keys() == EXPECTED
    done = servers.call("up")
    assert (done.returncode, servers.numbers()) == (0, before)
    told = servers.call("status")
    assert told.returncode == 0
    for name, number in before.items():
        assert re.search(
            rf"^{name} +up +{number} +127.0.0.1:{servers.ports[name]} +healthy$", told.stdout, re.MULTILINE
        )


def test_everything_listens_on_loopback_alone(servers: Servers) -> None:
    """Each port has one listener, at 127.0.0.1, and none at an address that other machines reach."""
    ports = {servers.ports[name]: name for name in EXPECTED}
    heard: dict[str, list[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:
                heard.setdefault(ports[int(port, 16)], []).append(address)
    assert heard == {name: ["0100007F"] for name in ports.values()}


def test_a_deployed_flow_runs_in_the_worker_to_its_end(servers: Servers) -> None:
    """A deployment of deploy/prefect.yaml, started over the API, ends well, and its prices are in the store."""
    prices = write_csv(
        servers.folder / "prices.csv", [("AAA", f"2020-01-{day:02}", str(100 + day)) for day in range(1, 29)]
    )
    config = {"folder": str(servers.data), "ingest": {"paths": [str(prices)]}}
    command = [str(Path(sys.executable).parent / "prefect"), "deployment", "run", "statecast-ingest/by-hand", "--watch"]
    own = os.environ | servers.client() | {"PREFECT_HOME": str(servers.folder / "home")}
    done = subprocess.run(
        [*command, "--watch-timeout", "120", "--param", f"config={json.dumps(config)}"],
        env=own,
        cwd=servers.folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PriceStore(servers.data / "prices").series()["series_id"].to_list() == ["AAA"]


def test_runs_and_models_are_recorded_under_the_account(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what client.env sets a run is logged, a model registered and its file read back; without, neither."""
    for name, value in servers.client().items():
        monkeypatch.setenv(name, value)
    model = servers.folder / "model.onnx"
    model.write_bytes(model_bytes())
    tracker = Tracker(TrackingConfig(), servers.data)
    assert tracker.uri == f"http://127.0.0.1:{servers.ports['mlflow']}"
    with tracker.retrain({"models": "last_value"}, dict.fromkeys(RETRAIN_TAGS, "none")) as run:
        run.scores({"pooled": {"crps": 0.5}})
        version = tracker.log_model(run, model, {})
    tracker.set_aliases(version.number)
    assert tracker.current("champion") == version
    assert [path for path in (servers.deploy / "artifacts").rglob("*.onnx") if path.read_bytes() == model_bytes()]
    assert not (servers.data / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234")
    with pytest.raises(ModelError, match="not authenticated"):
        Tracker(TrackingConfig(), servers.data)


# -------------------------------------------------------------------------------------------------- without a password


ROUTES = """
import json, re
from mlflow.server import artifact_router, gateway_api, handlers, job_api, mcp_server_api, otel_api
from mlflow.server.assistant.api import assistant_router

native = [artifact_router.artifact_router, gateway_api.gateway_router, job_api.job_api_router]
native += [otel_api.otel_router, assistant_router]
routes = [("", route) for router in native for route in router.routes]
prefixes = mcp_server_api.get_mcp_server_api_route_prefixes()
routes += [(prefix, route) for prefix in prefixes for route in mcp_server_api.mcp_server_router.routes]
found = {(method, path) for path, _, methods in handlers.get_endpoints() for method in methods}
found |= {(method, prefix + route.path) for prefix, route in routes for method in route.methods}
print(json.dumps([(method, re.sub(r"<[^>]*>|\\{[^}]*\\}", "1", path)) for method, path in found]))
"""
"""Lists the methods and paths of the MLflow that is installed."""


def basic(name: str, password: str) -> str:
    """Write the header of an account."""
    return f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"


ODD = (
    "/ajax-api/2.0/mlflow/experiments/search/health",
    "/health/../api/2.0/mlflow/experiments/search",
    "/health%2f..%2fapi/2.0/mlflow/experiments/search",
    "/static-files/..%2f..%2f__init__.py",
    "/static-files/../api/2.0/mlflow/experiments/search",
    "//api/2.0/mlflow/experiments/search",
    "/api/2.0/mlflow-artifacts/artifacts/..%2f..%2fsecrets%2fclients.env",
    "/get-artifact?path=x&run_uuid=y",
    "/model-versions/get-artifact?path=x&name=y&version=1",
    "/graphql",
    "/signup",
    "/version",
    "/",
)
"""Paths by which servers of this kind were once entered."""


def test_mlflow_answers_nobody_without_a_password(servers: Servers) -> None:
    """Of all its routes only the probe and what it can do are told; no odd path leads around, inside or outside."""
    command = [sys.executable, "-W", "ignore", "-c", ROUTES]
    routes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(routes) > 300
    public = {path for method, path in routes if servers.ask("mlflow", path, method)[0] not in (401, 403)}
    assert public <= {"/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"}
    assert servers.ask("mlflow", "/health")[0] == 200
    assert {servers.ask("mlflow", path)[0] for path in ODD} <= {401, 404}
    inside = servers.ask("mlflow", ODD[6], Authorization=basic("statecast", servers.secret("mlflow_admin")))
    assert inside[0] == 400
    assert servers.secret("mlflow_admin") not in inside[2]


def test_an_account_of_mlflow_sees_nothing_until_it_may(servers: Servers) -> None:
    """A second account, made by the first, reads no experiment; and MLflow runs no process beside its server."""
    admin, other = basic("statecast", servers.secret("mlflow_admin")), basic("reader", "a-password-of-16")
    made = '{"username": "reader", "password": "a-password-of-16"}'
    assert servers.ask("mlflow", "/api/2.0/mlflow/users/create", "POST", made, Authorization=admin)[0] == 200
    experiment = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert servers.ask("mlflow", experiment, Authorization=admin)[0] == 200
    assert servers.ask("mlflow", experiment, Authorization=other)[0] == 403
    assert servers.ask("mlflow", "/api/2.0/mlflow/users/create", "POST", made, Authorization=other)[0] == 403
    command = ["ps", "-o", "pid=", "-s", str(servers.numbers()["mlflow"])]
    assert len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()) == 2


def test_mlflow_takes_no_name_but_its_own(servers: Servers) -> None:
    """A page whose name was turned to this machine is refused, also one that looks like a private address."""
    for host in ("evil.example", "10.evil.example", "192.168.evil.example"):
        assert servers.ask("mlflow", "/api/2.0/mlflow/experiments/search", Host=host)[0] == 403


def test_prefect_answers_nobody_without_a_password(servers: Servers) -> None:
    """Of all routes of its API only the two probes answer; its page and the description of the API hold no data."""
    paths = json.loads(servers.ask("prefect", "/openapi.json")[2])["paths"]
    assert len(paths) > 100
    routes = {(m.upper(), re.sub(r"\{[^}]*\}", "1", path)) for path, methods in paths.items() for m in methods}
    public = {
        (m, path)
        for m, path in routes
        if servers.ask("prefect", f"/api/{path.removeprefix('/api/').lstrip('/')}", m)[0] != 401
    }
    assert {path.removeprefix("/api") for _, path in public} == {"/health", "/ready"}
    odd = (
        "/api/variables/name/health",
        "/api/flows/1/ready",
        "/api//health",
        "/api/health/",
        "/api/static/../flows/count",
    )
    assert {servers.ask("prefect", path)[0] for path in (*odd, "/api/admin/settings", "/api/metrics")} == {401}
    for path in ("/api/events/in", "/api/events/out", "/api/logs/out"):
        with connect(f"ws://127.0.0.1:{servers.ports['prefect']}{path}", subprotocols=["prefect"]) as opened:
            opened.send('{"type": "auth", "token": null}')
            with pytest.raises(ConnectionClosedError, match="no token"):
                opened.recv(10)


def test_prefect_lets_no_other_page_ask(servers: Servers) -> None:
    """A page of another origin gets no leave from it, its own page does."""
    own = f"http://127.0.0.1:{servers.ports['prefect']}"
    leave = [
        servers.ask("prefect", "/api/health", Origin=page)[1]["Access-Control-Allow-Origin"]
        for page in ("http://evil.example", own)
    ]
    assert leave == [None, own]


def test_the_stream_answers_nobody_without_a_token(servers: Servers) -> None:
    """All but its probes ask for the token that is in a file."""
    assert [servers.ask("stream", path)[0] for path in ("/readyz", "/healthz", "/status", "/metrics")] == [
        200,
        200,
        401,
        401,
    ]
    bearer = {"Authorization": f"Bearer {servers.secret('stream_token')}"}
    assert servers.ask("stream", "/status", **bearer)[0] == 200


def test_secrets_stay_in_files_of_their_owner(servers: Servers) -> None:
    """Nobody else may read them, no command line shows one, and no log holds one."""
    files = [*(servers.deploy / "secrets").iterdir(), servers.deploy / "client.env"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (servers.deploy / "secrets").stat().st_mode & 0o777 == 0o700
    secrets = {path.read_text() for path in files if re.fullmatch(r"[0-9a-f]{48}", path.read_text())}
    assert len(secrets) == 7
    shown = [Path(f"/proc/{number}/cmdline").read_text() for number in servers.started()]
    shown += [path.read_text(errors="replace") for path in (servers.deploy / "logs").iterdir()]
    assert all(shown)
    assert not [secret for secret in secrets if any(secret in text for text in shown)]


# ------------------------------------------------------------------------------------------------------------- the end


def test_what_died_is_told_and_started_again(servers: Servers) -> None:
    """After kill -9 of the stream status says so and fails; up starts it again, and it alone."""
    before = servers.numbers()
    os.kill(before["stream"], signal.SIGKILL)
    while running(before["stream"]):
        time.sleep(0.05)
    told = servers.call("status")
    assert told.returncode == 1
    assert re.search(r"^stream +down +- .+ not running: .+stream.log$", told.stdout, re.MULTILINE)
    assert servers.call("up").returncode == 0
    after = servers.numbers()
    assert after.pop("stream") != before.pop("stream")
    assert after == before


def test_down_ends_what_was_started_and_nothing_else(servers: Servers) -> None:
    """No process of the servers is left; a stranger who has the number of one that is gone is not touched."""
    started = servers.started()
    assert started >= set(servers.numbers().values())
    assert servers.call("down").returncode == 0
    assert not [number for number in started if running(number)]
    assert not list((servers.deploy / "run").iterdir())
    told = servers.call("status")
    assert told.returncode == 1
    assert " up " not in told.stdout
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        (servers.deploy / "run" / "stream").write_text(f"{stranger.pid} 1\n")
        assert servers.call("down").returncode == 0
        assert running(stranger.pid)
        stranger.kill()
    assert (servers.deploy / "postgres" / "PG_VERSION").exists()
