"""What Prometheus reads is true, and no client makes it grow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hooked_stream import HookedStream
from prometheus_client.parser import text_string_to_metric_families
from serving import BEARER, ask, post, running, tick, wait_ready

from pipeline.desk import Standing
from pipeline.exposition import SCORES, Exposition

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: bytes) -> Samples:
    """Read what was exposed with Prometheus' own parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found: Samples, metric: str, **labels: str) -> float:
    """Find one sample."""
    return found[metric, tuple(sorted(labels.items()))]


@pytest.fixture
def url() -> Iterator[str]:
    """A server that has taken nothing."""
    with running(HookedStream()) as server:
        wait_ready(server.url)
        yield server.url


def test_counts_are_those_of_what_was_sent(url: str) -> None:
    """Lines by reason, requests by route and status, batches and the model are as they were."""
    post(url, tick("A", 0) + b"\nxx\n" + tick("A", 0) + b"\n" + tick("A", 1, None))
    post(url, b"")
    ask(url, "GET", "/status")
    reply = ask(url, "GET", "/metrics", headers=BEARER)
    found = samples(reply.body)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    for reason in ("accepted", "malformed", "duplicate", "hole"):
        assert value(found, "statecast_lines_total", reason=reason) == 1
    assert value(found, "statecast_requests_total", route="/ticks", status="200") == 2
    assert value(found, "statecast_requests_total", route="none", status="401") == 1
    assert value(found, "statecast_batch_lines_sum") == 4
    assert value(found, "statecast_post_seconds_count") == 2
    assert value(found, "statecast_ready") == 1
    assert value(found, "statecast_series") == 1
    assert value(found, "statecast_queue_requests") == 0
    assert [dict(labels)["model"] for name, labels in found if name == "statecast_model_info"] == ["last"]


def test_scores_are_those_of_the_status(url: str) -> None:
    """What has no outcome yet is not shown; afterwards every number is that of the status."""
    post(url, tick("A", 0))
    name = "models.serving.all.absolute_error"
    before = samples(ask(url, "GET", "/metrics", headers=BEARER).body)
    assert ("statecast_score", (("name", name),)) not in before
    post(url, tick("A", 60, 1.75))
    found = samples(ask(url, "GET", "/metrics", headers=BEARER).body)
    scores = ask(url, "GET", "/status", headers=BEARER).json["engine"]["scores"]
    assert value(found, "statecast_score", name="outcomes") == scores["outcomes"] == 1
    assert value(found, "statecast_score", name=name) == scores["models"]["serving"]["all"]["absolute_error"] > 0.2


def test_the_lag_is_the_age_of_the_newest_tick(url: str) -> None:
    """A tick of a minute ago lies about a minute behind."""
    now = int(time.time() * 1e6)
    post(url, b'{"series":"A","time":%d,"price":1}' % (now - 60_000_000))
    found = samples(ask(url, "GET", "/metrics", headers=BEARER).body)
    assert value(found, "statecast_newest_time_seconds") == pytest.approx(now / 1e6 - 60)
    assert 59 < value(found, "statecast_lag_seconds") < 120


@pytest.mark.parametrize("stale", [True, False])
def test_the_age_of_the_model_is_that_at_the_newest_tick(stale: bool) -> None:
    """From the end of the data in its fit, not from now, and whether that is too much."""
    status = {"newest_time": "2024-01-03T00:00:00Z", "cutoff_time": "2024-01-01T00:00:00Z", "stale": stale}
    found = samples(Exposition().render(Standing.READY, status, {}))
    assert value(found, "statecast_model_age_seconds") == 2 * 86_400
    assert value(found, "statecast_model_stale") == stale


def test_no_client_makes_new_series(url: str) -> None:
    """Odd paths and methods are counted together."""
    before = len(samples(ask(url, "GET", "/metrics", headers=BEARER).body))
    ask(url, "GET", "/nothing", headers=BEARER)
    once = len(samples(ask(url, "GET", "/metrics", headers=BEARER).body))
    for i in range(50):
        ask(url, "GET", f"/nothing/{i}", headers=BEARER)
        ask(url, "GET", f"/forecasts/none{i}", headers=BEARER)
    after = len(samples(ask(url, "GET", "/metrics", headers=BEARER).body))
    assert before < once
    assert after <= once + 4


def test_a_time_may_be_written_out() -> None:
    """The newest time is read as microseconds and as ISO-8601 alike."""
    texts = [
        Exposition().render(Standing.READY, {"newest_time": moment}, {})
        for moment in (1_704_067_200_000_000, "2024-01-01T00:00:00Z", "2024-01-01T00:00:00")
    ]
    assert {value(samples(text), "statecast_newest_time_seconds") for text in texts} == {1_704_067_200.0}


def test_scores_are_bounded() -> None:
    """However many scores there are, so many are shown and no more."""
    status = {"scores": {f"s{i}": {"mae": float(i)} for i in range(2 * SCORES)}}
    found = samples(Exposition().render(Standing.DRAINING, status, {"listeners": 2}))
    assert sum(name == "statecast_score" for name, _ in found) == SCORES
    assert (value(found, "statecast_ready"), value(found, "statecast_listeners")) == (0, 2)


def test_names_of_reasons_and_models_are_escaped() -> None:
    """Quotes, backslashes and line ends in a name do not break the text."""
    odd = 'a"b\\c\nd'
    found = samples(Exposition().render(Standing.READY, {"model": odd, "counts": {odd: 3}}, {}))
    assert value(found, "statecast_lines_total", reason=odd) == 3
