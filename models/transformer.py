"""A causal transformer as the body of a network: each layer attends to the last W moves, and these are its state.

Decoder only and pre-norm: x is put through

    x <- x + O(attention(norm(x)))      x <- x + F2(relu(F1(norm(x))))      at the end norm(x)

    Vaswani et al. (2017) NeurIPS, eq. 1 and 2; pre-norm: Xiong et al. (2020) ICML;
    the keys and values of before are carried and detached: Dai et al. (2019) ACL, Transformer-XL;
    bias by age, a table a head learned (Raffel et al. 2020, JMLR 21(140), 2.1) from the slopes of ALiBi
    (Press, Smith & Lewis 2022, ICLR)

As every layer has a window of its own, what K layers see reaches back K(W - 1) moves (Dai et al. 2019, 3.2).

Legend: B batch, T time, F features, D width, N heads, d = D/N width of a head, W window, J = W - 1 moves carried,
K layers.

Comes in: features. Goes out: the vector of the last layer. Imported by network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ConfigError
from models.observation import Array, State, StateTensor
from models.operations import namespace

STRETCH = 64
"""Steps that are attended to at once: memory grows with STRETCH + W a step, whatever the length of a sequence."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What a transformer has beside the width and depth of every network.

    Attributes
    ----------
    heads : int
        Heads of a layer, 1 to 64; they divide `hidden`.
    window : int
        Moves that a layer attends to, the newest included, 2 to 4096; all but that one are carried.
    feedforward : int
        Width of the feed-forward part over that of the layer, 1 to 16.
    """

    heads: int = 4
    window: int = 32
    feedforward: int = 2

    def __post_init__(self) -> None:
        for name, low, high in (("heads", 1, 64), ("window", 2, 4096), ("feedforward", 1, 16)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")


class Layer(nn.Module):
    """Attention and feed-forward, each added to what came in.

    Parameters
    ----------
    width : int
        D.
    config : TransformerConfig
    dropout : float
        Share of what either part adds that is dropped while training.
    """

    def __init__(self, width: int, config: TransformerConfig, dropout: float) -> None:
        super().__init__()
        self.heads, self.each, self.carried = config.heads, width // config.heads, config.window - 1
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = (
            nn.Linear(width, config.feedforward * width),
            nn.Linear(config.feedforward * width, width),
        )
        self.bias = nn.Parameter(-_slopes(config.heads)[:, None, None] * _ages(config.window))
        self.dropout = nn.Dropout(dropout)

    def step(self, x: Array, keys: Array, values: Array, empty: Array) -> tuple[Array, Array, Array]:
        """Take in one move.

        Parameters
        ----------
        x : float32 [B, D]
        keys, values : float32 [B, N, d, J] and [B, N, J, d]
            Of the moves before, the newest last.
        empty : bool [B, 1, 1, W]
            Where there was no move yet.

        Returns
        -------
        x, keys and values, shaped as they came.
        """
        xp, heads, each, carried = namespace(x), self.heads, self.each, self.carried
        query, key, value = xp.split(_linear(self.into, _norm(self.norm_attention, x)), [heads * each] * 3, 1)
        keys = xp.concat([keys, xp.reshape(key, (-1, heads, each, 1))], 3)
        values = xp.concat([values, xp.reshape(value, (-1, heads, 1, each))], 2)
        score = (xp.reshape(query, (-1, heads, 1, each)) * each**-0.5) @ keys + xp.constant(self.bias)
        seen = xp.softmax(xp.where(empty, -float("inf"), score)) @ values
        x = x + _linear(self.out, xp.reshape(seen, (-1, heads * each)))
        x = x + self._forward(x)
        return x, xp.split(keys, [1, carried], 3)[1], xp.split(values, [1, carried], 2)[1]

    def run(
        self, x_BTD: Tensor, keys: Tensor, values: Tensor, ages: Tensor, unseen: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take in many moves.

        Parameters
        ----------
        x_BTD : float32 [B, T, D]
        keys, values : float32 [B, N, d, J] and [B, N, J, d]
            Of the moves before, the newest last.
        ages : int64 [T, J + T]
            Of each move at each step, as far as the window reaches.
        unseen : bool [B, 1, T, J + T]
            Where a step does not attend to a move.
        lengths : int64 [B]
            How many moves of each row count.

        Returns
        -------
        x, and keys and values of the last J moves that count.
        """
        into = self.into(self.norm_attention(x_BTD)).unflatten(2, (3, self.heads, self.each))
        query, key, value = into.permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([keys, key.transpose(2, 3)], 3), torch.cat([values, value], 2)
        score = (query * self.each**-0.5) @ keys + self.bias[:, 0, self.carried - ages]
        seen = score.masked_fill(unseen, -float("inf")).softmax(-1) @ values
        x_BTD = x_BTD + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        x_BTD = x_BTD + self.dropout(self._forward(x_BTD))
        last = lengths[:, None] + torch.arange(self.carried, device=lengths.device)
        return x_BTD, _taken(keys, last[:, None, None], 3), _taken(values, last[:, None, :, None], 2)

    def _forward(self, x: Array) -> Array:
        return _linear(self.narrow, namespace(x).relu(_linear(self.widen, _norm(self.norm_forward, x))))


