"""Train a network as it is served: truncated BPTT over contiguous lanes, the state carried.

Every series is cut into contiguous lanes that run side by side. Chunk after chunk the hidden state is carried
and detached (Williams & Peng 1990, Neural Computation 2(4)); it is zero only where a series truly begins. A lane
that continues another starts from the state in which that one ended an epoch ago, so nothing is thrown away and
nothing is warmed up. Validation goes on from the state at the end of the training span, as a stream would.
Everything is resident on the device; an epoch has one transfer to the host, its record.

Legend: N series, B lanes, L longest lane, T time, F features, S horizon steps, M prices of one moment, K covariates
known ahead.

Comes in: a panel and its split. Goes out: epoch records, then a fitted forecaster. Knows numpy and torch, and
none of polars, prefect, mlflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.bidirectional import Bidirectional
from models.checkpoint import load_tensors, save_tensors
from models.classifier import Classifier
from models.core import initial_state
from models.decoder import columns_of_prices
from models.diurnal import SLOT, factor_table
from models.errors import ConfigError, DataError, FitError
from models.forecaster import Forecaster
from models.network import Network, NetworkConfig
from models.observation import Observation, State
from models.seasonal import Seasonal
from models.transforms import Transform
from pipeline.allocator import give_back, keep_freed
from pipeline.calendar_features import calendar
from pipeline.labels import Labels
from pipeline.moves import known_ahead, known_beside, move_times, moves, observed_by, outcomes, sound, typical_move
from pipeline.threads import cpu_threads
from pipeline.training_config import TrainingConfig
from pipeline.windows import Lanes, Panel, Split, lanes

PIECE = 256
"""Steps that are run at once where nothing is learned: few enough to stay in a cache."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch gave; losses are means over loss targets, in nats or pinball over the running scale."""

    epoch: int
    train_loss: float
    validation_loss: float
    best: bool
    learning_rate: float
    gradient_norm: float
    seconds: float
    targets: int


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Lanes on the device.

    inputs [B, L, F]; ahead [B, L, S*K]; targets [B, L, S, M] in running scales, or classes, 0 where there is none;
    weight [B, L, S, M] of each target in the loss, 0 where there is none; series int64 [B], the row of parameters;
    steps int64 [B] on the CPU, the length of each lane.
    """

    inputs: Tensor
    ahead: Tensor
    targets: Tensor
    weight: Tensor
    series: Tensor
    steps: Tensor

    def cut(self, start: int, stop: int) -> Lane:
        """Take steps [start, stop)."""
        parts = {k: getattr(self, k)[:, start:stop] for k in ("inputs", "ahead", "targets", "weight")}
        return Lane(**parts, series=self.series, steps=(self.steps - start).clamp(0, stop - start))

    @property
    def lengths(self) -> Tensor | None:
        """The length of each lane, or None where every lane fills the whole."""
        return None if bool((self.steps == self.inputs.shape[1]).all()) else self.steps


class Training:
    """A fit in progress: iterate over it for the epoch records, then take `model`.

    Parameters
    ----------
    kind : str
        Kind of the network, which is also the name of the forecaster.
    panel : Panel
        Prices of all series; nothing at or after the validation end is read.
    split : Split
        Weights are fitted on its *train* origins, the epoch is chosen on its *validation* origins.
    transform : Transform
        Fitted on the train split.
    network : NetworkConfig
    config : TrainingConfig
    horizon : int
    checkpoint : Path, optional
        File that holds the fit after every epoch; where it exists already, the fit goes on from it to the same
        weights as if it had never stopped.
    labels : Labels, optional
        What each moment is to be called: a classifier is trained in the place of a forecaster, with the steps of its
        labels for horizon.
    start : Forecaster, optional
        Network of the same shape at whose weights these begin; its constants stay as well, such as the unit of the
        running scale. The optimiser begins anew.

    Raises
    ------
    ConfigError
        `start` is a network of another shape, or was fitted with other covariates.
    """

    def __init__(
        self,
        kind: str,
        panel: Panel,
        split: Split,
        transform: Transform,
        *,
        network: NetworkConfig,
        config: TrainingConfig,
        horizon: int = 1,
        checkpoint: Path | None = None,
        labels: Labels | None = None,
        start: Forecaster | None = None,
    ) -> None:
        self.config, self.checkpoint, self.labels = config, checkpoint, labels
        self.device = resolve_device(config.device)
        keep_freed()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            unit = typical_move(panel, transform, split.train_end_time)
            covariates = {"past": len(panel.past_names), "future": len(panel.future_names)}
            steps = labels.steps if labels else horizon
            shape = {"horizon": steps, "block": panel.block, "series": len(panel.names), **covariates}
            columns = columns_of_prices(panel.future_names, panel.block)
            classes = len(labels.classes) if labels else 0
            core = Network(kind, network, unit=unit, columns=columns, classes=classes, **shape)
        _fit_covariates(core, panel, split.train_end_time)
        if start is not None:
            _begin_at(start, core, panel)
        self.core = core.to(self.device)
        if network.diurnal and labels:
            raise ConfigError(
                "fit.network.diurnal: expected a forecaster, whose distribution the hour widens, got a classifier. Set "
                "it to false, and give the classifier the hour: ahead = ['@hour_sin', '@hour_cos']"
            )
        self.season = _season(core, panel, transform, split.train_end_time) if network.diurnal else None
        hour = (SLOT,) if self.season else ()
        names = ((*panel.past_names, *hour), (*panel.future_names, *hour))
        model = Classifier(kind, transform, core, labels.classes, *names) if labels else None
        self.model = (model or Forecaster(kind, transform, self.season or core, *names)).to(self.device)
        with cpu_threads(config.threads):
            self.train, self.validation, self.layout, self.continued = self._prepare(panel, split)
        if start is None:
            core.fit_targets(self.train.targets, self.train.weight)
        self.targets = int(self.train.weight.count_nonzero())
        matrices = [p for p in core.parameters() if p.ndim > 1]
        others = [p for p in core.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        # the default on a CPU is a dozen operations for each tensor, a tenth of the time of a small network
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=self.device.type == "cpu")
        self.best = {k: v.detach().clone() for k, v in core.state_dict().items()}
        self.ended = self._fresh(len(self.train.steps))
        self.epoch, self.best_loss, self.since_best = 0, float("inf"), 0
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def __iter__(self) -> Iterator[EpochRecord]:
        """Train to the end, one record an epoch; afterwards the model has the best epoch's weights."""
        while self.epoch < self.config.epochs and self.since_best < self.config.patience:
            with cpu_threads(self.config.threads):
                record = self._one_epoch()
            yield record
        self.core.load_state_dict(self.best)
        self.core.head.freeze()
        self.model.to("cpu").eval()
        give_back()

    def _one_epoch(self) -> EpochRecord:
        started = time.perf_counter()
        rate = self._set_rate()
        with self._seeded(self.epoch):
            self.core.train()
            self.core.begin_epoch(self.epoch / self.config.epochs)
            train_loss, norm = self._pass_over_lanes()
        validation_loss = self._validate()
        train, validation, gradient = torch.stack([train_loss, validation_loss, norm]).tolist()
        self._check_finite(train, validation)
        better = validation < self.best_loss
        if better:
            self.best_loss, self.since_best = validation, 0
            self.best = {k: v.detach().clone() for k, v in self.core.state_dict().items()}
        else:
            self.since_best += 1
        self.epoch += 1
        if self.checkpoint is not None:
            self._save(self.checkpoint)
        return EpochRecord(
            epoch=self.epoch,
            train_loss=train,
            validation_loss=validation,
            best=better,
            learning_rate=rate,
            gradient_norm=gradient,
            seconds=time.perf_counter() - started,
            targets=self.targets,
        )

    def _set_rate(self) -> float:
        rate = self.config.learning_rate * 0.5 * (1 + np.cos(np.pi * self.epoch / self.config.epochs))
        self._take_rate(float(rate))
        return float(rate)

    def _take_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @contextmanager
    def _seeded(self, number: int) -> Iterator[None]:
        """Draw what is dropped by the seed of the fit and the number of the epoch."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed * 1_000_003 + number)
            yield

    def _pass_over_lanes(self) -> tuple[Tensor, Tensor]:
        """Go once over the lanes, chunk by chunk; give the mean loss and the mean gradient norm."""
        state = self._carry_on(self.layout.previous)
        loss_sum = weight_sum = norm_sum = torch.zeros((), device=self.device)
        length = self.config.chunk_of(self.epoch)
        starts = range(0, self.train.inputs.shape[1], length)
        for start in starts:
            total, weight, norm, state = self._one_chunk(start, length, state)
            loss_sum, weight_sum, norm_sum = loss_sum + total, weight_sum + weight, norm_sum + norm
        self.ended = state
        return loss_sum / weight_sum, norm_sum / len(starts)

    def _one_chunk(self, start: int, length: int, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Take one step of the optimiser; give the sums of the loss before it and its weights, the norm, the state."""
        lane = self.train.cut(start, start + length)
        if self.config.state == "reset":
            state = self._burnt_in(start)
        total, weight, state = self._loss(lane, state)
        self.optimiser.zero_grad(set_to_none=True)
        (total / lane.weight.count_nonzero().clamp(min=1)).backward()
        norm = self._clip()
        self.optimiser.step()
        return total.detach(), weight, norm, detached(state)

    @property
    def chunks(self) -> int:
        """How many chunks a pass over the lanes has, at their full length."""
        return -(-self.train.inputs.shape[1] // self.config.chunk)

    def at_rates(self, rates: Iterable[float]) -> Iterator[float]:
        """Train one chunk at each learning rate in turn, over the lanes again and again; give the mean loss of each.

        A loss is that before the step of its rate. For trying rates out: no epoch is counted, nothing is validated,
        and the weights are of no use afterwards.
        """
        length = self.config.chunk
        starts = range(0, self.train.inputs.shape[1], length)
        state = self.ended
        self.core.train()
        self.core.begin_epoch(0.0)
        for k, rate in enumerate(rates):
            if k % len(starts) == 0:
                self.ended = state
                state = self._carry_on(self.layout.previous)
            self._take_rate(rate)
            with cpu_threads(self.config.threads), self._seeded(k):
                total, weight, _, state = self._one_chunk(starts[k % len(starts)], length, state)
            yield float(total / weight)

    def _clip(self) -> Tensor:
        """Bound the gradient; give its norm as it was."""
        parameters, config = list(self.core.parameters()), self.config
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip if config.clip_by == "norm" else float("inf"))
        if config.clip_by == "value":
            torch.nn.utils.clip_grad_value_(parameters, config.clip)
        return norm

    def _loss(self, lane: Lane, state: State) -> tuple[Tensor, Tensor, State]:
        """Sum the weighted loss over a piece of the lanes, sum its weights, and carry the state."""
        loss, state = self.core.loss(lane.inputs, lane.ahead, lane.series, lane.targets, state, lane.lengths)
        return (loss * lane.weight).sum(), lane.weight.sum(), state

    @torch.no_grad()
    def _burnt_in(self, start: int) -> State:
        """Bring the state up from zero over the steps before a chunk."""
        before, state = max(0, start - self.config.burn_in), self._fresh(len(self.train.steps))
        if before == start:
            return state
        return self._loss(self.train.cut(before, start), state)[2]

    def _carry_on(self, lanes_before: np.ndarray) -> State:
        """Give the states in which the named lanes ended; a new one for -1, where a series truly begins."""
        before = torch.as_tensor(lanes_before, device=self.device, dtype=torch.int64)
        begins, fresh = before < 0, self._fresh(len(before))
        taken = {k: x[before.clamp(min=0)] for k, x in self.ended.items()}
        return {k: torch.where(begins.view(-1, *(1,) * (x.ndim - 1)), fresh[k], x) for k, x in taken.items()}

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Mean loss on the validation origins, from the states at the end of the training span."""
        self.core.eval()
        if self.config.state == "reset":  # served carried, whatever the training did
            self.ended = self._carried_over(self.train, self._carry_on(self.layout.previous))[2]
        total, weight, _ = self._carried_over(self.validation, self._carry_on(self.continued))
        return total / weight

    def _carried_over(self, lane: Lane, state: State) -> tuple[Tensor, Tensor, State]:
        """Do what `_loss` does, piece by piece, for caches and memory; what reads both ways reads the whole."""
        steps = lane.inputs.shape[1]
        length = steps if isinstance(self.core.body, Bidirectional) else PIECE
        total = weight = torch.zeros((), device=self.device)
        for start in range(0, steps, length):
            loss, counted, state = self._loss(lane.cut(start, start + length), state)
            total, weight = total + loss, weight + counted
        return total, weight, state

    def _check_finite(self, train: float, validation: float) -> None:
        if not (np.isfinite(train) and np.isfinite(validation)):
            raise FitError(
                f"training {self.model.name}: the loss is {train} (validation {validation}) in epoch "
                f"{self.epoch + 1}; expected a finite number. Lower learning_rate or clip, or check the prices"
            )

    def _fresh(self, batch: int) -> State:
        """Give the state of the body of lanes that have shown nothing yet."""
        return initial_state(self.core.body.state_tensors(), batch, self.core.df)

    def _prepare(self, panel: Panel, split: Split) -> tuple[Lane, Lane, Lanes, np.ndarray]:
        """Compute inputs and targets once for each series, and lay them out in lanes."""
        seen = panel.before(split.validation_end_time)
        series = self._series_tensors(seen)
        moved = ~series.pop("held").numpy()
        log_unit = series.pop("log_unit").numpy()
        # by origin time: the last train origins are validation inputs only, their targets lie there
        train_rows = moved & (seen.time < split.train_end_time)
        validation_rows = moved & (seen.time >= split.train_end_time)
        horizon = self.core.horizon
        train_origins = split.origins(seen, "train", horizon)
        validation_origins = split.origins(seen, "validation", horizon)
        layout = lanes(train_rows.sum(1), self.config.lanes)
        counted = train_origins * _recency(seen, split.train_end_time, self.config.half_life_time)
        train = self._lane(series, train_rows, counted, layout)
        one_each = lanes(validation_rows.sum(1), 1)
        validation = self._lane(series, validation_rows, validation_origins.astype(np.float32), one_each)
        if not counted.any():
            self._check_recency(seen, train_origins, split.train_end_time)
        self._check_counts(*(int(x.weight.count_nonzero()) for x in (train, validation)))
        scored = (validation_rows & validation_origins)[..., None, None] & np.isfinite(series["targets"].numpy())
        self.log_unit = float(np.broadcast_to(log_unit, scored.shape)[scored].mean())
        last_lane = np.full(len(panel.names), -1)
        last_lane[layout.series] = np.arange(len(layout.series))
        return train, validation, layout, last_lane[one_each.series]

    def _check_recency(self, panel: Panel, origins: np.ndarray, end: int) -> None:
        """Refuse a half-life so short that no origin [N, T] of the train split has a weight."""
        if origins.any():
            age = timedelta(microseconds=int(end - panel.time[origins].max()))
            raise FitError(
                f"training {self.model.name}: fit.training.half_life = {self.config.half_life!r} is too short: the "
                f"youngest of {int(origins.sum())} origins lies {age} before the end of train and counts nothing. "
                "Give a longer one, or leave it out"
            )

    def _check_counts(self, train: int, validation: int) -> None:
        """Refuse a split without a target to train on, or without one to choose the epoch by."""
        if not (train and validation):
            ahead = "label" if self.labels else "fit.horizon"
            raise FitError(
                f"training {self.model.name}: expected origins in train and in validation whose {self.core.horizon} "
                f"steps ahead ({ahead}) end in the same part, got {train} and {validation} targets. Look less far "
                "ahead, or give more data or larger splits"
            )

    @torch.no_grad()
    def _series_tensors(self, panel: Panel) -> dict[str, Tensor]:
        """Compute inputs, running scales and targets [N, T, ...] of whole series, on the CPU."""
        model = self.model.to("cpu")
        o: Observation = observed_by(model, panel)
        state = initial_state(model.state_tensors(), len(panel.names), self.core.df)
        ticks, _ = model.ticks(o, state["price"])
        ticks, growth = self.season.adjusted_over(ticks) if self.season else (ticks, torch.ones(1, 1, 1))
        inputs, ahead, scale = self.core.features(ticks, state)
        unit = scale[:, :, None] * growth[..., None]
        target = self._targets(panel, unit)
        model.to(self.device)
        return {
            "inputs": inputs,
            "ahead": ahead,
            "targets": target,
            "log_unit": unit.log(),
            "held": ticks.held.all(-1),
        }

    def _targets(self, panel: Panel, unit: Tensor) -> Tensor:
        """Give moves [N, T, S, M] over their unit, or classes [N, T, 1, 1] by index; NaN where there is none."""
        if self.labels is None:
            return torch.from_numpy(outcomes(panel, self.model.transform, self.core.horizon)).float() / unit
        index = self.labels.index[:, : panel.time.shape[1], None, None]
        return torch.from_numpy(np.where(index < 0, np.nan, index)).float()

    def _lane(self, series: dict[str, Tensor], rows: np.ndarray, counted: np.ndarray, layout: Lanes) -> Lane:
        """Close the gaps of held steps, cut into lanes, and put them on the device; origins count as `counted` says."""
        order = np.argsort(~rows, axis=1, kind="stable")[:, : max(1, rows.sum(1).max())]
        across = np.arange(len(rows))[:, None]
        closed = {k: v.numpy()[across, order] for k, v in series.items()}
        wanted = np.isfinite(closed["targets"]) * counted[across, order][..., None, None].astype(np.float32)
        closed["targets"] = np.where(wanted > 0, closed["targets"], 0.0).astype(np.float32)
        on_device = {k: torch.from_numpy(layout.gather(v)).to(self.device) for k, v in closed.items()}
        valid = torch.from_numpy(layout.valid).to(self.device)
        weight = torch.from_numpy(layout.gather(wanted)).to(self.device) * valid[..., None, None]
        rows_of = torch.from_numpy(layout.series + 1).to(self.device)
        weight = weight / weight[weight > 0].mean() if weight.any() else weight
        return Lane(**on_device, weight=weight, series=rows_of, steps=torch.from_numpy(layout.stop - layout.start))

    def _save(self, path: Path) -> None:
        moments = self.optimiser.state_dict()["state"]
        tensors = {f"model.{k}": v for k, v in self.core.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"ended.{k}": x for k, x in self.ended.items()}
        tensors |= {f"moment.{p}.{k}": v for p, parts in moments.items() for k, v in parts.items()}
        progress = {"epoch": self.epoch, "best_loss": self.best_loss, "since_best": self.since_best}
        save_tensors(path, tensors, progress)

    def _resume(self, path: Path) -> None:
        tensors, progress = load_tensors(path)
        tensors = {k: v.to(self.device) for k, v in tensors.items()}
        self.core.load_state_dict(_under(tensors, "model."))
        self.best = _under(tensors, "best.")
        self.ended = _under(tensors, "ended.")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, "moment.").items():
            parameter, part = key.split(".", 1)
            state.setdefault(int(parameter), {})[part] = value.cpu() if part == "step" else value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.epoch, self.since_best = int(progress["epoch"]), int(progress["since_best"])
        self.best_loss = float(progress["best_loss"])


def _recency(panel: Panel, end: int, half_life: int | None) -> np.ndarray:
    """Give the weight [N, T] of each origin by its age at a moment: 1, or halved with every half-life."""
    if half_life is None:
        return np.ones(panel.time.shape, np.float32)
    return (0.5 ** (np.maximum(end - panel.time, 0) / half_life)).astype(np.float32)


def _fit_covariates(core: Network, panel: Panel, until: int) -> None:
    """Fit the constants of the covariates on what stood beside the prices published before a moment.

    Raises
    ------
    DataError
        A covariate has no value at all, or beside no price before the moment all are numbers.
    """
    past, future = known_beside(panel, panel.past_names), known_ahead(panel, panel.future_names, core.horizon)
    rows = panel.published & (panel.time < until) & sound(panel)
    if not rows.any():
        raise DataError(
            f"covariates past = {list(panel.past_names)} and ahead = {list(panel.future_names)}: expected prices "
            "before the end of train beside which all are numbers, got none: one or another is always NaN or infinite. "
            "Ingest their values, or take one out of past and ahead"
        )
    if panel.past_names:
        core.inputs.fit_covariates("past", torch.from_numpy(past[rows]))
    if panel.future_names:
        core.inputs.fit_covariates("future", torch.from_numpy(future[rows]).flatten(0, 1))


def _season(core: Network, panel: Panel, transform: Transform, until: int) -> Seasonal:
    """Put a network inside the factors of the hour of the week, fitted on the moves before a moment.

    Raises
    ------
    ConfigError
        The hour of the week is a covariate of the panel as well.
    FitError
        Prices come in blocks, a series has no move before the moment, or all its moves end in one hour of the day.
    """
    _hour_is_free(panel)
    if panel.block > 1:
        raise FitError(
            f"fit.network.diurnal: expected prices within the day that come one by one, got blocks of {panel.block}. "
            "Set it to false"
        )
    slots = [calendar((SLOT,), time)[:, 0].astype(np.int64) for time in move_times(panel, transform, until)]
    for row, slot in enumerate(slots, 1):
        if not len(slot):
            raise FitError(
                f"fit.network.diurnal: series row {row} has no move before the end of train; expected one at least in "
                "every series. Leave the series out, or set fit.network.diurnal to false",
                row=row,
            )
    return Seasonal(core, factor_table(moves(panel, transform, until), slots))


def _hour_is_free(panel: Panel) -> None:
    """Refuse the covariate that a season puts behind those of the panel: a model reads each name once."""
    for side, names in (("past", panel.past_names), ("ahead", panel.future_names)):
        if SLOT in names:
            raise ConfigError(
                f"{side}: expected no {SLOT} beside fit.network.diurnal, which reads it by itself, got "
                f"{list(names)}. Leave {SLOT} out of {side}"
            )


def _begin_at(start: Forecaster, core: Network, panel: Panel) -> None:
    """Take the weights and constants of a network that was fitted before, on the covariates of the panel.

    Raises
    ------
    ConfigError
        It was fitted with other covariates or in another order, or is of another shape.
    """
    before: Any = start.core
    while not isinstance(before, Network) and hasattr(before, "core"):  # inside its calibration or its season
        before = before.core
    fitted = start.past_names[: before.past], start.future_names[: before.future]  # a season's hour stands behind them
    given = panel.past_names, panel.future_names
    if fitted != given:
        told, got = (f"past = {list(past)} and ahead = {list(ahead)}" for past, ahead in (fitted, given))
        raise ConfigError(
            f"warm start: expected the covariates with which {start.name} was fitted, {told}, got {got}. Name those in "
            "the settings, in this order, or set backtest.start to 'scratch'"
        )
    try:
        core.load_state_dict(before.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"warm start: expected a network of the shape {core.config}, got the weights of {start.name}: {error}. Set "
            "backtest.start to 'scratch'"
        ) from error


def detached(state: State) -> State:
    """Cut the graph behind a state: its values are carried on, its history is not."""
    return {k: x.detach() for k, x in state.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def resolve_device(device: str) -> torch.device:
    """Turn the setting into a device; `cuda` without a GPU is refused."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' was asked for, but torch sees no GPU here. Use 'auto' or 'cpu'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fit_network(training: Training, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> Forecaster:
    """Train to the end and return the forecaster with the weights of the best validation epoch."""
    for record in training:
        on_epoch(record)
    assert isinstance(training.model, Forecaster)
    return training.model


def fit_classifier(training: Training, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> Classifier:
    """Train on labels to the end and return the classifier with the weights of the best validation epoch."""
    for record in training:
        on_epoch(record)
    assert isinstance(training.model, Classifier)
    return training.model
