"""Lines of ticks with faults of every kind, for the tests of the stream."""

from __future__ import annotations

import random
from collections.abc import Sequence

import orjson
from hypothesis import strategies as st
from served import SERIES

US = 1_704_067_200_000_000
"""2024-01-01T00:00:00Z."""

HOUR = 3_600_000_000
"""Bar of the small model."""

BESIDE = {"load": 1.0, "wind": [2.0, 3.0]}
"""What the model of `variants.reading` reads beside the price."""


def tick(name: str = "A", hour: float = 0, price: object = 100.0, **more: object) -> bytes:
    """Write one JSON line; its time is so many hours after `US`."""
    return orjson.dumps({"series": name, "time": US + round(hour * HOUR), "price": price} | more)


def split(name: str = "A", hour: float = 0, factor: object = 0.5) -> bytes:
    """Write one adjustment."""
    return orjson.dumps({"series": name, "time": US + round(hour * HOUR), "adjust": factor})


def feed(count: int, seed: int = 0, names: Sequence[str] = (*SERIES, "CCC"), **beside: object) -> bytes:
    """Write random walks of some series hour after hour, with faults of every kind among them."""
    rng = random.Random(seed)
    price = dict.fromkeys(names, 100.0)
    out = []
    for i in range(count):
        name = rng.choice(names)
        price[name] *= 1 + 0.01 * rng.gauss(0, 1)
        line = tick(name, i if rng.random() > 0.05 else i - 50, price[name], **beside)
        kind = rng.random()
        if kind < 0.1:
            line = rng.choice(_faults(name, i, price[name], beside))
        elif kind < 0.12:
            price[name] /= 2
            line = split(name, i)
        elif kind < 0.14:
            line = b"\n".join(tick(name, i, price[name] + k, sequence=k, **beside) for k in (1, 3, 2))
        out.append(line)
        if rng.random() < 0.03:
            out.append(out[-1])
    return b"\n".join(out) + b"\n"


def _faults(name: str, hour: int, price: float, beside: dict[str, object]) -> list[bytes]:
    """Write lines of which each is refused for a reason of its own."""
    return [
        b"",
        b"{oops",
        tick("../x", hour, **beside),
        tick(name, hour, -1),
        tick(name, hour, None, **beside),
        tick(name, hour + 0.01, price, **beside),
        tick(name, hour, 1000 * price, **beside),
        tick(name, 10**6, price, **beside),
        split("never", hour),
        orjson.dumps({"series": name, "time": 1_704_067_200, "price": price}),
    ]


NAMES = st.sampled_from(["AAA", "BBB", "C", "D", "E/f", "../x"])
HOURS = st.integers(0, 12) | st.sampled_from([0.5, 3.25, 6 + 1e-6, 24 * 9, 24 * 30, 24 * 90, 10**6])
LEVELS = st.sampled_from([100.0, 101.0, 99.5, 100, 140.0, 141.0, 1e4, 50.0, 0.0, -1.0, 1e30, None])
LOADS = st.sampled_from([BESIDE, BESIDE, {"load": 2.0, "wind": [0.5, 0.25]}, {}, {"load": None, "wind": [1, 1]}])
TICKS = st.builds(
    lambda name, hour, price, beside, sequence: tick(name, hour, price, **beside, **sequence),
    NAMES,
    HOURS,
    LEVELS,
    LOADS,
    st.sampled_from([{}, {}, {}, {"sequence": 1}, {"sequence": 2}]),
)
SPLITS = st.builds(split, NAMES, HOURS, st.sampled_from([0.5, 2.0, 0.25, 0.0]))
OTHERS = st.sampled_from([b"", b"{", tick(time=US // 1000), b"\xff"])
LINES = st.lists(TICKS | TICKS | TICKS | SPLITS | OTHERS, max_size=50)
"""Lines in which every rule finds something."""
