"""Walk forward as it would have been: one stateful pass over every origin, refits on the way, nothing recomputed.

A walk goes over *folds*. A fold is a fit and the origins that it serves. At every origin time, in order, a policy is
asked whether to refit, with what is known at that moment. A new fit sees the prices before that moment, begins to
serve `gap` origin times later, and gets its state by being carried over all prices from the true start of each series:
also where its parameters saw a rolling history only, because that is what a stream that ran all along would hold.

Legend: N series, T time.

Comes in: a fitted forecaster or the session of an exported one, a panel, and a policy. Goes out: blocks of `Forecasts`.
Knows numpy and torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataError
from models.forecaster import Forecaster
from models.transforms import Transform
from pipeline.clock import span
from pipeline.forecasts import Forecasts
from pipeline.passes import FOREVER, Runner, in_session, in_torch, served
from pipeline.refit import Policy, RefitConfig, Signals, never
from pipeline.session import Session
from pipeline.windows import Panel, Split, SplitConfig


@dataclass(frozen=True, kw_only=True)
class BacktestConfig:
    """How the walk forward over the test split is done.

    Attributes
    ----------
    history : str or None
        How far back a refit looks, such as "730d" (w, d, h, m or s); left out, it sees everything before.
    start : {"scratch", "warm"}
        Where the weights of a network begin at a refit: anew, or at those of the fit before.
    gap : int
        Origin times between the moment of a refit and the first origin that it serves, 0 or more; until then the fit
        before it serves.
    embargo : int
        Times of prices before the moment of a refit that it does not see, 0 or more.
    refit : RefitConfig
        When a model is fitted again.
    """

    history: str | None = None
    start: Literal["scratch", "warm"] = "scratch"
    gap: int = 0
    embargo: int = 0
    refit: RefitConfig = RefitConfig()

    def __post_init__(self) -> None:
        for name in ("gap", "embargo"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        _ = self.history_time

    @property
    def history_time(self) -> int | None:
        """The rolling history in microseconds; None where it expands."""
        return None if self.history is None else span(self.history, "history")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A fit and where it begins to serve.

    Attributes
    ----------
    number : int
        0 is the fit with which the walk begins.
    cut_time : int or None
        Moment of the refit (microseconds since 1970, UTC), before which lies all that it sees; None for fold 0.
    start_time : int
        First origin time that it serves; it serves until the next fold's.
    why : str
        What was known when the policy asked for it.
    """

    number: int
    cut_time: int | None
    start_time: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of a fold, sorted by (series, origin_time, step), later than those of the block before.

    A row belongs to the fold that serves at its origin, also where its target lies after the next refit.
    """

    fold: Fold
    rows: Forecasts
    last: bool
    """Whether the fold ends with it."""


Serve = Callable[[Fold], Iterator[tuple[int, Forecasts]]]
"""Gives the rows of a fold from its start on, stretch by stretch, each with the moment at which its origins end."""


def walk(
    panel: Panel,
    origins: NDArray[np.bool_],
    serve: Serve,
    *,
    policy: Policy = never,
    gap: int = 0,
    window: int = RefitConfig.window,
) -> Iterator[Block]:
    """Go over the wanted origins in order of time, and from fold to fold where the policy says so.

    Row k is for `target_time[k]`, the step-th observation after `origin_time[k]`, and was made from prices up to
    and including `origin_time[k]`. Rows whose outcome is not known are left out.

    Parameters
    ----------
    panel : Panel
    origins : bool [N, T]
        Origins wanted, such as `split.origins(panel, "test", horizon)`.
    serve : function
        Gives the rows of a fold; see `served`.
    policy : Policy
        Asked at every time of a published price from the first wanted origin to the last.
    gap : int
        Origin times between the moment of a refit and the first origin that it serves.
    window : int
        Latest known rows of step 1 that the policy may look at.

    Raises
    ------
    DataError
        No wanted origin has an outcome.
    """
    operations = _Operations(_moments(panel, origins), policy, gap, window)
    rows = 0
    while operations.folds:
        fold = operations.folds.popleft()
        for end, made in serve(fold):
            until = operations.ask(made, end)
            kept = made.where(made.origin_time < until)
            rows += len(kept)
            last = operations.ends(end)
            if last and not operations.folds and not rows:
                raise _nothing(made.model, origins)
            yield Block(fold=fold, rows=kept, last=last)
            if last:
                break


class _Operations:
    """The desk at which a policy is asked, moment after moment, with what is known there."""

    def __init__(self, moments: list[int], policy: Policy, gap: int, window: int) -> None:
        self.moments = [] if policy is never else moments  # it need not be asked
        self.policy, self.gap, self.window = policy, gap, window
        self.folds = deque([Fold(number=0, cut_time=None, start_time=moments[0], why="")])
        self._asked, self._fitted, self._made = 0, 0, 1
        self._known: Forecasts | None = None

    def ask(self, rows: Forecasts, end: int) -> int:
        """Ask up to the end of a stretch or to the next fold's start, and give that moment."""
        if self._asked == len(self.moments):  # nobody will look at what becomes known
            return self._until(end)
        first = rows.where(rows.step == 1)  # later steps overlap: they are wrong together, for the true model too
        known = first if self._known is None else joined([self._known, first])
        known = _taken(known, np.argsort(known.target_time, kind="stable"))
        while self._asked < len(self.moments) and self.moments[self._asked] < self._until(end):
            self._ask_at(self._asked, known)
            self._asked += 1
        until = self._until(end)
        kept = known.where(known.origin_time < until)
        self._known = _taken(kept, slice(max(0, self._past(kept, self._asked - 1) - self.window), None))
        return until

    def ends(self, end: int) -> bool:
        """Tell whether a fold has served when its stretch has ended."""
        return end == FOREVER or bool(self.folds and self.folds[0].start_time <= end)

    def _until(self, end: int) -> int:
        return min(end, self.folds[0].start_time) if self.folds else end

    def _past(self, known: Forecasts, k: int) -> int:
        """Count the rows whose outcome is known at moment k."""
        return int(np.searchsorted(known.target_time, self.moments[k], "right")) if k >= 0 else 0

    def _ask_at(self, k: int, known: Forecasts) -> None:
        def latest() -> Forecasts:
            stop = self._past(known, k)
            return _taken(known, slice(stop - self.window, stop) if stop >= self.window else slice(0))

        time, fitted = self.moments[k], self.moments[self._fitted]
        signals = Signals(time=time, fitted_time=fitted, since=k - self._fitted, latest=latest)
        if k + self.gap >= len(self.moments) or not self.policy(signals):
            return
        start = self.moments[k + self.gap]
        self.folds.append(Fold(number=self._made, cut_time=time, start_time=start, why=str(signals)))
        self._fitted, self._made = k, self._made + 1


