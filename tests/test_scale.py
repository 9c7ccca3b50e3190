"""The running scale is a mean that turns into an exponential average, causal, and never zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from models.core import initial_state
from models.observation import State
from models.scale import EPSILON, FLOOR, RunningScale

UNIT = 0.02
Rows = NDArray[np.float64]


def run(scale: RunningScale, change: Tensor, held: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, State]:
    """Step over changes [T, M]; standardised and log variance [T, W*M], scale [T, M], and the last state."""
    held = torch.zeros_like(change, dtype=torch.bool) if held is None else held
    state, out = initial_state(scale.state_tensors(), 1, scale.limit), []
    for x, h in zip(change, held, strict=True):
        *given, state = scale.step(x[None], h[None], state)
        out.append([g[0] for g in given])
    z, log_variance, size = (torch.stack(column) for column in zip(*out, strict=True))
    return z, log_variance, size, state


def naive(change: Rows, held: NDArray[np.bool_], memories: tuple[int, ...]) -> tuple[Rows, Rows, Rows]:
    """Do the same with a loop over every price and memory, as the equations say."""
    time, block = change.shape
    shape = (time, len(memories), block)
    floored = np.ones(shape)
    for m in range(block):
        v, k = np.ones(len(memories)), np.ones(len(memories))
        for t in range(time):
            if not held[t, m]:
                for w, n in enumerate(memories):
                    k[w] = min(k[w] + 1, n)
                    v[w] += ((change[t, m] / UNIT) ** 2 - v[w]) / k[w]
            floored[t, :, m] = v + FLOOR * v[-1] * (np.arange(len(v)) < len(v) - 1) + EPSILON
    size = np.sqrt(floored).reshape(time, -1)
    return np.tile(change / UNIT, len(memories)) / size, np.log(size**2), UNIT * size[:, :block]


@pytest.mark.parametrize("memories", [(10, 40), (5,), (2, 8, 30)], ids=str)
@pytest.mark.parametrize("block", [1, 3])
def test_the_running_scale_is_the_loop_of_its_equations(memories: tuple[int, ...], block: int) -> None:
    """Standardised moves, log variances and scales equal a naive loop, holes, stillness and outliers included."""
    rng = np.random.default_rng(1)
    change = rng.standard_t(3, size=(300, block)) * UNIT
    change[100:160] = 0.0
    change[200] = 1e3
    held = rng.random(change.shape) < 0.1
    change[held] = 0.0
    scale = RunningScale(memories, UNIT, block).double()
    found = run(scale, torch.tensor(change), torch.tensor(held))[:3]
    for ours, theirs in zip(found, naive(change, held, memories), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_first_moves_enter_with_equal_weight() -> None:
    """Up to its memory an average is the mean of the moves seen and one pseudo-move of the unit."""
    change = torch.tensor(np.random.default_rng(2).normal(size=(19, 1)) * UNIT, dtype=torch.float32)
    *_, state = run(RunningScale((5, 20), UNIT, 1), change)
    seen = np.concatenate([[1.0], (change[:, 0].numpy() / UNIT) ** 2])
    assert state["variance"][0, 1].item() == pytest.approx(seen.mean(), rel=1e-5)
    assert state["count"].tolist() == [[5.0, 20.0]]


def test_the_scale_of_a_series_that_stands_still_is_held_up_by_its_long_memory() -> None:
    """After 500 moves of none the short scale is a tenth of the long one, and a new move is of ordinary size."""
    rng = np.random.default_rng(3)
    moves = np.concatenate([rng.normal(size=(400, 1)), np.zeros((500, 1)), [[1.0]]]) * UNIT
    z, log_variance, size, state = run(RunningScale((10, 5000), UNIT, 1), torch.tensor(moves, dtype=torch.float32))
    long = torch.exp(log_variance[899, 1] / 2)
    assert (size[899, 0] / UNIT / long).item() == pytest.approx(0.1, rel=1e-4)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_variance).all()
    assert state["variance"][0, 0] > 0.09


def test_a_series_that_never_moved_has_a_scale_above_zero() -> None:
    """5,000 moves of none leave every scale at the root of epsilon, with a finite logarithm."""
    z, log_variance, size, _ = run(RunningScale((20,), UNIT, 1), torch.zeros(5_000, 1))
    assert size[-1].item() == pytest.approx(UNIT * np.sqrt(EPSILON), rel=1e-4)
    assert torch.isfinite(log_variance).all()
    assert (z == 0).all()


@settings(deadline=None)
@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=60))
def test_no_move_is_larger_than_the_root_of_the_memory(moves: list[float]) -> None:
    """Whatever comes, a standardised move is at most the root of the number of moves remembered."""
    z, *_ = run(RunningScale((4, 30), 1e-3, 1), torch.tensor(moves)[:, None])
    assert (z.abs() <= torch.tensor([4.0, 30.0]).sqrt() * (1 + 1e-5)).all()


def test_a_held_step_leaves_the_state_bit_for_bit() -> None:
    """Where nothing arrives, variance and count do not change in a single bit, price by price."""
    scale = RunningScale((10, 100), UNIT, 2)
    change = torch.tensor(np.random.default_rng(4).normal(size=(57, 2)) * UNIT, dtype=torch.float32)
    *_, state = run(scale, change)
    *_, after = scale.step(torch.tensor([[0.0, 0.5]]), torch.tensor([[True, False]]), state)
    for name in state:
        held, moved = after[name].view(2, 2).T
        assert torch.equal(held, state[name].view(2, 2)[:, 0])
        assert name == "count" or not torch.equal(moved, state[name].view(2, 2)[:, 1])


def test_the_scale_does_not_depend_on_the_currency() -> None:
    """Moves and unit times ten give the same standardised moves."""
    change = torch.tensor(np.random.default_rng(5).normal(size=(50, 1)) * UNIT, dtype=torch.float64)
    small = run(RunningScale((10, 40), UNIT, 1).double(), change)[0]
    large = run(RunningScale((10, 40), 10 * UNIT, 1).double(), 10 * change)[0]
    np.testing.assert_allclose(small, large, rtol=1e-6)
