"""Recurrent layers as the body of a network: RNN, LSTM and GRU are one class with one setting.

    Elman (1990) Cognitive Science 14(2); Hochreiter & Schmidhuber (1997) Neural Computation 9(8);
    Cho et al. (2014) EMNLP, in the form of cuDNN and ONNX `linear_before_reset=1`.

A GRU that is trained on a CPU runs through `gru_sequence`, which takes the weights of this one's `nn.GRU`.

Legend: B batch, T time, F features, H hidden, K layers.

Comes in: features. Goes out: the hidden vector of the last layer. Imported by network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from models.gru_sequence import run_gru
from models.observation import Array, State, StateTensor
from models.operations import namespace

CELLS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
CARRIED = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",)}


Engine = Callable[[Tensor, State, Tensor | None], tuple[Tensor, State]]
"""What runs a sequence in the place of torch, where nothing is trained; takes and gives what `Recurrent.run` does."""


class Recurrent(nn.Module):
    """A stack of recurrent layers; a hidden vector a layer (and for lstm a cell vector) is the state.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    inputs, hidden, layers : int
        F, H and K.
    dropout : float
        Share dropped between layers while training.
    """

    def __init__(self, cell: str, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cell, self.depth, self.width = cell, layers, hidden
        self.engine: Engine | None = None
        self.layers = CELLS[cell](inputs, hidden, layers, batch_first=True, dropout=dropout)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried, layer by layer."""
        meaning = {"h": "output of layer", "c": "cell of layer"}
        return tuple(
            StateTensor(f"{part}{k}", (self.width,), "float32", 0.0, "hidden", f"{meaning[part]} {k}")
            for k in range(self.depth)
            for part in CARRIED[self.cell]
        )

    def step(self, x: Array, state: State) -> State:
        """Advance by one step: features [B, F]."""
        xp = namespace(x)
        before = [[state[f"{part}{k}"] for part in CARRIED[self.cell]] for k in range(self.depth)]
        after = xp.recurrent(self.cell, x, before, [[xp.constant(w) for w in layer] for layer in self.weights()])
        pairs = [zip(CARRIED[self.cell], layer, strict=True) for layer in after]
        return {f"{part}{k}": new for k, layer in enumerate(pairs) for part, new in layer}

    def output(self, state: State) -> Array:
        """Give what the layers last put out, [B, H]."""
        return state[f"h{self.depth - 1}"]

    def run(self, x_BTF: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over a sequence.

        Parameters
        ----------
        x_BTF : float32 [B, T, F]
        state : State
        lengths : int64 [B] on the CPU, optional
            How many steps of each row count; the state comes back as it was after the last of them.

        Returns
        -------
        top : float32 [B, T, H]
            Output of the last layer; beyond a row's length it means nothing.
        state : State
        """
        if self.engine is not None:
            return self.engine(x_BTF, state, lengths)
        hidden = self._stacked(state)
        if lengths is None:
            top, end = self._run_layers(x_BTF, hidden)
            return top, self._unstacked(end)
        packed = pack_padded_sequence(x_BTF, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        out, ended = self._run_layers(packed, hidden)
        top, _ = pad_packed_sequence(out, batch_first=True, total_length=x_BTF.shape[1])
        none = (lengths == 0).to(x_BTF.device)[None, :, None]
        return top, self._unstacked(tuple(torch.where(none, o, new) for o, new in zip(hidden, ended, strict=True)))

    def weights(self) -> list[list[Tensor]]:
        """Give of each layer weight_ih, weight_hh, bias_ih and bias_hh."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [[getattr(self.layers, f"{n}_l{k}") for n in names] for k in range(self.depth)]

    def _run_layers(self, x: Tensor | PackedSequence, hidden: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
        """Run the layers from (h,) or (h, c), each [K, B, H]; give the output of the top, and these after the run."""
        if self.cell == "lstm":
            return self.layers(x, hidden)
        if isinstance(self.layers, nn.GRU) and hidden[0].device.type == "cpu":
            top, end = run_gru(self.layers, x, hidden[0])
        else:
            top, end = self.layers(x, hidden[0])
        return top, (end,)

    def _stacked(self, state: State) -> tuple[Tensor, ...]:
        """Join the layers' states into (h,) or (h, c), each [K, B, H]."""
        layers = range(self.depth)
        return tuple(torch.stack([state[f"{part}{k}"] for k in layers]) for part in CARRIED[self.cell])

    def _unstacked(self, hidden: tuple[Tensor, ...]) -> State:
        """Undo `_stacked`."""
        parts = zip(CARRIED[self.cell], hidden, strict=True)
        return {f"{part}{k}": x[k] for part, x in parts for k in range(self.depth)}
