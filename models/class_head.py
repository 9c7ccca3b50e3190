"""The head of a classifier: from what a body puts out to the probability of each class.

    p = softmax(W x + b)                                 x = [h, c, known ahead]
    c = Σ_k a_k m_k                                      only with attention pooling

with h the body's last output, m_k its output k moves ago and a_k the weights of `attention.Attention`, additive, asked
by h. Trained by the cross-entropy -log p_y, the log score of a categorical forecast (Good 1952, Rational decisions,
Journal of the Royal Statistical Society B 14(1), 107-114), which is proper: the best answer is the true probability.

Legend: B batch, S horizon steps, M prices of one moment, H width of the body, W slots of the ring, A width of what is
known ahead, C classes.

Comes in: the body's output. Goes out: `Label`. Imported by network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.attention import Attention
from models.errors import ConfigError
from models.observation import Array, Label
from models.operations import namespace


@dataclass(frozen=True, kw_only=True)
class LabellingConfig:
    """What only a classifier has.

    Attributes
    ----------
    pooling : {"last", "attention"}
        What a label is read from: the body's last output, or besides that a weighted mean of its last ones.
    window : int
        W, outputs over which attention pools, 2 to 512.
    bidirectional : bool
        Label each moment given what came before *and* after it: for whole series only, never for a stream.
    """

    pooling: Literal["last", "attention"] = "last"
    window: int = 32
    bidirectional: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.window <= 512:
            raise ConfigError(f"window: expected 2 to 512 outputs, got {self.window}")
        if self.bidirectional and self.pooling == "attention":
            raise ConfigError(
                "pooling: 'attention' looks back from a moment over the last outputs, but with bidirectional every "
                "output knows the whole series already. Set pooling to 'last', or bidirectional to false"
            )


class ClassHead(nn.Module):
    """Class probabilities of a body's output.

    Parameters
    ----------
    width, ahead : int
        H, and A.
    classes : int
        C, 2 or more.
    window : int
        W, or 0 for the last output alone.
    """

    df: Tensor

    def __init__(self, width: int, ahead: int, classes: int, window: int = 0) -> None:
        super().__init__()
        self.width, self.ahead, self.window = width, ahead, window
        self.output = nn.Linear(width * (2 if window else 1) + ahead, classes)
        self.register_buffer("df", torch.full((1,), float("nan")))
        if window:
            self.attention = Attention("additive", width, window)

    def freeze(self) -> None:
        """Nothing to fix: a label has no degrees of freedom."""

    def distribution(self, hidden: Array, scale: Array, rows: Array) -> Label:  # noqa: ARG002  as the other heads
        """Give the probability of each class, [B, C], from what the body put out and what is known ahead."""
        return Label(probability=namespace(hidden).softmax(self.logits(hidden)))

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats, [B, 1, 1], of targets [B, 1, 1] that are the indices of classes."""
        return cross_entropy(self.logits(hidden), target.flatten().long(), reduction="none").view(-1, 1, 1)

    def logits(self, hidden: Array) -> Array:
        """Give log probabilities up to a constant, [B, C]."""
        xp = namespace(hidden)
        return xp.linear(self._pooled(hidden), xp.constant(self.output.weight), xp.constant(self.output.bias))

    def _pooled(self, hidden: Array) -> Array:
        """Put the weighted mean of the ring in the place of the ring."""
        if not self.window:
            return hidden
        xp = namespace(hidden)
        sizes = [self.width, self.window * self.width, 1, *([self.ahead] if self.ahead else [])]
        last, ring, count, *ahead = xp.split(hidden, sizes, 1)
        memory = xp.reshape(ring, (-1, self.window, self.width))
        weights = self.attention.weights(last, self.attention.keys(memory), self.attention.filled(count))
        return xp.concat([last, xp.reshape(weights @ memory, (-1, self.width)), *ahead], 1)
