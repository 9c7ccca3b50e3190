"""Prometheus' rules speak of what the stream really gives, and the runbook speaks of both."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hooked_stream import CONFIG
from prometheus_client.parser import text_string_to_metric_families
from served import metadata, model_bytes
from serving import BEARER, ask, post, running, tick, wait_ready
from variants import returning

from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream
from pipeline.ticks import Reason

DEPLOY = Path(__file__).parents[1] / "deploy"
RUNBOOK = (DEPLOY / "README.md").read_text()
GROUPS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
FIRING = 'ALERTS{alertstate="firing"}'

Sample = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    """What a running stream exposes after some ticks: samples by the name of their metric."""
    journal = tmp_path_factory.mktemp("exposed") / "journal"
    beside = {"last_value": model_bytes(metadata(name="last_value"))}
    wanted = Opening(lineup=Lineup(version=1, serving=returning(), beside=beside), journal=journal)
    with running(lambda: open_stream(wanted, CONFIG)) as server:
        wait_ready(server.url)
        for hour in range(30):
            post(server.url, tick("A", 60 * hour, 100.0 + hour % 7))
        text = ask(server.url, "GET", "/metrics", headers=BEARER).body.decode()
    families = text_string_to_metric_families(text)
    return {f.name: [(s.name, dict(s.labels)) for s in f.samples] for f in families if not f.name.endswith("_created")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_speaks_of_what_is_exposed(rule: dict[str, Any], exposed: dict[str, list[Sample]]) -> None:
    """Every metric in a rule is a sample of a running stream, with every label and every name of a score."""
    samples = [sample for samples in exposed.values() for sample in samples]
    for name, labels in re.findall(r"(statecast_\w+)(?:\{(.*?)\})?", rule["expr"]):
        mine = [found for metric, found in samples if metric == name]
        assert mine, f"nothing exposes {name}"
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"(.*?)"', labels):
            assert all(label in found for found in mine)
            if label in ("name", "route"):
                assert operator == "="
                assert any(found[label] == value for found in mine), f"no {name} is {value}"
            if label == "reason":
                assert set(value.split("|")) <= {reason.code for reason in Reason}


def test_a_rule_says_how_urgent_it_is_and_why() -> None:
    """Each has a severity of two, a summary, and a name of its own."""
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}
    assert all(rule["annotations"]["summary"] for rule in RULES)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def rows(heading: str) -> set[str]:
    """List what the first column of the table below a heading of the runbook names."""
    section = RUNBOOK.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))


def test_the_runbook_explains_every_metric(exposed: dict[str, list[Sample]]) -> None:
    """Its table has a row for each metric that a running stream exposes, and no other."""
    assert {name.removesuffix("_total") for name in rows("Watch")} == set(exposed)


def test_the_runbook_says_what_to_do_at_every_alert() -> None:
    """Its table has a row for each rule, and no other."""
    assert rows("When an alert fires") == {rule["alert"] for rule in RULES}


def test_what_is_asked_is_served() -> None:
    """Prometheus asks the stream with its token and Prefect with its password, each from a file."""
    jobs = {j["job_name"]: j for j in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs["stream"]["authorization"] == {"credentials_file": "/run/secrets/stream_token"}
    assert jobs["prefect"]["basic_auth"] == {"username": "statecast", "password_file": "/run/secrets/prefect_api"}


# ----------------------------------------------------------------------------------------- judged by Prometheus itself

QUIET = {
    'up{job="stream"}': "1x120",
    "statecast_ready": "1x120",
    "statecast_lag_seconds": "60x120",
    'statecast_lines_total{reason="accepted"}': "0+1000x120",
    'statecast_lines_total{reason="late"}': "0+1x120",
    'statecast_requests_total{route="/ticks", status="200"}': "0+60x120",
    'statecast_requests_total{route="/ticks", status="429"}': "0x120",
    'statecast_requests_total{route="none", status="401"}': "0x120",
    'statecast_requests_total{route="/ticks", status="503"}': "0x120",
    "statecast_queue_lines": "10x120",
    'statecast_batch_seconds_bucket{le="1.0"}': "0+60x120",
    'statecast_batch_seconds_bucket{le="2.5"}': "0+60x120",
    'statecast_batch_seconds_bucket{le="+Inf"}': "0+60x120",
    "statecast_connections_evicted": "0x120",
    "statecast_model_stale": "0x120",
    'statecast_score{name="moments"}': "1000x120",
    'statecast_score{name="models.serving.recent.covered_80"}': "0.79x120",
    'statecast_score{name="skill.last_value.recent.skill"}': "-0.002x120",
    'statecast_score{name="skill.last_value.recent.skill_error"}': "0.001x120",
}
"""Series of two hours, a sample a minute, in which all is well."""

TROUBLE = {
    "ServerDown": {'up{job="stream"}': "0x120"},
    "StreamNotReady": {"statecast_ready": "0x120"},
    "TicksLate": {"statecast_lag_seconds": "400000x120"},
    "TicksRefused": {'statecast_lines_total{reason="late"}': "0+20x120"},
    "TicksPutOff": {'statecast_requests_total{route="/ticks", status="429"}': "0+1x120"},
    "QueueLong": {"statecast_queue_lines": "60000x120"},
    "BatchSlow": {'statecast_batch_seconds_bucket{le="1.0"}': "0+55x120"},
    "RequestsFail": {'statecast_requests_total{route="/ticks", status="503"}': "0+1x120"},
    "PasswordsTried": {'statecast_requests_total{route="none", status="401"}': "0+5x120"},
    "ConnectionsEvicted": {"statecast_connections_evicted": "0+1x120"},
    "CoverageOff": {'statecast_score{name="models.serving.recent.covered_80"}': "0.7x120"},
    "WorseThanLastValue": {'statecast_score{name="skill.last_value.recent.skill"}': "-0.004x120"},
    "ModelStale": {"statecast_model_stale": "1x120"},
}
"""What each alert is for, as a change to that."""


def judged(changes: dict[str, str], fires: list[dict[str, str]]) -> dict[str, Any]:
    """Write a test for promtool: with these changes exactly these alerts fire after two hours."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in (QUIET | changes).items()],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname, severity) ({FIRING})",
                "eval_time": "119m",
                "exp_samples": [
                    {"labels": "{" + ", ".join(f'{k}="{v}"' for k, v in one.items()) + "}", "value": 1} for one in fires
                ],
            }
        ],
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus' own judge, promtool, is not installed here")
def test_each_alert_fires_at_its_trouble_and_at_no_other(tmp_path: Path) -> None:
    """In two quiet hours nothing fires; with one trouble in them its alert does, alone."""
    assert TROUBLE.keys() == {rule["alert"] for rule in RULES}
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
    tests = [judged({}, [])]
    tests += [judged(change, [{"alertname": name, "severity": severity[name]}]) for name, change in TROUBLE.items()]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
