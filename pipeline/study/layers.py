"""Bare recurrent layers with a linear readout, and how they are trained: what the simulated experiments share.

    tanh   h' = tanh(W x + U h + b)                                   Elman 1990, Cognitive Science 14(2)
    relu   h' = max(0, W x + U h + b), U = I and b = 0 at first       Le, Jaitly & Hinton 2015, arXiv:1504.00941
    lstm   with a forget gate that is open at first, bias 1           Gers, Schmidhuber & Cummins 2000, Neural Comp. 12
    gru                                                               Cho et al. 2014, EMNLP

Legend: B batch, T time, F features, H hidden, O outputs.

Comes in: a kind and its sizes, batches. Goes out: networks, losses. Knows torch only; imported by the simulated
experiments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

KINDS = ("tanh", "relu", "lstm", "gru")

Hidden = tuple[Tensor, ...]
"""State of a layer, each [1, B, H]: (h,), or (h, c) for lstm."""

Batch = tuple[Tensor, Tensor]
Clip = Callable[[list[nn.Parameter]], object]


class Reader(nn.Module):
    """A recurrent layer and a linear readout of its output at every time."""

    def __init__(self, kind: str, inputs: int, hidden: int, outputs: int = 1) -> None:
        super().__init__()
        self.kind = kind
        self.layer = layer(kind, inputs, hidden)
        self.readout = nn.Linear(hidden, outputs)

    def run(self, x_BTF: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Read a sequence from a state, zero where none is given: outputs [B, T, O] and the state after it."""
        start = None if state is None else state if self.kind == "lstm" else state[0]
        top_BTH, end = self.layer(x_BTF, start)
        return self.readout(top_BTH), end if self.kind == "lstm" else (end,)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Read a sequence from the zero state, [B, T, O]."""
        return self.run(x_BTF)[0]


def layer(kind: str, inputs: int, hidden: int) -> nn.RNNBase:
    """Make one layer of a kind, batch first, with the start that its authors give it."""
    if kind in ("tanh", "relu"):
        made = nn.RNN(inputs, hidden, nonlinearity=kind, batch_first=True)
        if kind == "relu":
            nn.init.eye_(made.get_parameter("weight_hh_l0"))
            for side in ("ih", "hh"):
                nn.init.zeros_(made.get_parameter(f"bias_{side}_l0"))
        return made
    if kind == "gru":
        return nn.GRU(inputs, hidden, batch_first=True)
    made = nn.LSTM(inputs, hidden, batch_first=True)
    with torch.no_grad():
        for side, value in (("ih", 1.0), ("hh", 0.0)):
            made.get_parameter(f"bias_{side}_l0")[hidden : 2 * hidden] = value
    return made


@torch.no_grad()
def scale_recurrence(recurrent: nn.RNNBase, radius: float) -> None:
    """Scale the recurrent matrix so that the largest modulus of its eigenvalues, its spectral radius, is `radius`."""
    weight = recurrent.get_parameter("weight_hh_l0")
    weight.mul_(radius / torch.linalg.eigvals(weight).abs().max())


def norm_clip(bound: float) -> Clip:
    """Scale the whole gradient down to a norm (Pascanu, Mikolov & Bengio 2013, ICML, algorithm 1)."""
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, bound)


def value_clip(bound: float) -> Clip:
    """Cut each element of the gradient by itself; this changes its direction."""
    return lambda parameters: nn.utils.clip_grad_value_(parameters, bound)


def unclipped(parameters: list[nn.Parameter]) -> None:
    """Leave the gradient as it is."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update of the weights saw: the loss, and the norm of the gradient before it was clipped."""

    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def updates(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    clip: Clip,
) -> Iterator[Update]:
    """Update the weights for as long as the caller asks; end at the first loss or gradient that is no number."""
    parameters = list(network.parameters())
    while True:
        optimiser.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        update = Update(loss=value.item(), norm=norm.item())
        yield update
        if not update.finite:
            return
        clip(parameters)
        optimiser.step()
