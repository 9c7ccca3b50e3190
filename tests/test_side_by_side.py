"""Pools side by side on real Dask workers: files and decisions as one after the other, and what a failure costs.

Skipped where the extra `scale` is not installed; `make setup` installs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Watched

pytest.importorskip("prefect_dask", reason="the extra `scale` is not installed")

from distributed import LocalCluster
from prefect.client.orchestration import get_client

from flows.embedded import retrain_side_by_side
from flows.retrain import retrain
from flows.side_by_side import THREADS, local, runner
from models.errors import ConfigError
from pipeline import archive, folds
from pipeline.config import Config
from pipeline.scale_config import ScaleConfig
from pipeline.steps import read_json

MODELS = ("last_value", "ar")


@pytest.fixture(scope="module")
def scheduler(prefect_server: None) -> Iterator[str]:  # noqa: ARG001  workers are told its address
    """Give the address of a cluster of two processes."""
    with LocalCluster(**local(2)) as cluster:
        yield cluster.scheduler_address


def judged(config: Config) -> dict[str, Any]:
    """Give what a retrain has decided, without what it cost."""
    comparison = read_json(config.folder / "comparison.json", "compare")
    return {key: comparison[key] for key in ("rows", "best", "decision", "saved", "data_sha256")}


def test_pools_side_by_side_give_what_they_give_one_by_one(
    workspace: Any, scheduler: str, tmp_path: Path, watched: Watched
) -> None:
    """Forecasts bit for bit, tables, decisions and champions are those of the plain order, pool by pool."""
    pools = {"a": {"series": ["AAA"]}, "bc": {"series": ["BBB", "CCC"], "fit": {"horizon": 2}}}
    plain = replace(workspace.config, folder=tmp_path / "plain", models=MODELS, pools=pools)
    spread = replace(plain, folder=tmp_path / "spread", scale=ScaleConfig(address=scheduler))
    done = retrain_side_by_side(spread, watched)
    assert list(done) == ["a", "bc"]
    for pool, one in plain.each.items():
        alone, beside = retrain(one, Watched()), spread.of(pool)
        assert judged(beside) == judged(one)
        assert (done[pool].promoted.model, done[pool].promoted.changed) == (alone.promoted.model, True)
        assert done[pool].promoted.file.parent == beside.folder.resolve() / "champions"
        for name in MODELS:
            ours, theirs = (archive.load(folds.rows_of(c.folder, name)) for c in (beside, one))
            assert all(
                np.array_equal(v, vars(theirs)[k], equal_nan=k != "names")
                for k, v in vars(ours).items()
                if k not in ("model", "names")
            )
    assert [what for what, _ in watched.told].count("ingested") == 1


def test_a_pool_that_fails_leaves_the_others_their_turn(
    workspace: Any, scheduler: str, tmp_path: Path, watched: Watched
) -> None:
    """The error names the pool with the reason of its fit; the other pool serves, and Prefect lists who failed."""
    pools = {"absent": {"series": ["ZZZ"]}, "there": {"series": ["AAA"]}}
    config = replace(
        workspace.config, folder=tmp_path, models=MODELS, pools=pools, scale=ScaleConfig(address=scheduler)
    )
    with pytest.raises(ConfigError, match=r"1 of 2 pools failed, the others are done: absent: .*unknown series 'ZZZ'"):
        retrain_side_by_side(config, watched)
    assert (tmp_path / "pools" / "there" / "champions" / "champion.json").exists()
    with get_client(sync_client=True) as client:
        runs = {run.name: run.state_name for run in client.read_task_runs()}
    assert (runs["begin absent"], runs["follow there"]) == ("Failed", "Completed")


def test_a_worker_of_this_machine_has_one_thread() -> None:
    """Without an address the cluster has the processes of the settings, on loopback, each with one thread."""
    made = runner(ScaleConfig(workers=3)).cluster_kwargs
    assert (made["n_workers"], made["threads_per_worker"], made["host"]) == (3, 1, "127.0.0.1")
    assert made["env"] == THREADS
    assert set(THREADS.values()) == {"1"}
    assert runner(ScaleConfig(address="tcp://10.0.0.5:8786")).address == "tcp://10.0.0.5:8786"