class Transformer(nn.Module):
    """A stack of layers; the keys and values of the last moves are the state.

    Parameters
    ----------
    inputs, hidden, layers : int
        F, D and K.
    dropout : float
        Share dropped of what each part of a layer adds, while training.
    config : TransformerConfig

    Raises
    ------
    ConfigError
        The heads do not divide the width.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float, config: TransformerConfig) -> None:
        super().__init__()
        if hidden % config.heads:
            raise ConfigError(
                f"transformer.heads: expected a divisor of hidden, which is {hidden}, got {config.heads}. Set heads to "
                f"one of {[n for n in range(1, min(hidden, 64) + 1) if not hidden % n]}, or hidden to a multiple of it"
            )
        self.width, self.heads, self.carried = hidden, config.heads, config.window - 1
        self.inlet, self.norm = nn.Linear(inputs, hidden), nn.LayerNorm(hidden)
        self.layers: Any = nn.ModuleList(Layer(hidden, config, dropout) for _ in range(layers))
        self.register_buffer("ages", _ages(config.window), persistent=False)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: how many moves there were, keys and values layer by layer, and the last output."""
        each, carried = self.width // self.heads, self.carried
        rings = (
            StateTensor(f"{part}{k}", (self.heads, *shape), "float32", 0.0, "hidden", f"{part} of layer {k}")
            for k in range(len(self.layers))
            for part, shape in (("keys", (each, carried)), ("values", (carried, each)))
        )
        filled = StateTensor("filled", (1,), "float32", 0.0, "count", f"moves in the window, at most {carried}")
        return (filled, *rings, StateTensor("top", (self.width,), "float32", 0.0, "hidden", "last output"))

    def step(self, x: Array, state: State) -> State:
        """Advance by one step: features [B, F]."""
        xp, after = namespace(x), {}
        empty = xp.constant(self.ages) > xp.reshape(state["filled"], (-1, 1, 1, 1))
        x = _linear(self.inlet, x)
        for k, layer in enumerate(self.layers):
            x, *after[k] = layer.step(x, state[f"keys{k}"], state[f"values{k}"], empty)
        filled = xp.clip(state["filled"] + 1.0, 0.0, float(self.carried))
        return {**_named(after), "filled": filled, "top": _norm(self.norm, x)}

    def output(self, state: State) -> Array:
        """Give what was last put out, [B, D]; zeros before the first move."""
        return state["top"]

    def run(self, x_BTF: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over a sequence, a stretch at a time; gradients flow from stretch to stretch.

        Parameters
        ----------
        x_BTF : float32 [B, T, F]
        state : State
        lengths : int64 [B] on the CPU, optional
            How many steps of each row count; the state comes back as it was after the last of them.

        Returns
        -------
        top : float32 [B, T, D]
            Output of the last layer; beyond a row's length it means nothing.
        state : State
        """
        batch, time, _ = x_BTF.shape
        left = torch.full((batch,), time) if lengths is None else lengths
        left, tops = left.to(x_BTF.device), []
        for stretch in x_BTF.split(STRETCH, 1):
            top, state = self._stretch(stretch, state, left.clamp(0, stretch.shape[1]))
            left = left - stretch.shape[1]
            tops.append(top)
        return torch.cat(tops, 1), state

    def _stretch(self, x_BTF: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
        """Run over steps that fit into memory at once; what lies beyond the lengths [B] is not looked at."""
        steps = torch.arange(x_BTF.shape[1], device=x_BTF.device)
        ages = self.carried + steps[:, None] - torch.arange(self.carried + len(steps), device=x_BTF.device)
        outside = (ages < 0) | (ages > self.carried)
        unseen = outside | (ages > steps[:, None] + state["filled"][:, :, None])
        x, after = self.inlet(x_BTF.masked_fill((steps >= lengths[:, None])[..., None], 0.0)), {}
        for k, layer in enumerate(self.layers):
            window = (state[f"keys{k}"], state[f"values{k}"], ages.clamp(0, self.carried), unseen[:, None])
            x, *after[k] = layer.run(x, *window, lengths)
        top = self.norm(x)
        last = _taken(torch.cat([state["top"][:, None], top], 1), lengths[:, None, None], 1)[:, 0]
        filled = (state["filled"] + lengths[:, None]).clamp(max=self.carried)
        return top, {**_named(after), "filled": filled, "top": last}


def _named(rings: dict[int, list[Array]]) -> State:
    """Name the keys and values of each layer."""
    return {f"{part}{k}": x for k, pair in rings.items() for part, x in zip(("keys", "values"), pair, strict=True)}


def _linear(layer: nn.Linear, x: Array) -> Array:
    xp = namespace(x)
    return xp.linear(x, xp.constant(layer.weight), xp.constant(layer.bias))


def _norm(layer: nn.LayerNorm, x: Array) -> Array:
    xp = namespace(x)
    return xp.layer_norm(x, xp.constant(layer.weight), xp.constant(layer.bias))


def _ages(window: int) -> Tensor:
    """Give the age of each move of a window, the newest, of age 0, last."""
    return torch.arange(window - 1.0, -1.0, -1.0)


def _slopes(heads: int) -> Tensor:
    """Give the slopes of ALiBi: from 2^(-8/N) down to 2^-8."""
    return 2.0 ** (-8.0 * torch.arange(1.0, heads + 1) / heads)


def _taken(x: Tensor, place: Tensor, axis: int) -> Tensor:
    """Gather along an axis, at places that all other axes share."""
    shape = list(x.shape)
    shape[axis] = place.shape[axis]
    return x.gather(axis, place.expand(shape))
