"""The causal running scale: how large moves are just now, on several memories, carried in the state.

For memory n, with k the number of moves seen so far (k0 = 1 pseudo-move from the prior):

    k ← min(k + 1, n)        v ← v + (r² − v) / k        v̂ = v + φ·v_long + ε        z = r / √v̂

a mean over the first n moves that turns into an exponential average of that length (RiskMetrics 1996, with a
start that forgets its prior). The scale at t includes the move at t, so |z| ≤ √n whatever comes: outliers
saturate by themselves. The floor φ·v_long is causal and keeps a series that stands still from a zero scale; the
longest memory goes without it. ε = 1e-12 of the unit² is for a series that never moved.

Legend: B batch, M prices of one moment, W memories; the axis W*M is memory-major.

Comes in: transformed moves. Goes out: standardised moves and log variances. Imported by the recurrent core.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.observation import Array, State, StateTensor
from models.operations import namespace

FLOOR = 1e-2
EPSILON = 1e-12


class RunningScale(nn.Module):
    """Exponential averages of the squared move with memories in steps, the shortest first.

    Parameters
    ----------
    memories : tuple of int
        Number of moves each average remembers, increasing; the last gives the floor.
    unit : float
        Typical absolute move on the transformed scale (fitted on the train split); all inside is in this unit.
    block : int
        Prices of one moment (M).
    """

    limit: Tensor
    per_unit: Tensor
    spreading: Tensor

    def __init__(self, memories: tuple[int, ...], unit: float, block: int) -> None:
        super().__init__()
        self.block, self.width = block, len(memories) * block
        self.register_buffer("per_unit", torch.tensor([1.0 / unit]))
        self.register_buffer("limit", torch.tensor(memories, dtype=torch.float32).repeat_interleave(block))
        floor = torch.eye(self.width)
        for row in range(self.width - block):
            floor[row, self.width - block + row % block] = FLOOR
        self.register_buffer("floor", floor)
        self.register_buffer("least", torch.full((self.width,), EPSILON))
        self.register_buffer("shortest", unit * torch.eye(self.width, block))
        self.register_buffer("spreading", torch.eye(block).repeat(1, len(memories)), persistent=False)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the averages and how many moves are in them."""
        shape = (self.width,)
        return (
            StateTensor("variance", shape, "float32", 1.0, "return^2", "running mean square move, in squared units"),
            StateTensor("count", shape, "float32", 1.0, "count", "moves in each average, up to its memory"),
        )

    def step(self, change: Array, held: Array, state: State) -> tuple[Array, Array, Array, State]:
        """Take in a move.

        Parameters
        ----------
        change : float32 [B, M]
            Move on the transformed scale, 0 where held.
        held : bool [B, M]
            True where nothing new arrived: the state stays bit for bit.
        state : State
            `variance` and `count`, float32 [B, W*M].

        Returns
        -------
        standardised, log_variance : float32 [B, W*M]
        scale : float32 [B, M]
            That of the shortest memory, on the transformed scale.
        state : State
        """
        xp = namespace(change)
        move = change @ xp.constant(self.per_unit * self.spreading)
        moved = xp.linear(
            xp.cast(held, change), xp.constant(-self.spreading.T), xp.constant(torch.ones_like(self.limit))
        )
        count = xp.minimum(state["count"] + moved, xp.constant(self.limit))
        variance = state["variance"]
        variance = variance + moved / count * (move * move - variance)
        return *self._over(move, variance), {"variance": variance, "count": count}

    def unroll(self, change: Tensor, held: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Take in many moves [B, T, M]: the averages one after the other, the rest all at once.

        Element [:, t] of what `step` gives has a time axis after the batch axis; the state is that after the last.
        """
        batch, time = change.shape[:2]
        flat = self.spread((change * self.per_unit).flatten(0, 1))
        moved = self.spread(torch.where(held, 0.0, self.one).flatten(0, 1)).unflatten(0, (batch, time))
        count = torch.minimum(state["count"][:, None] + moved.cumsum(1), self.limit)
        variance = _averages((flat * flat).unflatten(0, (batch, time)), moved / count, state["variance"])
        parts = self._over(flat, variance.flatten(0, 1))
        standardised, log_variance, scale = (x.unflatten(0, (batch, time)) for x in parts)
        return standardised, log_variance, scale, {"variance": variance[:, -1], "count": count[:, -1]}

    def _over(self, move: Array, variance: Array) -> tuple[Array, Array, Array]:
        """Give moves over the running scale, log variances, and the scale of the shortest memory."""
        xp = namespace(move)
        safe = xp.linear(variance, xp.constant(self.floor), xp.constant(self.least))
        scale = xp.sqrt(safe)
        return move / scale, xp.log(safe), scale @ xp.constant(self.shortest)

    @property
    def one(self) -> Tensor:
        """The number 1 in the number type of the model."""
        return torch.ones((), dtype=self.limit.dtype, device=self.limit.device)

    def spread(self, x: Array) -> Array:
        """Repeat [B, M] for every memory, to [B, W*M]; for M = 1 broadcasting does it."""
        return x if self.block == 1 else namespace(x).concat([x] * (self.width // self.block), 1)


def _averages(square: Tensor, share: Tensor, variance: Tensor) -> Tensor:
    """Move the averages by one squared move after another; `share` and what is given are [B, T, W*M].

    Plain arrays, since a step is a few numbers; the order of arithmetic is that of `RunningScale.step`.
    """
    x, part = (np.ascontiguousarray(t.cpu().numpy().swapaxes(0, 1)) for t in (square, share))
    now, out = variance.cpu().numpy(), np.empty_like(part)
    moved = np.empty_like(now)
    for x_t, part_t, out_t in zip(x, part, out, strict=True):
        np.subtract(x_t, now, moved)
        np.multiply(moved, part_t, moved)
        now = np.add(now, moved, out_t)
    return torch.from_numpy(out).to(square.device).transpose(0, 1)
