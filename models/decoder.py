"""A head that unrolls the horizon step by step: a GRU that reads what it last said, what is known ahead, the past.

The places n = 1..N are all targets in the order of time: the S steps, and of each step its M prices. With m_n the move
read, x_n what is known ahead for the place, c_n the attention over the window of the encoder (`models/attention.py`):

    h_0 = the encoder's hidden vector        c_n = Σ_k a_k(h_{n-1}) m_k
    h_n = GRU([m_n, x_n, c_n], h_{n-1})      (α_n, γ_n) = linear in [h_n, m_n, x_n, c_n]
    L_n = L_{n-M} + α_n                      G_n² = G_{n-M}² + γ_n²                    L = G = 0 at the origin

L_n is the location (or the median) of the move from the origin to the place and G_n its scale (or the steps away from
the median), in units of the running scale; α_n and γ_n are those of the increment. Increments add up, and so do their
variances. (Encoder and decoder: Sutskever, Vinyals & Le 2014, NeurIPS; Bahdanau, Cho & Bengio 2015, ICLR.)

The move read at a place is that by which the location went on at the place before: served, its own α (the median
increment). While training the truth is shown with some probability instead (scheduled sampling: Bengio, Vinyals, Jaitly
& Shazeer 2015, NeurIPS): then the decoder goes on from it, L ← target and G ← 0, since what is known spreads no more.
So with probability 1 the loss is that of one increment after the other, with 0 that of the forecast as it is served.

Legend: B batch, S horizon steps, M prices of one moment, N = S*M places, P columns known ahead of a place, H hidden, W
slots of the window, G steps away from the median (1 for a Student t).

Comes in: what the encoder puts out. Goes out: `Distribution`. Imported by network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.attention import Attention
from models.core import Distribution
from models.errors import ConfigError
from models.heads import HEADS, HeadKind
from models.observation import Array
from models.operations import namespace, per_price

STEEPNESS = 100.0
"""How sharply the inverse sigmoid falls: it goes from 1 - 1/STEEPNESS over a half to 1/STEEPNESS."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What only an encoder with a decoder has.

    Attributes
    ----------
    cell : {"rnn", "lstm", "gru"}
        Cell of the encoder.
    attention : {"none", "additive", "dot"}
        How the decoder looks back on the outputs of the encoder.
    window : int
        How many outputs it looks back on, 2 to 1000; each is carried in the state.
    teacher_forcing : float
        Probability with which the decoder is shown the truth of a step while training, 0 to 1.
    schedule : {"constant", "linear", "inverse_sigmoid"}
        How that probability goes over the epochs: it stays, or falls to 0.
    ahead : {"plain", "bidirectional"}
        Whether a step reads what is known ahead for it, or what a GRU in both directions makes of it for all steps.
    """

    cell: Literal["rnn", "lstm", "gru"] = "gru"
    attention: Literal["none", "additive", "dot"] = "dot"
    window: int = 24
    teacher_forcing: float = 0.0
    schedule: Literal["constant", "linear", "inverse_sigmoid"] = "constant"
    ahead: Literal["plain", "bidirectional"] = "plain"

    def __post_init__(self) -> None:
        for name, low, high in (("window", 2, 1000), ("teacher_forcing", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"decoder.{name}: expected {low} to {high}, got {getattr(self, name)}")

    def forcing(self, progress: float) -> float:
        """Give the probability of showing the truth, by the share of the epochs that are done, 0 to 1."""
        share = {"constant": 1.0, "linear": 1 - progress, "inverse_sigmoid": 1 / (1 + STEEPNESS ** (2 * progress - 1))}
        return self.teacher_forcing * share[self.schedule]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What was unrolled, a list over the places: middle [B, 1], square of the gaps [B, G], weights [B, 1, W]."""

    middle: list[Array]
    square: list[Array]
    weights: list[Array]


