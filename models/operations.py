"""The small vocabulary in which every step is written once, here for torch tensors.

A step asks `namespace(x)` for its operations, in the manner of the Python array API standard: for tensors it
gets this module's `TorchOperations`; while a step is being traced into a file it gets the graph itself, whose
methods have the same names and emit one ONNX node each (three to repeat truths, more for recurrent layers). So the
file that is served *is* the step that was trained and tested, and adding an operation here means adding it in
`graph.py`.

Comes in: tensors. Goes out: tensors. Imported by the forecasters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class TorchOperations:
    """Eager operations on torch tensors. Axes count from 0, the batch axis."""

    @staticmethod
    def constant(x: Tensor) -> Tensor:
        """Bring a parameter of the model into the computation."""
        return x

    @staticmethod
    def cast(x: Tensor, like: Tensor) -> Tensor:
        """Convert to the number type of `like`."""
        return x.to(like.dtype)

    @staticmethod
    def where(condition: Tensor, a: Any, b: Any) -> Tensor:
        """Choose `a` where the condition holds, else `b`; one of the two may be a number."""
        return torch.where(condition, a, b)

    @staticmethod
    def isnan(x: Tensor) -> Tensor:
        """Tell which elements are NaN."""
        return torch.isnan(x)

    log = staticmethod(torch.log)
    exp = staticmethod(torch.exp)
    sqrt = staticmethod(torch.sqrt)
    abs = staticmethod(torch.abs)
    softplus = staticmethod(torch.nn.functional.softplus)
    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    relu = staticmethod(torch.relu)

    @staticmethod
    def clip(x: Tensor, low: float, high: float) -> Tensor:
        """Bring into [low, high]; NaN stays."""
        return x.clamp(low, high)

    @staticmethod
    def equal(x: Tensor, other: Tensor) -> Tensor:
        """Tell which elements are the same number; NaN is none."""
        return x == other

    @staticmethod
    def minimum(x: Tensor, other: Tensor) -> Tensor:
        """Take the smaller, element by element."""
        return torch.minimum(x, other)

    @staticmethod
    def sign(x: Tensor) -> Tensor:
        """Give -1, 0 or 1."""
        return torch.sign(x)

    @staticmethod
    def any(x: Tensor, axis: int) -> Tensor:
        """Tell whether any element along an axis holds; the axis stays, with length 1."""
        return x.any(axis, keepdim=True)

    @staticmethod
    def sum(x: Tensor, axis: int) -> Tensor:
        """Add up along an axis, which goes."""
        return x.sum(axis)

    @staticmethod
    def concat(xs: Sequence[Tensor], axis: int) -> Tensor:
        """Join along an axis."""
        return torch.cat(list(xs), axis)

    @staticmethod
    def split(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
        """Cut into pieces of the given sizes along an axis."""
        return torch.split(x, list(sizes), axis)

    @staticmethod
    def repeat(x: Tensor, width: int) -> Tensor:
        """Repeat the last axis, of length 1, `width` times; torch need not, for it broadcasts as fast."""
        return x.expand(*x.shape[:-1], width)

    @staticmethod
    def outer(x: Tensor, row: Tensor, base: Tensor) -> Tensor:
        """Give base + x row: [B, 1], [N], and [B, 1] or [B, N] give [B, N]."""
        return base + x * row

    @staticmethod
    def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
        """Give another shape; -1 stands for the batch axis."""
        return x.reshape(tuple(shape))

    @staticmethod
    def unsqueeze(x: Tensor, axis: int) -> Tensor:
        """Add an axis of length 1."""
        return x.unsqueeze(axis)

    @staticmethod
    def transpose(x: Tensor, axes: Sequence[int]) -> Tensor:
        """Put the axes in another order."""
        return x.permute(tuple(axes))

    @staticmethod
    def sort(x: Tensor, size: int) -> Tensor:  # noqa: ARG004  a graph must be told
        """Sort along the last axis, which has `size` elements, the smallest first."""
        return x.sort(-1).values

    @staticmethod
    def take(table: Tensor, rows: Tensor) -> Tensor:
        """Gather rows of a table: [R, ...] and [B] give [B, ...]."""
        return table[rows]

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply x Wᵀ + b: [B, I], [O, I], [O] give [B, O]."""
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def softmax(x: Tensor) -> Tensor:
        """Give shares that add up to 1 along the last axis; one of -inf is 0."""
        return x.softmax(-1)

    @staticmethod
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Bring the last axis [N] to mean 0 and variance 1, then times weight [N] plus bias [N]."""
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)

    @staticmethod
    def recurrent(cell: str, x: Tensor, state: list[list[Tensor]], weights: list[list[Tensor]]) -> list[list[Tensor]]:
        """Advance a stack of recurrent layers by one step.

        Parameters
        ----------
        cell : {"rnn", "lstm", "gru"}
        x : float32 [B, F]
        state : per layer [h] or, for lstm, [h, c], each float32 [B, H]
        weights : per layer [w_ih [G*H, F], w_hh [G*H, H], b_ih [G*H], b_hh [G*H]] in torch's gate order

        Returns
        -------
        The next state, shaped as `state`; the last layer's h is the output.
        """
        following = []
        for layer_state, layer in zip(state, weights, strict=True):
            if cell == "lstm":
                layer_next = list(torch.lstm_cell(x, layer_state, *layer))
            elif cell == "gru":
                layer_next = [torch.gru_cell(x, layer_state[0], *layer)]
            else:
                layer_next = [torch.rnn_tanh_cell(x, layer_state[0], *layer)]
            following.append(layer_next)
            x = layer_next[0]
        return following

    @staticmethod
    def bidirectional(x: Tensor, weights: list[list[Tensor]]) -> Tensor:
        """Read a short sequence [N, B, F] by a GRU forwards and by one backwards, from zero: [N, 2, B, H].

        `weights` are those of the two directions, each as a layer's in `recurrent`.
        """
        width = weights[0][1].shape[1]
        start = x.new_zeros(2, x.shape[1], width)
        out, _ = torch.gru(x, start, [w for way in weights for w in way], True, 1, 0.0, False, True, False)
        return out.unflatten(2, (2, width)).transpose(1, 2)


def namespace(x: Any) -> Any:
    """Return the operations for `x`: torch's for a tensor, the graph being traced for a symbol."""
    return TorchOperations if isinstance(x, Tensor) else x.graph


def per_price(x: Any, shape: tuple[int, int], to: tuple[int, int, int]) -> Any:
    """Put x [B, ...] on the axes [B, *to] of a forecast of (S, M) prices.

    For one step of one price these axes are left out, [B, width] as it came: broadcasting does what reshaping would.
    """
    return x if shape == (1, 1) else namespace(x).reshape(x, (-1, *to))
