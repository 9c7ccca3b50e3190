"""A body that reads a series forwards and backwards: for labels of whole series that are there, never for a stream.

    Schuster & Paliwal 1997, IEEE Transactions on Signal Processing 45(11), 2673-2681, doi:10.1109/78.650093

Its output at t holds what came up to t and what comes from t on. With every new price all outputs before it change, so
it has no step: it cannot be exported, streamed or carried from one piece of a series to the next.

Legend: B batch, T time, F features, H hidden of one direction.

Comes in: features of whole series. Goes out: hidden vectors of both directions. Imported by network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.errors import ModelError
from models.observation import Array, State, StateTensor
from models.recurrent import CELLS


class Bidirectional(nn.Module):
    """Recurrent layers in both directions; each call of `run` reads a series as a whole, from zero at both ends.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    inputs, hidden, layers : int
        F, H and how many are stacked.
    dropout : float
        Share dropped between layers while training.
    """

    def __init__(self, cell: str, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cell, self.width = cell, 2 * hidden
        self.layers = CELLS[cell](inputs, hidden, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is there before the first move: nothing is carried."""
        return (StateTensor("edge", (self.width,), "float32", 0.0, "hidden", "output before the first move"),)

    def step(self, x: Array, state: State) -> State:  # noqa: ARG002  as every body
        """Refuse: a label given past and future is not known at any step."""
        raise ModelError(
            f"step of a bidirectional {self.cell}: it reads the future, so each label would change with every later "
            "price; it labels whole series with forward, and is neither exported nor streamed. Train without "
            "bidirectional for labels as prices come"
        )

    def output(self, state: State) -> Array:
        """Give what stands before the first move, [B, 2H]."""
        return state["edge"]

    def run(self, x_BTF: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Read sequences of given lengths as a whole; the state comes back as it was."""
        steps = torch.full((len(x_BTF),), x_BTF.shape[1]) if lengths is None else lengths.clamp(min=1)
        packed = pack_padded_sequence(x_BTF, steps, batch_first=True, enforce_sorted=False)
        top, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=x_BTF.shape[1])
        return top, state
