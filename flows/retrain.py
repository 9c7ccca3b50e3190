"""The order of a retrain, written once as plain code; whoever runs it supplies what wraps each step.

Comes in: settings, a wrapper, and someone who watches. Goes out: `Retrained`. Knows no Prefect: the Prefect flow in
`prefect_flows.py` passes a wrapper that makes each step a task, the command line passes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from models.errors import StatecastError
from pipeline import judging, prequential, promotion, steps
from pipeline.config import Config
from pipeline.fitting import NETWORKS
from pipeline.judging import Compared
from pipeline.promotion import Promoted
from pipeline.steps import Ingested
from pipeline.threads import cpu_threads
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

WhyNot = Callable[[Config], str | None]
"""Asked of each pool once the prices are in the store: why it need not be retrained, or nothing."""


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
    """What a retrain gave; no comparison and no run where nothing has come since the one before."""

    ingested: Ingested
    compared: Compared | None
    run: str | None
    promoted: Promoted


def retrain(config: Config, watch: Watch, wrap: Wrap = plain) -> Retrained:
    """Read prices, judge every recipe on what has come since its latest fit, promote who has earned it, fit anew.

    The first time, and whenever settings, models or series have changed, recipes are judged by a walk over the test
    split. What serves in the end is a fit on everything known.
    """
    (result,) = retrain_each(config, watch, wrap).values()
    return result


def retrain_each(
    config: Config, watch: Watch, wrap: Wrap = plain, why_not: WhyNot = lambda _: None
) -> dict[str, Retrained]:
    """Retrain all pools that are meant, by name, after one reading of prices, but for those that there is no reason to.

    Raises
    ------
    StatecastError
        A pool failed. The others have had their turn, and the message names all that failed.
    """
    ingested = ingest(config, watch, wrap)
    done: dict[str, Retrained] = {}

    def one(pool: str) -> None:
        each = config.each[pool]
        said = why_not(each)
        done[pool] = stays(each, ingested, said) if said else follow(each, ingested, watch, wrap)

    if failed := each_in_turn(one, config.each):
        raise together(failed, len(config.each))
    return done


def each_in_turn(do: Callable[[str], None], pools: Iterable[str]) -> dict[str, StatecastError]:
    """Do something for each pool, and give the errors of those that failed."""
    failed = {}
    for pool in pools:
        try:
            do(pool)
        except StatecastError as error:
            failed[pool] = error
    return failed


def together(failed: dict[str, StatecastError], pools: int) -> StatecastError:
    """Make one error of those of some pools, of the class of the first; it may pass if each of them may."""
    first, *_ = failed.values()
    if pools == 1:
        return first
    told = "; ".join(f"{pool}: {error}" for pool, error in failed.items())
    error = type(first)(f"{len(failed)} of {pools} pools failed, the others are done: {told}")
    error.transient = all(error.transient for error in failed.values())
    return error


def ingest(config: Config, watch: Watch, wrap: Wrap = plain) -> Ingested:
    """Read prices into the store of all pools."""
    watch.begins("reading prices")
    ingested = wrap(steps.ingest, SERVICE)(config)
    watch.ingested(ingested)
    return ingested


@cpu_threads(1)
def follow(config: Config, ingested: Ingested, watch: Watch, wrap: Wrap = plain) -> Retrained:
    """Do all of a retrain that comes after the prices, for one pool."""
    plan = wrap(prequential.begin, COMPUTE)(config)
    if not plan.news:
        return stays(config, ingested)
    compared = first_round(config, watch, wrap) if plan.number == 1 else _next_round(config, watch, wrap)
    watch.begins("recording in MLflow")
    run = wrap(judging.record, SERVICE)(config)
    for name in config.models:
        watch.begins(f"fitting {name} on everything", _epochs(config, name))
        wrap(prequential.refit, COMPUTE)(config, name, watch.epoch)
    watch.begins("exporting through the parity gate, and promoting")
    promoted = wrap(promotion.follow, SERVICE)(config)
    wrap(prequential.close, COMPUTE)(config)
    return Retrained(ingested=ingested, compared=compared, run=run, promoted=promoted)


def stays(config: Config, ingested: Ingested, why: str = "nothing has come since the last retrain") -> Retrained:
    """Give what a pool has that is not retrained."""
    return Retrained(ingested=ingested, compared=None, run=None, promoted=promotion.unchanged(config, why))


def steps_of(config: Config) -> int:
    """Count the steps of a first retrain; a later one has fewer."""
    return 1 + sum(3 * len(one.models) + 5 for one in config.each.values())


def first_round(config: Config, watch: Watch, wrap: Wrap) -> Compared:
    """Fit every model and walk it over the test split; the incumbent with its file."""
    for name in config.models:
        watch.begins(f"fitting {name}", _epochs(config, name))
        wrap(steps.train, COMPUTE)(config, name, watch.epoch)
        watch.begins(f"walking {name} forward")
        wrap(steps.backtest, COMPUTE)(config, name, watch.refitted)
    watch.begins("comparing models")
    return wrap(judging.compare, COMPUTE)(config)


def _next_round(config: Config, watch: Watch, wrap: Wrap) -> Compared:
    """Let the fits that wait, and what serves, forecast what has come since."""
    for name in (*config.models, judging.INCUMBENT):
        watch.begins(f"judging {name} on what came since its fit")
        wrap(prequential.judge, COMPUTE)(config, name)
    watch.begins("comparing models")
    return wrap(prequential.compare, COMPUTE)(config)


def _epochs(config: Config, name: str) -> int:
    return config.fit.training.epochs if name in NETWORKS else 0
