"""How the forecasts of a running stream hold: scored as their outcomes come, beside the references, watched for drift.

Comes in: what each batch gave. Goes out: word of drifts, a report, and bytes to go on from. Knows numpy only; imported
by stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import IntegrityError
from pipeline.drift import Drift, DriftConfig
from pipeline.events import Events
from pipeline.lineup import SERVING, Lineup
from pipeline.scoreboard import Scoreboard, ScoreboardConfig
from pipeline.scoring import Scorer, Waiting
from pipeline.states import Walked


class Live:
    """Scores, totals and drift of one lineup.

    Parameters
    ----------
    lineup : Lineup
        What serves, and the references beside it.
    config : DriftConfig

    Attributes
    ----------
    drift : dict or None
        The last drift that showed.
    """

    def __init__(self, lineup: Lineup, config: DriftConfig) -> None:
        described = {role: session.metadata for role, session in lineup.sessions.items()}
        names = tuple(described)
        self._scorer = Scorer(described)
        self._board = Scoreboard(names, ScoreboardConfig(moment_us=described[SERVING].bar_us or 1))
        self._watch = Drift(names, config)
        self.drift: dict[str, Any] | None = None

    def take(self, events: Events, walked: Mapping[str, Walked]) -> list[dict[str, Any]]:
        """Score the forecasts whose outcomes are among the events.

        Returns
        -------
        list of dict
            The drifts that showed, `kind` "drift".
        """
        taken = events.accepted
        if not taken.any():
            return []
        waiting = []
        for walk in walked.values():
            quantile, loc, scale, _ = walk.before
            waiting.append(Waiting(row=walk.row[taken], loc=loc[taken], scale=scale[taken], quantile=quantile[taken]))
        scores = self._scorer.score(waiting, events.price[taken], walked[SERVING].before[3][taken])
        moment = np.repeat(events.time[taken], events.price.shape[1])
        drifts = self._watch.take(self._board.take(moment, scores))
        self.drift = drifts[-1] if drifts else self.drift
        return drifts

    def report(self) -> dict[str, Any]:
        """Give means over all and over recent outcomes of each model, and the skill against each reference."""
        return self._board.report()

    def to_bytes(self) -> bytes:
        """Write all that is carried."""
        arrays = self._arrays()
        header = {"arrays": {name: [x.dtype.str, x.shape] for name, x in arrays.items()}, "drift": self.drift}
        return orjson.dumps(header) + b"\n" + b"".join([np.ascontiguousarray(x).tobytes() for x in arrays.values()])

    def restore(self, data: bytes) -> None:
        """Go on from what `to_bytes` wrote.

        Raises
        ------
        IntegrityError
            It is of another lineup.
        """
        header, _, rest = data.partition(b"\n")
        told = orjson.loads(header)
        arrays, start = {}, 0
        for name, (dtype, shape) in told["arrays"].items():
            size = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(rest, dtype, size, start).reshape(shape)
            start += arrays[name].nbytes
        expected = {name: (x.dtype, x.shape) for name, x in self._arrays().items()}
        if {name: (x.dtype, x.shape) for name, x in arrays.items()} != expected:
            raise IntegrityError("journal: its scores are of other models. Restore it from a backup")
        self.drift = told["drift"]
        for name, part in (("board", self._board), ("drift", self._watch)):
            own = {key.removeprefix(f"{name}."): x for key, x in arrays.items() if key.startswith(f"{name}.")}
            part.restore(own)

    def _arrays(self) -> dict[str, NDArray]:
        parts = (("board", self._board), ("drift", self._watch))
        return {f"{name}.{key}": x for name, part in parts for key, x in part.arrays().items()}
