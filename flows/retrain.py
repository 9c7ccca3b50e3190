"""The order of a retrain, written once as plain code; whoever runs it supplies what wraps each step.

Comes in: settings, a wrapper, and someone who watches. Goes out: `Retrained`. Knows no Prefect: the Prefect flow in
`prefect_flows.py` passes a wrapper that makes each step a task, the command line passes none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline import judging, promotion, steps
from pipeline.config import Config
from pipeline.fitting import NETWORKS
from pipeline.judging import Compared
from pipeline.promotion import Promoted
from pipeline.steps import Ingested
from pipeline.training import EpochRecord


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a wrapper should do for a step: how often to repeat it when a service did not answer, and for how long."""

    retries: int = 0
    timeout_s: float


SERVICE = Policy(retries=3, timeout_s=600.0)
COMPUTE = Policy(timeout_s=86_400.0)
"""A walk that refits every week fits a network hundreds of times."""

Wrap = Callable[[Callable[..., Any], Policy], Callable[..., Any]]


def plain(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:  # noqa: ARG001  the simplest wrapper
    """Run a step as it is."""
    return step


class Watch(Protocol):
    """Who is told what happens: the screen of `screen.py`, or the log of a Prefect run."""

    def ingested(self, result: Ingested) -> None:
        """Note that prices are in the store."""
        ...

    def begins(self, what: str, epochs: int = 0) -> None:
        """Note that something begins which may take more than a second."""
        ...

    def epoch(self, record: EpochRecord) -> None:
        """Note that a network has trained for another epoch."""
        ...

    def refitted(self, done: int) -> None:
        """Note how many refits of a walk are done."""
        ...


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """What a retrain gave."""

    ingested: Ingested
    compared: Compared
    run: str
    promoted: Promoted


def retrain(
    config: Config, watch: Watch, wrap: Wrap = plain, go_on: Callable[[Config], None] = lambda _: None
) -> Retrained:
    """Ingest, fit and walk forward every model, compare, record, and promote whoever has earned it.

    `go_on` is asked once the prices are in the store; what it raises ends the retrain there.
    """
    watch.begins("reading prices")
    ingested = wrap(steps.ingest, SERVICE)(config)
    watch.ingested(ingested)
    go_on(config)
    for name in config.models:
        _fit_and_walk(config, name, watch, wrap)
    watch.begins("comparing models")
    compared = wrap(judging.compare, COMPUTE)(config)
    watch.begins("recording in MLflow")
    run = wrap(judging.record, SERVICE)(config)
    watch.begins("exporting through the parity gate, and promoting")
    promoted = wrap(promotion.promote, SERVICE)(config)
    return Retrained(ingested=ingested, compared=compared, run=run, promoted=promoted)


def steps_of(config: Config) -> int:
    """Count the steps of a retrain."""
    return 2 * len(config.models) + 4


def _fit_and_walk(config: Config, name: str, watch: Watch, wrap: Wrap) -> None:
    """Fit one model and walk it forward."""
    epochs = config.fit.training.epochs if name in NETWORKS else 0
    watch.begins(f"fitting {name}", epochs)
    wrap(steps.train, COMPUTE)(config, name, watch.epoch)
    watch.begins(f"walking {name} forward")
    wrap(steps.backtest, COMPUTE)(config, name, watch.refitted)
