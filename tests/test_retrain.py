"""The order of a retrain, told by what its wrapper and its watcher saw of a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Watched, Workspace

from flows.retrain import COMPUTE, SERVICE, Policy, plain, retrain
from pipeline import judging, steps


def test_steps_run_in_the_order_of_their_files(workspace: Workspace) -> None:
    """Prices first; each model is fitted, then walked forward; then all are compared, recorded and one promoted."""
    order = [name for name, _ in workspace.called]
    fits = ["train", "backtest"] * len(workspace.config.models)
    assert order == ["ingest", *fits, "compare", "record", "promote"]


def test_only_steps_that_ask_a_service_are_repeated(workspace: Workspace) -> None:
    """Stores and MLflow may not answer and are tried again; arithmetic is not; nothing runs without a limit."""
    policies = dict(workspace.called)
    services = {name for name, policy in policies.items() if policy == SERVICE}
    assert services == {"ingest", "record", "promote"}
    assert {name for name, policy in policies.items() if policy == COMPUTE} == set(policies) - services
    assert SERVICE.retries > COMPUTE.retries == 0
    assert all(policy.timeout_s > 0 for policy in policies.values())


def test_the_watcher_hears_of_each_step_before_it_runs(workspace: Workspace) -> None:
    """Everything that may take a second is announced, a network with its epochs, and every epoch is told."""
    begun = [what for kind, what in workspace.watch.told if kind == "begins"]
    assert len(begun) == len(workspace.called)
    assert begun[0] == ("reading prices", 0)
    assert [(what, epochs) for what, epochs in begun if epochs] == [("fitting gru", 3)]
    kinds = [kind for kind, _ in workspace.watch.told]
    at = workspace.watch.told.index(("begins", ("fitting gru", 3)))
    assert kinds[at + 1 : at + 4] == ["epoch"] * 3
    assert kinds.count("epoch") == 3


def test_a_retrain_gives_what_its_steps_gave(workspace: Workspace) -> None:
    """The result holds the report, the table of every model and series, the run, and who serves."""
    result = workspace.result
    assert result.ingested.report.rows_read == 2100
    assert {(row.model, row.series) for row in result.compared.rows} == {
        (model, series) for model in workspace.config.models for series in ("AAA", "BBB", "CCC", "pooled")
    }
    assert result.promoted.model == result.compared.decision.model
    assert len(result.run) == 32


def test_a_step_that_fails_ends_the_retrain(workspace: Workspace, watched: Watched) -> None:
    """Nothing after it runs, and its own error comes out."""
    called = []

    def wrap(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
        def stop(*_: Any) -> None:
            raise RuntimeError(step.__name__)

        called.append((step.__name__, policy))
        return stop if step is steps.train else lambda *_: workspace.result.ingested

    with pytest.raises(RuntimeError, match="train"):
        retrain(workspace.config, watched, wrap)
    assert [name for name, _ in called] == ["ingest", "train"]


def test_without_a_wrapper_a_step_is_itself() -> None:
    """The plain wrapper adds nothing."""
    assert plain(judging.compare, COMPUTE) is judging.compare
