"""Two tasks that only a memory solves, with the loss that a forecaster without memory has.

Adding: two inputs a step, a number of [0, 1] and a mark; two steps are marked, one in each half; to give is the sum of
the two marked numbers. Without memory the best answer is 1, with mean squared error 1/6. Copying: ten symbols of eight,
`gap` blanks, a signal, and then the ten symbols are to be given. Without memory the best answer is uniform, with
cross-entropy ln 8 a symbol.

    Hochreiter & Schmidhuber 1997, Neural Computation 9(8), 5.4; Arjovsky, Shah & Bengio 2016, ICML, 4.1 and 4.2

Legend: B batch, T time, F features.

Comes in: a task's name and length. Goes out: batches, losses. Knows torch only; imported by the experiments on
gradients, memory and clipping.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from models.errors import ConfigError, unknown

SYMBOLS, COPIED = 8, 10
BLANK, SIGNAL = SYMBOLS, SYMBOLS + 1

INPUTS = {"adding": 2, "copying": SYMBOLS + 2}
OUTPUTS = {"adding": 1, "copying": SYMBOLS}
MEMORYLESS = {"adding": 1 / 6, "copying": math.log(SYMBOLS)}
"""Expected loss of the best forecast that reads nothing."""


def batch(task: str, length: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a batch of a task whose gap to bridge has `length` steps.

    Returns
    -------
    x : float32 [B, T, F]
        T is `length` for adding and `length` + 20 for copying.
    y : float32 [B] or int64 [B, 10]
    """
    if task not in INPUTS:
        raise ConfigError(unknown("task", task, INPUTS))
    return (_adding if task == "adding" else _copying)(length, rows, generator)


def loss(task: str, outputs_BTO: Tensor, y: Tensor) -> Tensor:
    """Score the outputs at the steps where an answer is due: the last one, or the last ten."""
    if task == "adding":
        return mse_loss(outputs_BTO[:, -1, 0], y)
    return cross_entropy(outputs_BTO[:, -COPIED:].flatten(0, 1), y.flatten())


def _adding(length: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    number = torch.rand(rows, length, generator=generator)
    mark, row, half = torch.zeros(rows, length), torch.arange(rows), length // 2
    mark[row, torch.randint(0, half, (rows,), generator=generator)] = 1.0
    mark[row, torch.randint(half, length, (rows,), generator=generator)] = 1.0
    return torch.stack([number, mark], 2), (number * mark).sum(1)


def _copying(length: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    symbols = torch.randint(0, SYMBOLS, (rows, COPIED), generator=generator)
    blanks = torch.full((rows, length - 1), BLANK)
    signal, silent = torch.full((rows, 1), SIGNAL), torch.full((rows, COPIED), BLANK)
    read = torch.cat([symbols, blanks, signal, silent], 1)
    return one_hot(read, SYMBOLS + 2).float(), symbols
