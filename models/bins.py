"""Bins of the standardised move: prices as tokens.

The edges e_0 < … < e_K are those of equally full bins: the inner ones are quantiles of the train targets. An outer bin
ends where a uniform density on it has the mean of the train targets in it. With the probabilities p_k of the bins and
C_k their sums, the distribution is uniform within a bin, and its quantiles are

    q_τ = e_m + Σ_k w_k · (min(max((τ - C_{k-1}) / p_k, 0), 1) - 1[k ≤ m])        w_k = e_k - e_{k-1}

which rise with τ; m = (K - 1)/2 is the bin below the middle one, where the sum begins so that few terms are not 0.

What is read of a move is the learned row of its bin, between the middles of two bins a mixture of their rows: a hard
choice would let two machines whose last bits differ read different tokens.

Legend: B batch, S horizon steps, M prices of one moment, K bins, Q quantile levels, E width of a row.

Comes in: targets, moves, probabilities. Goes out: bins, rows, quantiles. Imported by heads and network.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import FitError
from models.observation import LEVELS, Array
from models.operations import namespace

LEAST_WIDTH = 1e-4
"""Narrowest bin, in running scales: where many moves are the same number, quantiles of them are too."""


class Bins(nn.Module):
    """K bins for each of (S, M) prices, in units of the running scale.

    Parameters
    ----------
    horizon, block, count : int
        S, M and K.
    """

    edges: Tensor
    levels: Tensor
    before: Tensor
    below: Tensor

    def __init__(self, horizon: int, block: int, count: int) -> None:
        super().__init__()
        self.horizon, self.block, self.count = horizon, block, count
        root = torch.arange(1, horizon + 1).sqrt()[:, None, None]
        self.register_buffer("edges", root * torch.linspace(-2, 2, count + 1).expand(horizon, block, -1))
        self.register_buffer("levels", torch.tensor(LEVELS)[:, None])
        self.register_buffer("below", (torch.arange(count) < count // 2).float())
        self.register_buffer("before", torch.ones(count, count).triu(1))

    def fit(self, targets: Tensor, weight: Tensor) -> None:
        """Take the edges from targets [..., S, M] of the *train split*, those of weight 0 left out.

        Raises
        ------
        FitError
            A step has fewer targets than bins.
        """
        for s in range(self.horizon):
            for m in range(self.block):
                x = targets[..., s, m][weight[..., s, m] > 0].double().cpu().numpy()
                if len(x) < self.count:
                    raise FitError(
                        f"bins: expected at least one train target a bin, got {len(x)} for {self.count} bins of step "
                        f"{s + 1}. Give more data, or lower fit.network.bins"
                    )
                self.edges[s, m] = torch.from_numpy(_edges(x, self.count))

    def of(self, target: Tensor) -> Tensor:
        """Give the bin int64 [B, S, M], from 0, in which targets lie; beyond the outer edges it is the outer one."""
        return (target[..., None] > self.edges[..., 1:-1]).sum(-1)

    def rows(self, table: Array, moves: Array) -> Array:
        """Give what is read of moves [B, M] over the running scale, [B, M*E], from a row [K, E] a bin.

        The bins are those of the first step. Each of K - 1 ramps leads from the row of one bin to that of the next.
        """
        xp, middle = namespace(moves), (self.edges[0, :, 1:] + self.edges[0, :, :-1]) / 2
        place = xp.reshape(moves, (-1, self.block, 1)) - xp.constant(middle[:, :-1])
        ramps = xp.clip(place / xp.constant(middle.diff()), 0.0, 1.0)
        mixed = ramps @ xp.constant(table[1:] - table[:-1]) + xp.constant(table[0])
        return xp.reshape(mixed, (-1, self.block * table.shape[1]))

    def quantiles(self, share: Array) -> Array:
        """Invert the distribution function: probabilities [B, S, M, 1, K], all above 0, give [B, S, M, Q].

        Where S and M are 1 these two axes are left out, in both.
        """
        xp, edges = namespace(share), self.edges
        if self.horizon == self.block == 1:
            edges = edges[0, 0]
        filled = xp.clip((xp.constant(self.levels) - share @ xp.constant(self.before)) / share, 0.0, 1.0)
        width = xp.constant(edges.diff()[..., None, :])
        away = (filled - xp.constant(self.below)) * width
        return xp.sum(away, edges.ndim + 1) + xp.constant(edges[..., self.count // 2, None])


def _edges(x: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Give the edges [K + 1] of equally full bins, moved apart where they coincide."""
    inner = np.quantile(x, np.arange(1, count) / count)
    low, high = x[x <= inner[0]].mean(), x[x >= inner[-1]].mean()
    edges = np.array([2 * low - inner[0], *inner, 2 * high - inner[-1]], np.float64)
    return edges + LEAST_WIDTH * (np.arange(count + 1) - count / 2)
