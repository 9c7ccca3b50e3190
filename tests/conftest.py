"""A small but real workspace for the tests of the flows: simulated prices, retrained once a session without Prefect.

Prefect reads its settings from the environment when it is first imported: they are set here, before any test module
is read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.embedded import environment

HOME = tempfile.TemporaryDirectory(prefix="statecast-", ignore_cleanup_errors=True)
"""Data folder of this session's Prefect, removed when the interpreter ends."""

os.environ |= environment(Path(HOME.name))
os.environ["OMP_NUM_THREADS"] = "1"  # small networks: two threads that wait for each other cost more than they bring
os.environ.pop("PREFECT_API_URL", None)

FOREIGN_WARNINGS = (
    # mlflow 3.17 maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates
    "ignore:The ``noload`` loader strategy is deprecated",
    # mlflow 3.17 warns of its own type hints when mlflow.pyfunc is imported
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",
)
"""Warnings of dependencies, which are there whatever this project does; a session fixture meets them in any module."""


def pytest_configure(config: pytest.Config) -> None:
    """Let these warnings pass; all others are errors."""
    for line in FOREIGN_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


DAYS = 700
FIRST_DAY = np.datetime64("2020-01-01", "D")
NAMES = ("AAA", "BBB", "CCC")
HOLE = 400
"""The day on which the first series has no price."""

Row = tuple[str, str, str]
"""Series, day and price, as they stand in a CSV."""


def garch_prices(seed: int) -> np.ndarray:
    """Draw daily prices whose log returns are GARCH(1, 1) with Student t(6) shocks, about 1 % a day."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_t(6, DAYS) / np.sqrt(6 / 4)
    returns, variance = np.zeros(DAYS), 1e-4
    for t in range(1, DAYS):
        variance = 2e-6 + 0.12 * returns[t - 1] ** 2 + 0.86 * variance
        returns[t] = np.sqrt(variance) * shocks[t]
    return 100 * np.exp(np.cumsum(returns))


def simulated_rows() -> list[Row]:
    """Give the rows of three series; one price of the first one is missing."""
    prices = {name: garch_prices(seed) for seed, name in enumerate(NAMES)}
    rows = [
        (name, str(FIRST_DAY + day), repr(float(path[day]))) for name, path in prices.items() for day in range(DAYS)
    ]
    rows[HOLE] = (*rows[HOLE][:2], "")
    return rows


def write_csv(path: Path, rows: list[Row]) -> Path:
    """Write rows under the columns that ingest expects by default."""
    path.write_text("\n".join(["series_id,time,price", *map(",".join, rows)]) + "\n")
    return path


def write_settings(path: Path, csv: Path) -> Path:
    """Write settings that fit four models in seconds; a price that is missing stays a known hole."""
    path.write_text(
        'models = ["last_value", "ar", "garch", "gru"]\n'
        f'[ingest]\npaths = ["{csv}"]\npolicy.null = "keep"\n'
        "[fit.network]\nhidden = 4\nlayers = 1\n"
        '[fit.training]\nepochs = 3\nlanes = 6\ndevice = "cpu"\n'
    )
    return path


class Watched:
    """A watcher that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def ingested(self, result: Any) -> None:
        """Keep what was read."""
        self.told.append(("ingested", result))

    def begins(self, what: str, epochs: int = 0) -> None:
        """Keep what begins."""
        self.told.append(("begins", (what, epochs)))

    def epoch(self, record: Any) -> None:
        """Keep an epoch."""
        self.told.append(("epoch", record))

    def refitted(self, done: int) -> None:
        """Keep how many refits are done."""
        self.told.append(("refitted", done))


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A data folder after one comparison: shared by all tests, so only to be looked at."""

    config: Any
    settings: Path
    csv: Path
    result: Any
    watch: Watched
    called: list[tuple[str, Any]] = field(default_factory=list)
    """Name and policy of each step, in order."""

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.config.folder


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Judge models once on the simulated prices and let the fit that was judged serve, without Prefect."""
    from flows.retrain import SERVICE, Retrained, first_round, ingest
    from pipeline import judging, promotion
    from pipeline.config import Config
    from pipeline.settings import load

    home = tmp_path_factory.mktemp("workspace")
    csv = write_csv(home / "prices.csv", simulated_rows())
    settings = write_settings(home / "settings.toml", csv)
    config, watch, called = load(Config, settings, {"folder": str(home / "data")}), Watched(), []

    def record(step: Callable[..., Any], policy: Any) -> Callable[..., Any]:
        called.append((step.__name__, policy))
        return step

    ingested, compared = ingest(config, watch, record), first_round(config, watch, record)
    run, promoted = (record(step, SERVICE)(config) for step in (judging.record, promotion.promote))
    result = Retrained(ingested=ingested, compared=compared, run=run, promoted=promoted)
    return Workspace(config=config, settings=settings, csv=csv, result=result, watch=watch, called=called)


@pytest.fixture
def copied(workspace: Workspace, tmp_path: Path) -> Any:
    """Give the settings of a copy of the workspace's data folder, to be changed at will."""
    shutil.copytree(workspace.folder, tmp_path / "data")
    return replace(workspace.config, folder=tmp_path / "data")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Run one temporary Prefect server for all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def watched() -> Watched:
    """Give a watcher."""
    return Watched()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the flows of Prefect last: its threads live on, and draw from `random` while hypothesis does.

    Of several processes one runs the whole file, as the last thing that it does: no other starts a server.
    """
    items.sort(key=lambda item: item.path.name == "test_prefect_flows.py")
