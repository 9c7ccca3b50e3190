"""Run experiments, each once: what was found is kept in a file, and read back while nothing that it rests on changed.

A result rests on the sizes, the seed, the code of the experiment with all of this project that it imports, and, where
it needs them, the prices. An experiment that was killed is run again as a whole, those before it are not.

Comes in: experiments, `Config`. Goes out: `Result`, a JSON file and a figure an experiment, runs in MLflow. Imported by
the command line.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import orjson
import torch

from pipeline import figures, settings, steps
from pipeline.config import Config
from pipeline.prices import PriceStore
from pipeline.steps import Data
from pipeline.study.experiment import Conditions, Experiment, Scale
from pipeline.threads import cpu_threads
from pipeline.tracking import Run, Tracker


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an experiment found, as it is kept.

    Attributes
    ----------
    name, scale, key : str
        Of the experiment, how large it was, and the digest of all that it rests on.
    rows, answer, numbers
        Of the finding.
    figure : str or None
        Name of the file beside this one.
    seconds : float
        Wall time.
    made_on : str
        Date, UTC.
    machine : str
        Where the times and the rounding come from.
    """

    name: str
    scale: str
    key: str
    rows: list[dict[str, Any]]
    answer: str
    numbers: dict[str, float | None]
    figure: str | None
    seconds: float
    made_on: str
    machine: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the experiments are to be run.

    Attributes
    ----------
    folder : Path
        Where the results are kept.
    scale : {"quick", "full"}
    seed : int
    again : bool
        Run also what is there already.
    """

    folder: Path
    scale: Scale = "quick"
    seed: int = 0
    again: bool = False


def run(
    experiments: Sequence[Experiment],
    plan: Plan,
    config: Config,
    begins: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Run what is not there yet, one nested MLflow run each, and give all results in order.

    Parameters
    ----------
    config : Config
        Whose prices are taken; where its store is empty, they are ingested first.
    begins, progress : callable
        Are told which experiment begins, and what it is at.
    """
    data = _prices(config, begins) if any(e.on_prices for e in experiments) else None
    conditions = Conditions(seed=plan.seed, progress=progress, data=data)
    keys = {e.name: key(e, plan, data) for e in experiments}
    due = [e for e in experiments if plan.again or _kept(plan.folder, e.name, keys[e.name]) is None]
    with ExitStack() as stack:
        parent = stack.enter_context(_recorded(config, plan, data)) if due else None
        for experiment in due:
            assert parent is not None
            begins(f"{experiment.name}: {experiment.question}")
            with parent.model(experiment.name, settings.flat(experiment.sizes[plan.scale])) as child:
                result = _run(experiment, plan, conditions, keys[experiment.name])
                _record(child, result, plan.folder)
    return [r for r in (_kept(plan.folder, e.name, keys[e.name]) for e in experiments) if r is not None]


def kept(folder: Path, name: str) -> Result | None:
    """Read the result of an experiment, whatever it rests on; None where there is none."""
    path = folder / f"{name}.json"
    return Result(**orjson.loads(path.read_bytes())) if path.exists() else None


def key(experiment: Experiment, plan: Plan, data: Data | None) -> str:
    """Hash all that the result of an experiment rests on."""
    prices = data.sha256 if data is not None and experiment.on_prices else ""
    parts = (settings.digest(experiment.sizes[plan.scale]), plan.seed, code(experiment.run), prices)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def code(function: Callable[..., Any]) -> str:
    """Hash the source of the module of `function`, and of every module of this project that it imports in turn."""
    sources: dict[str, bytes] = {}
    left = [sys.modules[function.__module__]]
    while left:
        module = left.pop()
        if module.__name__ not in sources:
            assert module.__file__ is not None
            sources[module.__name__] = Path(module.__file__).read_bytes()
            left += _imported(module)
    return hashlib.sha256(b"".join(sources[name] for name in sorted(sources))).hexdigest()


def _imported(module: ModuleType) -> Iterator[ModuleType]:
    """Give the modules of this project that the names in a module come from."""
    ours = ("models", "pipeline")
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            name = value.__name__
        elif isinstance(value, type | FunctionType):
            name = value.__module__
        else:
            continue
        if name.partition(".")[0] in ours and name in sys.modules:
            yield sys.modules[name]


def _kept(folder: Path, name: str, key: str) -> Result | None:
    """Read a result that rests on what is there now."""
    result = kept(folder, name)
    return result if result is not None and result.key == key else None


def _run(experiment: Experiment, plan: Plan, conditions: Conditions, key: str) -> Result:
    """Run one experiment on one thread, draw its figure, and keep what it found; the file is written last."""
    began = time.perf_counter()
    with cpu_threads(1):
        finding = experiment.run(experiment.sizes[plan.scale], conditions)
    drawn = f"{experiment.name}.png" if finding.figure is not None else None
    if finding.figure is not None:
        figures.save(finding.figure(), plan.folder / f"{experiment.name}.png")
    result = Result(
        name=experiment.name,
        scale=plan.scale,
        key=key,
        rows=[dict(row) for row in finding.rows],
        answer=finding.answer,
        numbers=dict(finding.numbers),
        figure=drawn,
        seconds=time.perf_counter() - began,
        made_on=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=_machine(),
    )
    steps.write_json(plan.folder / f"{experiment.name}.json", asdict(result))
    return result


def _machine() -> str:
    system = f"{platform.system()} {platform.machine()}, one thread of {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, torch {torch.__version__}"


def _prices(config: Config, begins: Callable[[str], None]) -> Data:
    """Load the prices of the settings, ingested first where the store is empty."""
    begins("loading prices")
    if not PriceStore(config.prices).prices.exists():
        steps.ingest(config)
    return steps.load(config)


def _recorded(config: Config, plan: Plan, data: Data | None) -> Any:
    """Open the parent run of a study."""
    span = [steps.iso(int(t)) for t in (data.panel.time.min(), data.panel.time.max())] if data else ["none", "none"]
    tags: Mapping[str, object] = {
        "data_sha256": data.sha256 if data else "simulated",
        "data_start": span[0],
        "data_end": span[1],
        "commit": steps.commit(),
        "seed": plan.seed,
        "device": "cpu",
    }
    return Tracker(config.tracking, config.base).retrain({"scale": plan.scale, "seed": plan.seed}, tags, name="study")


def _record(run: Run, result: Result, folder: Path) -> None:
    """Log one result: its numbers, table, answer and figure."""
    run.scores({"pooled": {**result.numbers, "seconds": result.seconds}})
    run.json(asdict(result), "result.json")
    run.text(result.answer, "answer.md")
    if result.figure is not None:
        run.file(folder / result.figure, "figures")
