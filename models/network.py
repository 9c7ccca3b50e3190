"""A network that carries its state: causal inputs, a body that remembers, a head that says what is next.

The body steps once a move; where nothing arrives its state is held. What is known ahead goes into the body and,
beside what the body puts out, into the head.

Legend: B batch, T time, F features, H width of the body, S horizon steps, M prices of one moment, E width of the
embedding, K covariates known ahead.

Comes in: ticks. Goes out: distributions, or labels. Trained by `pipeline/training.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.bidirectional import Bidirectional
from models.class_head import ClassHead, LabellingConfig
from models.core import Tick, over_time
from models.decoder import Decoder, DecoderConfig
from models.encoder import Encoder
from models.errors import ConfigError, unknown
from models.heads import HEADS, CategoricalHead, HeadKind
from models.inputs import Inputs
from models.observation import Array, State, StateTensor
from models.operations import namespace
from models.recurrent import CELLS, Recurrent
from models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of a network.

    Attributes
    ----------
    hidden : int
        Units of each layer, 1 to 4096.
    layers : int
        Layers stacked, 1 to 8.
    dropout : float
        Share dropped between layers while training, in a transformer inside of them too, 0 to 0.9; needs two layers.
    head : {"t", "quantile", "point", "categorical"}
        Student t, monotone quantiles without a density, squared error, or probabilities of bins of the move.
    memories : tuple of int
        Lengths in moves of the running scales, increasing.
    elapsed : bool
        Whether the log of the elapsed time is an input.
    embedding : int
        Width of what is learned of each series and read beside its moves, 0 to 256: 0 is none. A series that was
        never seen has the row of an average one.
    bins : int
        Bins of a categorical head, odd, 3 to 501; other heads have none.
    token : int
        Width of what is learned of each of these bins and read where the last move was in it, 1 to 256.
    diurnal : bool
        Whether moves are adjusted for the hour of the week before the network sees them: for prices within the day.
    transformer : TransformerConfig
        What only a transformer has.
    decoder : DecoderConfig
        What only an encoder with a decoder, `seq2seq`, has.
    labelling : LabellingConfig
        What only a classifier has.
    """

    hidden: int = 24
    layers: int = 1
    dropout: float = 0.0
    head: HeadKind = "t"
    memories: tuple[int, ...] = (10, 100)
    elapsed: bool = False
    embedding: int = 0
    bins: int = 41
    token: int = 8
    diurnal: bool = False
    transformer: TransformerConfig = TransformerConfig()
    decoder: DecoderConfig = DecoderConfig()
    labelling: LabellingConfig = LabellingConfig()

    def __post_init__(self) -> None:
        whole = (("hidden", 1, 4096), ("layers", 1, 8), ("embedding", 0, 256), ("bins", 3, 501), ("token", 1, 256))
        for name, low, high in (("dropout", 0, 0.9), *whole):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")
        if self.dropout and self.layers == 1:
            raise ConfigError(
                f"dropout: {self.dropout} has no effect with one layer, because it acts between layers only (dropping "
                "units along time would break the carried state). Set layers to 2 or more, or dropout to 0"
            )
        if self.bins % 2 == 0:
            raise ConfigError(f"bins: expected an odd number, so that one bin has the median in it, got {self.bins}")
        if not self.memories or min(self.memories) < 2 or list(self.memories) != sorted(set(self.memories)):
            raise ConfigError(f"memories: expected increasing lengths of 2 or more, got {self.memories}")


class Body(Protocol):
    """What remembers: all of its state is named tensors, the batch axis first."""

    width: int

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List the tensors carried from step to step."""
        ...

    def step(self, x: Array, state: State) -> State:
        """Advance by one step: features [B, F]."""
        ...

    def output(self, state: State) -> Array:
        """Give what the body puts out in a state, [B, H]; also in one that has seen nothing."""
        ...

    def run(self, x_BTF: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Advance by many steps; [:, t] of [B, T, H] is what `output` gives after step t, within a row's length."""
        ...


def _recurrent(cell: str) -> Callable[[int, NetworkConfig], Any]:
    def build(inputs: int, config: NetworkConfig) -> Recurrent:
        return Recurrent(cell, inputs, config.hidden, config.layers, config.dropout)

    return build


def _transformer(inputs: int, config: NetworkConfig) -> Transformer:
    return Transformer(inputs, config.hidden, config.layers, config.dropout, config.transformer)


def _encoder(inputs: int, config: NetworkConfig) -> Encoder | Recurrent:
    layers = _recurrent(config.decoder.cell)(inputs, config)
    return layers if config.decoder.attention == "none" else Encoder(layers, config.decoder.window)


