"""What a series must have before anything is fitted to it: enough moves, and moves that vary.

Legend: T time, M prices of one moment.

Comes in: moves of a series. Goes out: those of each price of its moment, or an error. Imported by the simple models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.errors import FitError

Vector = NDArray[np.floating]


def fittable(moves: Vector, row: int, *, kind: str, least: int, remedy: str = "Leave the series out") -> list[Vector]:
    """Give the moves of each price of a moment, holes left out.

    Parameters
    ----------
    moves : float64 [T] or [T, M]
    row : int
        Parameter row of the series, from 1.
    kind : str
        What is being fitted, for the message.
    least : int
        Fewest moves that it takes.
    remedy : str
        What to do where there are fewer, for the message.

    Raises
    ------
    FitError
        There are fewer, or they are all the same.
    """
    block = moves[:, None] if moves.ndim == 1 else moves
    columns = [x[np.isfinite(x)] for x in block.T]
    for price, x in enumerate(columns):
        if len(x) < least or np.ptp(x) == 0:
            where = f"series row {row}" + (f", price {price} of the block" if len(columns) > 1 else "")
            raise FitError(
                f"{kind}: {where} has {len(x)} moves that span {np.ptp(x) if len(x) else 0:g}; expected at least "
                f"{least} moves that vary. {remedy}",
                row=row,
            )
    return columns


def one_price(moves: Vector, row: int, *, kind: str, least: int) -> Vector:
    """Give the moves [T] of a series with one price a moment.

    Raises
    ------
    FitError
        A moment has more prices than one, however many moves there are; or as `fittable`.
    """
    if moves.ndim == 2 and moves.shape[1] > 1:
        raise FitError(
            f"{kind}: expected one price a moment, got blocks of {moves.shape[1]}. It has no model of prices that are "
            f"published together: leave {kind.lower()} out of the models, or set block = 1"
        )
    remedy = f"Leave the series out, or leave {kind.lower()} out of the models"
    return fittable(moves, row, kind=kind, least=least, remedy=remedy)[0]
