"""The last values of a series as state: a ring, the newest first, that is pushed only where something arrives.

Legend: B batch, T time, M prices of one moment, L lags.

Comes in: values and where none arrived. Goes out: the ring after them. Imported by the cores that look back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.observation import Array
from models.operations import namespace


def pushed(ring: Array, newest: Array, held: Array, shape: tuple[int, int]) -> Array:
    """Put the newest value first; where held the ring stays bit for bit.

    Parameters
    ----------
    ring : float32 [B, M, L]
    newest, held : float32 and bool [B, M]
    shape : (M, L)
    """
    xp, (block, lags) = namespace(ring), shape
    newest, held = (xp.reshape(x, (-1, block, 1)) for x in (newest, held))
    if lags == 1:
        return xp.where(held, ring, newest)
    older, _ = xp.split(ring, [lags - 1, 1], 2)
    return xp.where(held, ring, xp.concat([newest, older], 2))


def unrolled(ring: Tensor, values: Tensor, held: Tensor) -> Tensor:
    """Give the ring after each of many values, all at once: held ones are closed up, then the last L gathered.

    Parameters
    ----------
    ring : float32 [B, M, L]
        Before the first value.
    values, held : float32 and bool [B, T, M]

    Returns
    -------
    float32 [B, T, M, L]
    """
    (batch, time, block), lags = values.shape, ring.shape[2]
    order = held.to(torch.int8).argsort(dim=1, stable=True)
    history = torch.cat([ring.flip(2).transpose(1, 2), values.gather(1, order)], 1)
    newest = (~held).cumsum(1) + lags - 1
    age = torch.arange(lags, device=newest.device)
    place = (newest[:, :, None] - age[:, None]).reshape(batch, time * lags, block)
    return history.gather(1, place).reshape(batch, time, lags, block).transpose(2, 3)
