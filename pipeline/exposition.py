"""How the service does, as Prometheus reads it.

Comes in: micro-batches, requests and the engine's status. Goes out: text in the Prometheus format. The only file that
knows prometheus_client; imported by routes and serve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pipeline.desk import Answered, Standing
from pipeline.lines import Block

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SCORES = 1000
"""Most scores that are shown."""

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LINES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class Exposition:
    """The measured quantities of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._batch = Histogram(
            "statecast_batch_lines", "Lines of a micro-batch.", buckets=_LINES, registry=self._registry
        )
        self._take = Histogram(
            "statecast_batch_seconds", "Time of a micro-batch.", buckets=_LATENCY, registry=self._registry
        )
        self._post = Histogram(
            "statecast_post_seconds", "Time from ticks to answer.", buckets=_LATENCY, registry=self._registry
        )
        self._requests = Counter(
            "statecast_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )

    def took(self, blocks: Sequence[Block], answers: Sequence[Answered], seconds: float) -> None:  # noqa: ARG002
        """Count a micro-batch."""
        self._batch.observe(sum(len(block.lines) for block in blocks))
        self._take.observe(seconds)

    def saw(self, status: dict) -> None:
        """Leave the status to the time when it is asked for."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is one of the fixed ones, so that no client makes new series."""
        self._requests.labels(route, str(status)).inc()
        if route == "/ticks":
            self._post.observe(seconds)

    def render(self, standing: Standing, status: dict | None, gauges: dict[str, int]) -> bytes:
        """Write everything.

        Parameters
        ----------
        standing : Standing
        status : dict or None
            The engine's; None while it is not there.
        gauges : dict of int
            Further values by name and what they are: `queue_requests`, `listeners`.
        """
        registry = CollectorRegistry()
        registry.register(_Now(standing, status, gauges))
        return generate_latest(self._registry) + generate_latest(registry)


class _Now(Collector):
    """What is known at the moment of asking only."""

    def __init__(self, standing: Standing, status: dict | None, gauges: dict[str, int]) -> None:
        self._standing, self._status, self._gauges = standing, status, gauges

    def collect(self) -> Iterable[Metric]:
        """Give the values of now."""
        ready = float(self._standing is Standing.READY)
        yield GaugeMetricFamily("statecast_ready", "1 while ticks are taken.", value=ready)
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"statecast_{name}", f"Number of {name}.", value=value)
        if self._status is not None:
            yield from _of_status(self._status)


def _of_status(status: dict) -> Iterator[Metric]:
    lines = CounterMetricFamily("statecast_lines", "Lines by what became of them.", labels=["reason"])
    for reason, count in status.get("counts", {}).items():
        lines.add_metric([reason], count)
    yield lines
    for name in ("series", "batches"):
        if _is_number(value := status.get(name)):
            yield GaugeMetricFamily(f"statecast_{name}", f"Number of {name}.", value=value)
    if (newest := _seconds(status.get("newest_time"))) is not None:
        yield GaugeMetricFamily("statecast_newest_time_seconds", "Time of the newest tick.", value=newest)
        yield GaugeMetricFamily("statecast_lag_seconds", "Age of the newest tick.", value=time.time() - newest)
    if newest is not None and (cutoff := _seconds(status.get("cutoff_time"))) is not None:
        age = "Newest tick less the end of the data in the fit of the model that serves."
        yield GaugeMetricFamily("statecast_model_age_seconds", age, value=newest - cutoff)
        stale = "1 where that is more than stream.expires."
        yield GaugeMetricFamily("statecast_model_stale", stale, value=float(status.get("stale", False)))
    model = {key: str(status.get(key, "")) for key in ("model", "sha256", "version")}
    yield InfoMetricFamily("statecast_model", "The model that serves.", value=model)
    scores = GaugeMetricFamily("statecast_score", "Scores of forecasts whose outcomes are known.", labels=["name"])
    for name, value in list(_leaves("", status.get("scores") or {}))[:SCORES]:
        scores.add_metric([name], value)
    yield scores


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """Give every number of nested dictionaries with the keys that lead to it: `1.coverage`."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}".removeprefix("."), below)
    elif _is_number(value) and math.isfinite(value):
        yield path, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(moment: Any) -> float | None:
    """Give a time, in microseconds or ISO-8601, as seconds since 1970."""
    if isinstance(moment, str) and moment:
        parsed = datetime.fromisoformat(moment)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    return float(moment) / 1e6 if _is_number(moment) else None
