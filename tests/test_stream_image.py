"""The image of the stream holds all that serving needs, and neither torch nor polars, Prefect or MLflow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from served import model_bytes
from serving import NDJSON, ask, wait_ready
from ticking import feed

from pipeline import champions

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "deploy" / "stream.Dockerfile").read_text()
LEFT_OUT = {"torch", "polars", "prefect", "mlflow", "statsmodels", "arch", "onnx", "pandas", "scipy", "matplotlib"}

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("not in the image: " + name, name=name)

sys.meta_path.insert(0, Blocker())
"""


def installed() -> set[str]:
    """List the packages that the recipe names, and all that these ask for."""
    found: set[str] = set()
    named = re.search(r"pip install -c constraints.txt \\\n +(.+)\n", RECIPE)
    assert named is not None
    waiting = named[1].split()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        asked = [Requirement(line) for line in distribution(name).requires or ()]
        waiting += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def absent() -> set[str]:
    """List the modules that are installed here and would not be there."""
    there = installed()
    owners = packages_distributions()
    return {m for m, names in owners.items() if not {canonicalize_name(n) for n in names} & {*there, "statecast"}}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give an environment in which no Python, nor one that it starts, finds what the image has not."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "sitecustomize.py").write_text(BLOCKER.format(absent=absent()))
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def url(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """The command of the image, serving a champion."""
    champions.publish(tmp_path / "champions", "champion", model_bytes())
    command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--folder", str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving at "), line + process.stderr.read()
        found = line.split()[2].rstrip(",")
        wait_ready(found)
        yield found
        process.terminate()
        assert process.wait(30) == 0


def test_ticks_are_answered_with_what_the_image_holds(url: str) -> None:
    """Ticks give forecasts, and the probes and measurements answer."""
    lines = b"\n".join(line for line in feed(20, 3).split(b"\n") if line.strip())
    reply = ask(url, "POST", "/ticks", lines, NDJSON)
    assert reply.status == 200
    assert reply.json["forecasts"]
    assert {ask(url, "GET", path).status for path in ("/healthz", "/readyz", "/status", "/metrics")} == {200}


def test_training_is_not_in_the_image(environment: dict[str, str]) -> None:
    """Nothing that trains, records or schedules is among the packages; importing it there fails."""
    assert not LEFT_OUT & installed()
    for name in sorted(LEFT_OUT):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], env=environment, capture_output=True, text=True, check=False
        )
        assert f"not in the image: {name}" in done.stderr


def test_every_package_of_the_image_is_pinned() -> None:
    """What the recipe names, and what that asks for, has its version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert installed() <= pinned


def test_the_image_serves_as_the_documents_say() -> None:
    """It runs `statecast serve` as a user without rights, asking for a token."""
    assert 'ENTRYPOINT ["statecast", "serve"]' in RECIPE
    assert "--token-file" in RECIPE
    assert re.search(r"^USER 1000:1000$", RECIPE, re.MULTILINE)
