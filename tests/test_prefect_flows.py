"""The flows in a real Prefect: what is retried, what is reported, what parameters are taken; and their deployments."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import torch
import yaml
from conftest import Watched, write_csv
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL

from flows import gpu, prefect_flows
from flows.embedded import environment, retrain_in_prefect
from flows.gpu import SLOT, reserve
from flows.retrain import COMPUTE, SERVICE, Policy
from models.errors import DataError, TransientError
from pipeline import champions, drive, judging, steps
from pipeline.config import Config
from pipeline.due import DueConfig
from pipeline.lines import IntakeConfig, cut
from pipeline.lineup import published
from pipeline.outputs import FileOutput
from pipeline.prices import PriceStore
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig
from pipeline.turn import BusyError, turn

ROOT = Path(__file__).parents[1]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
FLOWS = ("ingest", "train", "backtest", "compare", "promote", "retrain", "score", "report")


# -------------------------------------------------------------------------------------------------- runs, for real


@pytest.fixture(scope="module")
def artifacts(prefect_server: None) -> Any:  # noqa: ARG001  it must run
    """Give what reads the artifacts of a key from the server."""

    def read(key: str) -> list[Any]:
        with get_client(sync_client=True) as client:
            return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))

    return read


def test_a_retrain_runs_as_a_flow_and_leaves_its_artifacts(copied: Any, watched: Watched, artifacts: Any) -> None:
    """The same result as without Prefect, told to the watcher; the table and the champion can be read in Prefect."""
    config = replace(copied, models=("last_value", "ar"))
    (result,) = retrain_in_prefect(config, watched).values()
    assert (result.promoted.model, result.promoted.changed) == ("gru", False)
    assert watched.told[0] == ("begins", ("starting the embedded Prefect", 0))
    assert len(watched.told) == 1 + 10 + 1
    assert [artifact.type for artifact in artifacts("comparison")] == ["table"]
    assert result.run in artifacts("comparison")[0].description
    assert "**gru** keeps serving as version 1" in artifacts("champion")[0].data
    assert (artifacts("progress")[0].data, artifacts("progress")[0].description) == (100, "done, after 12 steps")
    assert "**incumbent** is to serve" in artifacts("decision")[0].data
    assert result.compared.decision.reason in artifacts("decision")[0].data
    assert f"Run `{result.run}` of `sqlite:" in artifacts("mlflow-run")[0].data
    assert f"({(config.folder / 'comparison.html').as_uri()})" in artifacts("comparison-page")[0].data


def test_the_flows_one_by_one_do_what_the_verbs_do(
    copied: Any, artifacts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest reports its faults, train its epochs, promote by name its champion, report what serves since when."""
    steps.model_path(copied, "gru").unlink()
    with caplog.at_level(logging.INFO, logger="prefect"):
        prefect_flows.ingest(copied)
        prefect_flows.train("gru", copied)
        prefect_flows.backtest("gru", copied)
        prefect_flows.compare(replace(copied, models=("last_value", "gru")))
        promoted = prefect_flows.promote("last_value", copied)
        prefect_flows.report(copied)
    assert '"fault": "non_positive"' in artifacts("ingest")[0].data
    assert artifacts("ingest")[0].description == "0 rows added, 2100 already there"
    assert [m for m in caplog.messages if m.startswith("epoch 3: train loss")]
    assert (promoted["model"], promoted["version"], promoted["changed"]) == ("last_value", 2, True)
    assert champions.current(copied.folder / "champions", "champion").sha256 == promoted["sha256"]
    assert "**last_value** serves as version 2" in artifacts("serving")[0].data
    assert f"since {datetime.now(UTC):%Y-%m-%d}" in artifacts("serving")[0].data
    assert '"model": "gru"' in artifacts("ranking")[0].data


