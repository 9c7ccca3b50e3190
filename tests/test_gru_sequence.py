"""A GRU trained in one function: outputs, states and every gradient against `nn.GRU`, in any rows, layers and pieces.

Legend: B batch, T time, F features, H hidden, K layers.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from models import gru_sequence, recurrent
from models.gru_sequence import GruSequence, run_gru
from models.recurrent import Recurrent

B, T, F, H = 5, 9, 3, 4
RAGGED = torch.tensor([4, 9, 1, 9, 2])
NEAR = {torch.float32: {"rtol": 1e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}


def gru(layers: int, dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> nn.GRU:
    """Make layers with weights larger than torch's own, so that gates open and shut."""
    torch.manual_seed(1)
    made = nn.GRU(F, H, layers, batch_first=True, dropout=dropout).to(dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(2.0)
    return made


def inputs(layers: int, dtype: torch.dtype = torch.float64, time: int = T) -> tuple[Tensor, Tensor]:
    """Draw a sequence [B, T, F] and a state [K, B, H], both with gradients."""
    torch.manual_seed(2)
    drawn = torch.randn(B, time, F, dtype=dtype), torch.randn(layers, B, H, dtype=dtype)
    return drawn[0].requires_grad_(), drawn[1].requires_grad_()


def packed(x_BTF: Tensor, lengths: Tensor | None) -> Any:
    """Pack rows to their lengths, if there are any."""
    return x_BTF if lengths is None else pack_padded_sequence(x_BTF, lengths, batch_first=True, enforce_sorted=False)


def flat(top: Any) -> Tensor:
    """Give the outputs of either form in the same order."""
    return top.data if isinstance(top, PackedSequence) else top


def everything(layers: nn.GRU, run: Any, lengths: Tensor | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run, and take the gradients of a sum over outputs and end states that weighs each differently."""
    x, h = inputs(layers.num_layers, dtype)
    top, end = run(packed(x, lengths), h)
    weigh = torch.Generator().manual_seed(3)
    loss = sum((part * torch.randn(part.shape, generator=weigh, dtype=dtype)).sum() for part in (flat(top), end))
    named = {"x": x, "h": h, **dict(layers.named_parameters())}
    grads = torch.autograd.grad(loss, list(named.values()))  # type: ignore[arg-type]
    return {"top": flat(top), "end": end, **{f"d {k}": g for k, g in zip(named, grads, strict=True)}}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Check that all parts agree to the rounding of the type."""
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, **NEAR[dtype], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("dtype", "layers", "lengths"),
    list(product([torch.float32, torch.float64], [1, 3], [None, RAGGED])),
    ids=str,
)
def test_outputs_states_and_gradients_are_those_of_torch(
    dtype: torch.dtype, layers: int, lengths: Tensor | None
) -> None:
    """What comes out and every gradient is that of `nn.GRU`, rows of one length or not, in both precisions."""
    made = gru(layers, dtype)
    ours = everything(made, lambda x, h: run_gru(made, x, h), lengths, dtype)
    same(ours, everything(made, made, lengths, dtype), dtype)


@pytest.mark.parametrize("rows", [1, B, 12])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=str)
def test_the_size_of_a_block_changes_nothing(
    rows: int, lengths: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates worked on a step, or a few steps, at a time give what they give all at once."""
    made = gru(2)
    whole = everything(made, lambda x, h: run_gru(made, x, h), lengths, torch.float64)
    monkeypatch.setattr(gru_sequence, "BLOCK", rows)
    assert len(gru_sequence._blocks([B] * T)) > 1
    same(everything(made, lambda x, h: run_gru(made, x, h), lengths, torch.float64), whole, torch.float64)


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["even", "ragged"])
def test_without_gradients_nothing_is_kept_and_nothing_else_changes(
    lengths: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing learns, the gates of a block lie in the place of those before, and the numbers are the same."""
    monkeypatch.setattr(gru_sequence, "BLOCK", 2 * B)
    made, (x, h) = gru(2), inputs(2)
    learned, end = run_gru(made, packed(x, lengths), h)
    with torch.no_grad():
        top, at_end = run_gru(made, packed(x, lengths), h)
    assert torch.equal(flat(top), flat(learned))
    assert torch.equal(at_end, end)
    assert not flat(top).requires_grad


def test_blocks_hold_every_step_once_and_no_more_rows_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are cut in order into blocks of the most rows, or of a single step that has more."""
    monkeypatch.setattr(gru_sequence, "BLOCK", 6)
    assert gru_sequence._blocks([9, 4, 2, 2, 2, 2, 1]) == [[9], [4, 2], [2, 2, 2], [1]]


@pytest.mark.parametrize("sizes", [[3, 3, 3], [3, 2, 2, 1], [3]], ids=str)
def test_the_way_back_is_the_derivative(sizes: list[int]) -> None:
    """All gradients agree with differences of the outputs (gradcheck), also where rows end early, also of one step."""
    torch.manual_seed(4)
    shapes = [(sum(sizes), 2), (3, 2), (6, 2), (6, 2), (6,), (6,)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *tensors: GruSequence.apply(*tensors, sizes, True), given)


def test_one_step_is_the_cell_of_torch() -> None:
    """A sequence of one step gives what `nn.GRUCell` of the same weights gives."""
    made, cell = gru(1), nn.GRUCell(F, H).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in made.state_dict().items()})
    x, h = inputs(1, time=1)
    top, end = run_gru(made, x, h)
    torch.testing.assert_close(end[0], cell(x[:, 0], h[0]), **NEAR[torch.float64])
    assert torch.equal(top[:, 0], end[0])


def test_a_sequence_without_steps_is_refused_as_by_torch() -> None:
    """No step at all is an error in both, never an empty state."""
    made = gru(1)
    x, h = inputs(1, time=0)
    for run in (made, lambda x, h: run_gru(made, x, h)):
        with pytest.raises((RuntimeError, IndexError)):
            run(x, h)


def test_two_runs_with_the_state_carried_are_one() -> None:
    """64 steps at once and twice 32 give the same outputs, end and gradients where the state is not detached."""
    made = gru(2)
    x, h = inputs(2, time=64)
    top, end = run_gru(made, x, h)
    first, middle = run_gru(made, x[:, :32], h)
    second, last = run_gru(made, x[:, 32:], middle)
    pieces = torch.cat([first, second], 1)
    torch.testing.assert_close((pieces, last), (top, end), **NEAR[torch.float64])
    wanted = [x, h, *made.parameters()]
    whole, cut = (torch.autograd.grad(y.square().sum(), wanted) for y in (top, pieces))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-10)


def test_a_loss_of_the_end_state_alone_reaches_the_first() -> None:
    """Gradients flow from each layer's state after the last step to its state before the first."""
    made = gru(2)
    x, h = inputs(2)
    ours, theirs = (torch.autograd.grad(run(x, h)[1][0].sum(), h)[0] for run in (lambda *a: run_gru(made, *a), made))
    torch.testing.assert_close(ours, theirs, **NEAR[torch.float64])
    assert ours[0].abs().min() > 0
    assert not ours[1].any(), "the state of the upper layer has no way to that of the lower"


def test_dropout_is_that_between_the_layers_of_torch() -> None:
    """From one seed dropout takes what it takes in `nn.GRU`; in evaluation it takes nothing."""
    made = gru(3, dropout=0.5)
    x, h = inputs(3)
    tops = []
    for run in (lambda *a: run_gru(made, *a), made):
        torch.manual_seed(5)
        tops.append(run(x, h)[0])
    torch.testing.assert_close(*tops, **NEAR[torch.float64])
    assert not torch.allclose(run_gru(made, x, h)[0], tops[0]), "the next draw is another"
    made.eval()
    torch.testing.assert_close(run_gru(made, x, h)[0], made(x, h)[0], **NEAR[torch.float64])


def test_a_gru_body_takes_this_way_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GRU body trains and validates by it, with the same numbers; rnn and lstm never do."""
    calls = []
    monkeypatch.setattr(recurrent, "run_gru", lambda *given: calls.append(1) or run_gru(*given))
    for cell, expected in (("rnn", 0), ("lstm", 0), ("gru", 2)):
        body = Recurrent(cell, F, H, 2, 0.0)
        state = {s.name: torch.zeros(B, H) for s in body.state_tensors()}
        calls.clear()
        with torch.no_grad():
            validated, _ = body.run(torch.ones(B, T, F), state, RAGGED)
        trained, _ = body.run(torch.ones(B, T, F), state, RAGGED)
        assert len(calls) == expected
        assert torch.equal(trained, validated)


def test_rows_of_no_length_keep_their_state_and_take_no_part() -> None:
    """A row of length 0 comes back with the state it had; only through that does it have a gradient, and x has none."""
    torch.manual_seed(6)
    body, lengths = Recurrent("gru", F, H, 1, 0.0), torch.tensor([3, 0])
    x, h = torch.randn(2, 3, F, requires_grad=True), torch.randn(2, H, requires_grad=True)
    top, end = body.run(x, {"h0": h}, lengths)
    assert torch.equal(end["h0"][1], h[1])
    (top[0].sum() + end["h0"].sum()).backward()
    assert x.grad is not None
    assert h.grad is not None
    assert not x.grad[1].any()
    assert torch.equal(h.grad[1], torch.ones(H))


def test_nothing_beyond_a_length_reaches_a_gradient() -> None:
    """NaN in the padding of ragged rows leaves the gradients of the weights as they are, to the bit."""
    body, grads = Recurrent("gru", F, H, 2, 0.0), []
    x, _ = inputs(1, torch.float32)
    inside = torch.arange(T) < RAGGED[:, None]
    for beyond in (0.0, float("nan")):
        top, _ = body.run(
            torch.where(inside[..., None], x.detach(), beyond),
            {s.name: torch.zeros(B, H) for s in body.state_tensors()},
            RAGGED,
        )
        grads.append(torch.autograd.grad(top[inside].square().sum(), list(body.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_the_same_run_twice_is_the_same_to_the_bit() -> None:
    """Outputs and gradients have no chance in them."""
    made = gru(2, torch.float32)
    first, second = (everything(made, lambda x, h: run_gru(made, x, h), RAGGED, torch.float32) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