def _moments(panel: Panel, origins: NDArray[np.bool_]) -> list[int]:
    """List the times of published prices from the first wanted origin to the last: when something can be done."""
    if not origins.any():
        raise _nothing("a model", origins)
    wanted = panel.time[origins]
    inside = panel.published & (panel.time >= wanted.min()) & (panel.time <= wanted.max())
    return np.unique(panel.time[inside]).tolist()


def _nothing(model: str, origins: NDArray[np.bool_]) -> DataError:
    return DataError(
        f"walk forward of {model}: expected origins with known outcomes, got none among {int(origins.sum())} wanted. "
        "Give more data or a larger test split"
    )


def seen(panel: Panel, cut: int, config: BacktestConfig, parts: SplitConfig) -> tuple[Panel, Split]:
    """Give what a refit at a moment may see, and its split into train and validation.

    It sees the prices strictly before the cut less the embargo and, where a history is set, not longer before than
    that: older ones become holes. The last `validation / (1 - test)` of what it sees is its validation part.

    Raises
    ------
    DataError
        Too little is left for two parts.
    """
    times = np.unique(panel.time[panel.published])
    first_unseen = max(0, int(np.searchsorted(times, cut)) - config.embargo)
    end = int(times[first_unseen]) if first_unseen < len(times) else cut
    if config.history_time is not None:
        panel = replace(panel, mask=panel.mask & (panel.time >= end - config.history_time)[..., None])
    time = panel.time[panel.published & (panel.time < end)]
    at_train_end = int(len(time) * (1 - parts.validation / (1 - parts.test)))
    train_end = int(np.partition(time, at_train_end)[at_train_end]) if len(time) else end
    if not len(time) or not time.min() < train_end:
        raise DataError(
            f"refit at {np.datetime64(cut, 'us')}Z: expected prices for train and validation before "
            f"{np.datetime64(end, 'us')}Z, got {len(time)}. Make backtest.history longer, or backtest.embargo shorter"
        )
    return panel, Split(train_end_time=train_end, validation_end_time=end)


# --------------------------------------------------------------------------------------------------- without refits


def walk_forward(forecaster: Forecaster, panel: Panel, origins: NDArray[np.bool_]) -> Forecasts:
    """Forecast from every wanted origin with one fit, the state carried from the true start of each series.

    Rows and errors are those of `walk`, sorted by (series, origin_time, step).
    """
    return _collected(in_torch(forecaster, panel), panel, origins)


def walk_session_forward(
    session: Session, name: str, transform: Transform, panel: Panel, origins: NDArray[np.bool_]
) -> Forecasts:
    """Do the same with an exported file, as the stream would: what is served is what is judged."""
    return _collected(in_session(session, name, transform, panel), panel, origins)


def _collected(runner: Runner, panel: Panel, origins: NDArray[np.bool_]) -> Forecasts:
    blocks = walk(panel, origins, lambda fold: served(runner, panel, origins, fold.start_time))
    rows = joined([block.rows for block in blocks])
    return _taken(rows, np.lexsort((rows.step, rows.origin_time, rows.series)))


def joined(parts: list[Forecasts]) -> Forecasts:
    """Put rows of one model one after the other."""
    arrays = {k: [getattr(p, k) for p in parts] for k, v in vars(parts[0]).items() if isinstance(v, np.ndarray)}
    return replace(parts[0], **{k: np.concatenate(v) for k, v in arrays.items()})


def _taken(rows: Forecasts, index: NDArray[np.int64] | slice) -> Forecasts:
    return replace(rows, **{k: v[index] for k, v in vars(rows).items() if isinstance(v, np.ndarray)})
