"""How many CPU threads torch uses for a while: small networks are fastest on one.

Two threads that wait for each other at every step of a 24-unit network cost more than they bring, and on a busy
machine many times more: there an array of some thousand numbers, taken in 0.1 ms by one, took two 20 ms. Comes in: a
number. Goes out: a context, or a decorator. Imported by what works in torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block, and what it used before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
