"""The order of a retrain, told by what its wrapper and its watcher saw of a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NAMES, Watched, Workspace

from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, plain, retrain, retrain_each
from models.errors import StatecastError
from pipeline import champions, judging, steps
from pipeline.threads import cpu_threads

MODELS = ("last_value", "ar", "gru")


@dataclass(kw_only=True)
class Run:
    """What a watcher and a wrapper saw of a retrain."""

    watch: Watched
    called: list[tuple[str, Policy]]
    threads: dict[str, int]
    result: Retrained


@pytest.fixture(scope="module")
def run(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Retrain a few models for the first time."""
    watch, called, threads = Watched(), [], {}

    def note(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
        called.append((step.__name__, policy))
        threads[step.__name__] = torch.get_num_threads()
        return step

    config = replace(workspace.config, folder=tmp_path_factory.mktemp("retrain"), models=MODELS)
    with cpu_threads(2):
        result = retrain(config, watch, note)
        threads["afterwards"] = torch.get_num_threads()
    return Run(watch=watch, called=called, threads=threads, result=result)


def test_steps_run_in_the_order_of_their_files(run: Run) -> None:
    """Prices; each model fitted and walked; all compared and recorded; each fitted on everything; one promoted."""
    fits = ["train", "backtest"] * len(MODELS)
    refits = ["refit"] * len(MODELS)
    assert [name for name, _ in run.called] == [
        "ingest", "begin", *fits, "compare", "record", *refits, "follow", "close",
    ]  # fmt: skip


def test_torch_has_one_thread_where_there_are_small_operations(run: Run) -> None:
    """From the first step after the prices on; a caller that gave torch more has them again afterwards."""
    beside = {"ingest", "afterwards"}
    assert {name: count for name, count in run.threads.items() if count != 1} == dict.fromkeys(beside, 2)


def test_only_steps_that_ask_a_service_are_repeated(run: Run) -> None:
    """Stores and MLflow may not answer and are tried again; arithmetic is not; nothing runs without a limit."""
    policies = dict(run.called)
    services = {name for name, policy in policies.items() if policy == SERVICE}
    assert services == {"ingest", "record", "follow"}
    assert {name for name, policy in policies.items() if policy == COMPUTE} == set(policies) - services
    assert SERVICE.retries > COMPUTE.retries == 0
    assert all(policy.timeout_s > 0 for policy in policies.values())


def test_the_watcher_hears_of_each_fit_before_it_runs(run: Run) -> None:
    """Everything that may take a second is announced, a network with its epochs, and every epoch is told."""
    begun = [what for kind, what in run.watch.told if kind == "begins"]
    assert begun[0] == ("reading prices", 0)
    fits = [("fitting gru", 3), ("fitting gru on everything", 3)]
    assert [(what, epochs) for what, epochs in begun if epochs] == fits
    kinds = [kind for kind, _ in run.watch.told]
    for fit in fits:
        at = run.watch.told.index(("begins", fit))
        assert kinds[at + 1 : at + 4] == ["epoch"] * 3
    assert kinds.count("epoch") == 6


def test_a_retrain_gives_what_its_steps_gave(run: Run) -> None:
    """The result holds the report, the table of every model and series, the run, and who serves."""
    result = run.result
    assert result.ingested.report.rows_read == 2100
    assert result.compared is not None
    assert result.run is not None
    assert {(row.model, row.series) for row in result.compared.rows} == {
        (model, series) for model in MODELS for series in (*NAMES, "pooled")
    }
    assert result.promoted.model == result.compared.decision.model
    assert len(result.run) == 32


def test_a_step_that_fails_ends_the_retrain(copied: Any, watched: Watched) -> None:
    """Nothing after it runs, and its own error comes out."""
    called = []

    def wrap(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
        def stop(*_: Any) -> None:
            raise RuntimeError(step.__name__)

        called.append((step.__name__, policy))
        return stop if step is steps.train else step

    with pytest.raises(RuntimeError, match="train"):
        retrain(copied, watched, wrap)
    assert [name for name, _ in called] == ["ingest", "begin", "train"]


def test_without_a_wrapper_a_step_is_itself() -> None:
    """The plain wrapper adds nothing."""
    assert plain(judging.compare, COMPUTE) is judging.compare


def test_a_pool_that_fails_leaves_the_others_their_turn(workspace: Workspace, watched: Watched, tmp_path: Path) -> None:
    """Each pool has a champion of its own over one price store; one that cannot be fitted is named with its reason."""
    pools: dict[str, dict[str, Any]] = {
        "first": {"series": ["AAA"]},
        "hopeless": {"series": ["BBB"], "split": {"test": 0.01, "validation": 0.01}},
        "last": {"series": ["BBB", "CCC"]},
    }
    config = replace(workspace.config, folder=tmp_path, models=("last_value", "ar"), pools=pools)
    with pytest.raises(StatecastError, match="1 of 3 pools failed, the others are done: hopeless: "):
        retrain_each(config, watched)
    for pool, names in (("first", ("AAA",)), ("last", ("BBB", "CCC"))):
        assert champions.load(tmp_path / "pools" / pool / "champions", "champion").metadata.series == names
    assert [path.parent.name for path in tmp_path.glob("**/prices/prices")] == ["prices"]
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["mlflow.db"]
