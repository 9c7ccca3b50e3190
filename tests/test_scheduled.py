"""A schedule that fires, served by one command on a Prefect server of its own, in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Workspace
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline.turn import turn

SERVING = """
import sys
from pathlib import Path
from flows.embedded import retrain_every
from pipeline.config import Config
from pipeline.settings import load
overrides = {"folder": sys.argv[2], "models": ["last_value", "ar"]}
retrain_every(load(Config, Path(sys.argv[1]), overrides), "* * * * * */30", lambda url: print(url, flush=True))
"""
"""Every half minute, which Prefect takes as a sixth field and the command line refuses."""

PATIENCE_S = 400


@dataclass(kw_only=True)
class Served:
    """A schedule that is being served."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def runs(self) -> list[FlowRun]:
        """List the runs of the retrain that have ended, the oldest first."""
        retrains = FlowFilter(name=FlowFilterName(any_=["statecast-retrain"]))
        with temporary_settings({PREFECT_API_URL: f"{self.url}/api"}), get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_filter=retrains)
        ended = (run for run in runs if run.state is not None and run.state.is_final())
        return sorted(ended, key=lambda run: str(run.end_time))

    def wait_for(self, kind: Callable[[FlowRun], bool]) -> FlowRun:
        """Wait until a run of a kind has ended."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if found := [run for run in self.runs() if kind(run)]:
                return found[0]
            assert self.process.poll() is None
            time.sleep(1)
        raise AssertionError([(run.name, run.state_name, run.state and run.state.message) for run in self.runs()])


@pytest.fixture(scope="module")
def served(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve retrains of a copy of the workspace, two of whose models are wanted."""
    folder = tmp_path_factory.mktemp("served") / "data"
    shutil.copytree(workspace.folder, folder)
    environment = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    command = [sys.executable, "-c", SERVING, str(workspace.settings), str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield Served(process=process, url=process.stdout.readline().strip(), folder=folder)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def message(run: FlowRun) -> str:
    """Give what is said of the end of a run."""
    return (run.state and run.state.message) or ""


def test_a_moment_that_was_missed_is_caught_up_with_and_an_overlap_skipped(served: Served) -> None:
    """A run that no schedule asked for comes at the start; while another process retrains, it ends without waiting."""
    with turn(served.folder):
        run = served.wait_for(lambda run: not run.auto_scheduled)
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Skipped")
    assert f"process {os.getpid()} retrains it now" in message(run)


def test_the_schedule_fires_and_what_is_not_new_is_skipped(served: Served) -> None:
    """A moment of the schedule retrains with the models that are wanted now; a later one says that nothing is new."""
    whole = served.wait_for(lambda run: run.state_name == "Completed")
    idle = served.wait_for(lambda run: message(run).startswith("nothing is new since the last retrain at"))
    assert (whole.auto_scheduled, idle.auto_scheduled, idle.state_name) == (True, True, "Skipped")
    assert sum(run.state_name == "Completed" for run in served.runs()) == 1
    assert sum(not run.auto_scheduled for run in served.runs()) == 1


def test_sigterm_leaves_nothing_behind(served: Served) -> None:
    """The command ends in good order, no process of its stays, and the port of its server is free."""
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(served.process.pid, 0)
    host, _, port = served.url.removeprefix("http://").partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