def _labelling(kind: str, inputs: int, config: NetworkConfig) -> Any:
    """Build the body of a classifier: both ways, with a ring of its last outputs, or as that of a forecaster."""
    if kind not in LABELLERS:
        raise ConfigError(unknown("network that labels", kind, LABELLERS))
    if not config.labelling.bidirectional:
        body = BODIES[kind](inputs, config)
        return body if config.labelling.pooling == "last" else Encoder(body, config.labelling.window)
    if kind not in CELLS:
        raise ConfigError(f"bidirectional: expected one of {', '.join(CELLS)}, got {kind!r}, which has one direction")
    return Bidirectional(kind, inputs, config.hidden, config.layers, config.dropout)


BODIES: dict[str, Callable[[int, NetworkConfig], Any]] = {
    **{kind: _recurrent(kind) for kind in ("rnn", "lstm", "gru")},
    "transformer": _transformer,
    "seq2seq": _encoder,
    **{kind: _recurrent("lstm") for kind in ("point", "categorical")},
}
"""How the body of each kind of network is built, from the width of its inputs and the settings."""

LABELLERS = (*CELLS, "transformer")
"""Kinds of network that may have classes; the others are made around the head of a forecaster."""

HEAD_OF: dict[str, HeadKind] = {"point": "point", "categorical": "categorical"}
"""Head of the kinds that are named after theirs; the others have that of the settings."""

UNSEEN_SHARE = 0.1
"""Share of lanes that are trained as if their series had never been seen, so that row 0 is that of an average one."""


