"""The stateful recurrent forecaster: RNN, LSTM and GRU are one class with one setting.

Inputs at each move, all causal: the move over its running scale on every memory, the absolute value of that,
and the log of the running variances; covariates and elapsed time where there are any. The hidden state
steps once a move and is carried; where nothing arrives it is held. Covariates come raw and are standardised inside the
step, to mean 0 and variance 1 on the train split (LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, 4.3); those
known ahead are inputs of the layers and, beside the hidden state, of the head.

    Elman (1990) Cognitive Science 14(2); Hochreiter & Schmidhuber (1997) Neural Computation 9(8);
    Cho et al. (2014) EMNLP, in the form of cuDNN and ONNX `linear_before_reset=1`.

Legend: B batch, T time, F features, H hidden, K layers, W memories, M prices of one moment, S horizon steps, R rows,
C covariates (known with the price, or ahead).

Comes in: ticks. Goes out: distributions. Trained by `pipeline/training.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.core import Distribution, Tick, over_time
from models.errors import ConfigError
from models.heads import HEADS, HeadKind
from models.observation import Array, State, StateTensor
from models.operations import namespace
from models.scale import RunningScale

CELLS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
CARRIED = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",)}


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Shape of the network.

    Attributes
    ----------
    cell : {"rnn", "lstm", "gru"}
        Kind of recurrent layer.
    hidden : int
        Units of each layer, 1 to 4096.
    layers : int
        Layers stacked, 1 to 8.
    dropout : float
        Share dropped between layers while training, 0 to 0.9; needs two layers.
    head : {"t", "quantile"}
        Student t, or monotone quantiles without a density.
    memories : tuple of int
        Lengths in moves of the running scales, increasing.
    elapsed : bool
        Whether the log of the elapsed time is an input.
    """

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    hidden: int = 24
    layers: int = 1
    dropout: float = 0.0
    head: HeadKind = "t"
    memories: tuple[int, ...] = (10, 100)
    elapsed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.hidden <= 4096:
            raise ConfigError(f"hidden: expected 1 to 4096 units, got {self.hidden}")
        if not 1 <= self.layers <= 8:
            raise ConfigError(f"layers: expected 1 to 8, got {self.layers}")
        if not 0 <= self.dropout <= 0.9:
            raise ConfigError(f"dropout: expected 0 to 0.9, got {self.dropout}")
        if self.dropout and self.layers == 1:
            raise ConfigError(
                f"dropout: {self.dropout} has no effect with one layer, because it acts between layers only (dropping "
                "units along time would break the carried state). Set layers to 2 or more, or dropout to 0"
            )
        if not self.memories or min(self.memories) < 2 or list(self.memories) != sorted(set(self.memories)):
            raise ConfigError(f"memories: expected increasing lengths of 2 or more, got {self.memories}")