@pytest.mark.usefixtures("prefect_server")
def test_a_second_retrain_is_skipped_and_does_not_wait(copied: Any) -> None:
    """While a data folder is retrained, another run and an ingest end as Skipped; the command line says who has it."""
    with turn(copied.folder):
        state = prefect_flows.retrain(copied, return_state=True)
        assert (state.type, state.name) == (StateType.COMPLETED, "Skipped")
        assert f"process {os.getpid()} retrains it now" in str(state.message)
        assert prefect_flows.ingest(copied, return_state=True).name == "Skipped"
        with pytest.raises(BusyError, match="retrains it now"):
            retrain_in_prefect(copied, Watched())


@pytest.mark.usefixtures("prefect_server")
def test_a_retrain_that_is_not_due_is_skipped_with_the_reason(copied: Any) -> None:
    """On the prices, settings and code of the last retrain nothing runs after ingest."""
    config = replace(copied, models=("last_value", "ar"))
    prefect_flows.retrain(config)
    written = (config.folder / "comparison.json").stat().st_mtime_ns
    state = prefect_flows.retrain(config, DueConfig(), return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "Skipped")
    assert str(state.message).startswith("nothing is new since the last retrain")
    assert (config.folder / "comparison.json").stat().st_mtime_ns == written


KILLED = """
import sys
from pathlib import Path
from flows.prefect_flows import retrain
from pipeline.config import Config
from pipeline.settings import load
overrides = {"folder": sys.argv[2], "models": ["last_value", "gru"]}
overrides |= {"fit.training.epochs": 80, "fit.training.patience": 80}
config = load(Config, Path(sys.argv[1]), overrides)
retrain(config) if __name__ == "__main__" else None
"""


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_was_killed_is_told_of_and_gone_on_from(copied: Any, workspace: Any) -> None:
    """SIGKILL in a fit leaves a run that is Running; the next one marks it as crashed, and goes on from its epoch."""
    command = [sys.executable, "-c", KILLED, str(workspace.settings), str(copied.folder)]
    process = subprocess.Popen(command, env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())})
    while process.poll() is None and not list((copied.folder / "progress").glob("gru-*.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    dead = UUID((copied.folder / "retrain.lock").read_text().split()[1])
    with get_client(sync_client=True) as client:
        left = client.read_flow_run(dead)
        assert left.state_type == StateType.RUNNING
        (curve,) = (copied.folder / "progress").glob("gru-*.json")
        done = len(orjson.loads(curve.read_bytes()))
        training = replace(copied.fit.training, epochs=80, patience=80)
        config = replace(copied, models=("last_value", "gru"), fit=replace(copied.fit, training=training))
        watched = Watched()
        retrain_in_prefect(config, watched)
        epochs = [record.epoch for kind, record in watched.told if kind == "epoch"]
        assert epochs[0] in (done, done + 1, done + 2)
        crashed = client.read_flow_run(dead)
        assert (crashed.state_type, crashed.state.message.partition(";")[0]) == (StateType.CRASHED, "its process died")
        inside = FlowRunFilter(id=FlowRunFilterId(any_=[dead]))
        tasks = client.read_task_runs(flow_run_filter=inside)
        assert {run.state_type for run in tasks} == {StateType.COMPLETED, StateType.CRASHED}


def test_live_forecasts_are_scored_and_start_a_retrain_where_one_is_due(copied: Any, artifacts: Any) -> None:
    """Scores and drift are on the page; with new prices a deployment is run, and without them it is not."""
    config = replace(copied, models=("last_value", "ar"))
    prefect_flows.retrain(config)
    out = config.folder / "out.jsonl"
    streamed(config, out)
    told = prefect_flows.score(config, DueConfig(), out, "nobody/has-this")
    assert (told["pools"][""]["due"], told["pools"][""]["drift"]) == (False, None)
    assert (told["scores"][0]["model"], told["scores"][0]["outcomes"]) == ("gru", 199)
    assert 0.5 < told["scores"][0]["coverage_80"] <= 1
    assert '"outcomes": 199' in artifacts("scores")[0].data
    assert "No retrain is due: nothing is new" in artifacts("drift")[0].data
    note = {"kind": "drift", "what": "coverage_80", "time": 1_700_000_000_000_000, "value": 0.5, "expected": 0.8}
    (config.folder / "journal").mkdir()
    (config.folder / "journal" / "notes.jsonl").write_bytes(orjson.dumps(note | {"outcomes": 99}) + b"\n")
    csv = write_csv(config.folder / "new.csv", [("AAA", "2021-12-01", "100.0")])
    steps.ingest(replace(config, ingest=replace(config.ingest, paths=(str(csv),))))
    with pytest.raises(ObjectNotFound):  # it is asked for
        prefect_flows.score(config, DueConfig(), None, "nobody/has-this")
    assert "A retrain is due: coverage_80 drifted" in artifacts("drift")[-1].data + artifacts("drift")[0].data


def streamed(config: Any, out: Path) -> None:
    """Let the champion forecast after each of the last 200 prices of a series."""
    rows = PriceStore(config.folder / "prices").read("BBB").tail(200)
    lines = [
        orjson.dumps({"series": "BBB", "time": time.isoformat(), "price": price}, option=orjson.OPT_APPEND_NEWLINE)
        for time, price in zip(rows["time"], rows["price"], strict=True)
    ]
    folder = config.folder / "champions"
    lineup = published(folder, champions.current(folder, config.champion))
    stream = Stream(lineup, StreamConfig(durability="none"), out=FileOutput(out))
    drive.run(stream, cut(b"".join(lines), "-", IntakeConfig()))
    stream.close()


@pytest.mark.usefixtures("prefect_server")
def test_a_fit_on_cuda_holds_the_slot_of_the_gpu(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps only a network's fit holds it, where it would train on cuda, and gives it back."""
    reserve(2)
    held: list[int] = []

    def fitted(config: Any, name: str) -> None:  # noqa: ARG001  the form of a step
        with get_client(sync_client=True) as client:
            held.append(client.read_global_concurrency_limit_by_name(SLOT).active_slots)

    monkeypatch.setattr(steps, "train", fitted)
    fitting = prefect_flows.as_task(steps.train, COMPUTE)
    for device, name in (("cuda", "gru"), ("cuda", "ar"), ("cpu", "gru")):
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "resolve_device", lambda _, kind=device: torch.device(kind))
            flow(lambda name=name: fitting(copied, name), name="fits")()
    fitted(copied, "gru")
    assert held == [1, 0, 0, 0]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("error", "policy", "calls"), [(TransientError, SERVICE, 3), (DataError, SERVICE, 1)])
def test_only_an_error_that_may_pass_is_tried_again(error: type[Exception], policy: Policy, calls: int) -> None:
    """A service that answers at the third try is asked three times; an error of the data comes out at once."""
    called = []

    def step() -> str:
        called.append(1)
        if len(called) < 3:
            raise error("not now")
        return "answered"

    @flow
    def asking() -> str:
        return prefect_flows.as_task(step, policy)()

    if error is TransientError:
        assert asking() == "answered"
    else:
        with pytest.raises(error, match="not now"):
            asking()
    assert len(called) == calls


def test_policies_become_options_of_a_task() -> None:
    """Retries wait twice as long each time, arithmetic is not retried, and each has its limit of time."""
    service, compute = (prefect_flows.as_task(judging.record, policy) for policy in (SERVICE, COMPUTE))
    assert (service.retries, service.retry_delay_seconds, service.timeout_seconds) == (3, [2.0, 4.0, 8.0], 600.0)
    assert (compute.retries, compute.timeout_seconds) == (0, COMPUTE.timeout_s)


# ------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", FLOWS)
def test_the_form_of_a_flow_shows_every_setting(name: str) -> None:
    """The schema that Prefect draws its form from has the tree of settings, with defaults and choices."""
    schema = getattr(prefect_flows, name).parameters.model_dump()
    parts = schema["definitions"]
    assert {"Config", "IngestConfig", "FitConfig", "TrainingConfig", "TrackingConfig"} <= parts.keys()
    assert {"folder", "models", "transform", "ingest", "fit", "compare"} <= parts["Config"]["properties"].keys()
    assert parts["Config"]["properties"]["transform"]["enum"] == ["log", "asinh"]
    assert parts["TrainingConfig"]["properties"]["epochs"]["default"] == 60
    assert "config" not in schema.get("required", [])


def test_parameters_are_differences_that_become_settings() -> None:
    """Nested tables as Prefect stores them give the frozen settings, all else by default."""
    given = {"config": {"folder": "desk", "models": ["last_value", "ar"], "fit": {"training": {"epochs": 2}}}}
    config = prefect_flows.retrain.validate_parameters(given)["config"]
    defaults = Config()
    training = replace(defaults.fit.training, epochs=2)
    expected = replace(defaults, folder=Path("desk"), models=("last_value", "ar"))
    assert config == replace(expected, fit=replace(defaults.fit, training=training))


@pytest.mark.parametrize(
    "config", [{"foldr": "desk"}, {"fit": {"training": {"epoch": 2}}}, {"transform": "lgo"}, {"models": "ar"}]
)
def test_a_wrong_parameter_is_refused(config: dict[str, Any]) -> None:
    """Unknown names at any depth, and values of the wrong kind, end a run before it begins."""
    with pytest.raises(ParameterTypeError, match=next(iter(config))):
        prefect_flows.retrain.validate_parameters({"config": config})


def test_an_embedded_prefect_stays_in_its_folder_and_sends_nothing_out(tmp_path: Path) -> None:
    """Its home is in the data folder, and what the user has set in the environment stays."""
    settings = environment(tmp_path)
    assert settings["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert settings["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert settings["DO_NOT_TRACK"] == "true"
    assert all(os.environ[name] for name in settings)


# ------------------------------------------------------------------------------------------------------ deployments


def flow_of(deployment: dict[str, Any]) -> str:
    """Name the flow of a deployment."""
    return deployment["entrypoint"].rpartition(":")[2]


def test_every_flow_has_a_deployment() -> None:
    """Each flow of the module is deployed, by its path from the root of the project, under a name of its own."""
    assert {flow_of(deployment) for deployment in DEPLOYMENTS} == set(FLOWS)
    assert {d["entrypoint"].rpartition(":")[0] for d in DEPLOYMENTS} == {"flows/prefect_flows.py"}
    assert len({(flow_of(d), d["name"]) for d in DEPLOYMENTS}) == len(DEPLOYMENTS)
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS} == {"statecast"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: f"{flow_of(d)} {d['name']}")
def test_a_deployment_starts_its_flow(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The entrypoint is a flow, and its parameters are names and values that the flow takes."""
    monkeypatch.chdir(ROOT)
    loaded = load_flow_from_entrypoint(deployment["entrypoint"])
    assert loaded.name == f"statecast-{flow_of(deployment)}"
    assert loaded.validate_parameters(deployment["parameters"])["config"].folder == Path(".statecast")


def test_schedules_are_in_utc_and_asleep() -> None:
    """Retrain and score have schedules that do nothing until someone switches them on; none runs beside itself."""
    scheduled = {flow_of(d): d for d in DEPLOYMENTS if "schedules" in d}
    assert scheduled.keys() == {"retrain", "score"}
    for deployment in scheduled.values():
        (schedule,) = deployment["schedules"]
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).timezone == "UTC"
        assert schedule["active"] is False
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert scheduled["score"]["parameters"]["retrain"] == f"statecast-retrain/{scheduled['retrain']['name']}"


@pytest.mark.usefixtures("prefect_server")
def test_prefect_deploys_the_retrain() -> None:
    """`prefect deploy` takes the file as it stands, and the server holds the deployment with its schedule."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="statecast", type="process"))
        command = [Path(sys.executable).with_name("prefect"), "--no-prompt", "deploy"]
        command += ["--prefect-file", "deploy/prefect.yaml", "--name", "daily"]
        environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
        subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=True, capture_output=True)
        deployed = client.read_deployment_by_name("statecast-retrain/daily")
        assert client.read_global_concurrency_limit_by_name(SLOT).limit == 1
    assert deployed.parameters == {"config": {"folder": ".statecast"}, "due": {"new_rows": 1, "on_drift": True}}
    assert [schedule.active for schedule in deployed.schedules] == [False]
    assert deployed.parameter_openapi_schema is not None
