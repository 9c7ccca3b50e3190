"""Attention over a window of what was put out before: which moments of the past count for the step being decoded.

    additive  e_k = vᵀ tanh(Q q + K m_k + p_k)            Bahdanau, Cho & Bengio 2015 (ICLR), A.1.2
    dot       e_k = (Q q)ᵀ (K m_k + p_k) / √H             Luong, Pham & Manning 2015 (EMNLP), scaled as in
                                                          Vaswani et al. 2017 (NeurIPS), 3.2.1

with m_k the output k steps ago, and a_k = softmax over the filled slots of e_k. The window moves along with the
series, so a slot is known by its age k alone: each age has a learned vector p_k beside the content (Shaw, Uszkoreit &
Vaswani 2018, NAACL, relative positions).

Legend: B batch, W slots of the window, H hidden.

Comes in: a query and the window. Goes out: weights. Imported by decoder.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from models.observation import Array
from models.operations import namespace

AttentionKind = Literal["additive", "dot"]
NEVER = -1e9
"""Score of an empty slot: its weight is exactly 0 where any other slot is filled."""


class Attention(nn.Module):
    """Weights over a window, the newest slot first.

    Parameters
    ----------
    kind : {"additive", "dot"}
    width, window : int
        H and W.
    """

    slots: Tensor

    def __init__(self, kind: AttentionKind, width: int, window: int) -> None:
        super().__init__()
        self.kind, self.width, self.window = kind, width, window
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.age = nn.Parameter(torch.randn(window, width) / math.sqrt(width))
        if kind == "additive":
            self.energy = nn.Parameter(torch.randn(width, 1) / math.sqrt(width))
        self.register_buffer("slots", torch.arange(window, dtype=torch.float32), persistent=False)

    def keys(self, memory: Array) -> Array:
        """Give what queries are held against, once for all steps: [B, W, H], for dot [B, H, W]."""
        xp = namespace(memory)
        keys = memory @ xp.constant(self.key.weight.T) + xp.constant(self.age)
        return keys if self.kind == "additive" else xp.transpose(keys * (1 / math.sqrt(self.width)), (0, 2, 1))

    def filled(self, count: Array) -> Array:
        """Tell which slots hold an output, bool [B, 1, W], from how many do [B, 1]."""
        xp = namespace(count)
        return xp.unsqueeze(xp.constant(self.slots) < count, 1)

    def weights(self, query: Array, keys: Array, filled: Array) -> Array:
        """Give the weight of each slot, [B, 1, W], for a query [B, H]; they add up to 1."""
        xp = namespace(query)
        asked = xp.unsqueeze(xp.linear(query, xp.constant(self.query.weight), xp.constant(self.query.bias)), 1)
        if self.kind == "dot":
            score = asked @ keys
        else:
            score = xp.reshape(xp.tanh(asked + keys) @ xp.constant(self.energy), (-1, 1, self.window))
        return xp.softmax(xp.where(filled, score, NEVER))
