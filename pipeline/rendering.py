"""Forecasts and dead letters as JSON lines.

    {"series", "origin_time", "sequence", "model", "sha256", "version", "median": [S], "quantiles": [S][Q]}

with `"warming": true` while a series has shown too little, `"fallback": true` where covariates were missing, and
`"stale": true` where the model is older than it may be. Of blocks `median` is [S][M] and `quantiles` [S][M][Q]. Numbers
are written in their shortest form that reads back to the same bits. Series, origin time, sequence and version together
are the id of a forecast.

Legend: a forecasts, S horizon steps, M prices of a block, Q quantile levels.

Comes in: events and quantiles. Goes out: bytes. Knows numpy and orjson; imported by stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.observation import MEDIAN
from pipeline.events import FALLBACK, STALE, WARMING, Events
from pipeline.ticks import DEAD, SENTENCES, Reason

TEXT_BYTES = 512
"""How much of a refused line its dead letter quotes."""

_NAMES = {WARMING: "warming", FALLBACK: "fallback", STALE: "stale"}
_MARKS = {
    flags: "".join(f',"{name}":true' for flag, name in _NAMES.items() if flags & flag)
    for flags in range(sum(_NAMES) + 1)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Which model a forecast is of: its name, the first 12 digits of its sha256, and the version that serves."""

    model: str
    sha256: str
    version: int


def forecasts(names: Sequence[str], events: Events, quantile: NDArray[np.float64], label: Label) -> list[bytes]:
    """Write the forecasts of accepted ticks, a line each.

    The value at step s is for the s-th tick of the series after the one at `origin_time`, and was made from ticks up to
    and including it.

    Parameters
    ----------
    names : sequence of str
        By slot.
    events : Events [a]
    quantile : float64 [a, S, M, Q]
    label : Label
    """
    if len(events) == 0:
        return []
    quantile = quantile[:, :, 0] if quantile.shape[2] == 1 else quantile
    made = orjson.dumps({"model": label.model, "sha256": label.sha256, "version": label.version})[1:-1].decode()
    depth = quantile.ndim - 2
    before = f',{made},"median":{"[" * depth}'
    between = f'{"]" * depth},"quantiles":{"[" * (depth + 1)}'
    after = "]" * (depth + 1)
    columns = (
        [names[i] for i in events.slot.tolist()],  # names of series hold nothing that JSON would escape
        _times(events.time),
        events.sequence.tolist(),
        _rows(quantile[..., MEDIAN]),
        _rows(quantile),
        [_MARKS[flags] for flags in events.flags.tolist()],
    )
    return [
        f'{{"series":"{name}","origin_time":"{time}","sequence":{sequence}'
        f"{before}{median}{between}{quantiles}{after}{mark}}}\n".encode()
        for name, time, sequence, median, quantiles, mark in zip(*columns, strict=True)
    ]


def _rows(x: NDArray[np.float64]) -> list[str]:
    """Write each row of an array as JSON without its outer brackets: all at once, and cut where rows meet."""
    depth = x.ndim - 1
    whole = orjson.dumps(np.ascontiguousarray(x), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return whole[depth + 1 : -depth - 1].split("]" * depth + "," + "[" * depth)


def _times(time: NDArray[np.int64]) -> list[str]:
    """Write times with six digits of the second, which orjson leaves out where all are zero."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
    texts = orjson.dumps(time.astype("datetime64[us]"), option=option).decode()[2:-2].split('","')
    return [text if "." in text else f"{text[:-1]}.000000Z" for text in texts]


def dead_letters(first: int, lines: Sequence[bytes], reason: NDArray[np.uint8]) -> list[bytes]:
    """Write the refused lines with their number and reason; `first` lines came before these."""
    letters = []
    for i in np.flatnonzero(reason >= DEAD).tolist():
        why = Reason(int(reason[i]))
        text = lines[i][:TEXT_BYTES].decode("utf-8", "replace")
        letter = {"line": first + i + 1, "reason": why.code, "sentence": SENTENCES[why], "text": text}
        letters.append(orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE))
    return letters


def notes(told: Sequence[Mapping[str, Any]]) -> bytes:
    """Write what happened beside the ticks, a line each."""
    return b"".join([orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE) for note in told])
