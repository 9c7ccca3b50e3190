"""The recurrent core: its layers against cells and gradients written by hand, its state against per-row runs.

Legend: B batch, T time, F features, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.core import Tick, initial_state
from models.errors import ConfigError
from models.network import Network, NetworkConfig
from models.observation import State
from models.recurrent import CARRIED

CELLS = ("rnn", "lstm", "gru")
B, T, H = 3, 12, 4
Rows = NDArray[np.float64]
Layer = dict[str, Rows]
"""Weights w [G*H, F], u [G*H, H] and biases b, c [G*H] of the input and of the state, gates in torch's order."""


def sigmoid(x: Rows) -> Rows:
    """Take 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


@dataclass
class Rnn:
    """h' = tanh(W x + b + U h + c)."""

    p: Layer

    def forward(self, x: Rows, state: list[Rows]) -> tuple[list[Rows], Any]:
        """Give the next state and what the way back needs."""
        (h,) = state
        new = np.tanh(x @ self.p["w"].T + self.p["b"] + h @ self.p["u"].T + self.p["c"])
        return [new], (x, h, new)

    def backward(self, upstream: list[Rows], kept: Any, grad: Layer) -> tuple[Rows, list[Rows]]:
        """Add to the gradients of the weights; give those of the input and of the state before."""
        x, h, new = kept
        a = upstream[0] * (1 - new**2)
        return accumulate(self.p, grad, a, a, x, h)


@dataclass
class Lstm:
    """i, f, o = σ(·), g = tanh(·); c' = f c + i g; h' = o tanh(c')."""

    p: Layer

    def forward(self, x: Rows, state: list[Rows]) -> tuple[list[Rows], Any]:
        """Give the next state and what the way back needs."""
        h, c = state
        raw = x @ self.p["w"].T + self.p["b"] + h @ self.p["u"].T + self.p["c"]
        i, f, g, o = np.split(raw, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        cell = f * c + i * g
        return [o * np.tanh(cell), cell], (x, h, c, i, f, g, o, cell)

    def backward(self, upstream: list[Rows], kept: Any, grad: Layer) -> tuple[Rows, list[Rows]]:
        """Add to the gradients of the weights; give those of the input and of the state before."""
        x, h, c, i, f, g, o, cell = kept
        dh, dc = upstream
        squashed = np.tanh(cell)
        dc = dc + dh * o * (1 - squashed**2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)]
        a = np.concatenate(gates, axis=1)
        dx, (dh_before,) = accumulate(self.p, grad, a, a, x, h)
        return dx, [dh_before, dc * f]


@dataclass
class Gru:
    """r, z = σ(·); n = tanh(W x + b + r (U h + c)); h' = (1 - z) n + z h."""

    p: Layer

    def forward(self, x: Rows, state: list[Rows]) -> tuple[list[Rows], Any]:
        """Give the next state and what the way back needs."""
        (h,) = state
        from_x = np.split(x @ self.p["w"].T + self.p["b"], 3, axis=1)
        from_h = np.split(h @ self.p["u"].T + self.p["c"], 3, axis=1)
        r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
        n = np.tanh(from_x[2] + r * from_h[2])
        return [(1 - z) * n + z * h], (x, h, r, z, n, from_h[2])

    def backward(self, upstream: list[Rows], kept: Any, grad: Layer) -> tuple[Rows, list[Rows]]:
        """Add to the gradients of the weights; give those of the input and of the state before."""
        x, h, r, z, n, from_h = kept
        (d,) = upstream
        dn = d * (1 - z) * (1 - n**2)
        dz, dr = d * (h - n) * z * (1 - z), dn * from_h * r * (1 - r)
        dx, (dh,) = accumulate(self.p, grad, np.concatenate([dr, dz, dn], 1), np.concatenate([dr, dz, dn * r], 1), x, h)
        return dx, [dh + d * z]


def accumulate(p: Layer, grad: Layer, from_x: Rows, from_h: Rows, x: Rows, h: Rows) -> tuple[Rows, list[Rows]]:
    """Add the gradients of one step's weights, given those before the gates on either side."""
    for name, value in {"w": from_x.T @ x, "u": from_h.T @ h, "b": from_x.sum(0), "c": from_h.sum(0)}.items():
        grad[name] = grad.get(name, 0.0) + value
    return from_x @ p["w"], [from_h @ p["u"]]


BY_HAND = {"rnn": Rnn, "lstm": Lstm, "gru": Gru}


