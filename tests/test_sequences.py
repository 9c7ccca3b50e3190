"""Recurrent layers over sequences in the runtime, against torch's own."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from models.observation import State
from models.recurrent import CELLS, Recurrent
from pipeline.sequences import Sequences, engines, running

ROWS, TIME, INPUTS, HIDDEN = 5, 37, 3, 8


@pytest.fixture(params=sorted(CELLS))
def body(request: pytest.FixtureRequest) -> Recurrent:
    """Two layers of each cell."""
    torch.manual_seed(0)
    return Recurrent(request.param, INPUTS, HIDDEN, 2, 0.0).eval()


def drawn(body: Recurrent) -> tuple[Tensor, State]:
    """Draw features, and a state as after many steps."""
    state = {s.name: torch.randn(ROWS, *s.shape) * 0.3 for s in body.state_tensors()}
    return torch.randn(ROWS, TIME, INPUTS), state


def assert_same(ours: tuple[Tensor, State], theirs: tuple[Tensor, State], lengths: Tensor | None = None) -> None:
    """Compare outputs within each row's length, and states."""
    inside = torch.ones(ROWS, TIME, dtype=torch.bool) if lengths is None else torch.arange(TIME) < lengths[:, None]
    torch.testing.assert_close(ours[0][inside], theirs[0][inside], rtol=0, atol=2e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, x in theirs[1].items():
        torch.testing.assert_close(ours[1][name], x, rtol=0, atol=2e-6)


@torch.no_grad()
def test_the_runtime_gives_what_torch_gives(body: Recurrent) -> None:
    """Outputs and the state after a sequence are those of torch to float32's last digits."""
    x, state = drawn(body)
    assert_same(Sequences(body)(x, state, None), body.run(x, state))


@torch.no_grad()
def test_each_row_ends_at_its_own_length(body: Recurrent) -> None:
    """Rows of any length end in the state after their last step; a row of none keeps its state to the bit."""
    x, state = drawn(body)
    lengths = torch.tensor([TIME, 0, 1, 20, TIME - 1])
    ours = Sequences(body)(x, state, lengths)
    assert_same(ours, body.run(x, state, lengths), lengths)
    assert all(torch.equal(ours[1][name][1], state[name][1]) for name in state)


@torch.no_grad()
def test_garbage_ahead_leaves_the_past_as_it_was(body: Recurrent) -> None:
    """Outputs up to a moment do not change by a bit when all after it is overwritten."""
    x, state = drawn(body)
    spoilt = x.clone()
    spoilt[:, 20:] = 1e9
    engine = Sequences(body)
    assert torch.equal(engine(x, state, None)[0][:, :20], engine(spoilt, state, None)[0][:, :20])


@torch.no_grad()
def test_a_body_is_its_own_again_after_a_call(body: Recurrent) -> None:
    """Only inside of the context does the runtime run a body; an error ends it as well."""
    x, state = drawn(body)
    before = body.run(x, state)[0]
    made = engines(torch.nn.Sequential(body))
    with suppress(ZeroDivisionError), running(made):
        assert torch.equal(body.run(x, state)[0], made[body](x, state, None)[0])
        raise ZeroDivisionError
    assert body.engine is None
    assert torch.equal(body.run(x, state)[0], before)
