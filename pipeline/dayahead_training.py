"""Train the ensemble of the day-ahead prices, and update it each day.

From scratch: epochs over the whole history in short chunks of days, all members at once, each chunk from the hidden
state that the days before it had when they were last seen. Warm: a few steps on chunks of which the first is of the
latest days and the others are drawn from the whole history, so that a day costs a fraction of a second. That is the
daily recalibration of Lago, Marcjasz, De Schutter & Weron (2021), Applied Energy 293, 116983, at the cost of replay
(Ratcliff 1990, Psychological Review 97(2)) in place of a training. AdamW begins anew at each refit: its first steps
have the size of the rate in every weight, whatever the gradients were before.

Legend: N series, T time, E members, D days of all series one after the other, M prices of a block, F features,
H hidden, C chunks, L days of a chunk.

Comes in: a panel of blocks and its split. Goes out: a fitted forecaster. Knows numpy and torch; imported by fitting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.core import initial_state
from models.dayahead import WEEKDAY, DayAhead, DayAheadConfig
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster
from models.transforms import Transform
from pipeline.calendar_features import of_calendar
from pipeline.moves import observed_by, outcomes
from pipeline.threads import cpu_threads
from pipeline.windows import Panel, Split

SETTLED = 40
"""Days after the first price of a series that are not trained on: the ring fills."""


@dataclass(frozen=True, kw_only=True)
class DayAheadTrainingConfig:
    """How the ensemble is trained.

    Attributes
    ----------
    epochs : int
        Passes over the history from scratch, 1 to 10000.
    updates : int
        Steps of a warm refit, 0 to 10000.
    chunk : int
        Days of a chunk, 1 to 365.
    chunks : int
        Chunks of a step, 1 to 4096.
    learning_rate : float
        Peak rate of AdamW from scratch; it falls along a half cosine over the epochs.
    update_rate : float
        Rate of a warm refit.
    weight_decay : float
        Decoupled weight decay of the matrices, 0 or more.
    clip : float
        Largest norm of the gradient of a member, above 0.
    seed : int
        Seed of the first weights, of dropout and of the order of the chunks.
    """

    epochs: int = 40
    updates: int = 2
    chunk: int = 7
    chunks: int = 16
    learning_rate: float = 2e-3
    update_rate: float = 3e-4
    weight_decay: float = 1e-2
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 10000), ("updates", 0, 10000), ("chunk", 1, 365), ("chunks", 1, 4096)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")
        rates = (self.learning_rate, self.update_rate, self.clip)
        if not (min(rates) > 0 and self.weight_decay >= 0):
            raise ConfigError(
                f"expected learning_rate, update_rate and clip > 0 and weight_decay >= 0, got {rates} and "
                f"{self.weight_decay}"
            )


def fit_dayahead(
    name: str,
    panel: Panel,
    split: Split,
    transform: Transform,
    *,
    shape: DayAheadConfig,
    training: DayAheadTrainingConfig,
    start: Forecaster | None = None,
) -> Forecaster:
    """Fit the ensemble on the *train and validation* origins of a panel of blocks.

    The value at origin i is for the block after i and was made from blocks up to and including i.

    Parameters
    ----------
    name : str
    panel : Panel
        With blocks; its columns known ahead are read, and the weekday of the block that is forecast beside them.
    split : Split
        Nothing at or after its validation end is read.
    transform : Transform
    shape : DayAheadConfig
    training : DayAheadTrainingConfig
    start : Forecaster, optional
        Fit of the same shape from which a few updates lead on. Its units stay.

    Raises
    ------
    ConfigError
        Prices come one at a time, or `start` is of another shape.
    FitError
        There is less history than the features of a day look back.
    """
    known = (*(c for c in panel.future_names if not of_calendar(c)), WEEKDAY)
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(training.seed)
        core = DayAhead(shape, block=panel.block, future=len(known), series=len(panel.names))
        if start is not None:
            _begin_at(start, core)
        forecaster = Forecaster(name, transform, core, (), known)
        seen = panel.before(split.validation_end_time)
        history = History(core, forecaster, seen, training, part=_part(split), fit_units=start is None)
        if start is None:
            history.train()
        else:
            torch.manual_seed(training.seed + history.days)
            history.update()
    return forecaster.eval()


def _part(split: Split) -> str:
    """Say on what is trained, for a message: a split without validation is that of the twin for the calibration."""
    if split.validation_end_time == split.train_end_time:
        return "train alone, where the fit is repeated whose errors calibrate the quantiles"
    return "train and validation"


def _begin_at(start: Forecaster, core: DayAhead) -> None:
    """Take the weights and units of a fit before."""
    before = getattr(start.core, "core", start.core)  # inside its calibration, where it has one
    try:
        core.load_state_dict(before.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"warm start: expected an ensemble of the shape {core.config}, got the weights of {start.name}: {error}. "
            "Set backtest.start to 'scratch'"
        ) from error


class History:
    """Days on which an ensemble is trained, one series after the other, and the hidden states that they had.

    Parameters
    ----------
    core : DayAhead
    forecaster : Forecaster
        Of this core.
    panel : Panel
        All of it is trained on.
    config : DayAheadTrainingConfig
    part : str
        What of the history the panel is, for the message.
    fit_units : bool
        Whether the units of features and targets are fitted on it.

    Raises
    ------
    FitError
        No series has blocks enough for the ring to fill and a chunk to follow.
    """

    def __init__(
        self,
        core: DayAhead,
        forecaster: Forecaster,
        panel: Panel,
        config: DayAheadTrainingConfig,
        *,
        part: str,
        fit_units: bool,
    ) -> None:
        self.core, self.config, self.part = core, config, part
        with torch.no_grad():
            self._gather(forecaster, panel, fit_units=fit_units)
        decayed = [p for p in self.core.parameters() if p.shape[1] > 1]
        others = [p for p in self.core.parameters() if p.shape[1] == 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.update_rate)

    def _gather(self, forecaster: Forecaster, panel: Panel, *, fit_units: bool) -> None:
        """Lay out features, targets and first hidden states of all days with a move, one series after the other."""
        core = self.core
        o = observed_by(forecaster, panel)
        state = initial_state(forecaster.state_tensors(), len(panel.names), core.df)
        ticks, _ = forecaster.ticks(o, state["price"])
        moved = ~ticks.held.all(-1)
        self._begin_chunks(forecaster.name, moved.sum(1).tolist())
        settled = moved & (moved.cumsum(1) > SETTLED)
        if fit_units:
            core.fit_covariates([x[m] for x, m in zip(ticks.future[:, :, 0], moved, strict=True)])
        features, level, _ = core.unrolled_features(ticks, state)
        outcome = torch.from_numpy(outcomes(panel, forecaster.transform, 1)[:, :, 0]).flatten(0, 1).float()
        target = outcome - level
        if fit_units:
            core.fit_scales(features[:, settled.flatten()], target[:, settled.flatten()])
            features, level, _ = core.unrolled_features(ticks, state)
        top, _ = core.run(core.gates_in(features).unflatten(1, moved.shape), state["hidden"].transpose(0, 1), ~moved)
        kept = moved.flatten()
        self.features, target = features[:, kept], target[:, kept] / core.target_unit
        self.weight = outcome[kept].isfinite().float()
        self.target = target.nan_to_num(0.0)
        before = torch.cat([state["hidden"].transpose(0, 1)[:, :, None], top[:, :, :-1]], 2)
        self.before = before.flatten(1, 2)[:, kept]
        self.days = int(kept.sum())

    def _begin_chunks(self, name: str, lengths: list[int]) -> None:
        """Find where chunks may begin, and where the latest of each series does, in series of so many moves."""
        of_series = self._starts(lengths)
        self.starts = torch.cat(of_series)
        self.latest = torch.cat([begins[-1:] for begins in of_series])
        if not len(self.starts):
            # the first block has no move, and the last no outcome
            raise FitError(
                f"{name}: expected a series of {SETTLED + self.config.chunk + 2} blocks or more in {self.part}, got "
                f"{[1 + moves for moves in lengths]}. Give more history, or make split.validation and split.test "
                "smaller"
            )

    def _starts(self, lengths: list[int]) -> list[Tensor]:
        """List the days of each series at which a chunk may begin, in the order of time."""
        ends, size = np.cumsum(lengths), self.config.chunk
        begins = zip((ends - lengths + SETTLED).tolist(), (ends - size).tolist(), strict=True)
        return [torch.arange(first, max(first, end)) for first, end in begins]

    def train(self) -> None:
        """Go over the history, chunks of each epoch beginning at another day."""
        size, each = self.config.chunk, self.config.chunks
        steps = -(-len(self.starts) // (size * each)) * self.config.epochs
        done = 0
        for _ in range(self.config.epochs):
            begin = self.starts[int(torch.randint(min(size, len(self.starts)), (1,))) :: size]
            for chunk in begin[torch.randperm(len(begin))].split(each):
                self._step(chunk, self.config.learning_rate * 0.5 * (1 + np.cos(np.pi * min(1.0, done / steps))))
                done += 1

    def update(self) -> None:
        """Take the steps of a warm refit: the latest chunk of each series, and others from the whole history."""
        for _ in range(self.config.updates):
            others = torch.randint(len(self.starts), (max(0, self.config.chunks - len(self.latest)),))
            self._step(torch.cat([self.latest, self.starts[others]]), self.config.update_rate)

    def _step(self, begin: Tensor, rate: float) -> None:
        """Take one step on the chunks that begin at these days [C], and keep the hidden states that it saw."""
        index = begin[:, None] + torch.arange(self.config.chunk)
        features = self.features[:, index.flatten()]
        gates = self.core.gates_in(features).unflatten(1, index.shape)
        top, _ = self.core.run(gates, self.before[:, begin], torch.zeros(index.shape, dtype=torch.bool))
        weight = self.weight[index.flatten()]
        loss = self.core.loss(features, top.flatten(1, 2), self.target[:, index.flatten()])
        self.optimiser.zero_grad(set_to_none=True)
        ((loss * weight).sum((1, 2)) / weight.sum().clamp(min=1)).sum().backward()
        if not bool(loss.isfinite().all()):
            raise FitError("dayahead: the loss is no number. Lower learning_rate, or check the prices")
        self._clip()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.before[:, index[:, 1:].flatten()] = top[:, :, :-1].detach().flatten(1, 2)

    def _clip(self) -> None:
        """Bound the norm of the gradient of each member by itself."""
        gradients = [p.grad for p in self.core.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt()
        for g in gradients:
            g.mul_((self.config.clip / norm.clamp(min=self.config.clip))[:, None, None])