class Network(nn.Module):
    """The core of every network.

    Parameters
    ----------
    kind : str
        One of `BODIES`.
    config : NetworkConfig
    unit : float
        Typical absolute move on the transformed scale, fitted on the *train split*.
    horizon, block, past, future : int
        S, M and the numbers of covariates.
    series : int
        Number of series of the fit: rows of the embedding besides row 0. Only read where there is an embedding.
    columns : M sequences of int, optional
        Which covariates known ahead each price of a block reads; left out, all of them. Only read by a decoder.
    classes : int
        C of a classifier, 2 or more, whose kind is one of `LABELLERS`; 0 for a forecaster.
    """

    def __init__(
        self,
        kind: str,
        config: NetworkConfig,
        *,
        unit: float,
        horizon: int = 1,
        block: int = 1,
        past: int = 0,
        future: int = 0,
        series: int = 0,
        columns: Sequence[Sequence[int]] | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if kind not in BODIES:
            raise ConfigError(unknown("network", kind, BODIES))
        self.config, self.kind, self.elapsed = config, kind, config.elapsed
        self.horizon, self.block, self.past, self.future = horizon, block, past, future
        shape = {"horizon": horizon, "block": block, "past": past, "future": future, "elapsed": config.elapsed}
        self.inputs = Inputs(config.memories, unit=unit, **shape)
        if config.embedding:
            self.embedding = nn.Embedding(1 + series, config.embedding)
        if classes:
            self.body: Body = _labelling(kind, self.inputs.width + config.embedding, config)
            window = self.body.window if isinstance(self.body, Encoder) else 0
            width = self.body.hidden if isinstance(self.body, Encoder) else self.body.width
            self.head = ClassHead(width, horizon * future, classes, window)
            return
        head = HEAD_OF.get(kind, config.head)
        if head == "categorical":
            self.tokens = nn.Embedding(config.bins, config.token)
        read = config.token * block if head == "categorical" else 0
        self.body = BODIES[kind](self.inputs.width + config.embedding + read, config)  # type: ignore[assignment]
        width = self.body.width + horizon * future
        if kind == "seq2seq":
            ahead = {"horizon": horizon, "block": block, "future": future, "columns": columns}
            self.head = Decoder(config.hidden, config.decoder, head, **ahead)
        elif head == "categorical":
            self.head = CategoricalHead(width, horizon, block, config.bins)
        else:
            self.head = HEADS[head](width, horizon, block)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, float32 [1]."""
        return self.head.df

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the running scale and the state of the body."""
        return (*self.inputs.state_tensors(), *self.body.state_tensors())

    def step(self, tick: Tick, state: State) -> tuple[Any, State]:
        """Take in one tick; the distribution is of the moves after it, the label as it was taught."""
        xp = namespace(tick.change)
        x, scale, following = self.inputs.step(tick, state)
        before = {s.name: state[s.name] for s in self.body.state_tensors()}
        after = self.body.step(self._embedded(x, tick.series), before)
        still = tick.held if self.block == 1 else ~xp.any(~tick.held, 1)
        kept = {name: xp.where(_on(still, s.shape), before[name], after[name]) for name, s in self._carried()}
        top = self._with_known_ahead(self.body.output(kept), tick.future)
        return self.head.distribution(top, scale, tick.series), {**following, **kept}

    def unroll(self, ticks: Tick, state: State) -> tuple[Any, State]:
        """Take in many ticks [B, T, ...]: the scales step by step, the body and the head all at once."""
        x_BTF, scale_BTM, following = self.inputs.unroll(ticks, state)
        carried = {s.name: state[s.name] for s in self.body.state_tensors()}
        top, carried = self._run_held(self._embedded(x_BTF, ticks.series), ticks.held.all(-1), carried)
        time = x_BTF.shape[1]
        flat = self._with_known_ahead(top.flatten(0, 1), ticks.future.flatten(0, 1))
        rows = ticks.series.repeat_interleave(time)
        distribution: Any = self.head.distribution(flat, scale_BTM.flatten(0, 1), rows)
        return over_time(distribution, time), {**following, **carried}

    def fit_targets(self, targets: Tensor, weight: Tensor) -> None:
        """Fit what the head takes from targets [B, L, S, M] of the *train split*, those of weight 0 left out."""
        if isinstance(self.head, CategoricalHead):
            self.head.bins.fit(targets, weight)

    def begin_epoch(self, progress: float) -> None:
        """Tell what trains by a schedule which share of the epochs is done."""
        if isinstance(self.head, Decoder):
            self.head.begin_epoch(progress)

    def features(self, ticks: Tick, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Give what training computes once: features [B, T, F], what is known ahead [B, T, S*K], scales [B, T, M]."""
        x_BTF, scale, _ = self.inputs.unroll(ticks, state)
        ahead = ticks.future.flatten(2)
        if self.future:
            ahead = self.inputs.known_ahead(ticks.future.flatten(0, 1)).unflatten(0, scale.shape[:2])
        return x_BTF, ahead, scale

    def loss(
        self, x_BTF: Tensor, ahead: Tensor, series: Tensor, target: Tensor, state: State, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """Give the loss of each target and carry the state of the body.

        Parameters
        ----------
        x_BTF, ahead : float32 [B, T, ...]
            As `features` gave them, steps without a move left out.
        series : int64 [B]
        target : float32 [B, T, S, M]
            Moves over the running scale at the origin; any number where there is none.
        state : State
            Of the body.
        lengths : int64 [B] on the CPU, optional
            How many steps of each row count.

        Returns
        -------
        float32 [B, T, S, M], and the state after.
        """
        if self.training and self.config.embedding:
            seen = torch.rand(len(series), device=series.device) >= UNSEEN_SHARE
            series = series * seen
        top, state = self.body.run(self._embedded(x_BTF, series), state, lengths)
        hidden = torch.cat([top, ahead], 2) if self.future else top
        return self.head.loss(hidden.flatten(0, 1), target.flatten(0, 1)).unflatten(0, target.shape[:2]), state

    def _carried(self) -> list[tuple[str, StateTensor]]:
        return [(s.name, s) for s in self.body.state_tensors()]

    def _embedded(self, x: Array, series: Array) -> Array:
        """Put what is learned of the last move and of the series [B] beside the features [B, F] or [B, T, F]."""
        if isinstance(self.head, CategoricalHead):
            x = self._with_token(self.head, x)
        if not self.config.embedding:
            return x
        xp = namespace(series)
        of_series = xp.take(xp.constant(self.embedding.weight), series)
        if isinstance(x, Tensor) and x.ndim == 3:
            of_series = of_series[:, None].expand(-1, x.shape[1], -1)
            return torch.cat([x, of_series], 2)
        return xp.concat([x, of_series], 1)

    def _with_token(self, head: CategoricalHead, x: Array) -> Array:
        """Put the learned row of the last move's bin beside the features, which begin with the moves."""
        if isinstance(x, Tensor) and x.ndim == 3:
            return self._with_token(head, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        xp = namespace(x)
        moves, _ = xp.split(x, [self.block, self.inputs.width - self.block], 1)
        return xp.concat([x, head.bins.rows(self.tokens.weight, moves)], 1)

    def _with_known_ahead(self, top: Array, future: Array) -> Array:
        """Put the covariates known ahead beside what the body puts out."""
        if not self.future:
            return top
        return namespace(top).concat([top, self.inputs.known_ahead(future)], 1)

    def _run_held(self, x_BTF: Tensor, held_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the body where held steps leave the state: close the gaps, run, and spread the outputs again."""
        if not bool(held_BT.any()):
            return self.body.run(x_BTF, state)
        order = held_BT.to(torch.int8).argsort(dim=1, stable=True)
        closed = x_BTF.gather(1, order[..., None].expand_as(x_BTF))
        top, end = self.body.run(closed, state, (~held_BT).sum(1).cpu())
        with_start = torch.cat([self.body.output(state)[:, None], top], 1)
        done = (~held_BT).cumsum(1)
        return with_start.gather(1, done[..., None].expand(-1, -1, top.shape[2])), end


def _on(still: Array, shape: tuple[int, ...]) -> Array:
    """Put a truth [B, 1] on the axes of a state tensor [B, *shape]."""
    xp = namespace(still)
    return xp.repeat(still, *shape) if len(shape) == 1 else xp.reshape(still, (-1, *(1 for _ in shape)))
