"""One GRU layer over a whole sequence as one function with its own way back: how a GRU is fitted on a CPU.

    r = σ(W_r x + b_r + U_r h + c_r),  z = σ(W_z x + b_z + U_z h + c_z)
    n = tanh(W_n x + b_n + r q),  q = U_n h + c_n
    h' = (1 - z) n + z h = lerp(n, h, z)

    Cho et al. (2014) EMNLP, in the form of cuDNN, `linear_before_reset=1` in ONNX, and of `nn.GRU`.

`nn.GRU` on a CPU is a dozen operations a step, each a node of the graph. Here a step is six operations in place and
three on the way back. All derivatives of a step are d = ∂/∂h' times a factor that is known before the way back
begins:

    ∂q = d (1 - z)(1 - n²) r,  ∂r̃ = d (1 - z)(1 - n²) q r (1 - r),  ∂z̃ = d (h - n) z (1 - z),  ∂ñ = d (1 - z)(1 - n²)
    ∂h = d z + U_r' ∂r̃ + U_z' ∂z̃ + U_n' ∂q

with r̃, z̃ and ñ what σ and tanh are taken of. In a row the four stand as q, r, z, n: the recurrent product is one matrix
over the first three, the product of the input one over the last three. See docs/decisions/0023.

Legend: B batch, T time, N rows of all steps packed one step after the other (T*B where no row ends early), F features,
H hidden, K layers.

Comes in: an `nn.GRU`, which keeps the weights, a sequence, a state. Goes out: what the `nn.GRU` would give. Knows torch
only. Imported by recurrent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

BLOCK = 2048
"""Rows whose gates are worked on before the next: few enough to stay in a cache, many enough for one large product."""


def run_gru(layers: nn.GRU, x: Any, h_KBH: Tensor) -> tuple[Any, Tensor]:
    """Give what `layers(x, h_KBH)` gives, to rounding, with gradients.

    Parameters
    ----------
    layers : nn.GRU
        In one direction, with biases, batch first. While it is in training its dropout acts between layers.
    x : float [B, T, F] with T of 1 or more, or PackedSequence
    h_KBH : float [K, B, H]

    Returns
    -------
    top : float [B, T, H], or PackedSequence
        Output of the last layer.
    end : float [K, B, H]
        State after the last step of each row.
    """
    if isinstance(x, PackedSequence):
        order, back = x.sorted_indices, x.unsorted_indices
        start = h_KBH if order is None else h_KBH[:, order]
        top_NH, end = _stack(layers, x.data, x.batch_sizes, start)
        return PackedSequence(top_NH, x.batch_sizes, order, back), end if back is None else end[:, back]
    batch, time = x.shape[:2]
    top_NH, end = _stack(layers, x.transpose(0, 1).flatten(0, 1), torch.full((time,), batch), h_KBH)
    return top_NH.unflatten(0, (time, batch)).transpose(0, 1), end


def _stack(layers: nn.GRU, x_NF: Tensor, sizes: Tensor, h_KBH: Tensor) -> tuple[Tensor, Tensor]:
    """Run layer after layer over packed rows, `sizes` int64 [T] of them at each step; give the top and the ends."""
    row = torch.arange(h_KBH.shape[1])
    begins = sizes.cumsum(0) - sizes
    last = begins[(sizes[:, None] > row).sum(0) - 1] + row
    per_step, ends, learns = sizes.tolist(), [], torch.is_grad_enabled()
    for k, h_BH in enumerate(h_KBH):
        if k:
            x_NF = nn.functional.dropout(x_NF, layers.dropout, layers.training)
        names = (f"{name}_l{k}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        x_NF = GruSequence.apply(x_NF, h_BH, *(getattr(layers, name) for name in names), per_step, learns)
        ends.append(x_NF[last])
    return x_NF, torch.stack(ends)


class GruSequence(torch.autograd.Function):
    """One layer over packed rows: outputs [N, H] from x [N, F], h [B, H], the weights of `nn.GRU`, rows a step."""

    @staticmethod
    def forward(
        ctx: Any, x_NF: Tensor, h_BH: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor, sizes: list[int], learns: bool
    ) -> Tensor:
        """Run over the steps; keeps the four gates and the outputs for the way back, if it `learns`."""
        width = u.shape[1]
        # tanh(a) = 2 σ(2a) - 1: torch's tanh takes several times as long as its σ. Doubling is exact.
        from_h = torch.cat([2 * u[2 * width :], u[: 2 * width]]).t().contiguous()
        from_x = torch.cat([w[: 2 * width], 2 * w[2 * width :]]).t().contiguous()
        bias = torch.cat([b[: 2 * width] + c[: 2 * width], 2 * b[2 * width :]])
        minus_one = x_NF.new_tensor(-1.0)
        states = x_NF.new_empty(len(h_BH) + len(x_NF), width)
        before, out = states.split([len(h_BH), len(x_NF)])
        before.copy_(h_BH)
        blocks = _blocks(sizes)
        rows = [sum(block) for block in blocks]
        gates = x_NF.new_empty(len(x_NF) if learns else max(rows), 4 * width)
        parts = gates.split(rows) if learns else [gates[:count] for count in rows]
        for block, x, part, top in zip(blocks, x_NF.split(rows), parts, out.split(rows), strict=True):
            part[:, :width] = 2 * c[2 * width :]
            torch.addmm(bias, x, from_x, out=part[:, width:])
            views = (part[:, : 3 * width], part[:, width : 3 * width], *part.split(width, 1), top)
            for recurrent, rz, q, r, z, n, after in zip(*(view.split(block) for view in views), strict=True):
                if len(after) < len(before):
                    before = before[: len(after)]
                recurrent.addmm_(before, from_h)
                rz.sigmoid_()
                n.addcmul_(r, q).sigmoid_()
                torch.add(minus_one, n, alpha=2.0, out=n)
                torch.lerp(n, before, z, out=after)
                before = after
        if learns:
            ctx.save_for_backward(x_NF, w, u, gates, states)
            ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *from_above: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]  untyped wrapper
        """Go back through time; the weights' gradients are taken block by block."""
        x_NF, w, u, gates, states = ctx.saved_tensors
        width, blocks = u.shape[1], _blocks(ctx.sizes)
        rows = [sum(block) for block in blocks]
        to_h = torch.cat([u[2 * width :], u[: 2 * width]])
        batch, of_step = ctx.sizes[0], states.split([ctx.sizes[0], *ctx.sizes])
        even = len(states) == batch * len(of_step)
        before = states if even else torch.cat([h[:size] for h, size in zip(of_step, ctx.sizes, strict=False)])
        d_h = torch.cat([torch.zeros_like(of_step[0]), *from_above]).split([batch, *ctx.sizes])
        d_x = torch.empty_like(x_NF) if ctx.needs_input_grad[0] else None
        # the transposed product into rows is up to six times as fast as that into columns where F is small
        d_w, d_u, d_bias = w.new_zeros(w.shape[::-1]), u.new_zeros(u.shape[::-1]), w.new_zeros(4 * width)
        scratch = torch.empty_like(gates[: max(rows)])
        t, end = len(ctx.sizes), len(x_NF)
        for block, count in zip(reversed(blocks), reversed(rows), strict=True):
            piece = slice(end - count, end)
            d_gates = _factors(gates[piece], before[piece], scratch[:count])
            from_h, from_x = d_gates[:, : 3 * width], d_gates[:, width:]
            views = d_gates.unflatten(1, (4, width)), from_h, gates[piece, 2 * width : 3 * width]
            for d_all, d_recurrent, z in zip(*(reversed(view.split(block)) for view in views), strict=True):
                d, d_before = d_h[t], d_h[t - 1]
                d_all.mul_(d[:, None])
                if len(d) < len(d_before):
                    d_before = d_before[: len(d)]
                d_before.addcmul_(d, z).addmm_(d_recurrent, to_h)
                t -= 1
            d_w.addmm_(x_NF[piece].t(), from_x)
            d_u.addmm_(before[piece].t(), from_h)
            d_bias += d_gates.sum(0)
            if d_x is not None:
                torch.mm(from_x, w, out=d_x[piece])
            end -= count
        d_u, d_c = d_u.t(), torch.cat([d_bias[width : 3 * width], d_bias[:width]])
        return d_x, d_h[0], d_w.t(), torch.cat([d_u[width:], d_u[:width]]), d_bias[width:], d_c, None, None