def through_time(
    cells: list[Any], x_BTF: Rows, state: list[list[Rows]], weight_BTH: Rows
) -> tuple[Rows, list[Layer], Rows, list[list[Rows]]]:
    """Run a stack and take the gradients of Σ weight · top + ½ Σ (last h)², back through time by hand.

    Returns
    -------
    top [B, T, H], gradients of each layer, gradient of the input, gradients of the first state of each layer.
    """
    tops, kept = [], []
    for t in range(x_BTF.shape[1]):
        below, kept_t = x_BTF[:, t], []
        for k, cell in enumerate(cells):
            state[k], k_kept = cell.forward(below, state[k])
            kept_t.append(k_kept)
            below = state[k][0]
        tops.append(below)
        kept.append(kept_t)
    grads: list[Layer] = [{} for _ in cells]
    d_state = [[np.zeros_like(s) for s in layer] for layer in state]
    d_state[-1][0] = state[-1][0].copy()
    dx_BTF = np.zeros_like(x_BTF)
    for t in reversed(range(x_BTF.shape[1])):
        from_above = weight_BTH[:, t]
        for k in reversed(range(len(cells))):
            upstream = [d_state[k][0] + from_above, *d_state[k][1:]]
            from_above, d_state[k] = cells[k].backward(upstream, kept[t][k], grads[k])
        dx_BTF[:, t] = from_above
    return np.stack(tops, 1), grads, dx_BTF, d_state


def core_of(cell: str, **settings: Any) -> Network:
    """Make a small core with larger weights than torch's own, in float64."""
    torch.manual_seed(1)
    core = Network(cell, NetworkConfig(hidden=H, **settings), unit=0.01).double().eval()
    with torch.no_grad():
        for p in core.body.layers.parameters():
            p.mul_(2.0)
    return core


def layer_of(core: Network, k: int) -> Layer:
    """Copy out the weights of one layer."""
    names = {"w": "weight_ih", "u": "weight_hh", "b": "bias_ih", "c": "bias_hh"}
    return {short: getattr(core.body.layers, f"{name}_l{k}").detach().numpy().copy() for short, name in names.items()}


def random_state(core: Network, batch: int) -> State:
    """Draw a state of the layers."""
    rng = torch.Generator().manual_seed(2)
    names = [s.name for s in core.body.state_tensors()]
    return {k: torch.randn((batch, H), generator=rng, dtype=torch.float64) * 0.5 for k in names}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_those_written_by_hand(cell: str, layers: int) -> None:
    """Outputs, and gradients of weights, inputs and first state over 12 steps, equal those of numpy cells."""
    core, rng = core_of(cell, layers=layers), np.random.default_rng(3)
    x = torch.tensor(rng.normal(size=(B, T, core.inputs.width)), requires_grad=True)
    start = {k: s.requires_grad_() for k, s in random_state(core, B).items()}
    weight = rng.normal(size=(B, T, H))
    top, after = core.body.run(x, start)
    ((top * torch.tensor(weight)).sum() + 0.5 * (core.body.output(after) ** 2).sum()).backward()

    cells = [BY_HAND[cell](layer_of(core, k)) for k in range(layers)]
    state = [[start[f"{part}{k}"].detach().numpy() for part in CARRIED[cell]] for k in range(layers)]
    tops, grads, dx, d_start = through_time(cells, x.detach().numpy(), state, weight)

    np.testing.assert_allclose(top.detach(), tops, rtol=1e-10, atol=1e-12)
    names = {"w": "weight_ih", "u": "weight_hh", "b": "bias_ih", "c": "bias_hh"}
    for k in range(layers):
        for short, name in names.items():
            np.testing.assert_allclose(
                getattr(core.body.layers, f"{name}_l{k}").grad,
                grads[k][short],
                rtol=1e-8,
                atol=1e-10,
                err_msg=f"{name} {k}",
            )
        for part, expected in zip(CARRIED[cell], d_start[k], strict=True):
            given = start[f"{part}{k}"].grad
            assert given is not None
            np.testing.assert_allclose(given, expected, rtol=1e-8, atol=1e-10)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, dx, rtol=1e-8, atol=1e-10)


def ticks(time: int, seed: int = 4) -> Tick:
    """Make ticks [B, T, ...] without holes, in float64."""
    change = torch.tensor(np.random.default_rng(seed).standard_t(4, size=(B, time, 1)) * 0.01)
    return Tick(
        change=change,
        held=torch.zeros(B, time, 1, dtype=torch.bool),
        series=torch.zeros(B, dtype=torch.int64),
        past=change[..., :0],
        future=change[..., None, :0],
        elapsed=torch.ones(B, time, dtype=torch.float64),
    )