class Decoder(nn.Module):
    """A head of a network that is unrolled over the horizon.

    Parameters
    ----------
    hidden : int
        H, of the encoder and of the decoder.
    config : DecoderConfig
    head : {"t", "quantile", "point"}
        What is said of each increment.
    horizon, block, future : int
        S, M and the number of covariates known ahead of a step.
    columns : M sequences of int, optional
        Which of these each price of a block reads, equally many each; left out, all of them.

    Raises
    ------
    ConfigError
        Both directions are asked for where nothing is known ahead, or a head whose increments cannot be added up.
    """

    index: Tensor

    def __init__(
        self,
        hidden: int,
        config: DecoderConfig,
        head: HeadKind,
        *,
        horizon: int,
        block: int,
        future: int,
        columns: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if config.ahead == "bidirectional" and not future:
            raise ConfigError(
                "decoder.ahead: 'bidirectional' reads covariates known ahead, and there are none. Name them under "
                "ahead in the settings, or set it to 'plain'"
            )
        if head not in HEADS:
            raise ConfigError(
                f"head: expected one of {', '.join(HEADS)} for a decoder, which adds up increments, got {head!r}. "
                "Probabilities of bins cannot be added up"
            )
        self.hidden, self.config, self.future = hidden, config, future
        self.horizon, self.block, self.places = horizon, block, horizon * block
        read = columns or [range(future)] * block
        self.columns, self.forcing = len(read[0]), config.forcing(0.0)
        self.both_ways = nn.GRU(self.columns, hidden, bidirectional=True) if config.ahead == "bidirectional" else None
        self.attention = None if config.attention == "none" else Attention(config.attention, hidden, config.window)
        if future and block > 1:
            index = [s * future + c for s in range(horizon) for price in read for c in price]
            self.register_buffer("index", torch.tensor(index))
        beside = 2 * hidden if self.both_ways else self.columns
        width = 1 + beside + (hidden if self.attention else 0)
        self.cell, self.start = nn.GRUCell(width, hidden), nn.Linear(hidden, 1)
        self.place = nn.Parameter(torch.zeros(self.places, 3 * hidden))
        self.emission = HEADS[head](hidden + width, 1, 1)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, float32 [1]."""
        return self.emission.df

    def freeze(self) -> None:
        """Fix the degrees of freedom at their learned value."""
        self.emission.freeze()

    def begin_epoch(self, progress: float) -> None:
        """Set how often the truth is shown, by the share of the epochs that are done."""
        self.forcing = self.config.forcing(progress)

    def distribution(self, hidden: Array, scale: Array, rows: Array) -> Distribution:
        """Give the distribution of the move to each step; parameters as in `StudentTHead.distribution`."""
        xp, shape = namespace(hidden), (self.horizon, self.block)
        out = self.unrolled(hidden)
        middle = per_price(xp.concat(out.middle, 1), shape, (*shape, 1))
        gap = per_price(xp.sqrt(xp.concat(out.square, 1)), shape, (*shape, self.emission.gaps))
        return self.emission.around(middle, gap, scale, rows, shape)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Give the loss of each target [B, S, M]; a target of exactly 0 may be missing and is never shown."""
        out = self.unrolled(hidden, target.flatten(1) if self.training and self.forcing > 0 else None)
        middle, square = (torch.stack(x, 1).reshape(*target.shape, -1) for x in (out.middle, out.square))
        return self.emission.score(middle, square.sqrt(), target)

    def unrolled(self, hidden: Array, shown: Tensor | None = None) -> Decoded:
        """Unroll over the places [B, N], from hidden vector, window and what is known ahead side by side.

        Parameters
        ----------
        hidden : float32 [B, H + W*H + 1 + S*K]
            Without attention [B, H + S*K].
        shown : float32 [B, N], optional
            The truth, of which a share is shown.
        """
        xp = namespace(hidden)
        h, window, ahead = self._apart(hidden)
        move = xp.linear(h, xp.constant(self.start.weight), xp.constant(self.start.bias))
        stands: list[tuple[Array, Array] | None] = [None] * self.block
        out = Decoded(middle=[], square=[], weights=[])
        for n in range(self.places):
            before = stands[n % self.block]
            x = xp.concat([move, *ahead[n : n + 1], *self._context(h, window, out.weights)], 1)
            h = xp.recurrent("gru", x, [[h]], [self._gates(xp, n)])[0][0]
            move, gap = self.emission.parts(xp.concat([h, x], 1))
            after = (move, gap * gap) if before is None else (before[0] + move, before[1] + gap * gap)
            out.middle.append(after[0])
            out.square.append(after[1])
            if shown is not None:
                after = self._shown(shown[:, n : n + 1], *after)
                move = after[0] if before is None else after[0] - before[0]
            stands[n % self.block] = after
        return out

    def _shown(self, truth: Tensor, middle: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """Say where the decoder goes on from: a share of the rows is shown the truth [B, 1]."""
        known = (torch.rand_like(truth) < self.forcing) & (truth != 0)
        return torch.where(known, truth, middle), torch.where(known, 0.0, square)

    def _apart(self, hidden: Array) -> tuple[Array, tuple[Array, ...], list[Array]]:
        """Take apart what came side by side: hidden vector; memory, keys and what is filled; what is known ahead."""
        xp, known = namespace(hidden), self.horizon * self.future
        window = [self.attention.window * self.hidden, 1] if self.attention else []
        sizes = [self.hidden, *window, *([known] if known else [])]
        pieces: Sequence[Array] = xp.split(hidden, sizes, 1)
        ahead = self._known_ahead(pieces[-1]) if known else []
        if self.attention is None:
            return pieces[0], (), ahead
        memory = xp.reshape(pieces[1], (-1, self.attention.window, self.hidden))
        return pieces[0], (memory, self.attention.keys(memory), self.attention.filled(pieces[2])), ahead

    def _known_ahead(self, ahead: Array) -> list[Array]:
        """Give what each place reads of [B, S*K], [B, P] or what both directions make of it."""
        xp, size = namespace(ahead), self.columns
        if self.block > 1:
            ahead = xp.transpose(xp.take(xp.transpose(ahead, (1, 0)), xp.constant(self.index)), (1, 0))
        if self.both_ways is not None:
            size = 2 * self.both_ways.hidden_size
            in_time = xp.transpose(xp.reshape(ahead, (-1, self.places, self.columns)), (1, 0, 2))
            read = xp.bidirectional(in_time, [_layer(xp, self.both_ways, end) for end in ("_l0", "_l0_reverse")])
            poison = xp.unsqueeze(xp.sum(ahead, 1), 1) * 0.0  # the runtime's GRU gives a number for what is none
            ahead = xp.reshape(xp.transpose(read, (2, 0, 1, 3)), (-1, self.places * size)) + poison
        return list(xp.split(ahead, [size] * self.places, 1))

    def _context(self, h: Array, window: tuple[Array, ...], told: list[Array]) -> list[Array]:
        """Give what the decoder sees of the window, [B, H], and tell the weights; nothing without attention."""
        if self.attention is None:
            return []
        memory, keys, filled = window
        weights = self.attention.weights(h, keys, filled)
        told.append(weights)
        return [namespace(h).reshape(weights @ memory, (-1, self.hidden))]

    def _gates(self, xp: Array, n: int) -> list[Array]:
        """Give the weights of the cell at a place, whose bias is its own."""
        weight_ih, weight_hh, _, bias_hh = _layer(xp, self.cell, "")
        return [weight_ih, weight_hh, xp.constant(self.cell.bias_ih + self.place[n]), bias_hh]


def _layer(xp: Array, module: nn.Module, end: str) -> list[Array]:
    """Give the weights of a recurrent layer."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [xp.constant(getattr(module, f"{name}{end}")) for name in names]


def columns_in(tensors: Mapping[str, Tensor], horizon: int, block: int) -> list[list[int]] | None:
    """Say which columns each price of a block reads in the saved tensors of a network; None where that is all."""
    if "head.index" not in tensors:
        return None
    return tensors["head.index"].reshape(horizon, block, -1)[0].tolist()


def columns_of_prices(names: Sequence[str], block: int) -> list[list[int]]:
    """Say which columns known ahead each price of a block reads: `name.07` is read by price 7, other names by all.

    >>> columns_of_prices(["load.00", "load.01", "@weekday"], 2)
    [[0, 2], [1, 2]]
    """
    own = {f"{name.rpartition('.')[0]}" for name in names if block > 1}
    expanded = {name for name in own if name and all(f"{name}.{m:02d}" in names for m in range(block))}

    def read(name: str, m: int) -> bool:
        series, _, end = name.rpartition(".")
        return series not in expanded or end == f"{m:02d}"

    return [[k for k, name in enumerate(names) if read(name, m)] for m in range(block)]