class Recurrent(nn.Module):
    """The recurrent core.

    Parameters
    ----------
    config : RecurrentConfig
    unit : float
        Typical absolute move on the transformed scale, fitted on the *train split*.
    horizon, block, past, future : int
        S, M and the numbers of covariates.
    """

    def __init__(
        self,
        config: RecurrentConfig,
        *,
        unit: float,
        horizon: int = 1,
        block: int = 1,
        past: int = 0,
        future: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.kind, self.elapsed = config, config.cell, config.elapsed
        self.horizon, self.block, self.past, self.future = horizon, block, past, future
        self.scale = RunningScale(config.memories, unit, block)
        self.inputs = 3 * self.scale.width + past + horizon * future + int(self.elapsed)
        self.layers = CELLS[config.cell](
            self.inputs, config.hidden, config.layers, batch_first=True, dropout=config.dropout
        )
        self.head = HEADS[config.head](config.hidden + horizon * future, horizon, block)
        self.register_buffer("unit", torch.tensor([unit]))
        for name, count in (("past", past), ("future", future)):
            if count:
                self.register_buffer(f"{name}_center", torch.zeros(count))
                self.register_buffer(f"{name}_unit", torch.ones(count))

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, float32 [1]."""
        return self.head.df

    def fit_covariates(self, name: Literal["past", "future"], rows_RC: Tensor) -> None:
        """Take center and unit of raw covariates [R, C], rows of the *train split*: mean and standard deviation.

        A covariate that is constant there, up to the rounding of float32, has unit 1.
        """
        spread, mean = torch.std_mean(rows_RC.double(), 0, correction=0)
        self.get_buffer(f"{name}_center").copy_(mean)
        self.get_buffer(f"{name}_unit").copy_(torch.where(spread > 1e-6 * mean.abs(), spread, 1.0))

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the running scale, and a hidden vector (and for lstm a cell vector) a layer."""
        meaning = {"h": "output of layer", "c": "cell of layer"}
        hidden = [
            StateTensor(f"{part}{k}", (self.config.hidden,), "float32", 0.0, "hidden", f"{meaning[part]} {k}")
            for k in range(self.config.layers)
            for part in CARRIED[self.kind]
        ]
        return (*self.scale.state_tensors(), *hidden)

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        xp = namespace(tick.change)
        x, scale, scale_state = self._features(tick, state)
        before = [[state[f"{part}{k}"] for part in CARRIED[self.kind]] for k in range(self.config.layers)]
        after = xp.recurrent(self.kind, x, before, self._weights(xp))
        still = tick.held if self.block == 1 else ~xp.any(~tick.held, 1)
        hidden = {
            f"{part}{k}": xp.where(still, old, new)
            for k, (olds, news) in enumerate(zip(before, after, strict=True))
            for part, old, new in zip(CARRIED[self.kind], olds, news, strict=True)
        }
        top = hidden[f"h{self.config.layers - 1}"]
        distribution = self.head.distribution(self._with_known_ahead(top, tick.future), scale, tick.series)
        return distribution, {**scale_state, **hidden}

    def _features(self, tick: Tick, state: State) -> tuple[Array, Array, State]:
        """Give the network's input [B, F] and the running scale [B, M] on the transformed scale."""
        move, log_variance, scale, following = self.scale.step(tick.change, tick.held, state)
        return self._inputs(move, log_variance, tick), scale, following

    def _inputs(self, move: Array, log_variance: Array, tick: Tick) -> Array:
        """Put everything that the network reads side by side, [B, F]."""
        xp = namespace(move)
        parts = [move, xp.abs(move), log_variance]
        if self.past:
            parts.append(self._standardised("past", tick.past))
        if self.future:
            parts.append(self.known_ahead(tick.future))
        if self.elapsed:
            parts.append(xp.log(xp.reshape(tick.elapsed, (-1, 1))))
        return xp.concat(parts, 1)

    def _with_known_ahead(self, top: Array, future: Array) -> Array:
        """Put the covariates known ahead beside the hidden vector."""
        if not self.future:
            return top
        return namespace(top).concat([top, self.known_ahead(future)], 1)

    def known_ahead(self, future: Array) -> Array:
        """Standardise raw covariates known ahead, [B, S, C] to [B, S*C]."""
        standardised = self._standardised("future", future)
        return namespace(future).reshape(standardised, (-1, self.horizon * self.future))

    def _standardised(self, name: str, raw: Array) -> Array:
        constant = namespace(raw).constant
        return (raw - constant(self.get_buffer(f"{name}_center"))) / constant(self.get_buffer(f"{name}_unit"))

    def _weights(self, xp: Array) -> list[list[Array]]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [[xp.constant(getattr(self.layers, f"{n}_l{k}")) for n in names] for k in range(self.config.layers)]

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the scales step by step, the layers and the head all at once."""
        x_BTF, scale_BTM, scale_state = self.features(ticks, state)
        hidden = self.stacked({k: v for k, v in state.items() if k not in scale_state})
        top, hidden = self._run_held(x_BTF, ticks.held.all(-1), hidden)
        time = x_BTF.shape[1]
        flat = self._with_known_ahead(top.flatten(0, 1), ticks.future.flatten(0, 1))
        rows = ticks.series.repeat_interleave(time)
        distribution = self.head.distribution(flat, scale_BTM.flatten(0, 1), rows)
        return over_time(distribution, time), {**scale_state, **self.unstacked(hidden)}

    @torch.no_grad()
    def features(self, ticks: Tick, state: State) -> tuple[Tensor, Tensor, State]:
        """Give inputs [B, T, F] and running scales [B, T, M] of many ticks; nothing here is learned."""
        move, log_variance, scale, following = self.scale.unroll(ticks.change, ticks.held, state)
        batch, time = ticks.change.shape[:2]
        flat = {f: getattr(ticks, f).flatten(0, 1) for f in ("change", "held", "past", "future", "elapsed")}
        many = Tick(series=ticks.series.repeat_interleave(time), **flat)
        inputs = self._inputs(move.flatten(0, 1), log_variance.flatten(0, 1), many)
        return inputs.unflatten(0, (batch, time)), scale, following

    def run(
        self, x_BTF: Tensor, hidden: tuple[Tensor, ...], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the layers over a sequence.

        Parameters
        ----------
        x_BTF : float32 [B, T, F]
        hidden : tuple of float32 [K, B, H]
            (h,) or (h, c).
        lengths : int64 [B] on the CPU, optional
            How many steps of each row count; the state comes back as it was after the last of them.

        Returns
        -------
        top : float32 [B, T, H]
            Output of the last layer; beyond a row's length it means nothing.
        hidden : tuple of float32 [K, B, H]
        """
        start = hidden if self.kind == "lstm" else hidden[0]
        if lengths is None:
            top, end = self.layers(x_BTF, start)
            return top, end if self.kind == "lstm" else (end,)
        packed = pack_padded_sequence(x_BTF, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        out, end = self.layers(packed, start)
        top, _ = pad_packed_sequence(out, batch_first=True, total_length=x_BTF.shape[1])
        ended = end if self.kind == "lstm" else (end,)
        none = (lengths == 0).to(x_BTF.device)[None, :, None]
        return top, tuple(torch.where(none, old, new) for old, new in zip(hidden, ended, strict=True))

    def _run_held(
        self, x_BTF: Tensor, held_BT: Tensor, hidden: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the layers where held steps leave the state: close the gaps, run, and spread the outputs again."""
        if not bool(held_BT.any()):
            return self.run(x_BTF, hidden)
        order = held_BT.to(torch.int8).argsort(dim=1, stable=True)
        closed = x_BTF.gather(1, order[..., None].expand_as(x_BTF))
        top, end = self.run(closed, hidden, (~held_BT).sum(1).cpu())
        with_start = torch.cat([hidden[0][-1][:, None], top], 1)
        done = (~held_BT).cumsum(1)
        return with_start.gather(1, done[..., None].expand(-1, -1, top.shape[2])), end

    def stacked(self, state: State) -> tuple[Tensor, ...]:
        """Join the layers' states into (h,) or (h, c), each [K, B, H]."""
        layers = range(self.config.layers)
        return tuple(torch.stack([state[f"{part}{k}"] for k in layers]) for part in CARRIED[self.kind])

    def unstacked(self, hidden: tuple[Tensor, ...]) -> State:
        """Undo `stacked`."""
        parts = zip(CARRIED[self.kind], hidden, strict=True)
        return {f"{part}{k}": x[k] for part, x in parts for k in range(self.config.layers)}