def step_through(core: Network, given: Tick, state: State) -> State:
    """Step over ticks one at a time and give the last state."""
    for t in range(given.change.shape[1]):
        now = {f: getattr(given, f)[:, t] for f in ("change", "held", "past", "future", "elapsed")}
        _, state = core.step(Tick(series=given.series, **now), state)
    return state


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_a_chain_of_steps_is_torchs_own_layer(cell: str, layers: int) -> None:
    """The state after 20 steps is that of `nn.RNN`, `nn.LSTM` or `nn.GRU` over the features of these ticks."""
    core, given = core_of(cell, layers=layers), ticks(20)
    start = initial_state(core.state_tensors(), B, core.df)
    features, *_ = core.features(given, start)
    _, end = core.body.layers(features)
    stepped = step_through(core, given, start)
    for part, theirs in zip(CARRIED[cell], end if cell == "lstm" else (end,), strict=True):
        for k in range(layers):
            np.testing.assert_allclose(stepped[f"{part}{k}"], theirs[k], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_ragged_rows_run_as_each_row_alone(cell: str, layers: int) -> None:
    """With lengths, packed rows give the outputs and the last state of each row run on its own, none included."""
    core, lengths = core_of(cell, layers=layers), torch.tensor([7, 0, 12, 1])
    x = torch.tensor(np.random.default_rng(5).normal(size=(4, T, core.inputs.width)))
    start = random_state(core, 4)
    top, end = core.body.run(x, start, lengths)
    assert top.shape == (4, T, H)
    for row, length in enumerate(lengths.tolist()):
        mine = {k: s[row : row + 1] for k, s in start.items()}
        alone, after = core.body.run(x[row : row + 1, :length], mine) if length else (top[row : row + 1, :0], mine)
        np.testing.assert_allclose(top[row, :length], alone[0], rtol=1e-10, atol=1e-12)
        for name in end:
            np.testing.assert_allclose(end[name][row], after[name][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_what_lies_beyond_a_length_is_not_looked_at(cell: str) -> None:
    """NaN in the padding of ragged rows reaches neither the outputs within the lengths nor the state."""
    core, lengths = core_of(cell), torch.tensor([3, 5, 0])
    x = torch.tensor(np.random.default_rng(6).normal(size=(B, T, core.inputs.width)))
    poisoned = torch.where((torch.arange(T) < lengths[:, None])[..., None], x, float("nan"))
    clean, dirty = (core.body.run(y, random_state(core, B), lengths) for y in (x, poisoned))
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(clean[0][row, :length], dirty[0][row, :length])
    assert all(torch.equal(clean[1][k], dirty[1][k]) for k in clean[1])


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_held_moments_are_as_if_they_were_not_there(cell: str) -> None:
    """Ticks with held moments among them lead to the state of the same ticks without these."""
    core, given = core_of(cell, layers=2), ticks(12)
    keep = torch.tensor([0, 1, 4, 5, 6, 9])
    held = torch.ones(B, 12, 1, dtype=torch.bool)
    held[:, keep] = False
    with_holes = replace(given, change=torch.where(held, 0.0, given.change), held=held)
    parts = ("change", "held", "past", "future", "elapsed")
    without = replace(given, **{f: getattr(given, f)[:, keep] for f in parts})
    start = initial_state(core.state_tensors(), B, core.df)
    a, b = core.unroll(with_holes, start), core.unroll(without, start)
    for name in a[1]:
        np.testing.assert_allclose(a[1][name], b[1][name], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(a[0].quantile[:, keep], b[0].quantile, rtol=1e-10, atol=1e-12)


def test_dropout_with_one_layer_is_refused_with_the_reason() -> None:
    """Dropout acts between layers only: with one layer it is refused, and the message says so and what to do."""
    with pytest.raises(ConfigError, match=r"no effect with one layer.*between layers only.*Set layers to 2"):
        NetworkConfig(dropout=0.2)


def test_dropout_acts_between_layers_while_training_only() -> None:
    """Two runs in training differ, two in serving do not."""
    core = core_of("lstm", layers=2, dropout=0.5)
    x = torch.tensor(np.random.default_rng(7).normal(size=(B, T, core.inputs.width)))
    served = [core.body.run(x, random_state(core, B))[0] for _ in range(2)]
    core.train()
    trained = [core.body.run(x, random_state(core, B))[0] for _ in range(2)]
    assert torch.equal(*served)
    assert not torch.equal(*trained)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden: expected 1 to 4096, got 0"),
        ({"layers": 9}, "layers: expected 1 to 8, got 9"),
        ({"layers": 2, "dropout": 0.95}, "dropout: expected 0 to 0.9, got 0.95"),
        ({"bins": 1}, "bins: expected 3 to 501, got 1"),
        ({"bins": 40}, "bins: expected an odd number, so that one bin has the median in it, got 40"),
        ({"token": 0}, "token: expected 1 to 256, got 0"),
        ({"memories": ()}, "memories: expected increasing"),
        ({"memories": (100, 10)}, "memories: expected increasing"),
        ({"memories": (1, 10)}, "memories: expected increasing"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """Each setting says its range and what came."""
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**settings)
