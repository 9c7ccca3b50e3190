"""The flows in a real Prefect: what is retried, what is reported, what parameters are taken; and their deployments."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Watched
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL

from flows import prefect_flows
from flows.embedded import environment, retrain_in_prefect
from flows.retrain import COMPUTE, SERVICE, Policy
from models.errors import DataError, TransientError
from pipeline import champions, judging
from pipeline.config import Config

ROOT = Path(__file__).parents[1]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
FLOWS = ("ingest", "train", "backtest", "compare", "promote", "retrain")


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
    result = retrain_in_prefect(config, watched)
    assert (result.promoted.model, result.promoted.changed) == ("gru", False)
    assert watched.told[0] == ("begins", ("starting the embedded Prefect", 0))
    assert len(watched.told) == 1 + 8 + 1
    assert [artifact.type for artifact in artifacts("comparison")] == ["table"]
    assert result.run in artifacts("comparison")[0].description
    assert "**gru** keeps serving as version 1" in artifacts("champion")[0].data


def test_the_flows_one_by_one_do_what_the_verbs_do(
    copied: Any, artifacts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest reports its faults, train its epochs, promote by name its champion."""
    with caplog.at_level(logging.INFO, logger="prefect"):
        prefect_flows.ingest(copied)
        prefect_flows.train("gru", copied)
        prefect_flows.backtest("gru", copied)
        prefect_flows.compare(replace(copied, models=("last_value", "gru")))
        prefect_flows.promote("gru", copied)
    assert '"fault": "non_positive"' in artifacts("ingest")[0].data
    assert artifacts("ingest")[0].description == "0 rows added, 2100 already there"
    assert [m for m in caplog.messages if m.startswith("epoch 3: train loss")]
    assert champions.current(copied.folder / "champions", "champion").version == 2


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


def test_every_flow_has_a_deployment() -> None:
    """Each flow of the module is deployed once, by its path from the root of the project."""
    entrypoints = [deployment["entrypoint"] for deployment in DEPLOYMENTS]
    assert sorted(entrypoints) == sorted(f"flows/prefect_flows.py:{name}" for name in FLOWS)
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS} == {"statecast"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"].rpartition(":")[2])
def test_a_deployment_starts_its_flow(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The entrypoint is a flow, and its parameters are names and values that the flow takes."""
    monkeypatch.chdir(ROOT)
    loaded = load_flow_from_entrypoint(deployment["entrypoint"])
    assert loaded.name == f"statecast-{deployment['entrypoint'].rpartition(':')[2]}"
    assert loaded.validate_parameters(deployment["parameters"])["config"].folder == Path(".statecast")


def test_the_schedule_is_daily_in_utc_and_asleep() -> None:
    """Only the retrain has a schedule; it is valid, and does nothing until someone switches it on."""
    scheduled = [d for d in DEPLOYMENTS if "schedules" in d]
    assert [d["entrypoint"].rpartition(":")[2] for d in scheduled] == ["retrain"]
    (schedule,) = scheduled[0]["schedules"]
    assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).timezone == "UTC"
    assert schedule["cron"].split()[2:] == ["*", "*", "*"]
    assert schedule["active"] is False
    assert scheduled[0]["concurrency_limit"] == 1


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
    assert deployed.parameters == {"config": {"folder": ".statecast"}}
    assert [schedule.active for schedule in deployed.schedules] == [False]
    assert deployed.parameter_openapi_schema is not None
