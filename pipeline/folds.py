"""A walk kept on disk, fold by fold, so that one that was killed goes on to the same table.

    forecasts/<model>/fold=0000/   rows of a fold, whole or not there
    forecasts/<model>/walk.json    what the walk depends on, its refits so far, and which fit serves at its end
    folds/<model>/0001.safetensors the fit of a refit; that of fold 0 is the trained model itself

A walk that is begun again takes every fold that is there from the disk, rows and fit alike, and asks the policy anew:
it depends on nothing but them, so it comes to the same folds.

Comes in: a trained forecaster, a panel, and a function that refits. Goes out: these files. Knows torch through what it
calls; imported by steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models import checkpoint
from models.forecaster import Forecaster
from pipeline import archive
from pipeline.atomic import replacing
from pipeline.backtest import BacktestConfig, Block, Fold, walk
from pipeline.clock import utc
from pipeline.forecasts import Forecasts
from pipeline.passes import FOREVER, in_torch, served, stretches
from pipeline.refit import policy
from pipeline.windows import Panel

Refit = Callable[[Fold, Forecaster, Path], None]
"""Fits for a fold, given the forecaster before it, and saves to a path with `seconds` in what is said about it."""


def rows_of(folder: Path, name: str) -> Path:
    """Give the folder of a model's forecasts."""
    return folder / "forecasts" / name


def account(folder: Path, name: str) -> dict[str, Any]:
    """Read what is noted of a model's walk: `key`, `refits`, `seconds`, `serving`; empty where there is none."""
    path = rows_of(folder, name) / "walk.json"
    return orjson.loads(path.read_bytes()) if path.exists() else {}


def forget(folder: Path, name: str) -> None:
    """Remove a model's walk, its account first: what a crash leaves has none, and is removed by the next walk."""
    (rows_of(folder, name) / "walk.json").unlink(missing_ok=True)
    for kept in (rows_of(folder, name), _fits(folder, name)):
        shutil.rmtree(kept, ignore_errors=True)


@dataclass(kw_only=True)
class KeptWalk:
    """A walk whose folds are kept.

    Attributes
    ----------
    folder : Path
        The data folder.
    name : str
        The model.
    panel : Panel
    origins : bool [N, T]
        Origins wanted.
    first : Forecaster
        The fit that the walk begins with.
    trained : Path
        Its file, below `folder`.
    seconds : float
        How long it took.
    refit : function
        Fits for a fold and saves.
    on_fold : function
        Told how many refits are done.
    """

    folder: Path
    name: str
    panel: Panel
    origins: NDArray[np.bool_]
    first: Forecaster
    trained: Path
    seconds: float
    refit: Refit
    on_fold: Callable[[int], None] = lambda _: None
    refits: list[dict[str, Any]] = field(default_factory=list, init=False)

    def run(self, key: str, config: BacktestConfig) -> None:
        """Go to the end of the walk, from where it stopped; with another key, from its beginning.

        A walk that has come to its end is left as it is.

        Parameters
        ----------
        key : str
            Names all that the walk depends on.
        config : BacktestConfig
        """
        noted = account(self.folder, self.name)
        if noted.get("key") == key and noted["serving"] is not None:
            return
        if noted.get("key") != key:
            forget(self.folder, self.name)
            rows_of(self.folder, self.name).mkdir(parents=True)
        note = partial(self._note, key)
        note(serving=None)
        blocks = walk(
            self.panel,
            self.origins,
            self._serve,
            policy=policy(config.refit),
            gap=config.gap,
            window=config.refit.window,
        )
        for fold, of_fold in groupby(blocks, key=lambda block: block.fold):
            self._keep(fold, of_fold)
            note(serving=None)
        note(serving=str(self._file(len(self.refits)).relative_to(self.folder)))

    def _keep(self, fold: Fold, blocks: Iterable[Block]) -> None:
        """Write the blocks of a fold that is not there yet; take none beyond its last, for that begins the next fit."""
        if archive.holds(self._rows, fold.number):
            any(block.last for block in blocks)
            return
        with archive.writing(self._rows, fold.number) as write:
            for block in blocks:
                write(block.rows)
                if block.last:
                    break

    def _serve(self, fold: Fold) -> Iterator[tuple[int, Forecasts]]:
        """Give the rows of a fold: those on disk, or of its fit."""
        forecaster = self._fitted(fold)
        if archive.holds(self._rows, fold.number):
            ends = (stretch.end for stretch in stretches(self.panel, fold.start_time, FOREVER))
            return zip(ends, archive.blocks(self._rows, fold.number), strict=False)
        return served(in_torch(forecaster, self.panel), self.panel, self.origins, fold.start_time)

    def _fitted(self, fold: Fold) -> Forecaster:
        """Give the fit of a fold, made now where it is not there yet."""
        if fold.cut_time is None:
            return self.first
        path = self._file(fold.number)
        if not path.exists():
            self.refit(fold, checkpoint.load(self._file(fold.number - 1))[0], path)
        forecaster, about = checkpoint.load(path)
        time = utc(fold.cut_time).isoformat()
        self.refits.append({"time": time, "seconds": about["seconds"], "why": fold.why})
        self.on_fold(fold.number)
        return forecaster

    @property
    def _rows(self) -> Path:
        return rows_of(self.folder, self.name)

    def _file(self, fold: int) -> Path:
        return _fits(self.folder, self.name) / f"{fold:04}.safetensors" if fold else self.trained

    def _note(self, key: str, serving: str | None) -> None:
        """Note how far the walk is."""
        seconds = self.seconds + sum(refit["seconds"] for refit in self.refits)
        told = {"key": key, "refits": self.refits, "seconds": seconds, "serving": serving}
        with replacing(self._rows / "walk.json") as file:
            file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def _fits(folder: Path, name: str) -> Path:
    return folder / "folds" / name