def _factors(gates: Tensor, before: Tensor, factors: Tensor) -> Tensor:
    """Fill in what d is multiplied with for the derivatives of q, r, z and n before their σ and tanh, [rows, 4H]."""
    q, r, z, n = gates.split(before.shape[1], 1)
    zero, one = gates.new_tensor(0.0), gates.new_tensor(1.0)
    of_q, of_r, of_z, of_n = factors.split(before.shape[1], 1)
    # x - x y is x (1 - y) without a temporary
    torch.addcmul(one, n, n, value=-1.0, out=of_n).addcmul_(of_n, z, value=-1.0)
    torch.mul(of_n, r, out=of_q)
    torch.addcmul(zero, of_q, q, value=0.5, out=of_r).addcmul_(of_r, r, value=-1.0)  # q is kept doubled
    torch.sub(before, n, out=of_z).mul_(z).addcmul_(of_z, z, value=-1.0)
    return factors


def _blocks(sizes: list[int]) -> list[list[int]]:
    """Cut steps into blocks of at most `BLOCK` rows, or of one step."""
    blocks: list[list[int]] = []
    room = 0
    for size in sizes:
        if size > room:
            blocks.append([])
            room = max(BLOCK, size)
        blocks[-1].append(size)
        room -= size
    return blocks
